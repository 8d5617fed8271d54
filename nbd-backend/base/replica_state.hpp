// SPDX-License-Identifier: Apache-2.0
// The states of a replica, ordered so that >= has meaning (design.md, DRBD's words). Only up_to_date serves reads.
#pragma once

#include <cstdint>
#include <string_view>

#include "nbd-backend/base/result.hpp"

namespace weft {

enum class replica_state : std::uint8_t {
    failed = 0,        // the drive said so, or an operator; not used until it is replaced
    inconsistent = 1,  // being filled for the first time or half-way through a resync: not even old data
    outdated = 2,      // was good, missed writes: old but consistent data
    up_to_date = 3,
};

constexpr std::string_view to_string(replica_state state) noexcept {
    switch (state) {
        case replica_state::failed: return "failed";
        case replica_state::inconsistent: return "inconsistent";
        case replica_state::outdated: return "outdated";
        case replica_state::up_to_date: return "up_to_date";
    }
    return "unknown";
}

/// Errors: corrupt, naming the text.
inline result<replica_state> parse_replica_state(std::string_view text) {
    for (const auto state :
         {replica_state::failed, replica_state::inconsistent, replica_state::outdated, replica_state::up_to_date})
        if (to_string(state) == text) return state;
    return error{errc::corrupt, "'" + std::string(text.substr(0, 40)) + "' is not a replica state"};
}

}  // namespace weft
