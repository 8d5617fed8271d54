// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/core/absence.hpp"

#include <algorithm>

namespace weft {

namespace {

/// Those in `away` stay with the time of their first look, new ones get `now`, all others are forgotten.
template <typename Id>
void merge(std::map<Id, std::chrono::nanoseconds>& known, const std::set<Id>& away, std::chrono::nanoseconds now) {
    for (auto it = known.begin(); it != known.end();) it = away.contains(it->first) ? std::next(it) : known.erase(it);
    for (const auto& id : away) known.emplace(id, now);
}

template <typename Id>
std::set<Id> older(const std::map<Id, std::chrono::nanoseconds>& known, std::chrono::nanoseconds limit) {
    std::set<Id> found;
    for (const auto& [id, since] : known)
        if (since <= limit) found.insert(id);
    return found;
}

bool is_down(const drive_id& id, const cluster_view& view) {
    const auto drive = view.drives.find(id);
    if (drive == view.drives.end()) return !view.bad.contains(drive_key(id));  // an unreadable record proves nothing
    return drive->second.record.down;
}

}  // namespace

bool is_present(const replica_record& replica, const cluster_view& view, const std::set<node_name>& alive) {
    const auto drive = view.drives.find(replica.drive);
    return alive.contains(replica.node) && drive != view.drives.end() && !drive->second.record.down;
}

void absence_book::look(const cluster_view& view, const std::set<node_name>& alive,
                        const std::vector<engine_report>& reports, std::chrono::nanoseconds now) {
    std::set<node_name> nodes;
    std::set<drive_id> drives;
    std::set<replica_id> replicas;
    std::set<replica_id> listed;
    const auto reported = [&](const volume_record& record, std::size_t extent, const replica_id& id) {
        const auto report =
            std::find_if(reports.begin(), reports.end(), [&](const engine_report& one) { return one.id == record.id; });
        const core::slot_status* found = nullptr;
        if (report == reports.end() || extent >= report->extents.size()) return found;
        for (const auto& slot : report->extents[extent].slots)
            if (slot.id == id) found = &slot;
        return found;
    };
    for (const auto& [name, volume] : view.volumes)
        for (std::size_t i = 0; i < volume.record.extents.size(); ++i)
            for (const auto& replica : volume.record.extents[i].replicas) {
                listed.insert(replica.id);
                if (!alive.contains(replica.node)) nodes.insert(replica.node);
                if (is_down(replica.drive, view)) drives.insert(replica.drive);
                const auto* slot = reported(volume.record, i, replica.id);
                // Between two maintenance attachments nobody can tell; what was not reached stays so until it is.
                const bool unreached = slot != nullptr ? !slot->link_up : replicas_.contains(replica.id);
                if (slot != nullptr && slot->link_up)
                    reached_[replica.id] = now;
                else if (slot != nullptr)
                    reached_.erase(replica.id);
                // While its node is away, that node's clock counts, not this one.
                if ((unreached && alive.contains(replica.node)) || replica.state == replica_state::failed)
                    replicas.insert(replica.id);
            }
    merge(nodes_, nodes, now);
    merge(drives_, drives, now);
    merge(replicas_, replicas, now);
    std::erase_if(reached_, [&](const auto& one) { return !listed.contains(one.first); });
}

void absence_book::forget_all() {
    nodes_.clear();
    drives_.clear();
    replicas_.clear();
    reached_.clear();
}

absences absence_book::overdue(std::chrono::nanoseconds now, std::chrono::milliseconds grace) const {
    std::set<replica_id> reached;
    for (const auto& [id, at] : reached_)
        if (at >= now - grace) reached.insert(id);
    return {older(nodes_, now - grace), older(drives_, now - grace), older(replicas_, now - grace), std::move(reached)};
}

}  // namespace weft
