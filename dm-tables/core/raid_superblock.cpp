// SPDX-License-Identifier: Apache-2.0
#include "dm-tables/core/raid_superblock.hpp"

#include <algorithm>
#include <array>

#include "nbd-backend/base/invariant.hpp"

namespace weft::dm {

namespace {

constexpr std::array magic{std::byte{'D'}, std::byte{'m'}, std::byte{'R'}, std::byte{'d'}};  // on disk: 44 6d 52 64
constexpr std::size_t resync_offset_at = 40;
constexpr std::size_t resync_offset_bytes = 8;

bool is_zero(std::byte byte) {
    return byte == std::byte{0};
}

}  // namespace

leg_content content_of(std::span<const std::byte, block_bytes> block) {
    if (std::equal(magic.begin(), magic.end(), block.begin())) return leg_content::superblock;
    return std::all_of(block.begin(), block.end(), is_zero) ? leg_content::blank : leg_content::other;
}

bool mark_dirty(leg_block block) {
    INVARIANT(content_of(block) == leg_content::superblock, "not a superblock");
    const auto offset = block.subspan(resync_offset_at, resync_offset_bytes);
    if (std::all_of(offset.begin(), offset.end(), is_zero)) return false;
    std::fill(offset.begin(), offset.end(), std::byte{0});
    return true;
}

}  // namespace weft::dm
