// SPDX-License-Identifier: Apache-2.0
#include "nbd-backend/core/volume_layout.hpp"

#include <doctest/doctest.h>

#include <map>
#include <random>

using namespace weft;
using core::volume_layout;
using core::volume_map;

namespace {

constexpr std::uint64_t chunk = 4096;

bool refused(const volume_layout& layout, const std::vector<std::uint64_t>& sizes) {
    return volume_map::make(layout, sizes).has_error();
}

}  // namespace

TEST_CASE("volume_layout: chunks of a striped segment go round its extents") {
    const auto map = volume_map::make({chunk, {2, 1}}, {4 * chunk, 4 * chunk, 3 * chunk});
    REQUIRE(map.has_value());
    CHECK(map->size_bytes() == 11 * chunk);
    const auto place = [&](std::uint64_t offset) {
        const auto run = map->at(offset);
        return std::vector<std::uint64_t>{run.extent, run.offset, run.length};
    };
    using numbers = std::vector<std::uint64_t>;
    CHECK(place(0) == numbers{0, 0, chunk});
    CHECK(place(chunk) == numbers{1, 0, chunk});
    CHECK(place(2 * chunk + 100) == numbers{0, chunk + 100, chunk - 100});
    CHECK(place(7 * chunk) == numbers{1, 3 * chunk, chunk});
    CHECK(place(8 * chunk) == numbers{2, 0, 3 * chunk});
    CHECK(place(11 * chunk - 1) == numbers{2, 3 * chunk - 1, 1});
}

TEST_CASE("volume_layout: a mirrored extent begins with what is device-mapper's") {
    constexpr std::uint64_t lead = core::mirror_meta_bytes;
    const auto map = volume_map::make({chunk, {1, 1}, true}, {lead + 2 * chunk, lead + chunk});
    REQUIRE(map.has_value());
    CHECK(map->size_bytes() == 3 * chunk);
    CHECK(map->at(2 * chunk).extent == 1);
    CHECK(map->at(2 * chunk).offset == lead);
    CHECK(refused({chunk, {1}, true}, {lead}));
    CHECK(refused({chunk, {2}, true}, {2 * lead, 2 * lead}));
}

TEST_CASE("volume_layout: every byte of every extent is one byte of the volume") {
    std::mt19937 random(7);
    for (int round = 0; round < 200; ++round) {
        volume_layout layout{chunk, {}};
        std::vector<std::uint64_t> sizes;
        for (unsigned segment = 0; segment <= random() % 4; ++segment) {
            layout.stripes.push_back(1 + random() % 4);
            const std::uint64_t size = (1 + random() % 5) * chunk;
            sizes.insert(sizes.end(), layout.stripes.back(), size);
        }
        const auto map = volume_map::make(layout, sizes);
        REQUIRE(map.has_value());
        std::map<std::size_t, std::uint64_t> seen;  // extent -> bytes, in order and without a gap
        std::uint64_t total = 0;
        for (std::uint64_t at = 0; at < map->size_bytes();) {
            const auto run = map->at(at);
            REQUIRE(run.length > 0);
            CHECK(run.offset == seen[run.extent]);
            seen[run.extent] += run.length;
            at += run.length;
            total = at;
        }
        CHECK(total == map->size_bytes());
        for (std::size_t i = 0; i < sizes.size(); ++i) CHECK(seen[i] == sizes[i]);
    }
}

TEST_CASE("volume_layout: growing moves nothing") {
    const auto before = volume_map::make({chunk, {3}}, {2 * chunk, 2 * chunk, 2 * chunk});
    const auto after = volume_map::make({chunk, {3, 2}}, {2 * chunk, 2 * chunk, 2 * chunk, chunk, chunk});
    REQUIRE(after.has_value());
    for (std::uint64_t at = 0; at < before->size_bytes(); at += 512) {
        CHECK(before->at(at).extent == after->at(at).extent);
        CHECK(before->at(at).offset == after->at(at).offset);
    }
}

TEST_CASE("volume_layout: what does not fit together is refused") {
    CHECK(refused({chunk, {}}, {chunk}));
    CHECK(refused({chunk, {1}}, {}));
    CHECK(refused({chunk, {1}}, {chunk, chunk}));
    CHECK(refused({chunk, {2}}, {chunk}));
    CHECK(refused({chunk, {0}}, {chunk}));
    CHECK(refused({chunk, {17}}, std::vector<std::uint64_t>(17, chunk)));
    CHECK(refused({chunk, {2}}, {chunk, 2 * chunk}));
    CHECK(refused({chunk, {2}}, {chunk + 512, chunk + 512}));
    CHECK(refused({3 * chunk, {1}}, {chunk}));
    CHECK(refused({512, {1}}, {chunk}));
    CHECK(refused({chunk, {1}}, {0}));
    CHECK(refused({chunk, {2}}, {std::uint64_t{1} << 63, std::uint64_t{1} << 63}));
    CHECK_FALSE(refused({chunk, {1}}, {chunk + 512}));
    CHECK(core::concatenation(2) == volume_layout{core::chunk_default_bytes, {1, 1}});
}
