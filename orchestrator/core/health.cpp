// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/core/health.hpp"

#include <algorithm>

namespace weft {

std::string_view to_string(volume_health health) noexcept {
    switch (health) {
        case volume_health::healthy: return "healthy";
        case volume_health::degraded: return "degraded";
        case volume_health::creating: return "creating";
        case volume_health::unavailable: return "unavailable";
    }
    return "unknown";
}

volume_health health_of(const volume_record& record, const std::set<node_name>& alive) {
    if (record.epoch == 0 && !record.ready()) return volume_health::creating;
    auto health = volume_health::healthy;
    for (const auto& extent : record.extents) {
        const auto good = static_cast<std::size_t>(
            std::count_if(extent.replicas.begin(), extent.replicas.end(), [&](const replica_record& replica) {
                return replica.state == replica_state::up_to_date && replica.created && alive.contains(replica.node);
            }));
        if (good < std::max<std::uint32_t>(record.min_replicas, 1)) return volume_health::unavailable;
        if (good < record.replicas_wanted || good < extent.replicas.size()) health = volume_health::degraded;
    }
    return health;
}

}  // namespace weft
