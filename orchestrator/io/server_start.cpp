// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/io/server_start.hpp"

#include <fmt/format.h>
#include <poll.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <system_error>

#include "nbd-backend/base/crash_point.hpp"

namespace weft {

namespace {

using clock = std::chrono::steady_clock;

/// A server that was not ready in time gets this long to end by itself.
constexpr std::chrono::milliseconds end_grace{2000};

/// nbdkit ends the line, nbdfuse does not; half a number is not our pid.
bool is_ready(const std::filesystem::path& pidfile, pid_t pid) {
    const auto text = read_file(pidfile, 4096);
    const auto wanted = std::to_string(pid);
    return text.has_value() && *text && (**text == wanted || **text == wanted + '\n');
}

void swallow_events(int inotify) {
    alignas(inotify_event) std::array<char, 4096> events;
    while (::read(inotify, events.data(), events.size()) > 0) {
    }
}

enum class outcome { ready, died, late };

/// The watch was set before the start, so a pid file that appears at any moment is seen.
outcome await_ready(int inotify, int pidfd, const server_start& what, pid_t pid, clock::time_point deadline) {
    for (;;) {
        if (is_ready(what.pidfile, pid)) return outcome::ready;
        const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - clock::now()).count();
        if (left <= 0) return outcome::late;
        std::array<pollfd, 2> waiting{pollfd{pidfd, POLLIN, 0}, pollfd{inotify, POLLIN, 0}};
        const int n = ::poll(waiting.data(), waiting.size(), static_cast<int>(std::min<std::int64_t>(left, 1 << 30)));
        if (n < 0 && errno != EINTR) return outcome::late;
        if (n > 0 && waiting[0].revents != 0) return outcome::died;
        if (n > 0) swallow_events(inotify);
    }
}

}  // namespace

result<process_identity> start_server(const server_start& what) {
    const unique_fd inotify{::inotify_init1(IN_CLOEXEC | IN_NONBLOCK)};
    const auto directory = what.pidfile.parent_path();
    if (!inotify || ::inotify_add_watch(inotify.get(), directory.c_str(), IN_CREATE | IN_CLOSE_WRITE | IN_MOVED_TO) < 0)
        return errno_error(errno, fmt::format("watch {}", directory.string()));
    std::error_code no_log_yet;
    const auto size = std::filesystem::file_size(what.spawn.log_file, no_log_yet);
    const std::uintmax_t log_before = no_log_yet ? 0 : size;
    // The pid file names its process, and only our own counts: a stale one is harmless, removing it is tidiness.
    TRY(remove_file(what.pidfile));
    auto spawned = spawn_detached(what.spawn);
    if (spawned.has_error()) return spawned.error().within(fmt::format("start {}", what.name));
    WEFT_CRASH_POINT("start.spawned");
    const auto pidfd = open_pidfd(*spawned);
    const auto how = pidfd.has_error() ? outcome::died
                                       : await_ready(inotify.get(), pidfd->get(), what, spawned->pid,
                                                     clock::now() + what.ready_timeout);
    switch (how) {
        case outcome::ready: return std::move(*spawned);
        case outcome::died:
            return error{errc::unavailable,
                         fmt::format("{} ended at once: {}", what.name, read_tail(what.spawn.log_file, log_before))};
        case outcome::late: break;
    }
    auto text = fmt::format("{} was not ready within {} ms and was ended: {}", what.name, what.ready_timeout.count(),
                            read_tail(what.spawn.log_file, log_before));
    if (const auto ended = terminate(*spawned, end_grace); ended.has_error())
        text += fmt::format("; and ending it failed: {}", ended.error().text);
    return error{errc::timed_out, std::move(text)};
}

}  // namespace weft
