// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/io/portable_attach.hpp"

#include <fmt/format.h>
#include <sys/mount.h>

#include <algorithm>
#include <cerrno>

#include "nbd-backend/base/crash_point.hpp"
#include "orchestrator/io/filesystem.hpp"
#include "orchestrator/io/mountinfo.hpp"
#include "orchestrator/io/server_start.hpp"

namespace weft {

namespace {

using std::chrono::milliseconds;

/// nbdfuse opens this many connections when the server allows several: enough to keep a fast replica path busy (35 k
/// against 30 k random-write IOPS with one), and each costs the volume server a set of threads.
constexpr int nbd_connections = 4;

/// nbdfuse has nothing to save: after the loop is gone it is only asked to go.
constexpr milliseconds nbdfuse_grace{3000};

bool fuse_mounted(const volume_paths& paths, const std::vector<mount_entry>& mounts) {
    return std::any_of(mounts.begin(), mounts.end(),
                       [&](const auto& m) { return m.mount_point == paths.fuse_directory.string(); });
}

int call_umount_fuse(int, const void* argument) {
    const int outcome = ::umount2(static_cast<const char*>(argument), UMOUNT_NOFOLLOW) == 0 ? 0 : errno;
    return outcome == EINVAL ? 0 : outcome;  // not mounted any more
}

/// The FUSE connection of an ended nbdfuse stays mounted and answers ENOTCONN.
status unmount_fuse(const volume_paths& paths, milliseconds timeout) {
    TRY_ASSIGN(const auto mounts, read_own_mounts());
    if (!fuse_mounted(paths, mounts)) return ok();
    const std::string target = paths.fuse_directory.string();
    return run_isolated({call_umount_fuse, target.c_str(), {}}, fmt::format("unmount {}", target), timeout);
}

result<process_identity> start_nbdfuse(const volume_paths& paths, milliseconds timeout) {
    server_start start;
    start.name = "nbdfuse";
    start.pidfile = paths.fuse_pidfile;
    start.ready_timeout = timeout;
    start.spawn.argv = {"nbdfuse",
                        "-C",
                        std::to_string(nbd_connections),
                        "-P",
                        paths.fuse_pidfile.string(),
                        paths.fuse_file.string(),
                        volume_uri(paths)};
    start.spawn.unit = fmt::format("weft-nbdfuse@{}.service", paths.directory.filename().string());
    start.spawn.identity_file = paths.fuse_identity;
    start.spawn.log_file = paths.fuse_log;
    start.spawn.data_path = true;
    return start_server(start);
}

}  // namespace

result<portable_state> observe_portable(const volume_paths& paths) {
    portable_state state;
    TRY_ASSIGN(state.nbdfuse, read_live_identity(paths.fuse_identity));
    TRY_ASSIGN(const auto mounts, read_own_mounts());
    state.fuse_mounted = fuse_mounted(paths, mounts);
    TRY_ASSIGN(state.loops, find_loops(paths.fuse_file));
    for (const auto& loop : state.loops)
        for (const auto& mount : mounts)
            if (mount.device == loop.numbers) state.mount_points.push_back(mount.mount_point);
    state.usable = state.nbdfuse && state.fuse_mounted && state.loops.size() == 1;
    return state;
}

result<std::string> attach_portable(const volume_paths& paths, milliseconds timeout) {
    TRY_ASSIGN(const auto state, observe_portable(paths));
    if (state.usable) return state.loops.front().device;
    if (!state.loops.empty())
        return error{errc::busy,
                     fmt::format("{} is left over from an attachment of {} that is no longer whole; tear it "
                                 "down first",
                                 state.loops.front().device, paths.fuse_file.string())};
    if (!state.nbdfuse || !state.fuse_mounted) {
        if (state.nbdfuse) TRY(terminate(*state.nbdfuse, nbdfuse_grace));  // its mount was taken away
        TRY(unmount_fuse(paths, timeout));                                 // its process was taken away
        TRY(make_directories(paths.fuse_directory));
        TRY(start_nbdfuse(paths, timeout));
        WEFT_CRASH_POINT("mount.fuse-started");
    }
    TRY_ASSIGN(const auto loop, attach_loop(paths.fuse_file));
    return loop.device;
}

status teardown_portable(const volume_paths& paths, const teardown_options& options) {
    TRY_ASSIGN(const auto state, observe_portable(paths));
    if (!state.loops.empty()) {
        volume_device_state held;
        for (const auto& loop : state.loops) held.devices.push_back(loop.numbers);
        held.mount_points = state.mount_points;
        TRY(refuse_foreign_mounts(held, options.mount_point, state.loops.front().device));
    }
    // With the server gone, requests that wait in nbdfuse shall fail. Killed, not asked: asked, it would first unmount
    // lazily, and then a loop device would no longer show which file it is over.
    if (options.server_is_gone && state.nbdfuse) TRY(kill_now(*state.nbdfuse));
    if (!state.mount_points.empty()) TRY(unmount_filesystem(options.mount_point, options.timeout));
    WEFT_CRASH_POINT("detach.unmounted");
    for (const auto& loop : state.loops) TRY(detach_loop(loop, options.timeout));
    WEFT_CRASH_POINT("detach.loop-gone");
    // Only now: as long as the loop existed, nbdfuse was its way to the data.
    TRY(unmount_fuse(paths, options.timeout));
    WEFT_CRASH_POINT("detach.fuse-unmounted");
    TRY_ASSIGN(const auto nbdfuse, read_live_identity(paths.fuse_identity));
    if (nbdfuse) TRY(terminate(*nbdfuse, nbdfuse_grace));
    // A nbdfuse that was killed rather than asked leaves its mount behind.
    return unmount_fuse(paths, options.timeout);
}

}  // namespace weft
