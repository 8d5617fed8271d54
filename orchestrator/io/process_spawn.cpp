// SPDX-License-Identifier: Apache-2.0
// spawn_detached: the order of steps is the crash argument of process.hpp.
//
// Killed before the first fork: nothing is there. Between the forks or before the identity is renamed into place: the
// child goes on by itself; it holds the lock, so a reader waits and then finds the identity. After exec: found by file.
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/prctl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>

#include "nbd-backend/base/crash_point.hpp"
#include "orchestrator/io/child_setup.hpp"
#include "orchestrator/io/process.hpp"
#include "orchestrator/io/unit_start.hpp"

namespace weft {

namespace {

/// What the child sends through the pipe when it fails; end of file instead means that exec succeeded.
struct child_failure {
    std::uint32_t stage = 0;
    int os_errno = 0;
};
constexpr std::array<std::string_view, 6> stage_names{
    "fork", "new session", "set up files", "read own start time", "write identity file", "execute"};
enum stage : std::uint32_t { at_fork, at_session, at_files, at_start_time, at_identity, at_exec };

/// Everything the child needs, prepared before the fork.
struct child_plan {
    const char* program;
    char* const* argv;
    const char* identity;            // final name
    const char* identity_temporary;  // in the same directory
    const char* boot_id;
    int null_fd, log_fd, report_fd;
    bool data_path;
    rlim_t stack_bytes;
};

[[noreturn]] void give_up(const child_plan& plan, stage where, int os_errno) {
    const child_failure failure{where, os_errno};
    [[maybe_unused]] const auto n = ::write(plan.report_fd, &failure, sizeof failure);  // a pipe has room for 8 bytes
    ::_exit(127);
}

/// Appends a number in decimal; returns the new end. The buffer has room (20 digits at most).
char* put_number(char* out, std::uint64_t value) {
    std::array<char, 20> digits;
    std::size_t n = 0;
    do digits[n++] = static_cast<char>('0' + value % 10);
    while ((value /= 10) != 0);
    while (n > 0) *out++ = digits[--n];
    return out;
}

/// Field 22 of /proc/self/stat, with calls that are safe after fork only. 0 with errno set on failure.
std::uint64_t own_start_ticks() {
    const int fd = ::open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    std::array<char, 1024> text;  // the line is below 400 bytes: 52 numbers and a name of at most 16 (64 escaped)
    const ssize_t length = ::read(fd, text.data(), text.size());
    const int failure = errno;
    ::close(fd);
    errno = length < 0 ? failure : EPROTO;
    if (length <= 0) return 0;
    ssize_t at = length - 1;
    while (at > 0 && text[static_cast<std::size_t>(at)] != ')') --at;
    int spaces = 0;  // field 3 follows the first space after the name, field 22 the 20th
    while (at < length && spaces < 20) spaces += text[static_cast<std::size_t>(at++)] == ' ';
    std::uint64_t ticks = 0;
    for (; at < length && text[static_cast<std::size_t>(at)] >= '0' && text[static_cast<std::size_t>(at)] <= '9'; ++at)
        ticks = ticks * 10 + static_cast<std::uint64_t>(text[static_cast<std::size_t>(at)] - '0');
    return ticks;
}

bool child_write_identity(const child_plan& plan, std::uint64_t ticks) {
    std::array<char, 128> line;
    char* end = put_number(line.data(), static_cast<std::uint64_t>(::getpid()));
    *end++ = ' ';
    end = put_number(end, ticks);
    *end++ = ' ';
    std::memcpy(end, plan.boot_id, 36);
    end += 36;
    *end++ = '\n';
    const int fd = ::open(plan.identity_temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) return false;
    const ssize_t length = end - line.data();
    errno = EIO;
    if (::write(fd, line.data(), static_cast<std::size_t>(length)) != length || ::fsync(fd) != 0) return false;
    ::close(fd);
    return ::rename(plan.identity_temporary, plan.identity) == 0;
}

/// Best effort: without the privilege the server still serves, only less protected when memory runs out.
void child_protect_data_path() {
    const int fd = ::open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd >= 0) {
        [[maybe_unused]] const auto n = ::write(fd, "-1000", 5);
        ::close(fd);
    }
    ::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
}

/// Returns when init is our parent. nbdkit asks for a SIGTERM at its parent's end as soon as it starts
/// (PR_SET_PDEATHSIG; seen with 1.32.5, option or not): an intermediate process that is slow to go, on a busy machine,
/// would take the server with it. A pidfd is readable only after the orphans have been given away (exit_notify in
/// kernel/exit.c).
void child_await_adoption(pid_t intermediate) {
    const int fd = static_cast<int>(::syscall(SYS_pidfd_open, intermediate, 0));
    if (fd < 0) return;  // it is gone
    pollfd ended{fd, POLLIN, 0};
    if (::getppid() == intermediate)  // else the pid may be somebody else's by now
        while (::poll(&ended, 1, -1) < 0 && errno == EINTR) {
        }
    ::close(fd);
}

[[noreturn]] void become(const child_plan& plan, pid_t intermediate) {
    child_await_adoption(intermediate);
    child_reset_signals();
    if (!child_set_files(plan.null_fd, plan.log_fd)) give_up(plan, at_files, errno);
    ::umask(077);
    if (::chdir("/") != 0) give_up(plan, at_files, errno);
    if (plan.data_path) child_protect_data_path();
    if (plan.stack_bytes != 0) {
        rlimit limit{};
        if (::getrlimit(RLIMIT_STACK, &limit) == 0) {
            limit.rlim_cur = limit.rlim_max == RLIM_INFINITY || plan.stack_bytes < limit.rlim_max ? plan.stack_bytes
                                                                                                  : limit.rlim_max;
            ::setrlimit(RLIMIT_STACK, &limit);
        }
    }
    const std::uint64_t ticks = own_start_ticks();
    if (ticks == 0) give_up(plan, at_start_time, errno);
    if (!child_write_identity(plan, ticks)) give_up(plan, at_identity, errno);
    WEFT_CRASH_POINT("start.identity-written");
    ::execv(plan.program, plan.argv);
    const int failure = errno;
    ::unlink(plan.identity);
    give_up(plan, at_exec, failure);
}

/// Two forks: the process becomes init's child, so that it is nobody's zombie here, and no session leader, so that it
/// can never acquire a terminal.
[[noreturn]] void intermediate(const child_plan& plan) {
    if (::setsid() < 0) give_up(plan, at_session, errno);
    const pid_t self = ::getpid();
    const pid_t child = ::_Fork();
    if (child < 0) give_up(plan, at_fork, errno);
    if (child == 0) become(plan, self);
    ::_exit(0);
}

}  // namespace

result<unique_fd> lock_identity(const std::string& identity_file) {
    TRY_ASSIGN(auto lock, open_high(identity_file + ".lock", O_RDWR | O_CREAT | O_NOFOLLOW, 0600));
    while (::flock(lock.get(), LOCK_EX) != 0)
        if (errno != EINTR) return errno_error(errno, fmt::format("lock {}.lock", identity_file));
    TRY_ASSIGN(const auto text, read_file(identity_file, 4096));
    if (text) {
        const auto identity = decode_identity(*text);
        if (identity.has_error()) return identity.error().within(identity_file);
        if (is_alive(*identity))
            return error{errc::busy, fmt::format("process {} of {} still runs", identity->pid, identity_file)};
    }
    return lock;
}

namespace {

status await_exec(int report_fd, const std::string& program) {
    child_failure failure;
    for (;;) {
        const ssize_t n = ::read(report_fd, &failure, sizeof failure);
        if (n < 0 && errno == EINTR) continue;
        if (n == 0) return ok();
        if (n != static_cast<ssize_t>(sizeof failure) || failure.stage >= stage_names.size())
            return errno_error(EPROTO, fmt::format("start {}", program));
        return errno_error(failure.os_errno, fmt::format("start {}: {}", program, stage_names[failure.stage]));
    }
}

}  // namespace

result<process_identity> spawn_detached(const spawn_request& what) {
    if (!what.unit.empty() && servers_are_units()) return spawn_as_unit(what);
    TRY_ASSIGN(const auto program, find_program(what.argv));
    TRY_ASSIGN(const auto boot_id, read_boot_id());
    const std::string identity = what.identity_file.string();
    const std::string temporary = identity + ".new";
    TRY_ASSIGN(auto lock, lock_identity(identity));
    TRY_ASSIGN(const auto null_fd, open_high("/dev/null", O_RDONLY));
    TRY_ASSIGN(const auto log_fd, open_high(what.log_file.string(), O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW, 0600));
    TRY_ASSIGN(auto report, make_pipe());
    const argument_vector argv{what.argv};
    const child_plan plan{program.c_str(), argv.data(),  identity.c_str(),    temporary.c_str(), boot_id.c_str(),
                          null_fd.get(),   log_fd.get(), report.writer.get(), what.data_path,    what.stack_bytes};
    pid_t child = -1;
    {
        const signals_blocked no_handlers;
        child = ::_Fork();
        if (child == 0) intermediate(plan);
    }
    if (child < 0) return errno_error(errno, fmt::format("start {}: fork", program));
    report.writer.reset();
    while (::waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
    }
    TRY(await_exec(report.reader.get(), program));
    TRY_ASSIGN(const auto text, read_file(what.identity_file, 4096));
    if (!text) return error{errc::io_failed, fmt::format("start {}: {} was not written", program, identity)};
    return decode_identity(*text);
}

}  // namespace weft
