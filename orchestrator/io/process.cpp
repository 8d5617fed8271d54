// SPDX-License-Identifier: Apache-2.0
// Identity, liveness and the end of processes. Starting them is in process_spawn.cpp and process_run.cpp.
#include "orchestrator/io/process.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/file.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <csignal>

#include "nbd-backend/base/ids.hpp"

// The header of glibc 2.36 lacks it.
extern "C" {
#include <sys/pidfd.h>
}

namespace weft {

namespace {

/// Why 10 s: a process that SIGKILL does not end within this time waits for a device, and waiting longer helps nobody.
constexpr std::chrono::milliseconds kill_patience{10000};

constexpr int start_time_field = 22;  // proc(5), /proc/PID/stat

template <typename Number>
bool take_number(std::string_view& text, Number& value) {
    const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (failure != std::errc{}) return false;
    text.remove_prefix(static_cast<std::size_t>(end - text.data()));
    return true;
}

bool take_space(std::string_view& text) {
    if (text.empty() || text.front() != ' ') return false;
    text.remove_prefix(1);
    return true;
}

result<std::optional<proc_stat>> read_proc_stat(pid_t pid) {
    auto text = read_file(fmt::format("/proc/{}/stat", pid), 64 * 1024);
    if (text.has_error()) {
        if (text.error().os_errno == ESRCH) return std::optional<proc_stat>{};
        return std::move(text).error();
    }
    if (!*text || (*text)->empty()) return std::optional<proc_stat>{};
    TRY_ASSIGN(const auto stat, parse_proc_stat(**text));
    return std::optional<proc_stat>{stat};
}

}  // namespace

std::string encode_identity(const process_identity& identity) {
    return fmt::format("{} {} {}\n", identity.pid, identity.start_ticks, identity.boot_id);
}

result<process_identity> decode_identity(std::string_view text) {
    process_identity identity;
    std::string_view rest = text;
    if (!take_number(rest, identity.pid) || identity.pid <= 0 || !take_space(rest) ||
        !take_number(rest, identity.start_ticks) || !take_space(rest) || rest.size() != 37 || rest.back() != '\n' ||
        !is_uuid(rest.substr(0, 36)))
        return error{errc::corrupt, fmt::format("'{}' is not the identity of a process", text.substr(0, 100))};
    identity.boot_id = std::string(rest.substr(0, 36));
    return identity;
}

result<std::string> read_boot_id() {
    TRY_ASSIGN(const auto text, read_file("/proc/sys/kernel/random/boot_id", 4096));
    if (!text || text->size() < 36 || !is_uuid(std::string_view{*text}.substr(0, 36)))
        return error{errc::io_failed, "/proc/sys/kernel/random/boot_id is missing or not a UUID"};
    return text->substr(0, 36);
}

result<proc_stat> parse_proc_stat(std::string_view text) {
    const auto bad = [&] {
        return error{errc::corrupt, fmt::format("not the content of a /proc/PID/stat: '{}'", text.substr(0, 200))};
    };
    // "4711 (a name) with) parens) S 1 ...": the command name ends at the last parenthesis.
    const auto close = text.rfind(')');
    if (close == std::string_view::npos || close + 2 >= text.size()) return bad();
    std::string_view rest = text.substr(close + 1);
    proc_stat stat;
    for (int field = 3; field <= start_time_field; ++field) {
        if (!take_space(rest) || rest.empty()) return bad();
        if (field == 3) stat.state = rest.front();
        if (field == start_time_field) return take_number(rest, stat.start_ticks) ? result<proc_stat>{stat} : bad();
        rest.remove_prefix(std::min(rest.find(' '), rest.size()));
    }
    return bad();
}

result<process_identity> identify(pid_t pid) {
    TRY_ASSIGN(auto boot, read_boot_id());
    TRY_ASSIGN(const auto stat, read_proc_stat(pid));
    if (!stat) return error{errc::not_found, ESRCH, fmt::format("process {} does not exist", pid)};
    return process_identity{pid, stat->start_ticks, std::move(boot)};
}

bool is_alive(const process_identity& identity) {
    const auto boot = read_boot_id();
    if (boot.has_error() || *boot != identity.boot_id) return false;
    const auto stat = read_proc_stat(identity.pid);
    return stat.has_value() && *stat && (*stat)->start_ticks == identity.start_ticks && (*stat)->state != 'Z' &&
           (*stat)->state != 'X';
}

result<std::optional<process_identity>> read_live_identity(const std::filesystem::path& identity_file) {
    const std::string lock_path = identity_file.string() + ".lock";
    const unique_fd lock{::open(lock_path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW)};
    if (!lock && errno != ENOENT && errno != ENOTDIR) return errno_error(errno, fmt::format("open {}", lock_path));
    // No lock file: nothing was ever started here. Held: a spawn is between fork and exec, wait for its outcome.
    while (lock && ::flock(lock.get(), LOCK_SH) != 0)
        if (errno != EINTR) return errno_error(errno, fmt::format("lock {}", lock_path));
    TRY_ASSIGN(const auto text, read_file(identity_file, 4096));
    if (!text) return std::optional<process_identity>{};
    auto identity = decode_identity(*text);
    if (identity.has_error()) return identity.error().within(identity_file.string());
    if (!is_alive(*identity)) return std::optional<process_identity>{};
    return std::optional<process_identity>{std::move(*identity)};
}

result<unique_fd> open_pidfd(const process_identity& identity) {
    unique_fd fd{::pidfd_open(identity.pid, 0)};
    if (!fd && errno != ESRCH) return errno_error(errno, fmt::format("pidfd_open of process {}", identity.pid));
    // Checked after the open: if it is alive now, the pid cannot have been anybody else's at the open.
    if (!fd || !is_alive(identity))
        return error{errc::not_found, ESRCH, fmt::format("process {} is gone", identity.pid)};
    return fd;
}

namespace {

bool poll_exit(int pidfd, std::chrono::milliseconds timeout) {
    const auto deadline = std::chrono::steady_clock::now() + timeout;
    for (;;) {
        const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
        pollfd waiting{pidfd, POLLIN, 0};
        const int n = ::poll(&waiting, 1, static_cast<int>(std::clamp<std::int64_t>(left.count(), 0, 1 << 30)));
        if (n > 0) return true;
        if (n == 0 || errno != EINTR) return false;
    }
}

bool send_signal(int pidfd, int signal) {
    return ::pidfd_send_signal(pidfd, signal, nullptr, 0) == 0 || errno == ESRCH;
}

status end(const process_identity& identity, bool ask_first, std::chrono::milliseconds grace) {
    const auto fd = open_pidfd(identity);
    if (fd.has_error()) {
        if (fd.error().code == errc::not_found) return ok();
        return fd.error();
    }
    if (ask_first) {
        // A stopped process handles SIGTERM only after SIGCONT; sent in this order it cannot do work in between.
        if (!send_signal(fd->get(), SIGTERM) || !send_signal(fd->get(), SIGCONT))
            return errno_error(errno, fmt::format("signal process {}", identity.pid));
        if (poll_exit(fd->get(), grace)) return ok();
    }
    if (!send_signal(fd->get(), SIGKILL)) return errno_error(errno, fmt::format("kill process {}", identity.pid));
    if (poll_exit(fd->get(), kill_patience)) return ok();
    return error{errc::timed_out, fmt::format("process {} does not end, not even of SIGKILL: it waits for a device in "
                                              "the kernel; it will end when that answers",
                                              identity.pid)};
}

}  // namespace

bool has_ended(int pidfd) {
    pollfd ended{pidfd, POLLIN, 0};
    return ::poll(&ended, 1, 0) > 0;
}

bool wait_for_exit(const process_identity& identity, std::chrono::milliseconds timeout) {
    const auto fd = open_pidfd(identity);
    if (fd.has_error()) return !is_alive(identity);
    return poll_exit(fd->get(), timeout);
}

status terminate(const process_identity& identity, std::chrono::milliseconds grace) {
    return end(identity, true, grace);
}

status kill_now(const process_identity& identity) {
    return end(identity, false, {});
}

}  // namespace weft
