// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/core/maintenance.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace weft {

namespace {

/// Every extent has so many replicas that an engine can serve it now.
bool is_servable(const volume_record& record, const maintenance_look& look) {
    return std::all_of(record.extents.begin(), record.extents.end(), [&](const extent_record& extent) {
        const auto good =
            static_cast<std::uint64_t>(std::count_if(extent.replicas.begin(), extent.replicas.end(), is_up_to_date));
        const auto reachable = static_cast<std::uint64_t>(
            std::count_if(extent.replicas.begin(), extent.replicas.end(), [&](const replica_record& one) {
                return is_up_to_date(one) && one.created && is_present(one, look.view, look.alive);
            }));
        // Those that are away must be demoted before anything is served (R2), which R4 allows down to min_replicas.
        return reachable > 0 && (reachable == good || reachable >= record.min_replicas);
    });
}

/// Behind, and there to be filled.
bool is_repairable(const replica_record& replica, const cluster_view& view, const std::set<node_name>& alive) {
    return (!is_up_to_date(replica) || replica.recovering) && replica.state != replica_state::failed &&
           replica.created && is_present(replica, view, alive);
}

/// FNV-1a, to see that something changed.
class mixer {
public:
    void add(std::uint64_t value) {
        for (int byte = 0; byte < 8; ++byte) {
            state_ ^= (value >> (8 * byte)) & 0xff;
            state_ *= 0x100000001b3ULL;
        }
    }
    [[nodiscard]] std::uint64_t value() const { return state_; }

private:
    std::uint64_t state_ = 0xcbf29ce484222325ULL;
};

}  // namespace

bool may_be_maintained(const volume_record& record, const maintenance_look& look) {
    return record.writer.empty() && record.ready() && is_servable(record, look);
}

std::string needs_maintenance(const volume_record& record, const maintenance_look& look) {
    if (!may_be_maintained(record, look)) return {};
    if (record.epoch > 0 && !record.clean) return "its last writer did not detach in order";
    for (const auto& extent : record.extents)
        for (const auto& one : extent.replicas)
            if (is_repairable(one, look.view, look.alive))
                return fmt::format("replica {} on node {} is {}", one.id.str(), one.node.str(),
                                   one.recovering ? "recovering" : to_string(one.state));
    if (record.scrub_wanted > record.scrub_finished) return fmt::format("scrub {} is asked for", record.scrub_wanted);
    return {};
}

node_name maintenance_node(const volume_record& record, const cluster_view& view, const std::set<node_name>& alive) {
    node_name first;
    for (const auto& extent : record.extents)
        for (const auto& one : extent.replicas)
            if (is_up_to_date(one) && one.created && !one.recovering && is_present(one, view, alive) &&
                (first.empty() || one.node < first))
                first = one.node;
    return first;
}

std::string repair_signature(const volume_record& record, const cluster_view& view, const std::set<node_name>& alive) {
    std::string text = record.scrub_wanted > record.scrub_finished ? fmt::format("scrub {};", record.scrub_wanted) : "";
    for (const auto& extent : record.extents)
        for (const auto& one : extent.replicas)
            text += fmt::format("{} {} {} {};", one.id.str(), to_string(one.state), one.created,
                                is_present(one, view, alive));
    return text;
}

repair_state repair_state_of(const volume_record& record, const std::vector<core::engine_status>& extents,
                             const cluster_view& view, const std::set<node_name>& alive) {
    repair_state now;
    mixer mark;
    bool busy = extents.size() != record.extents.size();
    std::uint64_t dirty = 0;
    now.serving = !busy;
    for (const auto& extent : extents) {
        now.serving = now.serving && extent.state == core::engine_state::serving;
        busy = busy || extent.recovery_left_bytes > 0 || extent.scrub.running;
        dirty += extent.dirty_bytes;
        for (const std::uint64_t value : {static_cast<std::uint64_t>(extent.state), extent.recovery_left_bytes,
                                          extent.dirty_bytes, extent.scrub.serial, extent.scrub.done_bytes})
            mark.add(value);
        for (const auto& slot : extent.slots) {
            busy = busy || slot.resyncing || slot.recovering;
            mark.add(static_cast<std::uint64_t>(slot.state) * 2 + (slot.link_up ? 1 : 0));
            mark.add(slot.resync_done_bytes);
        }
    }
    bool all_good = true;
    for (const auto& extent : record.extents)
        for (const auto& one : extent.replicas) {
            all_good = all_good && is_up_to_date(one) && !one.recovering;
            // Not created yet, but its node lives: it comes in a moment.
            const bool coming = !one.created && is_present(one, view, alive) && one.state != replica_state::failed;
            busy = busy || coming || is_repairable(one, view, alive);
            mark.add(static_cast<std::uint64_t>(one.state) * 2 + (one.created ? 1 : 0));
        }
    busy = busy || !now.serving || record.scrub_wanted > record.scrub_finished;
    now.mark = mark.value();
    if (busy)
        now.stage = repair_stage::working;
    else
        now.stage = all_good && dirty > 0 ? repair_stage::settling : repair_stage::finished;
    return now;
}

}  // namespace weft
