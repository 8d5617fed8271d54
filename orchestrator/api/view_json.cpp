// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/api/view_json.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "nbd-backend/base/units.hpp"

namespace weft {

namespace json = boost::json;

namespace {

json::value to_json(const core::slot_status& slot) {
    return json::object{{"id", slot.id.str()},
                        {"state", to_string(slot.state)},
                        {"link_up", slot.link_up},
                        {"resyncing", slot.resyncing},
                        {"resync_done_bytes", slot.resync_done_bytes},
                        {"resync_copied_bytes", slot.resync_copied_bytes},
                        {"recovering", slot.recovering},
                        {"full", slot.full}};
}

json::value to_json(const core::scrub_status& scrub) {
    return json::object{{"serial", scrub.serial},
                        {"running", scrub.running},
                        {"done_bytes", scrub.done_bytes},
                        {"differing_bytes", scrub.differing_bytes},
                        {"repaired_bytes", scrub.repaired_bytes},
                        {"undecided_bytes", scrub.undecided_bytes}};
}

json::object to_json(const replica_record& replica) {
    return json::object{{"id", replica.id.str()},       {"node", replica.node.str()},
                        {"drive", replica.drive.str()}, {"state", to_string(replica.state)},
                        {"created", replica.created},   {"born_equal", replica.born_equal}};
}

json::value to_json(const extent_record& extent) {
    json::array replicas;
    for (const auto& replica : extent.replicas) replicas.push_back(to_json(replica));
    return json::object{{"size_bytes", extent.size_bytes}, {"replicas", std::move(replicas)}};
}

void add_text(json::object& to, std::string_view field, std::string_view text) {
    if (!text.empty()) to[field] = text;
}
void add_number(json::object& to, std::string_view field, std::uint64_t value) {
    if (value != 0) to[field] = value;
}

/// Fields that say nothing of this layer are left out.
json::value to_json(const stack_node& node) {
    json::object shown{{"layer", to_string(node.what)}};
    if (node.replica) {
        for (const auto& [key, value] : to_json(*node.replica)) shown[key] = value;
        return shown;
    }
    if (node.index) shown["index"] = *node.index;
    add_text(shown, "type", node.type);
    add_text(shown, "name", node.name);
    add_text(shown, "number", node.number);
    add_text(shown, "link", node.link);
    if (!node.mount_points.empty())
        shown["mount_points"] = json::array(node.mount_points.begin(), node.mount_points.end());
    if (node.extent) shown["extent"] = *node.extent;
    if (node.condition) shown["condition"] = to_string(*node.condition);
    add_number(shown, "size_bytes", node.size_bytes);
    if (node.stripes > 0) {
        shown["stripes"] = node.stripes;
        shown["chunk_bytes"] = node.chunk_bytes;
    }
    if (!node.action.empty()) {
        shown["action"] = node.action;
        shown["done_bytes"] = node.done_bytes;
        shown["all_bytes"] = node.all_bytes;
    }
    if (node.suspended) shown["suspended"] = true;
    if (node.pid != 0) shown["pid"] = node.pid;
    json::array below;
    for (const auto& one : node.below) below.push_back(to_json(one));
    shown["below"] = std::move(below);
    return shown;
}

/// The engine's view of a replica, if this node's engine knows it.
const core::slot_status* find_slot(const volume_view& view, std::size_t extent, const replica_id& id) {
    const core::engine_status* engine = nullptr;
    if (extent < view.live_extents.size()) engine = &view.live_extents[extent];
    if (engine == nullptr && extent == 0 && view.live) engine = &*view.live;
    if (engine == nullptr) return nullptr;
    const auto slot = std::find_if(engine->slots.begin(), engine->slots.end(),
                                   [&](const core::slot_status& s) { return s.id == id; });
    return slot == engine->slots.end() ? nullptr : &*slot;
}

}  // namespace

json::value to_json(const core::engine_status& engine) {
    json::array slots;
    for (const auto& slot : engine.slots) slots.push_back(to_json(slot));
    return json::object{{"state", core::to_string(engine.state)},
                        {"slots", std::move(slots)},
                        {"recovery_left_bytes", engine.recovery_left_bytes},
                        {"dirty_bytes", engine.dirty_bytes},
                        {"waiting_for_space", engine.waiting_for_space},
                        {"scrub", to_json(engine.scrub)},
                        {"requests_in_flight", engine.requests_in_flight},
                        {"holding", engine.holding},
                        {"held_for_ms", engine.held_for.count()},
                        {"longest_hold_ms", engine.longest_hold.count()},
                        {"reads", engine.reads},
                        {"writes", engine.writes},
                        {"read_bytes", engine.read_bytes},
                        {"written_bytes", engine.written_bytes}};
}

json::value to_json(const device_stack& stack) {
    json::array tree;
    for (const auto& one : stack.tree) tree.push_back(to_json(one));
    return json::object{{"attach", stack.attach}, {"note", stack.note}, {"tree", std::move(tree)}};
}

json::value to_json(const volume_view& view) {
    const volume_record& record = view.record;
    json::array extents;
    for (const auto& extent : record.extents) extents.push_back(to_json(extent));
    json::object volume{{"name", record.name},
                        {"id", record.id.str()},
                        {"size_bytes", record.size_bytes},
                        {"fs", to_string(record.fs)},
                        {"fs_uuid", record.fs_uuid},
                        {"formatted", record.formatted},
                        {"encrypt", record.encrypt},
                        {"luks_uuid", record.luks_uuid},
                        {"replicas_wanted", record.replicas_wanted},
                        {"min_replicas", record.min_replicas},
                        {"epoch", record.epoch},
                        {"writer", record.writer.str()},
                        {"clean", record.clean},
                        {"maintenance", record.maintenance},
                        {"provisioning", record.thick ? "thick" : "thin"},
                        {"checksums", record.checksums},
                        {"on_full", to_string(record.on_full)},
                        {"resync_rate_bytes", record.resync_rate},
                        {"scrub_every_s", record.scrub_every_s},
                        {"scrub_wanted", record.scrub_wanted},
                        {"scrub_finished", record.scrub_finished},
                        {"scrubbed_at", record.scrubbed_at},
                        {"scrub_report", record.scrub_report},
                        {"created_at", record.created_at},
                        {"chunk_bytes", record.layout.chunk_bytes},
                        {"stripes", json::value_from(record.layout.stripes)},
                        {"layout", record.layout.mirrored ? "mirrored" : "striped"},
                        {"extents", std::move(extents)},
                        {"mountpoint", view.mountpoint},
                        {"health", view.health},
                        {"problem", view.problem},
                        {"writer_alive", view.writer_alive},
                        {"live", view.live ? to_json(*view.live) : json::value(nullptr)},
                        {"live_extents", to_json(view.live_extents)},
                        {"from_cache", view.from_cache}};
    if (view.stack) volume["stack"] = to_json(*view.stack);
    return volume;
}

json::value to_json(const drive_device& device) {
    if (device.filesystem.empty()) return nullptr;
    return json::object{{"name", device.name},       {"model", device.model},
                        {"serial", device.serial},   {"size_bytes", device.size_bytes},
                        {"missing", device.missing}, {"filesystem", device.filesystem}};
}

json::value to_json(const drive_view& view) {
    const drive_record& record = view.record;
    return json::object{{"id", record.id.str()},
                        {"node", record.node.str()},
                        {"path", record.path},
                        {"host", record.host},
                        {"port", record.port},
                        {"size_bytes", record.size_bytes},
                        {"free_bytes", record.free_bytes},
                        {"draining", record.draining},
                        {"down", record.down},
                        {"filled_past_percent", record.filled_past},
                        {"device", to_json(record.device)},
                        {"replicas", view.replicas},
                        {"serving", view.serving}};
}

json::value to_json(const node_view& view) {
    return json::object{{"name", view.record.name.str()},
                        {"host", view.record.host},
                        {"version", view.record.version},
                        {"alive", view.alive},
                        {"lease_remaining_ms", view.lease_remaining.count()},
                        {"drives", view.drives},
                        {"volumes_attached", view.volumes_attached}};
}

json::value to_json(const event_view& view) {
    return json::object{{"time", view.time},
                        {"node", view.node},
                        {"severity", view.severity},
                        {"subject", view.subject},
                        {"text", view.text}};
}

json::value to_json(const status_view& view) {
    return json::object{{"cluster_id", view.cluster_id},
                        {"node", view.node},
                        {"version", view.version},
                        {"store_available", view.store_available},
                        {"store_problem", view.store_problem},
                        {"nodes", to_json(view.nodes)},
                        {"volumes", view.volumes},
                        {"volumes_degraded", view.volumes_degraded},
                        {"volumes_attached", view.volumes_attached},
                        {"pool_size_bytes", view.pool_size_bytes},
                        {"pool_free_bytes", view.pool_free_bytes},
                        {"problems", json::array(view.problems.begin(), view.problems.end())}};
}

json::value to_json(const attachment_view& view) {
    return json::object{{"nbd_uri", view.nbd_uri}, {"epoch", view.epoch}};
}

json::value to_json(const restart_view& view) {
    return json::object{{"restarted", view.volume}, {"epoch", view.epoch}};
}

json::value to_json(const repair_view& view) {
    json::array done;
    for (const auto& one : view.done) done.emplace_back(one);
    return json::object{{"subject", view.subject}, {"done", std::move(done)}};
}

json::object docker_status(const volume_view& view) {
    const volume_record& record = view.record;
    json::array replicas;
    for (std::size_t number = 0; number < record.extents.size(); ++number) {
        const extent_record& extent = record.extents[number];
        for (const auto& replica : extent.replicas) {
            json::object shown{{"Node", replica.node.str()}, {"State", to_string(replica.state)}};
            if (record.extents.size() > 1) shown["Extent"] = number;
            const core::slot_status* slot = find_slot(view, number, replica.id);
            if (slot != nullptr && slot->resyncing && extent.size_bytes > 0)
                shown["Resync"] = fmt::format("{:.1f} %", 100.0 * static_cast<double>(slot->resync_done_bytes) /
                                                              static_cast<double>(extent.size_bytes));
            replicas.push_back(std::move(shown));
        }
    }
    const bool in_use = !record.writer.empty() && !record.maintenance;
    json::object shown_status{{"Size", render_size(record.size_bytes)},
                              {"Health", view.health},
                              // Who only repairs gives it to anybody who wants it: for Docker it is not in use.
                              {"Writer", in_use ? record.writer.str() : "none"}};
    if (record.maintenance) shown_status["Repair"] = "on node " + record.writer.str();
    if (in_use && !view.writer_alive) shown_status["WriterLease"] = "expired";
    shown_status["Replicas"] = std::move(replicas);
    shown_status["ReplicasWanted"] = record.replicas_wanted;
    shown_status["MinReplicas"] = record.min_replicas;
    shown_status["Epoch"] = record.epoch;
    shown_status["Provisioning"] = record.thick ? "thick" : "thin";
    if (record.encrypt) shown_status["Encrypt"] = "on";
    shown_status["OnFull"] = to_string(record.on_full);
    if (!view.problem.empty()) shown_status["Problem"] = view.problem;
    if (record.scrub_wanted > record.scrub_finished)
        shown_status["Scrub"] = fmt::format("{} is asked for", record.scrub_wanted);
    else if (!record.scrubbed_at.empty())
        shown_status["Scrub"] = fmt::format("{}: {}", record.scrubbed_at, record.scrub_report);
    shown_status["FileSystem"] = to_string(record.fs);
    shown_status["Id"] = record.id.str();
    if (view.from_cache) shown_status["Note"] = "the cluster store does not answer; this is the last known state";
    return shown_status;
}

}  // namespace weft
