// SPDX-License-Identifier: Apache-2.0
// attach_steps: another volume server under a device that is in use, because the old one has died (replace_server) or
// because somebody asked for it (restart_server).
//
//   looks only    ours, device waits, lease held, a server can be started
//   old server    killed                       killed here: a dead server under a device that waits, which the
//   next server   epoch + 1, start, sockets    reconciler replaces as it does one that crashed
#include <fmt/format.h>

#include <system_error>

#include "nbd-backend/base/crash_point.hpp"
#include "orchestrator/core/reconcile.hpp"
#include "orchestrator/core/transitions.hpp"
#include "orchestrator/daemon/attach_steps.hpp"

namespace weft {

bool attach_steps::waits_for_server(const attachment& of) const {
    const auto seen = devices_.observe(paths_of(env_.options.runtime_dir, of.id), of.id);
    return seen.has_value() && (seen->usable || seen->suspended) && seen->outlives_server;
}

bool attach_steps::lost_server(const attachment& of) const {
    const auto server = find_volume_server(env_.options.runtime_dir, of.id);
    return server.has_value() && !*server;
}

result<std::optional<volume_record>> attach_steps::replace_if_it_waits(attachment& of, const volume_record& record) {
    TRY_ASSIGN(const auto server, find_volume_server(env_.options.runtime_dir, of.id));
    if (server || record.writer != env_.options.node || record.maintenance || !waits_for_server(of))
        return std::optional<volume_record>{};
    TRY_ASSIGN(auto now, replace_server(of, record.name));
    return std::optional{std::move(now)};
}

result<volume_record> attach_steps::replace_server(attachment& of, const std::string& name) {
    TRY_ASSIGN(auto now, put_next_server(of, name));
    env_.events.emit(
        severity::warning, "volume " + name,
        fmt::format("its volume server was gone and was replaced, epoch {}; its users saw a pause", now.epoch));
    return now;
}

result<volume_record> attach_steps::put_next_server(attachment& of, const std::string& name) {
    if (const auto link = of.current_link()) link->server_exited();  // the exit watcher may come to it later
    TRY_ASSIGN(const auto config, read_attach_config(env_.options.runtime_dir, of.id));
    const std::uint64_t old_epoch = config ? config->epoch : 0;
    TRY_ASSIGN(const auto held, env_.records.read(name));
    if (!held || held->record.id != of.id)
        return error{errc::not_found, fmt::format("no such volume: '{}' (any more)", name)};
    const volume_record& before = held->record;
    if (!replaces(before, env_.options.node, old_epoch))
        return error{errc::stale_epoch,
                     fmt::format("volume '{}' has another writer than epoch {} of this node", name, old_epoch)};
    // An epoch that the record has and attach.json has not was taken by a weftd that was killed right then: no server
    // ever had it, because attach.json is written before the server is started.
    volume_record now = before;
    if (before.epoch == old_epoch) {
        TRY_ASSIGN(now, become_writer(before, false));
    }
    WEFT_CRASH_POINT("replace.recorded");
    // Should what follows fail half-way, with the new server running: the device is looked at until it has its sockets.
    of.look_at_device_again();
    TRY(start_server(of, before, now));
    TRY_ASSIGN(now, with_legs_of_today(std::move(now)));
    TRY_ASSIGN(const auto server, watch_server(of));
    TRY(stitch(of, shape_of(now, of), server));
    WEFT_CRASH_POINT("replace.connected");
    note_device(of);
    return now;
}

/// All that can be known before its users have to wait.
status attach_steps::check_restart(attachment& of, const volume_record& record) {
    TRY(may_restart(record, env_.options.node));
    TRY_ASSIGN(const auto seen, devices_.observe(paths_of(env_.options.runtime_dir, of.id), of.id));
    if (seen.nothing)
        return error{errc::unsupported,
                     fmt::format("volume '{}' has no block device here, its users speak NBD to its volume server and "
                                 "would be cut off; detach it and attach it again",
                                 record.name)};
    if (!seen.outlives_server)
        return error{errc::unsupported,
                     fmt::format("volume '{}' is attached portably (nbdfuse and a loop device) and cannot change its "
                                 "volume server while it is used: its users would get I/O errors; stop them, and the "
                                 "next mount starts a new one",
                                 record.name)};
    if (!seen.usable)
        return error{errc::busy, fmt::format("the block device of volume '{}' is not whole at this moment; see `weft "
                                             "events`, and try again",
                                             record.name)};
    const auto link = of.current_link();
    TRY_ASSIGN(const auto config, read_attach_config(env_.options.runtime_dir, of.id));
    if (!config || !replaces(record, env_.options.node, config->epoch) || (link && link->failed()))
        return error{
            errc::stale_epoch,
            fmt::format("what is attached of volume '{}' here was fenced and is being torn down", record.name)};
    if (!env_.lease.held())
        return error{errc::unavailable,
                     "this node's lease is not renewed now (is the store reachable?): the next epoch could not be "
                     "recorded, and the volume's users would wait; nothing was changed"};
    std::error_code failed;
    if (!std::filesystem::exists(env_.options.volume_plugin(), failed))
        return error{errc::not_found, fmt::format("there is no {} to start; nothing was changed",
                                                  env_.options.volume_plugin().string())};
    TRY(config_for(record, record));
    return ok();
}

result<volume_record> attach_steps::restart_server(attachment& of, const std::string& name) {
    TRY_ASSIGN(const auto held, env_.records.read(name));
    if (!held || held->record.id != of.id)
        return error{errc::not_found, fmt::format("no such volume: '{}' (any more)", name)};
    TRY(check_restart(of, held->record));
    // The old one first: an engine that saw the next epoch would fail what its users ask (R5) instead of leaving it to
    // the next server.
    TRY(kill_volume_server(env_.options.runtime_dir, of.id));
    WEFT_CRASH_POINT("restart.server-ended");
    auto now = put_next_server(of, name);
    if (now.has_error()) {
        env_.wake_reconciler();
        return std::move(now).error().within(
            "the old volume server is gone, the next one does not serve yet, and weftd goes on trying");
    }
    env_.events.emit(
        severity::info, "volume " + name,
        fmt::format("its volume server was restarted on request, epoch {}; its users saw a pause", now->epoch));
    return now;
}

}  // namespace weft
