// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/daemon/volume_keeper.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <mutex>
#include <set>
#include <thread>

#include "nbd-backend/base/crash_point.hpp"
#include "orchestrator/core/members.hpp"
#include "orchestrator/core/names.hpp"
#include "orchestrator/core/transitions.hpp"
#include "orchestrator/daemon/clock.hpp"
#include "orchestrator/daemon/log.hpp"

namespace weft {

namespace {

// A dead container's mount namespace ends a moment after dockerd's Unmount, and no event tells of it.
constexpr std::chrono::milliseconds namespace_end_wait{2000};
constexpr std::chrono::milliseconds namespace_look_pause{50};
constexpr int servers_per_step = 3;  // one after another

error no_such_volume(const std::string& name) {
    return error{errc::not_found, fmt::format("no such volume: '{}'", printable(name))};
}

/// After a reboot the runtime directory is gone, but not the mount points. Removes empty directories only: one that
/// is mounted or that holds anything stays.
void remove_old_mount_points(const std::filesystem::path& mounts, const std::vector<volume_id>& here) {
    std::error_code failed;
    for (const auto& entry : std::filesystem::directory_iterator(mounts, failed)) {
        const auto name = entry.path().filename().string();
        const bool known = std::any_of(here.begin(), here.end(), [&](const volume_id& id) { return id.str() == name; });
        if (!known) std::filesystem::remove(entry.path(), failed);
    }
}

}  // namespace

std::vector<volume_id> volume_keeper::present() const {
    auto ids = list_volume_directories(env_.options.runtime_dir);
    if (ids.has_value()) return std::move(*ids);
    log(log_level::warning, "volumes", "cannot list the attachments", {{"error", ids.error().text}});
    return {};
}

void volume_keeper::adopt() {
    const auto here = present();
    remove_old_mount_points(env_.options.state_dir / "mounts", here);
    std::set<volume_id> all(here.begin(), here.end());
    if (const auto referenced = env_.table.with_references(); referenced.has_value())
        all.insert(referenced->begin(), referenced->end());
    for (const auto& id : all) {
        const auto of = env_.table.entry(id);
        if (const auto loaded = env_.table.load_references(*of); loaded.has_error())
            log(log_level::error, "volumes", "references are not readable, counting none",
                {{"volume", id.str()}, {"error", loaded.error().text}});
        const bool has_directory = std::find(here.begin(), here.end(), id) != here.end();
        if (!has_directory) {  // a reboot: the mounts that were referenced are gone
            if (const auto forgotten = env_.table.forget_references(*of); forgotten.has_error())
                log(log_level::warning, "volumes", "cannot remove old references",
                    {{"volume", id.str()}, {"error", forgotten.error().text}});
            continue;
        }
        const auto server = find_volume_server(env_.options.runtime_dir, id);
        const auto config = read_attach_config(env_.options.runtime_dir, id);
        if (config.has_value() && *config) {
            const std::lock_guard lock(of->state);
            of->name = (*config)->volume;
        }
        if (server.has_value() && *server && config.has_value() && *config) {
            steps_.adopt(*of, **config, **server);
            log(log_level::info, "volumes", "adopted a running attachment",
                {{"volume", (*config)->volume}, {"epoch", fmt::format("{}", (*config)->epoch)}});
        }
    }
}

void volume_keeper::give_up() {
    stop_.stop();
    for (const auto& of : env_.table.all())
        if (const auto link = of->current_link()) link->give_up();
}

void volume_keeper::let_go() {
    watch_.reset();
    legs_watch_.reset();
    for (const auto& of : env_.table.all()) steps_.disconnect(*of);
}

result<volume_record> volume_keeper::record_for(const std::string& name, bool force) {
    TRY(check_volume_name(name));
    auto held = env_.records.read(name);
    if (held.has_value()) {
        if (!*held) return no_such_volume(name);
        return std::move((*held)->record);
    }
    // Without the store only what is attached here can be used, and only as it is.
    const auto view = env_.cache.view();
    const auto cached = view->volumes.find(name);
    if (force || cached == view->volumes.end()) return std::move(held).error();
    const auto of = env_.table.find(cached->second.record.id);
    const auto link = of ? of->current_link() : nullptr;
    if (!link || link->exited() || link->failed() || link->epoch() != cached->second.record.epoch ||
        cached->second.record.writer != env_.options.node)
        return std::move(held).error();
    return cached->second.record;
}

/// A volume server may die under a step that waits for it; ensure_attached puts another one in its place, and the steps
/// find what is there.
result<std::string> volume_keeper::over_servers(attachment& of, const volume_record& as_attached, path_step step) {
    auto where = (steps_.*step)(of, as_attached);
    for (int servers = 1; where.has_error() && servers < servers_per_step && steps_.lost_server(of); ++servers) {
        log(log_level::warning, "volumes", "its volume server died before its device was usable",
            {{"volume", as_attached.name}, {"error", where.error().text}});
        TRY_ASSIGN(const auto now, record_for(as_attached.name, false));
        auto attached = steps_.ensure_attached(of, now, false);
        where = attached.has_value() ? (steps_.*step)(of, attached->record)
                                     : result<std::string>(std::move(attached).error());
    }
    return where;
}

result<std::string> volume_keeper::mount_locked(attachment& of, const volume_record& record,
                                                const std::string& mount_id) {
    TRY(steps_.check_mountable(of, record));
    TRY_ASSIGN(const auto attached, steps_.ensure_attached(of, record, false));
    auto where = over_servers(of, attached.record, &attach_steps::ensure_mounted);
    if (where.has_value()) {
        auto uses = uses_of(of);
        uses.refs.add(mount_id, answers_under_way(of, mount_id));
        const auto stored = env_.table.store_references(of, uses.refs, uses.administrative);
        WEFT_CRASH_POINT("mount.referenced");
        if (stored.has_value()) {
            const std::lock_guard lock(of.state);
            ++of.answering[mount_id];
            return where;
        }
        where = stored.error().within("record the reference");
    }
    if (of.used()) return where;  // somebody else's attachment stays
    if (const auto down = steps_.detach(of); down.has_error())
        log(log_level::warning, "volumes", "could not undo a failed mount at once, the reconciler goes on",
            {{"volume", record.name}, {"error", down.error().text}});
    env_.wake_reconciler();
    return where;
}

result<std::string> volume_keeper::mount(const std::string& name, const std::string& mount_id) {
    TRY(check_mount_id(mount_id));
    TRY_ASSIGN(const auto first_look, record_for(name, false));
    const auto of = env_.table.entry(first_look.id);
    const std::lock_guard operation(of->operation);
    TRY_ASSIGN(const auto record, record_for(name, false));  // while we waited for the lock it may have moved
    if (record.id != of->id)
        return error{errc::conflict, fmt::format("volume '{}' was removed and made again meanwhile; try again", name)};
    {
        const std::lock_guard lock(of->state);
        of->name = name;
    }
    auto where = mount_locked(*of, record, mount_id);
    if (where.has_error()) return std::move(where).error().within(fmt::format("mount volume '{}'", name));
    return where;
}

status volume_keeper::go_down_when_free(attachment& of, std::chrono::nanoseconds deadline) {
    while (true) {
        TRY_ASSIGN(const auto holders, steps_.holders(of));
        if (holders.empty()) return steps_.detach(of);
        if (monotonic_now() >= deadline) return error{errc::busy, fmt::format("its file system is still {}", holders)};
        if (stop_.wait_for(namespace_look_pause)) return error{errc::shutting_down, "weftd is stopping"};
    }
}

/// The reference is given up, whatever happens now; what cannot be taken down yet the reconciler takes down later.
void volume_keeper::go_down_unused(attachment& of, const std::string& name) {
    if (const auto down = go_down_when_free(of, monotonic_now() + namespace_end_wait); down.has_error())
        log(log_level::info, "volumes", "not taken down yet", {{"volume", name}, {"why", down.error().text}});
    env_.wake_reconciler();
}

status volume_keeper::unmount(const std::string& name, const std::string& mount_id) {
    TRY(check_volume_name(name));
    TRY(check_mount_id(mount_id));
    for (const auto& of : env_.table.all()) {
        if (of->volume_name() != name) continue;
        const std::lock_guard operation(of->operation);
        auto uses = uses_of(*of);
        if (!uses.refs.remove(mount_id)) continue;
        TRY(env_.table.store_references(*of, uses.refs, uses.administrative));
        WEFT_CRASH_POINT("unmount.dereferenced");
        if (uses.refs.empty() && !uses.administrative) go_down_unused(*of, name);
        return ok();
    }
    return ok();  // an ID that nobody knows is success for Docker
}

result<attachment_view> volume_keeper::attach(const std::string& name, bool force) {
    TRY_ASSIGN(const auto first_look, record_for(name, force));
    const auto of = env_.table.entry(first_look.id);
    const std::lock_guard operation(of->operation);
    TRY_ASSIGN(const auto record, record_for(name, force));
    if (record.id != of->id)
        return error{errc::conflict, fmt::format("volume '{}' was removed and made again meanwhile; try again", name)};
    {
        const std::lock_guard lock(of->state);
        of->name = name;
    }
    auto attached = steps_.ensure_attached(*of, record, force);
    if (attached.has_error()) return std::move(attached).error().within(fmt::format("attach volume '{}'", name));
    TRY(env_.table.store_references(*of, uses_of(*of).refs, true));
    WEFT_CRASH_POINT("attach.referenced");
    if (attached->record.layout.mirrored) {
        // Its replication is in the kernel: there is nothing of it to be had over a socket.
        TRY_ASSIGN(auto device, over_servers(*of, attached->record, &attach_steps::ensure_device));
        // A server that died before there was a device took the mark with it.
        if (const auto uses = uses_of(*of); !uses.administrative)
            TRY(env_.table.store_references(*of, uses.refs, true));
        return attachment_view{std::move(device), of->current_link()->epoch()};
    }
    return attachment_view{volume_uri(paths_of(env_.options.runtime_dir, of->id)), attached->record.epoch};
}

status volume_keeper::detach(const std::string& name) {
    TRY(check_volume_name(name));
    for (const auto& of : env_.table.all()) {
        if (of->volume_name() != name) continue;
        const std::lock_guard operation(of->operation);
        const auto uses = uses_of(*of);
        if (!uses.administrative) continue;
        TRY(env_.table.store_references(*of, uses.refs, false));
        WEFT_CRASH_POINT("detach.dereferenced");
        if (!uses.refs.unused()) return ok();
        auto down = go_down_when_free(*of, monotonic_now() + namespace_end_wait);
        env_.wake_reconciler();
        if (down.has_error()) return down.error().within("not used any more, but not detached yet");
        return ok();
    }
    return error{errc::not_found,
                 fmt::format("volume '{}' is not attached by an administrator on this node", printable(name))};
}

result<volume_record> volume_keeper::restart(const std::string& name) {
    TRY(check_volume_name(name));
    // Not from the cache: without the store there is no next epoch.
    TRY_ASSIGN(const auto held, env_.records.read(name));
    if (!held) return no_such_volume(name);
    TRY(may_restart(held->record, env_.options.node));
    const auto of = env_.table.entry(held->record.id);
    const std::lock_guard operation(of->operation);
    auto restarted = steps_.restart_server(*of, name);
    if (restarted.has_error())
        return std::move(restarted).error().within(fmt::format("restart the volume server of '{}'", name));
    return restarted;
}

void volume_keeper::dockerd_started() {
    // dockerd waits for the answer before it starts, so this must not wait for a mount that is under way: who holds
    // `operation` notes the restart with the next change of the references.
    for (const auto& of : env_.table.all()) {
        {
            const std::lock_guard lock(of->state);
            if (of->refs.empty()) continue;
            of->dockerd_restarted = true;
        }
        const std::unique_lock operation(of->operation, std::try_to_lock);
        if (!operation.owns_lock()) continue;
        note_restart(*of);
    }
    env_.wake_reconciler();
}

/// As go_down_when_free, and what can be tried again is: a container's last process, or a replica, may need a moment.
status volume_keeper::go_down_by(attachment& of, std::chrono::nanoseconds deadline) {
    const std::lock_guard operation(of.operation);
    while (true) {
        auto down = go_down_when_free(of, deadline);
        if (down.has_value() || monotonic_now() >= deadline || stop_.wait_for(namespace_look_pause)) return down;
    }
}

status volume_keeper::take_all_down(std::chrono::milliseconds patience) {
    const auto deadline = monotonic_now() + patience;
    std::mutex mutex;
    std::vector<std::string> left;
    std::vector<std::thread> each;  // a volume that holds (R4) must not keep the others
    for (const auto& id : present())
        each.emplace_back([this, of = env_.table.entry(id), deadline, &mutex, &left] {
            const auto down = go_down_by(*of, deadline);
            if (down.has_value()) return;
            const std::lock_guard lock(mutex);
            left.push_back(fmt::format("volume {}: {}", of->volume_name(), down.error().text));
        });
    for (auto& one : each) one.join();
    if (left.empty()) return ok();
    return error{errc::busy, fmt::format("{}", fmt::join(left, "; "))};
}

status volume_keeper::make_idle(const volume_record& record) {
    const auto here = present();
    const auto of = env_.table.entry(record.id);
    const std::lock_guard operation(of->operation);
    if (of->used())
        return error{errc::busy,
                     fmt::format("volume '{}' is in use on this node ({})", record.name, env_.options.node.str())};
    if (record.maintenance && record.writer == env_.options.node) {
        TRY(steps_.take_apart(*of));  // what it was about to repair goes away
        return steps_.abandon(record.name, record.id, record.epoch);
    }
    if (std::find(here.begin(), here.end(), record.id) != here.end())
        return go_down_when_free(*of, monotonic_now() + namespace_end_wait);
    if (record.writer == env_.options.node) return steps_.abandon(record.name, record.id, record.epoch);
    return ok();
}

std::string volume_keeper::mountpoint_of(const volume_id& id) const {
    const auto of = env_.table.find(id);
    if (!of) return {};
    const std::lock_guard lock(of->state);
    return of->mountpoint;
}

std::vector<core::engine_status> volume_keeper::live_status_of(const volume_id& id) const {
    const auto of = env_.table.find(id);
    const auto link = of ? of->current_link() : nullptr;
    return link && !link->exited() ? link->latest() : std::vector<core::engine_status>{};
}

observed_attachment volume_keeper::observe_one(attachment& of) {
    observed_attachment seen;
    seen.id = of.id;
    const std::unique_lock operation(of.operation, std::try_to_lock);
    if (!operation.owns_lock()) {
        seen.at_work = true;
        return seen;
    }
    note_restart(of);
    doubt_unanswered(of);
    const auto server = find_volume_server(env_.options.runtime_dir, of.id);
    const auto config = read_attach_config(env_.options.runtime_dir, of.id);
    if (server.has_error() || config.has_error()) {
        // Remains without a readable config: epoch 0, so the record decides; an unreadable identity means "alive".
        seen.server_alive = server.has_error() || server->has_value();
    } else {
        seen.epoch = *config ? (*config)->epoch : 0;
        seen.server_alive = server->has_value();
    }
    const auto link = of.current_link();
    seen.failed = link && link->failed();
    if (!of.used()) {
        const auto holders = steps_.holders(of);
        seen.held = holders.has_error() || !holders->empty();
    }
    seen.wanted = count_as_used(of, seen.held);
    seen.waits = !seen.server_alive && steps_.waits_for_server(of);
    if (link) seen.engines = link->latest();
    steps_.look_at_legs(of);
    const std::lock_guard lock(of.state);
    seen.device_bytes = of.device_bytes;
    seen.legs = of.legs;
    seen.legs_rate = of.legs_rate;
    return seen;
}

/// A connection may die under a server that lives. Started when there is a device to watch: before that the driver may
/// not be loaded. Without it a restart of weftd would still look at every device.
void volume_keeper::watch_devices() {
    const auto all = env_.table.all();
    const bool mirrored = std::any_of(all.begin(), all.end(), [](const auto& of) {
        const std::lock_guard lock(of->state);
        return of->legs.has_value();
    });
    if (mirrored && !legs_watch_) {
        auto started = dm_watch::start([this] {
            for (const auto& of : env_.table.all()) of->look_at_legs_again();
            env_.wake_reconciler();
        });
        if (started.has_value()) legs_watch_ = std::move(*started);
    }
    if (watch_) return;
    const bool any = std::any_of(all.begin(), all.end(), [](const auto& of) {
        const std::lock_guard lock(of->state);
        return of->device_bytes > 0;
    });
    if (!any) return;
    auto started = nbd_watch::start([this](std::optional<int>) {
        for (const auto& of : env_.table.all()) of->look_at_device_again();
        env_.wake_reconciler();
    });
    if (started.has_value()) watch_ = std::move(*started);
}

std::vector<observed_attachment> volume_keeper::observe() {
    watch_devices();
    std::vector<observed_attachment> all;
    const auto here = present();
    for (const auto& id : here) all.push_back(observe_one(*env_.table.entry(id)));
    observe_strays(here, all);
    return all;
}

/// Devices without a runtime directory: it was removed by hand, or they were made by hand. By rule, which is the plan's
/// for remains of which no epoch is known; but what is mounted is told of and left alone.
void volume_keeper::observe_strays(const std::vector<volume_id>& here, std::vector<observed_attachment>& all) {
    const auto strays = steps_.strays(here);
    if (strays.has_error()) {
        log(log_level::warning, "volumes", "cannot look for devices that nobody knows",
            {{"error", strays.error().text}});
        return;
    }
    std::set<volume_id> held;
    for (const auto& one : *strays) {
        if (one.held_by.empty()) {
            observed_attachment seen;
            seen.id = one.id;
            all.push_back(std::move(seen));
            continue;
        }
        held.insert(one.id);
        if (!held_strays_.contains(one.id))
            env_.events.emit(severity::warning, "volume " + one.id.str(),
                             fmt::format("has a device here that no attachment knows, and that is {}; unmount it, and "
                                         "it is taken apart",
                                         one.held_by));
    }
    held_strays_ = std::move(held);
}

void volume_keeper::tell_members(const cluster_view& view) {
    for (const auto& of : env_.table.all()) {
        const auto link = of->current_link();
        const auto* volume = link ? find_volume(view, of->id) : nullptr;
        if (volume == nullptr || volume->record.epoch != link->epoch()) continue;
        auto members = members_of(volume->record, view, env_.options.node);
        if (members.has_value()) link->set_members(std::move(*members), volume->revision);
        reaffirm_record(*link, volume->record);
    }
}

/// E7: once per attachment and tenure of the lease. Until it is done its reads ask every replica, which is slower only.
void volume_keeper::reaffirm_record(control_link& link, const volume_record& record) {
    const auto held = env_.lease.current();
    if (held.tenure == link.reaffirmed_in() || !env_.lease.held() || link.exited()) return;
    const auto done = env_.records.change(record.name, record.id, [&](volume_record now) {
        return reaffirm(std::move(now), env_.options.node, link.epoch());
    });
    if (done.has_error()) return;  // the next pass tries again, or finds us deposed
    link.reaffirmed(held.tenure);
    const auto now = env_.lease.current();
    link.set_lease(now.tenure, now.until);
}

status volume_keeper::do_detach_unused(const volume_id& id) {
    const auto of = env_.table.entry(id);
    const std::unique_lock operation(of->operation, std::try_to_lock);
    if (!operation.owns_lock()) return ok();  // somebody works on it; the next pass looks again
    TRY_ASSIGN(const auto holders, steps_.holders(*of));
    if (!holders.empty() || count_as_used(*of, false)) return ok();
    return steps_.detach(*of);
}

status volume_keeper::do_tear_down(const tear_down_fenced& what) {
    const auto of = env_.table.entry(what.id);
    const std::unique_lock operation(of->operation, std::try_to_lock);
    if (!operation.owns_lock()) return ok();
    const auto config = read_attach_config(env_.options.runtime_dir, what.id);
    const std::uint64_t epoch = config.has_value() && *config ? (*config)->epoch : 0;
    if (epoch != what.epoch) return ok();  // attached anew since the plan was made
    const std::string name = of->volume_name();
    TRY(steps_.take_apart(*of));
    env_.events.emit(severity::warning, "volume " + (name.empty() ? what.id.str() : name),
                     fmt::format("torn down on this node: {}", what.why));
    return ok();
}

/// One step for an attachment that nobody works on, by the record of this moment.
status volume_keeper::adjust(const volume_id& id, const std::string& name,
                             status (attach_steps::*step)(attachment&, const volume_record&)) {
    const auto of = env_.table.entry(id);
    const std::unique_lock operation(of->operation, std::try_to_lock);
    if (!operation.owns_lock()) return ok();
    TRY_ASSIGN(const auto held, env_.records.read(name));
    if (!held || held->record.id != id) return ok();
    return (steps_.*step)(*of, held->record);
}

status volume_keeper::do_grow(const grow_device& what) {
    return adjust(what.id, what.volume, &attach_steps::grow_device);
}

status volume_keeper::do_follow_legs(const follow_legs& what) {
    return adjust(what.id, what.volume, &attach_steps::follow_legs);
}

status volume_keeper::do_replace_server(const replace_server& what) {
    const auto of = env_.table.entry(what.id);
    const std::unique_lock operation(of->operation, std::try_to_lock);
    if (!operation.owns_lock()) return ok();  // perhaps a mount, which replaces it, too
    const auto server = find_volume_server(env_.options.runtime_dir, what.id);
    if (server.has_error()) return server.error();
    if (*server) return ok();
    TRY(steps_.replace_server(*of, what.volume));
    return ok();
}

status volume_keeper::do_abandon(const abandon_writer& what) {
    const auto of = env_.table.entry(what.id);
    const std::unique_lock operation(of->operation, std::try_to_lock);
    if (!operation.owns_lock()) return ok();
    const auto here = present();
    if (std::find(here.begin(), here.end(), what.id) != here.end()) return ok();
    TRY(steps_.abandon(what.volume, what.id, what.epoch));
    WEFT_CRASH_POINT("abandon.recorded");
    env_.events.emit(severity::warning, "volume " + what.volume,
                     "was not attached here any more (a reboot or a kill); given up, the next attach recovers it");
    return ok();
}

}  // namespace weft
