// SPDX-License-Identifier: Apache-2.0
// The legs that device-mapper's set of a mirrored volume is to have, from the record and what the engine says. Pure.
//
// A leg's life: born up_to_date with its extent; outdated when it misses a write (R4), and then never used again; its
// place goes to another replica (healing.hpp), inconsistent, which is taken into the set to be rebuilt as soon as the
// engine reaches it; up_to_date when the set has it in sync and the engine has flushed it.
//
// A leg that is to be rebuilt is in the set only while the engine reaches it: the kernel reads a leg's superblock when
// a set is loaded, and would wait for one that is still being made.
#pragma once

#include <cstdint>
#include <vector>

#include "nbd-backend/core/engine_types.hpp"
#include "orchestrator/core/records.hpp"

namespace weft {

struct leg_shape {
    enum class use : std::uint8_t { missing, up_to_date, rebuild };
    replica_id replica;  // empty when it is missing
    use as = use::missing;

    friend bool operator==(const leg_shape&, const leg_shape&) = default;
};

/// Of each extent, by the legs' places in the set.
using leg_table = std::vector<std::vector<leg_shape>>;

/// `engines`: the latest status of each extent's engine; extents that it does not have yet have no leg to be rebuilt.
/// Empty for a volume that is not mirrored.
leg_table legs_of(const volume_record& record, const std::vector<core::engine_status>& engines);

/// Is any of them being rebuilt?
bool any_rebuilding(const leg_table& legs);

/// An outdated leg whose node and drive are there: its place can have a new replica on the same drive at once. Only
/// while the volume has a writer, whose kernel fills it.
bool is_renewable(const volume_record& record, const replica_record& leg);

}  // namespace weft
