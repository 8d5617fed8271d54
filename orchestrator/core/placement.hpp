// SPDX-License-Identifier: Apache-2.0
// Which drives get the replicas of a volume. Pure and deterministic: the same pool gives the same answer on every node.
//
// Laws:
//   - replicas of one extent are on distinct nodes, each alive, on drives that are neither draining nor down;
//   - one replica of every extent is on the creating node whenever that is possible, except for stripes, whose purpose
//     is other nodes' and drives' speed:
//   - the extents of a striped segment are spread: the drive that has the fewest replicas of the segment is next, then
//     the node. Together they are on at least as many drives as there are stripes;
//   - thin provisioning: a pool may promise more than it has. A drive can take a replica when
//       the replicas of *this volume* on it together are not larger than the drive, and
//       free >= min(replica size, reserve), reserve = max(64 MiB, 2 % of the drive): an almost full drive takes nothing
//       new. free is free_bytes without what thick replicas that are not made yet will take: once made, their space is
//       not free any more, so nothing is counted twice;
//   - thick provisioning promises only what is there: free >= replica size + reserve, the replicas of this volume that
//     are placed there already taken off;
//   - among those, the drive with the most headroom wins: min(free, size_bytes - promised_bytes), that is what is free
//     now or what is left when every promise is called in, whichever is less. Ties: fewer replicas, then node
//     name, then drive id.
#pragma once

#include <cstdint>
#include <set>
#include <vector>

#include "nbd-backend/base/result.hpp"
#include "orchestrator/core/records.hpp"

namespace weft {

/// A drive of the pool with what the volume records say lies on it.
struct pool_drive {
    drive_record record;
    std::uint64_t promised_bytes = 0;  // sum of the sizes of the replicas on it, whether written or not
    std::uint64_t reserved_bytes = 0;  // of those: of thick replicas whose files do not exist yet
    std::uint64_t replicas = 0;
};

/// The pool as placement wants it: every drive, with the replicas that `volumes` have on it added up.
std::vector<pool_drive> make_pool(const std::vector<drive_record>& drives, const std::vector<volume_record>& volumes);

struct placement_request {
    std::vector<std::uint64_t> extent_sizes;  // bytes, at least one
    std::uint32_t replicas = 2;
    node_name local;                          // gets one replica of every extent if it can; empty: no preference
    bool thick = false;                       // all space is taken at creation
    std::vector<std::uint32_t> stripes = {};  // extents of each segment, in order; empty: each extent is one
};

struct placed_replica {
    drive_id drive;
    node_name node;
};

/// For each extent its replicas, the local one first. Errors: no_quorum when fewer nodes are able to than replicas are
/// wanted; no_space when nodes are there but their drives are too small or too full. The text says of every node why
/// not.
result<std::vector<std::vector<placed_replica>>> place_volume(const std::vector<pool_drive>& pool,
                                                              const std::set<node_name>& alive,
                                                              const placement_request& wanted);

/// A drive for one more replica of `extent`, on none of the nodes that `extent` has replicas on and on none of `avoid`.
/// `thick`: as the extent's volume. Errors as place_volume.
result<placed_replica> place_replacement(const std::vector<pool_drive>& pool, const std::set<node_name>& alive,
                                         const extent_record& extent, const std::set<drive_id>& avoid, bool thick);

/// The extents of a new volume, or of what it grows by: segments of `stripes` extents of `extent_bytes`; those of the
/// last one share what is left. All > 0, `volume_bytes` a multiple of `stripes`. Mirrored: one stripe, and every extent
/// has room for what device-mapper writes of the set.
struct extent_split {
    std::vector<std::uint64_t> sizes;    // bytes of each extent
    std::vector<std::uint32_t> stripes;  // extents of each segment
};
extent_split split_extents(std::uint64_t volume_bytes, std::uint64_t extent_bytes, std::uint32_t stripes,
                           bool mirrored = false);

}  // namespace weft
