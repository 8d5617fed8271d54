// SPDX-License-Identifier: Apache-2.0
// `weft volume set`: what of a volume may be changed after its creation, also while it is attached. Pure.
//
//   min-replicas, on-full, resync-rate, scrub-every   (option_values.hpp has their grammar)
// A change is all or nothing: one bad value, and nothing is changed.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "orchestrator/core/option_values.hpp"
#include "orchestrator/core/records.hpp"

namespace weft {

/// What is empty stays.
struct policy_change {
    std::optional<std::uint32_t> min_replicas;
    std::optional<core::full_policy> on_full;
    std::optional<std::uint64_t> resync_rate;    // bytes per second; 0: no limit
    std::optional<std::uint64_t> scrub_every_s;  // 0: never
};

/// Errors: invalid_argument naming the option; for one that only creation takes, and for an unknown one, with the list
/// of those that can be changed; when there is none at all.
result<policy_change> parse_policy_change(const std::map<std::string, std::string>& options);

/// Errors: invalid_argument when min_replicas would be more than the volume's replicas; no_quorum when fewer are up to
/// date now: its writes would wait at once, and nobody means that who asks for more safety.
result<volume_record> change_policy(volume_record record, const policy_change& change);

/// "on-full: fail (was hold), scrub-every: 1w (was never)" for people; empty when they are the same.
std::string describe_policy_change(const volume_record& before, const volume_record& after);

}  // namespace weft
