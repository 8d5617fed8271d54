// SPDX-License-Identifier: Apache-2.0
// Rules that the simulator's canary build can break, one at a time, to prove that it would see it.
//
// In the product `broken` is a constant false, so that a mark in the code costs nothing and cannot be switched on. With
// -DWEFT_CANARIES (only the build of tests/sim that tests/run makes for this) it asks which rule the run breaks. Each
// mark is one condition at the place that keeps the rule; tests/sim/README.md lists what catches each.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace weft::canary {

enum class rule : std::uint8_t {
    fence_every_replica,    // R2: serve when every up_to_date replica is fenced, not when one is
    refuse_old_keys,        // R2: a server admits requests of the newest key only
    bits_before_change,     // R6: a server makes the bit durable before the change
    ack_after_all,          // R3, R4: a change is owed to a required replica that is away
    record_before_release,  // R4: what is owed is released by the committed demotion, not by the wish
    new_session,            // R4: owed requests are sent again under a new session
    same_kernel,            // R4: a replica whose kernel restarted has forgotten
    demote_last,            // R4: the last up_to_date replica stays so
    silent_after_fence,     // R5: no acknowledgement after a fence
    clear_idle_only,        // R6: what was changed since the sweep is not cleared
    clear_after_flush,      // R6: cleared only after a flush on every replica
    clear_when_all_here,    // R6: not while a replica is away that may lack the region
    recover_before_use,     // R7: equal before it is read or written
    resync_own_bits,        // R8: what is dirty on the returning replica is copied
    resync_sources_bits,    // R8: what is dirty on the sources is copied
    write_while_resync,     // R8: a replica that is being resynced gets every new change
    flush_before_trust,     // R8: flushed before it is called up_to_date
    serialise_changes,      // R9: overlapping changes one after the other
    read_up_to_date,        // R10: reads come from up_to_date replicas
    confirm_reads,          // E7: a read without a lease is confirmed by every required replica
    recovering_no_source,   // a replica that the record calls recovering is no source
    count,
};

inline constexpr std::array<std::string_view, static_cast<std::size_t>(rule::count)> rule_names{
    "fence_every_replica", "refuse_old_keys",     "bits_before_change", "ack_after_all",      "record_before_release",
    "new_session",         "same_kernel",         "demote_last",        "silent_after_fence", "clear_idle_only",
    "clear_after_flush",   "clear_when_all_here", "recover_before_use", "resync_own_bits",    "resync_sources_bits",
    "write_while_resync",  "flush_before_trust",  "serialise_changes",  "read_up_to_date",    "confirm_reads",
    "recovering_no_source"};

#ifdef WEFT_CANARIES
inline std::optional<rule> broken_rule;  // set once, before anything runs
inline bool broken(rule which) noexcept {
    return broken_rule == which;
}
#else
constexpr bool broken(rule /*which*/) noexcept {
    return false;
}
#endif

}  // namespace weft::canary
