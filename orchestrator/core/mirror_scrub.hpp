// SPDX-License-Identifier: Apache-2.0
// The scrub of a mirrored volume's extent: device-mapper compares the legs, and makes them equal where they differ.
// Pure.
//
//   asked for ──▶ check ──▶ no difference ──▶ ended
//                       └─▶ repair ─────────▶ ended
// A block that a leg cannot read, or whose checksum its replica server finds wrong, raid1 takes from another leg and
// writes anew as it checks. Where two legs can be read and differ nothing tells which one is right: raid1 takes the
// first, which is also where its reads go; that is counted as undecided.
//
// Remembers nothing that the set would not say again: a weftd that was restarted begins a scrub anew, or goes on with
// the check that is under way. Waits while the set lacks a leg.
#pragma once

#include <cstdint>

#include "nbd-backend/core/engine_types.hpp"

namespace weft {

/// What a set says of itself.
struct set_state {
    enum class work : std::uint8_t { idle, checking, repairing, other };
    work now = work::idle;
    bool whole = false;                 // every leg there and in sync
    std::uint64_t differing_bytes = 0;  // that the last check found
    std::uint64_t done_bytes = 0;       // of what is going on
    std::uint64_t size_bytes = 0;
    std::uint64_t unequal_bytes = 0;  // of legs that are being made equal, still to be looked at; 0: they are
};

enum class set_order : std::uint8_t { none, check, repair };

class set_scrub {
public:
    /// What to tell the set now. `wanted`: serial of the scrub that is asked for, 0 for none.
    set_order step(const set_state& set, std::uint64_t wanted);
    /// As an engine says it of a striped volume's extent.
    [[nodiscard]] const core::scrub_status& status() const noexcept { return status_; }

private:
    enum class phase : std::uint8_t { ended, waiting, checking, repairing };
    void end(const set_state& set);

    phase phase_ = phase::ended;
    core::scrub_status status_;
};

}  // namespace weft
