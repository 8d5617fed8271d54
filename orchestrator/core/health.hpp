// SPDX-License-Identifier: Apache-2.0
// A volume's health, as people and monitoring want it in one word. Pure.
//
//   creating     its replicas' files are not all there yet and it was never attached
//   unavailable  an extent has fewer than min_replicas up-to-date replicas on living nodes: I/O waits
//   degraded     an extent has fewer good replicas than wanted, or one that is behind, failed or on a dead node
//   healthy      everything wanted is there
// The first that fits. "holding" is not here: only the engine of the writer's node knows it.
#pragma once

#include <cstdint>
#include <set>
#include <string_view>

#include "orchestrator/core/records.hpp"

namespace weft {

enum class volume_health : std::uint8_t { healthy, degraded, creating, unavailable };
std::string_view to_string(volume_health health) noexcept;

/// `alive`: the nodes whose lease has not expired.
volume_health health_of(const volume_record& record, const std::set<node_name>& alive);

}  // namespace weft
