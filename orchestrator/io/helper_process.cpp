// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/io/helper_process.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>

#include "nbd-backend/base/crash_point.hpp"
#include "orchestrator/io/process.hpp"

namespace weft {

namespace {

/// Added to an errc. Below are the codes of programs, from 126 the shell's and exec's.
constexpr int errc_base = 64;
constexpr int exec_failed = 127;
constexpr int bad_usage = 2;

bool take(int fd, std::string& text) {
    std::array<char, 4096> piece;
    const ssize_t n = ::read(fd, piece.data(), piece.size());
    if (n < 0) return errno == EINTR || errno == EAGAIN;
    text.append(piece.data(), static_cast<std::size_t>(n));
    return n > 0;
}

error unfinished(const helper_call& what, const error& why) {
    const auto text = fmt::format("{}", fmt::join(what.words, " "));
    if (why.code == errc::unavailable) return error{why.code, fmt::format("the volume server ended during '{}'", text)};
    if (why.code == errc::timed_out)
        return error{why.code, fmt::format("'{}' has not ended within {} ms; do the volume's replicas answer?", text,
                                           what.timeout.count())};
    return why;
}

}  // namespace

result<std::string> run_helper(const helper_call& what) {
    std::string answer;
    run_request request;
    request.argv = {"/proc/self/exe", "--helper"};
    request.argv.insert(request.argv.end(), what.words.begin(), what.words.end());
    request.timeout = what.timeout;
    request.stdin_fd = what.stdin_fd;
    request.give_up_fd = what.server;
    request.left_behind_as = what.left_behind_as;
    request.take_stdout = [&answer](int fd) { return take(fd, answer); };
    const auto outcome = run(request);
    if (outcome.has_error()) return unfinished(what, outcome.error());
    if (outcome->exit_code == 0) return answer;
    if (outcome->exit_code > errc_base && outcome->exit_code < exec_failed)
        return error{static_cast<errc>(outcome->exit_code - errc_base), std::move(answer)};
    return error{errc::io_failed, fmt::format("weftd --helper {} failed with exit code {}: {}{}", what.words.front(),
                                              outcome->exit_code, answer, outcome->output)};
}

result<unique_fd> memory_file(std::string_view text) {
    unique_fd fd{::memfd_create("weft", MFD_CLOEXEC)};
    if (!fd) return errno_error(errno, "memfd_create");
    TRY(write_all(fd.get(), text, "a file in memory"));
    if (::lseek(fd.get(), 0, SEEK_SET) != 0) return errno_error(errno, "rewind a file in memory");
    return fd;
}

int helper_main(const std::map<std::string, helper>& known, const std::vector<std::string>& words) {
    WEFT_CRASH_OF_PARENT();
    const auto found = words.empty() ? known.end() : known.find(words.front());
    if (found == known.end()) return bad_usage;
    const auto done = found->second({words.begin() + 1, words.end()});
    (void)std::fputs((done.has_value() ? *done : done.error().text).c_str(), stdout);
    return done.has_value() ? 0 : errc_base + static_cast<int>(done.error().code);
}

}  // namespace weft
