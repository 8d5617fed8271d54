// SPDX-License-Identifier: Apache-2.0
#include "nbd-backend/io/space_guard.hpp"

#include <algorithm>

namespace weft::io {

namespace {
constexpr std::uint64_t reserve_max_bytes = 256 * mib;
constexpr std::uint64_t reserve_share = 50;  // one part of so many: 2 %
constexpr std::uint64_t credit_share = 4;
}  // namespace

std::uint64_t space_reserve_bytes(std::uint64_t size_bytes) noexcept {
    return std::min(reserve_max_bytes, size_bytes / reserve_share);
}

space_guard::grant space_guard::ask(std::uint64_t bytes) noexcept {
    const auto wanted = static_cast<std::int64_t>(bytes);
    if (credit_.load(std::memory_order_relaxed) >= wanted &&
        credit_.fetch_sub(wanted, std::memory_order_relaxed) >= wanted)
        return grant(true);
    return ask_by_looking(bytes);
}

space_guard::grant space_guard::ask_by_looking(std::uint64_t bytes) noexcept {
    const std::lock_guard lock(mutex_);
    // Before the look: what ends between the two is then counted twice, never not at all.
    const auto under_way = under_way_.load();
    const auto space = measure_();
    if (space.has_error()) return grant(true);
    const auto kept = space_reserve_bytes(space->size_bytes) + under_way;
    const auto room = space->free_bytes > kept ? space->free_bytes - kept : 0;
    const auto credit = room >= low_bytes ? std::min(room / credit_share, credit_max_bytes) : 0;
    credit_.store(static_cast<std::int64_t>(credit), std::memory_order_relaxed);
    if (bytes > room) return grant(false);
    under_way_.fetch_add(bytes);
    return grant(true, this, bytes);
}

}  // namespace weft::io
