// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/core/reconcile.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace weft {

namespace {

/// A damaged volume record may be about any volume id.
bool any_volume_unreadable(const cluster_view& view) {
    return std::any_of(view.bad.begin(), view.bad.end(),
                       [](const auto& entry) { return entry.first.starts_with("volumes/"); });
}

bool is_serving(const volume_record& record, const std::vector<core::engine_status>& engines) {
    return engines.size() == record.extents.size() &&
           std::all_of(engines.begin(), engines.end(),
                       [](const core::engine_status& one) { return one.state == core::engine_state::serving; });
}

void plan_attachment(std::vector<action>& plan, const cluster_view& view, const observed_node& observed,
                     const observed_attachment& seen) {
    if (seen.at_work) return;
    const auto* volume = find_volume(view, seen.id);
    if (volume == nullptr) {
        if (observed.records_current && !any_volume_unreadable(view))
            plan.emplace_back(tear_down_fenced{seen.id, seen.epoch, "the volume was removed"});
        return;
    }
    const volume_record& record = volume->record;
    if (record.epoch < seen.epoch) return;
    if (seen.waits && !seen.server_alive && (seen.wanted || seen.held) && replaces(record, observed.me, seen.epoch)) {
        plan.emplace_back(replace_server{seen.id, record.name});
        return;
    }
    if (record.writer != observed.me || record.epoch != seen.epoch) {
        std::string why = record.writer == observed.me
                              ? fmt::format("epoch {} of this node took its place", record.epoch)
                              : fmt::format("the writer is {} in epoch {}",
                                            record.writer.empty() ? "nobody" : record.writer.str(), record.epoch);
        plan.emplace_back(tear_down_fenced{seen.id, seen.epoch, std::move(why)});
        return;
    }
    if (seen.server_alive && !seen.failed && seen.device_bytes > 0 && seen.device_bytes < record.size_bytes)
        plan.emplace_back(grow_device{seen.id, record.name});
    if (record.layout.mirrored && seen.server_alive && !seen.failed && is_serving(record, seen.engines) &&
        (seen.wanted || seen.held || record.maintenance) &&
        (seen.legs != legs_of(record, seen.engines) || seen.legs_rate != record.resync_rate))
        plan.emplace_back(follow_legs{seen.id, record.name});
    if (seen.wanted || seen.held) return;
    if (record.maintenance && seen.server_alive && !seen.failed) return;  // volume_maintenance ends it
    if (seen.server_alive && !seen.failed)
        plan.emplace_back(detach_unused{seen.id, record.name});
    else
        plan.emplace_back(tear_down_dead{seen.id, record.name});
}

bool is_away(const observed_node& observed, const drive_id& id) {
    return std::find(observed.away.begin(), observed.away.end(), id) != observed.away.end();
}

void plan_servers(std::vector<action>& plan, const cluster_view& view, const observed_node& observed) {
    for (const auto& [id, drive] : view.drives) {
        const bool serving = std::find(observed.serving.begin(), observed.serving.end(), id) != observed.serving.end();
        if (drive.record.node == observed.me && !serving && !is_away(observed, id))
            plan.emplace_back(start_server{drive.record});
    }
    if (!observed.records_current) return;
    for (const auto& id : observed.serving) {
        const auto found = view.drives.find(id);
        const bool unreadable = view.bad.contains(drive_key(id));
        if (!unreadable && (found == view.drives.end() || found->second.record.node != observed.me))
            plan.emplace_back(stop_server{id});
    }
}

void plan_replicas(std::vector<action>& plan, const cluster_view& view, const observed_node& observed) {
    if (!observed.records_current) return;
    for (const auto& [name, volume] : view.volumes)
        for (const auto* extent : all_extents(volume.record))
            for (const auto& replica : extent->replicas)
                if (replica.node == observed.me && !replica.created && !is_away(observed, replica.drive))
                    plan.emplace_back(create_replica{name, volume.record.id, replica.drive, replica, extent->size_bytes,
                                                     volume.record.thick, volume.record.checksums});
    for (const auto& [id, trash] : view.trash) {
        const bool unreadable = view.bad.contains(drive_key(trash.record.drive));
        const bool known = view.drives.contains(trash.record.drive);
        // Of a node that was forgotten: there is nobody to delete the files, only the key is left.
        const bool nobodys =
            !known && !view.nodes.contains(trash.record.node) && !view.bad.contains(node_key(trash.record.node));
        if ((trash.record.node == observed.me || nobodys) && !unreadable && !is_away(observed, trash.record.drive))
            plan.emplace_back(delete_replica{trash.record, known});
    }
}

void plan_lost_writers(std::vector<action>& plan, const cluster_view& view, const observed_node& observed) {
    if (!observed.records_current) return;
    for (const auto& [name, volume] : view.volumes) {
        if (volume.record.writer != observed.me) continue;
        const bool here =
            std::any_of(observed.attachments.begin(), observed.attachments.end(),
                        [&id = volume.record.id](const observed_attachment& seen) { return seen.id == id; });
        if (!here) plan.emplace_back(abandon_writer{name, volume.record.id, volume.record.epoch});
    }
}

}  // namespace

bool replaces(const volume_record& record, const node_name& me, std::uint64_t epoch) {
    return epoch > 0 && record.writer == me && !record.maintenance &&
           (record.epoch == epoch || record.epoch - 1 == epoch);
}

std::vector<action> plan_actions(const cluster_view& view, const observed_node& observed) {
    std::vector<action> plan;
    if (view.revision == 0) return plan;  // nothing is known: whatever runs, runs on
    for (const auto& seen : observed.attachments) plan_attachment(plan, view, observed, seen);
    std::stable_partition(plan.begin(), plan.end(),
                          [](const action& a) { return std::holds_alternative<tear_down_fenced>(a); });
    plan_servers(plan, view, observed);
    plan_replicas(plan, view, observed);
    plan_lost_writers(plan, view, observed);
    return plan;
}

namespace {
struct describer {
    std::string operator()(const start_server& a) const {
        return fmt::format("start the replica server of drive {}", a.drive.id.str());
    }
    std::string operator()(const stop_server& a) const {
        return fmt::format("stop the replica server of drive {}", a.drive.str());
    }
    std::string operator()(const create_replica& a) const {
        return fmt::format("create replica {} of volume {}", a.replica.id.str(), a.volume);
    }
    std::string operator()(const delete_replica& a) const {
        return fmt::format("delete replica {} of volume {}", a.trash.id.str(), a.trash.volume);
    }
    std::string operator()(const detach_unused& a) const { return fmt::format("detach volume {}", a.volume); }
    std::string operator()(const tear_down_fenced& a) const {
        return fmt::format("tear down volume {}: {}", a.id.str(), a.why);
    }
    std::string operator()(const tear_down_dead& a) const {
        return fmt::format("tear down volume {}: its volume server is gone", a.volume);
    }
    std::string operator()(const replace_server& a) const {
        return fmt::format("replace the volume server of {}, which is gone", a.volume);
    }
    std::string operator()(const grow_device& a) const {
        return fmt::format("let the device of volume {} grow", a.volume);
    }
    std::string operator()(const follow_legs& a) const {
        return fmt::format("give the set of volume {} the legs that it is to have", a.volume);
    }
    std::string operator()(const abandon_writer& a) const {
        return fmt::format("give up volume {}, which is not attached here", a.volume);
    }
};
}  // namespace

std::string describe(const action& what) {
    return std::visit(describer{}, what);
}

}  // namespace weft
