// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/daemon/node_agent.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "orchestrator/core/health.hpp"
#include "orchestrator/core/names.hpp"
#include "orchestrator/core/space.hpp"
#include "orchestrator/daemon/clock.hpp"
#include "orchestrator/io/stack_observation.hpp"

namespace weft {

status node_agent::known() const {
    if (env_.cache.view()->revision > 0 || env_.cache.available().current) return ok();
    return error{errc::unavailable, fmt::format("the cluster store does not answer and this node has no copy yet: {}",
                                                env_.cache.available().problem)};
}

volume_view node_agent::view_of(const volume_record& record, const cluster_view& view, bool from_cache) const {
    volume_view shown;
    shown.record = record;
    shown.from_cache = from_cache;
    shown.writer_alive =
        !record.writer.empty() && lease_left(view, record.writer, monotonic_now()) > std::chrono::milliseconds{0};
    shown.mountpoint = env_.volumes.mountpoint_of(record.id);
    shown.health = to_string(health_of(record, living_nodes(view, monotonic_now())));
    shown.live_extents = env_.volumes.live_status_of(record.id);
    if (!shown.live_extents.empty()) shown.live = shown.live_extents.front();
    const bool holding = std::any_of(shown.live_extents.begin(), shown.live_extents.end(),
                                     [](const core::engine_status& extent) { return extent.holding; });
    shown.problem = describe_space_wait(record, shown.live_extents, view);
    if (holding || !shown.problem.empty()) shown.health = "holding";
    return shown;
}

drive_view node_agent::view_of(const drive_record& record, const cluster_view& view) const {
    return {record, replicas_on(view, record.id), record.node == env_.options.node && env_.drives.serving(record.id)};
}

status node_agent::create_volume(const std::string& name, const volume_options& options) {
    return env_.catalog.create(name, options);
}

status node_agent::remove_volume(const std::string& name) {
    return env_.catalog.remove(name);
}

result<std::string> node_agent::mount_volume(const std::string& name, const std::string& mount_id) {
    return env_.volumes.mount(name, mount_id);
}

void node_agent::mount_answered(const std::string& name, const std::string& mount_id, bool delivered) {
    env_.volumes.mount_answered(name, mount_id, delivered);
}

status node_agent::unmount_volume(const std::string& name, const std::string& mount_id) {
    return env_.volumes.unmount(name, mount_id);
}

result<std::optional<volume_view>> node_agent::get_volume(const std::string& name) {
    // A name that breaks the grammar cannot be a volume's: that is certain without the store.
    if (check_volume_name(name).has_error()) return std::optional<volume_view>{};
    const auto view = env_.cache.view();
    const bool current = env_.cache.available().current;
    const auto cached = view->volumes.find(name);
    if (cached != view->volumes.end())
        return std::optional<volume_view>(view_of(cached->second.record, *view, !current));
    TRY_ASSIGN(const auto held, env_.records.read(name));
    if (!held) return std::optional<volume_view>{};
    return std::optional<volume_view>(view_of(held->record, *view, false));
}

result<std::vector<volume_view>> node_agent::list_volumes() {
    TRY(known());
    const auto view = env_.cache.view();
    const bool current = env_.cache.available().current;
    std::vector<volume_view> all;
    for (const auto& [name, volume] : view->volumes) all.push_back(view_of(volume.record, *view, !current));
    return all;
}

result<std::optional<volume_view>> node_agent::inspect_volume(const std::string& name) {
    TRY_ASSIGN(auto found, get_volume(name));
    if (!found) return found;
    const auto& id = found->record.id;
    const kernel_scope scope{env_.options.node.str(), env_.options.device_scope};
    found->stack =
        make_stack(found->record, observe_stack(scope, paths_of(env_.options.runtime_dir, id), id, found->record.name));
    return found;
}

void node_agent::docker_activated() {
    env_.volumes.dockerd_started();
}

result<attachment_view> node_agent::attach_volume(const std::string& name, bool force) {
    return env_.volumes.attach(name, force);
}

status node_agent::detach_volume(const std::string& name) {
    return env_.volumes.detach(name);
}

result<restart_view> node_agent::restart_volume(const std::string& name) {
    TRY_ASSIGN(const auto record, env_.volumes.restart(name));
    return restart_view{name, record.epoch};
}

result<repair_view> node_agent::repair_volume(const std::string& name) {
    return env_.repairs.repair(name);
}

result<repair_view> node_agent::recover_volume(const std::string& name, const std::string& from,
                                               bool accept_data_loss) {
    return env_.repairs.recover(name, from, accept_data_loss);
}

result<repair_view> node_agent::forget_node(const std::string& name, bool force) {
    return env_.repairs.forget(name, force);
}

result<volume_view> node_agent::set_volume(const std::string& name, const volume_options& options) {
    TRY_ASSIGN(const auto record, env_.catalog.set_policy(name, options));
    return view_of(record, *env_.cache.view(), false);
}

result<volume_view> node_agent::scrub_volume(const std::string& name) {
    TRY_ASSIGN(const auto record, env_.catalog.scrub(name));
    return view_of(record, *env_.cache.view(), false);
}

result<volume_view> node_agent::grow_volume(const std::string& name, const std::string& size) {
    TRY_ASSIGN(const auto record, env_.catalog.grow(name, size));
    return view_of(record, *env_.cache.view(), false);
}

result<drive_view> node_agent::add_drive(const std::string& path, const std::string& erase) {
    TRY_ASSIGN(const auto drive, env_.drives.add(path, erase));
    return view_of(drive, *env_.cache.view());
}

status node_agent::remove_drive(const std::string& id_or_path) {
    return env_.drives.remove(id_or_path);
}

result<std::vector<drive_view>> node_agent::list_drives() {
    TRY(known());
    const auto view = env_.cache.view();
    std::vector<drive_view> all;
    for (const auto& [id, drive] : view->drives) all.push_back(view_of(drive.record, *view));
    return all;
}

result<std::vector<node_view>> node_agent::list_nodes() {
    TRY(known());
    const auto view = env_.cache.view();
    std::vector<node_view> all;
    for (const auto& [name, node] : view->nodes) {
        node_view shown;
        shown.record = node.record;
        shown.lease_remaining = lease_left(*view, name, monotonic_now());
        shown.alive = shown.lease_remaining.count() > 0;
        for (const auto& [id, drive] : view->drives) shown.drives += drive.record.node == name ? 1 : 0;
        for (const auto& [id, volume] : view->volumes)
            shown.volumes_attached += volume.record.writer == name && !volume.record.maintenance ? 1 : 0;
        all.push_back(std::move(shown));
    }
    return all;
}

result<status_view> node_agent::cluster_status() {
    const auto view = env_.cache.view();
    const auto available = env_.cache.fully_available();
    status_view shown;
    shown.cluster_id = env_.cache.cluster_id();
    shown.node = env_.options.node.str();
    shown.version = WEFT_VERSION;
    shown.store_available = available.current;
    shown.store_problem = available.problem;
    if (const auto nodes = list_nodes(); nodes.has_value()) shown.nodes = *nodes;
    const auto alive = living_nodes(*view, monotonic_now());
    for (const auto& [name, volume] : view->volumes) {
        const auto health = health_of(volume.record, alive);
        ++shown.volumes;
        if (health == volume_health::degraded || health == volume_health::unavailable) ++shown.volumes_degraded;
        if (!volume.record.writer.empty() && !volume.record.maintenance) ++shown.volumes_attached;
        const auto waits = describe_space_wait(volume.record, env_.volumes.live_status_of(volume.record.id), *view);
        if (!waits.empty()) shown.problems.push_back(fmt::format("volume {}: {}", name, waits));
    }
    for (const auto& [id, drive] : view->drives) {
        shown.pool_size_bytes += drive.record.size_bytes;
        shown.pool_free_bytes += drive.record.free_bytes;
        if (drive.record.filled_past > 0) shown.problems.push_back("drive " + describe_fill(drive.record));
    }
    return shown;
}

result<std::vector<event_view>> node_agent::list_events(std::size_t newest) {
    return env_.events.newest(newest);
}

}  // namespace weft
