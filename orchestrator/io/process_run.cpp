// SPDX-License-Identifier: Apache-2.0
// Short commands (run) and single system calls (run_isolated) in a child that is waited for with a deadline.
//
// A child that does not die of SIGKILL waits in the kernel; it is left behind and reaped by a later call, so that
// neither the caller hangs nor zombies pile up.
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <mutex>

#include "orchestrator/io/child_setup.hpp"
#include "orchestrator/io/process.hpp"

// The header of glibc 2.36 lacks it.
extern "C" {
#include <sys/pidfd.h>
}

namespace weft {

namespace {

using clock = std::chrono::steady_clock;

/// How long a killed child may take to be gone before it is left behind.
constexpr std::chrono::milliseconds reap_patience{2000};

/// One of our children, not yet reaped.
struct straggler {
    pid_t pid;
    std::string what;  // the description of an isolated call; of a command, which was killed, what it is left behind as
};
std::mutex left_behind_mutex;
std::vector<straggler> left_behind;  // guarded by left_behind_mutex

void leave_behind(pid_t child, std::string_view what = {}) {
    const std::lock_guard lock{left_behind_mutex};
    left_behind.push_back({child, std::string(what)});
}

void reap_left_behind() {
    const std::lock_guard lock{left_behind_mutex};
    std::erase_if(left_behind, [](const straggler& one) { return ::waitpid(one.pid, nullptr, WNOHANG) != 0; });
}

/// A pidfd of what was left behind as that; empty if there is none. Errors: io_failed.
result<unique_fd> find_straggler(std::string_view what) {
    const std::lock_guard lock{left_behind_mutex};
    for (const auto& one : left_behind) {
        if (one.what != what) continue;
        unique_fd pidfd{::pidfd_open(one.pid, 0)};  // not reaped yet: the number is still its own
        if (!pidfd) return errno_error(errno, fmt::format("look for an earlier '{}'", what));
        return pidfd;
    }
    return unique_fd{};
}

int milliseconds_until(clock::time_point deadline) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - clock::now()).count();
    return static_cast<int>(std::clamp<std::int64_t>(left, 0, 1 << 30));
}

enum class wait_outcome { ended, late, given_up };

/// Waits until the process of the pidfd has ended, or `give_up_fd` (-1: none) is readable.
wait_outcome wait_for_end(int pidfd, int give_up_fd, clock::time_point deadline) {
    for (;;) {
        std::array<pollfd, 2> waiting{pollfd{pidfd, POLLIN, 0}, pollfd{give_up_fd, POLLIN, 0}};
        const int n = ::poll(waiting.data(), waiting.size(), milliseconds_until(deadline));
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return wait_outcome::late;
        return waiting[0].revents != 0 ? wait_outcome::ended : wait_outcome::given_up;
    }
}

/// What the child ended with. nullopt: it has not by the deadline.
std::optional<int> wait_status(pid_t child, int pidfd, clock::time_point deadline) {
    if (wait_for_end(pidfd, -1, deadline) != wait_outcome::ended) return std::nullopt;
    int status_word = 0;
    while (::waitpid(child, &status_word, 0) < 0)
        if (errno != EINTR) return std::nullopt;
    return status_word;
}

void kill_and_reap(pid_t child, int pidfd, const run_request& what) {
    if (what.whole_session) ::kill(-child, SIGKILL);  // not reaped yet: the number is still its group's
    ::pidfd_send_signal(pidfd, SIGKILL, nullptr, 0);
    if (!wait_status(child, pidfd, clock::now() + reap_patience)) leave_behind(child, what.left_behind_as);
}

struct child_files {
    int in, out, err;
};

[[noreturn]] void child_run(const char* program, char* const* argv, child_files files, bool whole_session,
                            pid_t parent) {
    child_reset_signals();
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(127);  // it died before the line above
    if (whole_session) ::setsid();
    if (child_set_files(files.in, files.out, files.err)) ::execv(program, argv);
    const char* why = ::strerrordesc_np(errno);
    [[maybe_unused]] auto n = ::write(files.err, why, std::strlen(why));
    ::_exit(127);
}

/// Takes what the pipe has now; false at its end.
bool drain(int fd, std::string& output, std::size_t output_max) {
    std::array<char, 16384> piece;
    const ssize_t n = ::read(fd, piece.data(), piece.size());
    if (n < 0) return errno == EINTR || errno == EAGAIN;
    if (n == 0) return false;
    output.append(piece.data(), static_cast<std::size_t>(n));
    if (output.size() > output_max) output.erase(0, output.size() - output_max);
    return true;
}

/// Collects output until the child has ended, or is not waited for any more: nullopt, and `given_up` says for which of
/// the two reasons. The pipes may stay open longer in a grandchild, which is not waited for.
/// `taken` is the pipe of take_stdout, or empty.
std::optional<int> collect(pid_t child, int pidfd, int fd, unique_fd taken, const run_request& what,
                           std::string& output, bool& given_up) {
    const auto deadline = clock::now() + what.timeout;
    bool open = true;
    for (;;) {
        std::array<pollfd, 4> waiting{pollfd{pidfd, POLLIN, 0}, pollfd{open ? fd : -1, POLLIN, 0},
                                      pollfd{taken.get(), POLLIN, 0}, pollfd{what.give_up_fd, POLLIN, 0}};
        const int n = ::poll(waiting.data(), waiting.size(), milliseconds_until(deadline));
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return std::nullopt;
        if (waiting[1].revents != 0) open = drain(fd, output, what.output_max);
        if (waiting[2].revents != 0 && !what.take_stdout(taken.get())) taken.reset();
        // Everything that was written before the exit is read before the exit is seen.
        if (waiting[1].revents != 0 || waiting[2].revents != 0) continue;
        if (waiting[0].revents != 0) return wait_status(child, pidfd, deadline);
        given_up = waiting[3].revents != 0;
        if (given_up) return std::nullopt;
    }
}

struct started_child {
    pid_t pid;
    unique_fd pidfd;
};

/// Must be called by the parent right after the fork.
result<started_child> adopt_child(pid_t child, std::string_view name) {
    if (child < 0) return errno_error(errno, fmt::format("start {}: fork", name));
    unique_fd pidfd{::pidfd_open(child, 0)};
    if (pidfd) return started_child{child, std::move(pidfd)};
    const int failure = errno;
    ::kill(child, SIGKILL);  // our own unreaped child: the pid cannot be anybody else's
    leave_behind(child);
    return errno_error(failure, fmt::format("start {}: pidfd_open", name));
}

}  // namespace

result<run_outcome> run(const run_request& what) {
    reap_left_behind();
    TRY_ASSIGN(const auto program, find_program(what.argv));
    TRY_ASSIGN(const auto null_fd, open_high("/dev/null", O_RDONLY));
    TRY_ASSIGN(auto out, make_pipe());
    pipe_ends taken;
    if (what.take_stdout) {
        TRY_ASSIGN(taken, make_pipe());
    }
    const child_files files{what.stdin_fd < 0 ? null_fd.get() : what.stdin_fd,
                            taken.writer ? taken.writer.get() : out.writer.get(), out.writer.get()};
    const argument_vector argv{what.argv};
    const pid_t self = ::getpid();
    pid_t forked = -1;
    {
        const signals_blocked no_handlers;
        forked = ::_Fork();
        if (forked == 0) child_run(program.c_str(), argv.data(), files, what.whole_session, self);
    }
    out.writer.reset();
    taken.writer.reset();
    TRY_ASSIGN(const auto child, adopt_child(forked, program));
    run_outcome outcome;
    bool given_up = false;
    const auto ended = collect(child.pid, child.pidfd.get(), out.reader.get(), std::move(taken.reader), what,
                               outcome.output, given_up);
    if (!ended) {
        kill_and_reap(child.pid, child.pidfd.get(), what);
        if (given_up)
            return error{errc::unavailable, fmt::format("{} was killed: what it waits for has ended", program)};
        return error{errc::timed_out,
                     fmt::format("{} did not end within {} ms and was killed", program, what.timeout.count())};
    }
    if (!WIFEXITED(*ended)) {
        const char* name = ::sigabbrev_np(WTERMSIG(*ended));
        return error{errc::io_failed,
                     fmt::format("{} died of signal SIG{}: {}", program, name == nullptr ? "?" : name, outcome.output)};
    }
    outcome.exit_code = WEXITSTATUS(*ended);
    return outcome;
}

status run_checked(const run_request& what) {
    TRY_ASSIGN(auto outcome, run(what));
    if (outcome.exit_code == 0) return ok();
    while (!outcome.output.empty() && outcome.output.back() == '\n') outcome.output.pop_back();
    constexpr std::size_t shown = 1000;
    if (outcome.output.size() > shown) outcome.output.erase(0, outcome.output.size() - shown);
    return error{errc::io_failed,
                 fmt::format("{} failed with exit code {}: {}", what.argv.front(), outcome.exit_code, outcome.output)};
}

namespace {

[[noreturn]] void child_call(const isolated_call& what) {
    // Nothing of weftd's may stay open here: a child that hangs would keep its sockets and locks alive.
    constexpr int kept = 3;
    child_reset_signals();
    if (what.fd && what.fd.get() != kept && ::dup2(what.fd.get(), kept) < 0) ::_exit(errno);
    for (int fd = 0; fd < kept; ++fd) ::close(fd);
    ::close_range(what.fd ? kept + 1 : kept, ~0U, 0);
    ::_exit(what.call(what.fd ? kept : -1, what.argument));
}

error not_waited_for(wait_outcome why, std::string_view description, std::chrono::milliseconds timeout) {
    if (why == wait_outcome::given_up)
        return error{errc::unavailable,
                     fmt::format("{}: what it waits for has ended; the kernel goes on with it", description)};
    return error{errc::timed_out, fmt::format("{} has not finished within {} ms; the kernel goes on with it",
                                              description, timeout.count())};
}

}  // namespace

status run_isolated(isolated_call what, std::string_view description, std::chrono::milliseconds timeout) {
    reap_left_behind();
    pid_t forked = -1;
    {
        const signals_blocked no_handlers;
        forked = ::_Fork();
        if (forked == 0) child_call(what);
    }
    const int fork_errno = errno;
    what.fd.reset();
    errno = fork_errno;
    TRY_ASSIGN(const auto child, adopt_child(forked, description));
    const auto deadline = clock::now() + timeout;
    const auto outcome = wait_for_end(child.pidfd.get(), what.give_up_fd, deadline);
    if (outcome != wait_outcome::ended) {
        leave_behind(child.pid, description);
        return not_waited_for(outcome, description, timeout);
    }
    const auto ended = wait_status(child.pid, child.pidfd.get(), deadline);
    if (!ended || !WIFEXITED(*ended)) return errno_error(EINTR, description);
    if (WEXITSTATUS(*ended) != 0) return errno_error(WEXITSTATUS(*ended), description);
    return ok();
}

status await_left_behind(std::string_view description, std::chrono::milliseconds timeout, int give_up_fd) {
    TRY_ASSIGN(const auto straggling, find_straggler(description));
    if (!straggling) return ok();
    const auto outcome = wait_for_end(straggling.get(), give_up_fd, clock::now() + timeout);
    if (outcome != wait_outcome::ended) return not_waited_for(outcome, description, timeout);
    reap_left_behind();
    return ok();
}

}  // namespace weft
