// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/io/child_setup.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>

namespace weft {

namespace {
constexpr int first_free_fd = 3;
constexpr std::string_view usual_places = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

result<unique_fd> raised(unique_fd fd) {
    if (fd.get() >= first_free_fd) return fd;
    unique_fd high{::fcntl(fd.get(), F_DUPFD_CLOEXEC, first_free_fd)};
    if (!high) return errno_error(errno, "duplicate a file descriptor");
    return high;
}
}  // namespace

argument_vector::argument_vector(const std::vector<std::string>& strings) {
    for (const auto& s : strings) pointers_.push_back(const_cast<char*>(s.c_str()));  // execv promises not to write
    pointers_.push_back(nullptr);
}

result<std::string> find_program(const std::vector<std::string>& argv) {
    if (argv.empty() || argv.front().empty()) return error{errc::invalid_argument, "no program given"};
    const std::string& name = argv.front();
    if (name.find('/') != std::string::npos) return name;
    const char* path = std::getenv("PATH");
    std::string places = fmt::format("{}:{}", path == nullptr ? "" : path, usual_places);
    for (std::string_view rest = places; !rest.empty();) {
        const auto end = rest.find(':');
        const auto directory = rest.substr(0, end);
        rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
        if (directory.empty() || directory.front() != '/') continue;  // never the current directory
        auto candidate = fmt::format("{}/{}", directory, name);
        if (::access(candidate.c_str(), X_OK) == 0) return candidate;
    }
    return error{errc::not_found, ENOENT, fmt::format("program '{}' is not installed (not found in PATH)", name)};
}

result<unique_fd> open_high(const std::string& path, int flags, unsigned mode) {
    unique_fd fd{::open(path.c_str(), flags | O_CLOEXEC, mode)};
    if (!fd) return errno_error(errno, fmt::format("open {}", path));
    return raised(std::move(fd));
}

result<pipe_ends> make_pipe() {
    std::array<int, 2> ends{-1, -1};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) return errno_error(errno, "make a pipe");
    unique_fd reader{ends[0]}, writer{ends[1]};
    TRY_ASSIGN(auto high_reader, raised(std::move(reader)));
    TRY_ASSIGN(auto high_writer, raised(std::move(writer)));
    return pipe_ends{std::move(high_reader), std::move(high_writer)};
}

signals_blocked::signals_blocked() noexcept : before_{} {
    sigset_t all;
    sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before_);
}

signals_blocked::~signals_blocked() {
    ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
}

void child_reset_signals() noexcept {
    struct sigaction standard {};
    standard.sa_handler = SIG_DFL;
    for (int signal = 1; signal < NSIG; ++signal)
        ::sigaction(signal, &standard, nullptr);  // KILL and STOP refuse: fine
    sigset_t none;
    sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
}

bool child_set_files(int in, int out, int err) noexcept {
    return ::dup2(in, STDIN_FILENO) >= 0 && ::dup2(out, STDOUT_FILENO) >= 0 && ::dup2(err, STDERR_FILENO) >= 0 &&
           ::close_range(first_free_fd, ~0U, CLOSE_RANGE_CLOEXEC) == 0;
}

}  // namespace weft
