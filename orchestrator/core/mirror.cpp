// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/core/mirror.hpp"

#include <algorithm>

namespace weft {

leg_table legs_of(const volume_record& record, const std::vector<core::engine_status>& engines) {
    leg_table all;
    if (!record.layout.mirrored) return all;
    for (std::size_t i = 0; i < record.extents.size(); ++i) {
        std::vector<leg_shape> legs(record.replicas_wanted);
        for (const auto& one : record.extents[i].replicas) {
            if (one.leg >= legs.size() || !one.created) continue;
            const bool reached =
                i < engines.size() &&
                std::any_of(engines[i].slots.begin(), engines[i].slots.end(), [&](const core::slot_status& slot) {
                    return slot.id == one.id && slot.link_up && slot.resyncing;
                });
            if (one.state == replica_state::up_to_date)
                legs[one.leg] = {one.id, leg_shape::use::up_to_date};
            else if (one.state == replica_state::inconsistent && reached)
                legs[one.leg] = {one.id, leg_shape::use::rebuild};
        }
        all.push_back(std::move(legs));
    }
    return all;
}

bool any_rebuilding(const leg_table& legs) {
    return std::any_of(legs.begin(), legs.end(), [](const std::vector<leg_shape>& extent) {
        return std::any_of(extent.begin(), extent.end(),
                           [](const leg_shape& leg) { return leg.as == leg_shape::use::rebuild; });
    });
}

bool is_renewable(const volume_record& record, const replica_record& leg) {
    return record.layout.mirrored && !record.writer.empty() && leg.created && leg.state == replica_state::outdated;
}

}  // namespace weft
