// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/daemon/attach_steps.hpp"

#include <fmt/format.h>

#include <future>
#include <system_error>

#include "nbd-backend/base/crash_point.hpp"
#include "nbd-backend/base/units.hpp"
#include "orchestrator/core/members.hpp"
#include "orchestrator/core/reconcile.hpp"
#include "orchestrator/core/transitions.hpp"
#include "orchestrator/daemon/log.hpp"
#include "orchestrator/io/crypt_layer.hpp"
#include "orchestrator/io/filesystem.hpp"

namespace weft {

namespace {

constexpr std::chrono::seconds serving_wait{60};  // half of dockerd's patience with a Mount (docker-plugin facts, 3.2)
constexpr std::chrono::minutes tool_wait{5};      // mkfs, resize2fs and the like
constexpr std::chrono::seconds device_wait{20};   // the volume server's answers, nbdfuse and loop
constexpr std::chrono::seconds step_down_wait{20};         // each step down that can hang while the volume holds
constexpr std::chrono::seconds maintenance_flush_wait{2};  // a mount may be waiting behind it
constexpr std::chrono::seconds end_grace{2};               // between SIGTERM and SIGKILL of a volume server

}  // namespace

volume_shape attach_steps::shape_of(const volume_record& record, const attachment& of) const {
    volume_shape shape{record.name, record.id, record.layout};
    for (const auto& extent : record.extents) shape.extent_sizes.push_back(extent.size_bytes);
    const auto link = of.current_link();
    shape.legs = legs_of(record, link ? link->latest() : std::vector<core::engine_status>{});
    shape.clean = record.layout.mirrored && left_clean(of);
    shape.resync_rate = record.resync_rate;
    if (record.encrypt) shape.encryption = volume_encryption{record.luks_uuid, record.formatted};
    return shape;
}

result<std::string> attach_steps::stitch(const attachment& of, const volume_shape& shape,
                                         const unique_fd& server) const {
    if (shape.layout.mirrored) TRY(note_clean(env_.options.runtime_dir, of.id, false));
    return devices_.attach(paths_of(env_.options.runtime_dir, of.id), shape, {device_wait, server.get()});
}

std::filesystem::path attach_steps::mount_target(const volume_id& id) const {
    return env_.options.state_dir / "mounts" / id.str();
}

result<std::string> attach_steps::holders(const attachment& of) const {
    TRY_ASSIGN(const auto seen, devices_.observe(paths_of(env_.options.runtime_dir, of.id), of.id));
    std::vector<foreign_mount> all;
    for (const auto& numbers : seen.devices) {
        TRY_ASSIGN(auto found, foreign_holders(numbers));
        all.insert(all.end(), found.begin(), found.end());
    }
    return all.empty() ? std::string() : describe(all);
}

void attach_steps::connect(attachment& of, const core::attach_config& config, const process_identity& server) {
    const std::string name = config.volume;
    const std::uint64_t epoch = config.epoch;
    // The hooks know the link through a weak pointer that is filled in below: a proposal that comes earlier than that
    // is repeated by the server when nothing answers it, on the connection's next turn.
    auto self = std::make_shared<std::weak_ptr<control_link>>();
    auto ready = std::make_shared<std::promise<void>>();
    control_link::hooks hooks;
    hooks.on_proposal = [this, self, open = ready->get_future().share(), name, id = of.id,
                         epoch](core::propose_message proposal) {
        open.wait();
        env_.proposals.hand_in({*self, name, id, epoch, std::move(proposal)});
    };
    hooks.on_notice = [this, name](const core::notice& said) {
        const auto level = said.severity == core::notice::level::info      ? severity::info
                           : said.severity == core::notice::level::warning ? severity::warning
                                                                           : severity::error;
        env_.events.emit(level, "volume " + name, said.text);
    };
    hooks.on_change = env_.wake_reconciler;
    auto link =
        std::make_shared<control_link>(paths_of(env_.options.runtime_dir, of.id), of.id, epoch, std::move(hooks));
    if (config.layout.mirrored && !config.clean) {  // until the sets say otherwise
        std::vector<std::uint64_t> all;
        for (const auto& extent : config.extents) all.push_back(extent.size_bytes);
        link->set_legs_unequal(std::move(all));
    }
    *self = link;
    ready->set_value();
    const auto token = env_.exits.watch(server, [this, weak = std::weak_ptr(link), name] {
        if (const auto watched = weak.lock()) watched->server_exited();
        env_.wake_reconciler();
    });
    const std::lock_guard lock(of.state);
    of.name = name;
    of.link = std::move(link);
    of.exit_token = token;
}

void attach_steps::disconnect(attachment& of) {
    std::shared_ptr<control_link> link;
    std::uint64_t token = 0;
    {
        const std::lock_guard lock(of.state);
        link.swap(of.link);
        std::swap(token, of.exit_token);
    }
    if (token != 0) env_.exits.forget(token);
}

result<std::vector<attach_steps::stray>> attach_steps::strays(const std::vector<volume_id>& known) const {
    std::vector<stray> all;
    TRY_ASSIGN(const auto volumes, devices_.volumes());
    for (const auto& id : volumes) {
        if (std::find(known.begin(), known.end(), id) != known.end()) continue;
        TRY_ASSIGN(const auto seen, devices_.observe(paths_of(env_.options.runtime_dir, id), id));
        stray one{id, seen.mount_points.empty() ? "" : "mounted at " + seen.mount_points.front()};
        for (const auto& numbers : seen.devices) {
            if (!one.held_by.empty()) break;
            TRY_ASSIGN(const auto holders, foreign_holders(numbers));
            if (!holders.empty()) one.held_by = describe(holders);
        }
        all.push_back(std::move(one));
    }
    return all;
}

void attach_steps::adopt(attachment& of, const core::attach_config& config, const process_identity& server) {
    connect(of, config, server);
    const auto seen = devices_.observe(paths_of(env_.options.runtime_dir, of.id), of.id);
    const std::lock_guard lock(of.state);
    if (seen.has_value() && !seen->mount_points.empty()) of.mountpoint = mount_target(of.id) / "data";
    // Whether the file system has all of its device, and the device its sockets, is not known: grow_device finds out.
    if (seen.has_value() && seen->growable_bytes > 0) of.device_bytes = 1;
}

void attach_steps::note_device(attachment& of) {
    const auto seen = devices_.observe(paths_of(env_.options.runtime_dir, of.id), of.id);
    const std::lock_guard lock(of.state);
    of.device_bytes = seen.has_value() ? seen->growable_bytes : 1;
}

/// Whatever waits for the volume's I/O must end with its server: whoever replaces that has to get at the attachment.
result<unique_fd> attach_steps::watch_server(const attachment& of) const {
    TRY_ASSIGN(const auto server, find_volume_server(env_.options.runtime_dir, of.id));
    if (!server) return error{errc::unavailable, "the volume server has ended"};
    return open_pidfd(*server);
}

status attach_steps::grow_device(attachment& of, const volume_record& record) {
    const auto link = of.current_link();
    if (!link || link->epoch() != record.epoch || link->latest().size() != record.extents.size()) return ok();
    const auto paths = paths_of(env_.options.runtime_dir, of.id);
    TRY_ASSIGN(const auto server, watch_server(of));
    TRY_ASSIGN(const auto before, devices_.observe(paths, of.id));
    if (before.growable_bytes == 0) {
        note_device(of);
        return ok();
    }
    // Most calls only bring sockets. What is above the device is left alone then: resize2fs would sync it.
    bool above = true;
    {
        const std::lock_guard lock(of.state);
        if (before.growable_bytes < record.size_bytes) of.file_system_follows = false;
        above = !of.file_system_follows;
    }
    TRY_ASSIGN(std::string device, stitch(of, shape_of(record, of), server));
    WEFT_CRASH_POINT("grow.device-grown");
    if (above && before.unlocked) {
        TRY_ASSIGN(device, devices_.unlock(shape_of(record, of), device, server.get()));
    }
    if (above && !before.mount_points.empty())
        TRY(grow_filesystem(device, record.fs, mount_target(of.id), tool_wait, server.get()));
    WEFT_CRASH_POINT("grow.filesystem-grown");
    {
        const std::lock_guard lock(of.state);
        of.file_system_follows = true;
    }
    if (before.growable_bytes < record.size_bytes)
        env_.events.emit(severity::info, "volume " + record.name,
                         fmt::format("its device has {} now{}", render_size(record.size_bytes),
                                     before.mount_points.empty() ? "" : ", and so has its file system"));
    note_device(of);
    return ok();
}

result<volume_record> attach_steps::become_writer(const volume_record& record, bool force) {
    if (!env_.lease.held())
        return error{errc::unavailable,
                     "this node's lease is not renewed now (is the store reachable?), so it must not become a writer"};
    node_name before;
    bool only_repaired = false;
    std::string way;
    const auto changed = env_.records.change(record.name, record.id, [&](volume_record now) -> result<volume_record> {
        before = now.writer;
        only_repaired = now.maintenance;
        auto liveness = writer_liveness::expired;
        if (!now.writer.empty() && now.writer != env_.options.node) {
            TRY_ASSIGN(const auto left, lease_remaining(env_.cluster, now.writer));
            if (left.count() > 0) liveness = writer_liveness::alive;
            way = now.maintenance                      ? "it only repaired"
                  : liveness == writer_liveness::alive ? "by force"
                                                       : "its lease has run out";
        }
        return attach(std::move(now), env_.options.node, liveness, force);
    });
    if (changed.has_error()) return changed.error();
    if (!before.empty() && before != env_.options.node)
        env_.events.emit(
            only_repaired ? severity::info : severity::warning, "volume " + record.name,
            fmt::format("taken over from node {} ({}), epoch {}", before.str(), way, changed->record.epoch));
    return changed->record;
}

result<core::attach_config> attach_steps::config_for(const volume_record& before, const volume_record& now) {
    auto members = members_of(now, *env_.cache.view(), env_.options.node);
    if (members.has_error()) {  // a drive that was added a moment ago elsewhere
        TRY(env_.cache.refresh());
        members = members_of(now, *env_.cache.view(), env_.options.node);
    }
    if (members.has_error()) return std::move(members).error();
    const auto ms = [](std::chrono::milliseconds time) { return static_cast<std::uint32_t>(time.count()); };
    core::attach_config config;
    config.volume = now.name;
    config.id = now.id;
    config.epoch = now.epoch;
    config.clean = before.clean && before.writer.empty();
    config.min_replicas = now.min_replicas;
    config.request_timeout_ms = ms(env_.options.request_timeout);
    config.reconnect_window_ms = ms(env_.options.reconnect_window);
    config.attach_timeout_ms = ms(env_.options.attach_timeout);
    config.policy = members->policy;
    config.layout = std::move(members->layout);
    config.extents = std::move(members->extents);
    return config;
}

status attach_steps::launch_server(attachment& of, const volume_record& before, const volume_record& now) {
    TRY_ASSIGN(auto config, config_for(before, now));
    config.device_lives = now.layout.mirrored && waits_for_server(of);
    const auto server = start_volume_server({env_.options.runtime_dir, env_.options.volume_plugin(), config});
    if (server.has_error()) return server.error().within("start the volume server");
    WEFT_CRASH_POINT("attach.server-started");
    connect(of, config, *server);
    env_.wake_reconciler();  // members may have changed since the config was made
    return ok();
}

status attach_steps::start_server(attachment& of, const volume_record& before, const volume_record& now) {
    TRY(launch_server(of, before, now));
    const auto serving = of.current_link()->wait_serving(serving_wait);
    if (serving.has_error()) return serving.error().within("the volume server does not serve yet");
    WEFT_CRASH_POINT("attach.serving");
    return ok();
}

status attach_steps::clear_old_stack(attachment& of, const volume_record& record) {
    TRY_ASSIGN(const auto server, find_volume_server(env_.options.runtime_dir, of.id));
    const auto config = read_attach_config(env_.options.runtime_dir, of.id);
    const auto link = of.current_link();
    const bool ours = server && config.has_value() && *config && (*config)->epoch == record.epoch &&
                      record.writer == env_.options.node;
    if (ours && link && link->detaching() && !link->failed()) return detach(of);
    if (auto taken = take_apart(of); taken.has_error())
        return taken.error().within("an earlier attachment of this volume on this node cannot be taken apart");
    return ok();
}

result<volume_record> attach_steps::claim_repaired(const volume_record& record) {
    TRY_ASSIGN(auto claimed, env_.records.change(record.name, record.id, [&](volume_record now) {
        return claim(std::move(now), env_.options.node, record.epoch);
    }));
    WEFT_CRASH_POINT("repair.claimed");
    env_.events.emit(severity::info, "volume " + record.name,
                     fmt::format("in use from now on, epoch {}; its repair goes on", record.epoch));
    return std::move(claimed.record);
}

result<attach_steps::attached> attach_steps::ensure_attached(attachment& of, const volume_record& record, bool force) {
    const auto link = of.current_link();
    const bool ours = record.writer == env_.options.node && link && link->epoch() == record.epoch && !link->exited() &&
                      !link->failed() && !link->detaching();
    if (ours) {
        auto used = record.maintenance ? claim_repaired(record) : result<volume_record>(record);
        if (used.has_value()) {
            TRY(link->wait_serving(serving_wait));
            return attached{std::move(*used), false};
        }
        // Somebody took it over a moment ago: what follows finds out who.
        if (used.error().code != errc::stale_epoch) return std::move(used).error();
    }
    TRY_ASSIGN(const auto replaced, replace_if_it_waits(of, record));
    if (replaced) return attached{std::move(*replaced), false};
    TRY(clear_old_stack(of, record));
    TRY_ASSIGN(const auto before, env_.records.read(record.name));
    if (!before || before->record.id != record.id)
        return error{errc::not_found, fmt::format("no such volume: '{}' (any more)", record.name)};
    TRY_ASSIGN(auto now, become_writer(before->record, force));
    WEFT_CRASH_POINT("attach.recorded");
    const auto started = start_server(of, before->record, now);
    if (started.has_value()) {
        env_.events.emit(severity::info, "volume " + now.name, fmt::format("attached, epoch {}", now.epoch));
        return attached{std::move(now), true};
    }
    undo_attach(of, now);
    return started.error();
}

/// Nothing was served to anybody: what this call made goes away again; no Unmount will come for it.
void attach_steps::undo_attach(attachment& of, const volume_record& now) {
    if (const auto cleared = take_apart(of); cleared.has_error())
        log(log_level::warning, "attach", "could not take a failed attach apart, the reconciler goes on",
            {{"volume", now.name}, {"error", cleared.error().text}});
    if (const auto given_up = abandon(now.name, now.id, now.epoch); given_up.has_error())
        log(log_level::warning, "attach", "could not give a failed attach up, the reconciler goes on",
            {{"volume", now.name}, {"error", given_up.error().text}});
}

result<volume_record> attach_steps::begin_maintenance(attachment& of, const std::string& name,
                                                      const volume_records::decision& still_wanted) {
    if (!env_.lease.held())
        return error{errc::unavailable, "this node's lease is not renewed now, so it must not become a writer"};
    volume_record before;
    TRY_ASSIGN(auto now, env_.records.change(name, of.id, [&](volume_record record) {
        before = record;
        return still_wanted(std::move(record));
    }));
    WEFT_CRASH_POINT("repair.attach-recorded");
    const auto launched = launch_server(of, before, now.record);
    WEFT_CRASH_POINT("repair.server-started");
    if (launched.has_value()) return std::move(now.record);
    undo_attach(of, now.record);
    return launched.error();
}

result<std::string> attach_steps::ensure_device(attachment& of, const volume_record& as_attached) {
    TRY_ASSIGN(const auto record, with_legs_of_today(as_attached));
    TRY_ASSIGN(const auto server, watch_server(of));
    auto device = stitch(of, shape_of(record, of), server);
    note_device(of);
    return device;
}

status attach_steps::check_mountable(const attachment& of, const volume_record& record) const {
    {
        const std::lock_guard lock(of.state);
        if (!record.encrypt || !of.mountpoint.empty()) return ok();
    }
    return devices_.encryption_possible();
}

result<std::string> attach_steps::ensure_mounted(attachment& of, const volume_record& as_attached) {
    TRY_ASSIGN(const auto record, with_legs_of_today(as_attached));
    const auto paths = paths_of(env_.options.runtime_dir, of.id);
    TRY_ASSIGN(const auto server, watch_server(of));
    TRY_ASSIGN(const auto seen, devices_.observe(paths, of.id));
    if (!seen.usable && !seen.suspended && !seen.devices.empty()) {
        // What carried the device is gone from under it: I/O there has failed, only a new stack helps.
        TRY(devices_.teardown(paths, of.id, {mount_target(of.id), step_down_wait, true}));
    }
    TRY_ASSIGN(const std::string whole, stitch(of, shape_of(record, of), server));
    WEFT_CRASH_POINT("mount.device-made");
    TRY_ASSIGN(const std::string device, devices_.unlock(shape_of(record, of), whole, server.get()));
    if (seen.mount_points.empty() || !seen.usable) {
        // Holes of a new encrypted volume are noise in clear, which blkid must not take for anything.
        if (record.encrypt && !record.formatted) TRY(blank_clear_device(device, server.get()));
        const auto made =
            ensure_filesystem_on_volume(device, record.formatted, record.fs, record.fs_uuid, tool_wait, server.get());
        if (made.has_error()) return made.error();
        WEFT_CRASH_POINT("mount.formatted");
        if (!record.formatted) {
            TRY(env_.records.change(record.name, record.id, [&](volume_record now) {
                return mark_formatted(std::move(now), env_.options.node, record.epoch);
            }));
            if (*made == format_outcome::made)
                env_.events.emit(severity::info, "volume " + record.name,
                                 fmt::format("formatted with {}", to_string(record.fs)));
        }
    }
    WEFT_CRASH_POINT("mount.format-recorded");
    TRY_ASSIGN(auto where, mount_filesystem(device, record.fs, mount_target(of.id), server.get()));
    WEFT_CRASH_POINT("mount.mounted");
    // It may have grown while nobody used it. A volume of one segment never did.
    status grown;
    if (record.layout.stripes.size() > 1)
        grown = grow_filesystem(device, record.fs, mount_target(of.id), tool_wait, server.get());
    if (grown.has_error())
        log(log_level::warning, "attach", "mounted, but its file system does not have all of its device yet",
            {{"volume", record.name}, {"error", grown.error().text}});
    note_device(of);
    if (grown.has_error()) of.look_at_device_again();  // the reconciler goes on
    const std::lock_guard lock(of.state);
    of.file_system_follows = grown.has_value();
    of.mountpoint = where;
    return where;
}

status attach_steps::remove_remains(attachment& of) {
    TRY(stop_volume_server(env_.options.runtime_dir, of.id, end_grace));
    WEFT_CRASH_POINT("detach.server-stopped");
    disconnect(of);
    // Before the volume's directory: that is what tells a restarted weftd that there is something left to remove.
    std::error_code ignored;  // an empty directory that stays is of no consequence
    std::filesystem::remove(mount_target(of.id), ignored);
    WEFT_CRASH_POINT("detach.mount-point-gone");
    TRY(remove_volume_directory(env_.options.runtime_dir, of.id));
    WEFT_CRASH_POINT("detach.directory-gone");
    return env_.table.forget_references(of);
}

status attach_steps::take_apart(attachment& of) {
    TRY(stop_volume_server(env_.options.runtime_dir, of.id, end_grace));
    if (const auto link = of.current_link()) link->server_exited();
    WEFT_CRASH_POINT("take-apart.server-stopped");
    TRY(devices_.teardown(paths_of(env_.options.runtime_dir, of.id), of.id,
                          {mount_target(of.id), step_down_wait, true}));
    return remove_remains(of);
}

status attach_steps::abandon(const std::string& name, const volume_id& id, std::uint64_t epoch) {
    const auto changed = env_.records.change(
        name, id, [&](volume_record now) { return weft::abandon(std::move(now), env_.options.node, epoch); });
    if (changed.has_value() || changed.error().code == errc::stale_epoch || changed.error().code == errc::not_found)
        return ok();  // not ours (any more) is what was wanted
    return changed.error();
}

/// Where the server lives: in order.
status attach_steps::take_device_down(attachment& of, bool broken) {
    TRY_ASSIGN(const auto server, watch_server(of));
    const bool equal = !broken && legs_are_equal(of);
    TRY(devices_.teardown(paths_of(env_.options.runtime_dir, of.id), of.id,
                          {mount_target(of.id), step_down_wait, broken, server.get()}));
    return equal ? note_clean(env_.options.runtime_dir, of.id, true) : ok();
}

status attach_steps::detach(attachment& of) {
    const std::string name = of.volume_name();
    const auto paths = paths_of(env_.options.runtime_dir, of.id);
    // What programs wrote and did not sync is in the page cache above a device that waits: another server takes it.
    if (const auto gone = of.current_link(); (!gone || (gone->exited() && !gone->failed())) && waits_for_server(of)) {
        const auto replaced = replace_server(of, name);
        const bool pointless = replaced.has_error() &&
                               (replaced.error().code == errc::stale_epoch || replaced.error().code == errc::not_found);
        if (replaced.has_error() && !pointless) return replaced.error();
    }
    const auto link = of.current_link();
    const std::uint64_t epoch = link ? link->epoch() : 0;
    if (!link || link->exited() || link->failed()) {
        TRY(take_apart(of));
        WEFT_CRASH_POINT("take-apart.done");
        if (epoch == 0) return ok();
        env_.events.emit(severity::warning, "volume " + name,
                         "taken apart after its volume server had gone; the next attach recovers it");
        return abandon(name, of.id, epoch);
    }
    TRY_ASSIGN(const auto seen, devices_.observe(paths, of.id));
    TRY(take_device_down(of, !seen.nothing && !seen.usable && !seen.suspended));
    {
        const std::lock_guard lock(of.state);
        of.mountpoint.clear();
        of.device_bytes = 0;
    }
    WEFT_CRASH_POINT("detach.stack-down");
    return flush_and_release(of, name, epoch, step_down_wait, "detached");
}

status attach_steps::end_maintenance(attachment& of, const std::string& why) {
    const auto link = of.current_link();
    const std::string name = of.volume_name();
    if (!link || link->exited() || link->failed()) return detach(of);
    WEFT_CRASH_POINT("repair.ending");
    TRY(take_device_down(of, false));  // a mirrored volume is repaired by its set
    auto ended = flush_and_release(of, name, link->epoch(), maintenance_flush_wait, why);
    if (ended.has_value() || ended.error().code != errc::timed_out) return ended;
    TRY(take_apart(of));
    env_.events.emit(severity::warning, "volume " + name, "repair given up: " + ended.error().text);
    return abandon(name, of.id, link->epoch());
}

status attach_steps::flush_and_release(attachment& of, const std::string& name, std::uint64_t epoch,
                                       std::chrono::milliseconds patience, const std::string& told) {
    const auto link = of.current_link();
    const auto flushed = link->detach(patience);
    WEFT_CRASH_POINT("detach.flushed");
    if (flushed.has_error()) {
        const errc code = flushed.error().code;
        if (code != errc::stale_epoch && code != errc::unavailable) return flushed.error();
        TRY(take_apart(of));  // fenced or dead meanwhile
        return abandon(name, of.id, epoch);
    }
    // R11: clean only if the replicas were left equal; else the next attach goes on with the recovery (R7).
    const bool equal = *flushed && left_clean(of);
    const auto released = env_.records.change(name, of.id, [&](volume_record now) {
        return equal ? release(std::move(now), env_.options.node, epoch)
                     : weft::abandon(std::move(now), env_.options.node, epoch);
    });
    if (released.has_error() && released.error().code != errc::stale_epoch && released.error().code != errc::not_found)
        return released.error();
    WEFT_CRASH_POINT("detach.released");
    TRY(remove_remains(of));
    env_.events.emit(severity::info, "volume " + name, told);
    return ok();
}

}  // namespace weft
