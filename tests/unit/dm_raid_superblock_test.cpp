// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <array>

#include "dm-tables/core/raid_superblock.hpp"

using namespace weft;
using namespace weft::dm;

namespace {

using block = std::array<std::byte, block_bytes>;

/// As dm-raid writes it for a set that is in sync: 44 6d 52 64, …, at 32 and 40 all ones.
block in_sync() {
    block it{};
    std::size_t at = 0;
    for (const char c : {'D', 'm', 'R', 'd'}) it[at++] = static_cast<std::byte>(c);
    for (at = 4; at < 100; ++at) it[at] = std::byte{0x11};
    for (at = 32; at < 48; ++at) it[at] = std::byte{0xff};
    return it;
}

}  // namespace

TEST_CASE("dm raid superblock: a leg's first block is blank, a superblock or something else") {
    block it{};
    CHECK(content_of(it) == leg_content::blank);
    it[block_bytes - 1] = std::byte{1};
    CHECK(content_of(it) == leg_content::other);
    it = in_sync();
    CHECK(content_of(it) == leg_content::superblock);
    it[3] = std::byte{'D'};
    CHECK(content_of(it) == leg_content::other);
}

TEST_CASE("dm raid superblock: only the offset of the array's sync is changed, and once") {
    const block before = in_sync();
    block it = before;
    CHECK(mark_dirty(it));
    for (std::size_t at = 0; at < it.size(); ++at) {
        CAPTURE(at);
        const bool offset = at >= 40 && at < 48;
        CHECK(it[at] == (offset ? std::byte{0} : before[at]));
    }
    CHECK_FALSE(mark_dirty(it));
    it[41] = std::byte{9};  // a resync that stopped half-way: its marks are still in the bitmap
    CHECK(mark_dirty(it));
}
