// SPDX-License-Identifier: Apache-2.0
// Making a volume larger: new segments behind the last one, so that no byte moves. Pure.
//
// A volume never shrinks. Its growth is a field of the record by itself until every replica of it exists, so a growth
// that a dead node holds up neither hinders the volume nor is half of it ever used; until then it can be given up.
#pragma once

#include <cstdint>
#include <set>
#include <vector>

#include "orchestrator/core/placement.hpp"
#include "orchestrator/core/records.hpp"

namespace weft {

/// The segments that bring the volume to at least `size_bytes`: rounded up to a whole MiB for each stripe, as wide as
/// its last one. Without segments: it has that size already. Errors: invalid_argument (smaller than it is, larger than
/// volumes can be); busy (it is growing).
result<extent_split> split_growth(const volume_record& record, std::uint64_t size_bytes, std::uint64_t extent_bytes);

/// The record with `growth` to be made. Errors: busy (it is growing); conflict (it was grown meanwhile: its size is not
/// `from_bytes` any more).
result<volume_record> begin_growth(volume_record record, std::uint64_t from_bytes, growth_record growth);

/// Gives up what is not there yet. Returns the record and the replicas that become trash; without any there was nothing
/// to give up.
struct given_up_growth {
    volume_record record;
    std::vector<replica_record> removed;
};
given_up_growth give_up_growth(volume_record record);

/// Nodes that have, or are to make, replicas of the growth.
std::set<node_name> nodes_of(const growth_record& growth);
/// Nodes that have not made their replicas of these extents yet: a new volume's, or those of a growth.
std::set<node_name> nodes_awaited(const std::vector<extent_record>& extents);

}  // namespace weft
