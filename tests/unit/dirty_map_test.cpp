// SPDX-License-Identifier: Apache-2.0
#include "nbd-backend/core/dirty_map.hpp"

#include <doctest/doctest.h>

#include <atomic>
#include <random>
#include <thread>
#include <vector>

using namespace weft;
using namespace weft::core;

namespace {

constexpr std::uint64_t region = region_bytes_default;

/// What a server does when a change comes: sets what is clean, as durable.
void set(dirty_map& map, region_range range) {
    map.want(range);
    map.begin_sync();
    for (auto page = map.next_stale_page(0); page != dirty_map::none; page = map.next_stale_page(page))
        (void)map.encode_page(page);
    map.publish();
}

std::vector<std::uint64_t> dirty_regions(const dirty_map& map) {
    std::vector<std::uint64_t> found;
    for (std::uint64_t i = 0; i < map.regions(); ++i)
        if (map.is_dirty(i)) found.push_back(i);
    return found;
}

/// The regions that a server would find dirty if it started now with these pages.
std::vector<std::uint64_t> reloaded(const dirty_map& like, const std::vector<bitmap_page>& pages) {
    dirty_map map(like.size_bytes(), like.region_bytes());
    for (std::uint64_t page = 0; page < map.pages(); ++page) REQUIRE(map.load_page(page, pages[page]));
    return dirty_regions(map);
}

using list = std::vector<std::uint64_t>;

}  // namespace

TEST_CASE("dirty_map: setting rounds outward, clearing inward, and the last region ends with the replica") {
    const dirty_map map(10 * region + block_bytes, region);
    CHECK(map.regions() == 11);
    CHECK(map.pages() == 1);
    CHECK(map.touched_by(0, block_bytes) == region_range{0, 1});
    CHECK(map.touched_by(region - block_bytes, 2 * block_bytes) == region_range{0, 2});
    CHECK(map.touched_by(3 * region, region) == region_range{3, 4});
    CHECK(map.touched_by(10 * region, block_bytes) == region_range{10, 11});
    CHECK(map.touched_by(5 * region, 0).empty());
    CHECK(map.touched_by(map.size_bytes(), 0).empty());
    CHECK(map.covered_by(0, map.size_bytes()) == region_range{0, 11});
    CHECK(map.covered_by(0, region - block_bytes).empty());
    CHECK(map.covered_by(block_bytes, 2 * region) == region_range{1, 2});
    CHECK(map.covered_by(3 * region, region) == region_range{3, 4});
    CHECK(map.covered_by(10 * region, block_bytes) == region_range{10, 11});
    CHECK(map.covered_by(9 * region + block_bytes, region) == region_range{10, 11});
    CHECK(map.covered_by(9 * region, region) == region_range{9, 10});
    CHECK(map.covered_by(map.size_bytes(), 0).empty());
}

TEST_CASE("dirty_map: a region becomes dirty by publish and not before, and is in the page before") {
    dirty_map map(100 * region, region);
    map.want({3, 5});
    CHECK(map.has_wanted());
    CHECK(dirty_regions(map).empty());
    REQUIRE(map.next_stale_page(0) == 0);
    CHECK(reloaded(map, {map.encode_page(0)}) == list{3, 4});
    CHECK(map.next_stale_page(0) == dirty_map::none);
    map.begin_sync();
    CHECK(!map.has_wanted());
    CHECK(dirty_regions(map).empty());
    map.want({9, 10});  // while the sync is under way: for the next one
    CHECK(reloaded(map, {map.encode_page(0)}) == list{3, 4, 9});
    map.publish();
    CHECK(dirty_regions(map) == list{3, 4});
    map.begin_sync();
    map.publish();
    CHECK(dirty_regions(map) == list{3, 4, 9});
    CHECK(map.dirty_count() == 3);
}

TEST_CASE("dirty_map: what is dirty already makes no page stale") {
    dirty_map map(100 * region, region);
    set(map, {3, 6});
    map.want({4, 5});
    CHECK(map.next_stale_page(0) == dirty_map::none);
    CHECK(!map.has_wanted());
    map.clear({7, 9});
    CHECK(map.next_stale_page(0) == dirty_map::none);
}

TEST_CASE("dirty_map: a cleared region is clean in memory and in the page, a neighbour is not") {
    dirty_map map(100 * region, region);
    set(map, {3, 6});
    map.clear({4, 5});
    CHECK(dirty_regions(map) == list{3, 5});
    REQUIRE(map.next_stale_page(0) == 0);
    CHECK(reloaded(map, {map.encode_page(0)}) == list{3, 5});
    set(map, {4, 5});
    CHECK(dirty_regions(map) == list{3, 4, 5});
}

TEST_CASE("dirty_map: a region with a change in flight is not cleared, whatever state it is in") {
    dirty_map map(100 * region, region);
    set(map, {3, 4});
    REQUIRE(map.enter({3, 4}));
    CHECK(!map.enter({8, 10}));  // waits for its bits
    map.want({8, 10});
    map.clear({0, 100});
    CHECK(dirty_regions(map) == list{3});
    CHECK(reloaded(map, {map.encode_page(0)}) == list{3, 8, 9});
    map.begin_sync();
    map.clear({0, 100});
    map.publish();
    CHECK(dirty_regions(map) == list{3, 8, 9});
    map.leave({3, 4});
    map.leave({8, 10});
    map.clear({0, 100});
    CHECK(dirty_regions(map).empty());
}

TEST_CASE("dirty_map: what is cleared between page and publish is not set again by publish") {
    dirty_map map(100 * region, region);
    map.want({3, 5});
    map.begin_sync();
    map.clear({3, 4});
    map.publish();
    CHECK(dirty_regions(map) == list{4});
    map.want({7, 8});
    map.clear({7, 8});
    map.begin_sync();
    map.publish();
    CHECK(dirty_regions(map) == list{4});
}

TEST_CASE("dirty_map: a sequential writer gets a growing window, a random one nothing") {
    dirty_map map(1000 * region, region);
    std::uint64_t syncs = 0;
    for (std::uint64_t i = 0; i < 200; ++i) {
        if (map.all_dirty({i, i + 1})) continue;
        set(map, {i, i + 1});
        ++syncs;
    }
    CHECK(syncs == 16);  // 1, then windows of 1, 2, 4, 8 and then 16 with each
    CHECK(map.dirty_count() <= 200 + dirty_map::ahead_max);

    dirty_map scattered(1000 * region, region);
    for (const auto i : list{500, 20, 700, 21 * 7, 3, 900}) set(scattered, {i, i + 1});
    CHECK(scattered.dirty_count() == 6);
    for (std::uint64_t i = 99; i > 50; --i) set(scattered, {i, i + 1});  // downward is not sequential
    CHECK(scattered.dirty_count() == 6 + 49);
}

TEST_CASE("dirty_map: a window ends where its page or the replica ends, and several writers have one each") {
    dirty_map map((bitmap_page_bits + 5) * region, region);
    CHECK(map.pages() == 2);
    for (std::uint64_t i = bitmap_page_bits - 20; i < bitmap_page_bits; ++i)
        if (!map.is_dirty(i)) set(map, {i, i + 1});
    CHECK(!map.is_dirty(bitmap_page_bits));
    for (std::uint64_t i = bitmap_page_bits; i < map.regions(); ++i)
        if (!map.is_dirty(i)) set(map, {i, i + 1});
    CHECK(map.dirty_count() == 25);

    dirty_map two(1000 * region, region);
    std::uint64_t syncs = 0;
    for (std::uint64_t i = 0; i < 100; ++i)
        for (const auto base : list{0, 500})
            if (!two.is_dirty(base + i)) {
                set(two, {base + i, base + i + 1});
                ++syncs;
            }
    CHECK(syncs <= 20);
}

TEST_CASE("dirty_map: pages come back as they were written, across their borders") {
    dirty_map map((2 * bitmap_page_bits + 3) * region, region);
    REQUIRE(map.pages() == 3);
    map.want({bitmap_page_bits - 1, bitmap_page_bits + 1});
    map.want({2 * bitmap_page_bits + 2, 2 * bitmap_page_bits + 3});
    std::vector<bitmap_page> pages;
    for (std::uint64_t page = 0; page < 3; ++page) pages.push_back(map.encode_page(page));
    CHECK(reloaded(map, pages) == list{bitmap_page_bits - 1, bitmap_page_bits, 2 * bitmap_page_bits + 2});
    set(map, {0, 1});
    map.clear({0, 1});
    CHECK(map.next_stale_page(0) == 0);
    CHECK(map.next_stale_page(1) == dirty_map::none);
}

TEST_CASE("dirty_map: a bad page is all dirty, its neighbours are not, and the next write heals it") {
    dirty_map map((bitmap_page_bits + 3) * region, region);
    std::vector<bitmap_page> pages{map.encode_page(0), map.encode_page(1)};
    auto torn = pages[1];
    torn[100] ^= std::byte{1};
    for (const auto& bad :
         {std::span<const std::byte>(torn), std::span<const std::byte>(pages[0]), std::span<const std::byte>()}) {
        dirty_map loaded(map.size_bytes(), region);
        CHECK(loaded.load_page(0, pages[0]));
        CHECK(!loaded.load_page(1, bad));
        CHECK(dirty_regions(loaded) == list{bitmap_page_bits, bitmap_page_bits + 1, bitmap_page_bits + 2});
        CHECK(loaded.next_stale_page(0) == 1);
        CHECK(loaded.enter({bitmap_page_bits, bitmap_page_bits + 3}));  // no sync needed: the disk says dirty as well
        loaded.leave({bitmap_page_bits, bitmap_page_bits + 3});
        CHECK(reloaded(map, {pages[0], loaded.encode_page(1)}) == dirty_regions(loaded));
    }
}

TEST_CASE("dirty_map: all set means every region and no bit behind the last") {
    for (const std::uint64_t regions : {std::uint64_t{1}, std::uint64_t{63}, std::uint64_t{64}, std::uint64_t{65},
                                        bitmap_page_bits, bitmap_page_bits + 1}) {
        replica_meta meta;
        meta.size_bytes = regions * region;
        meta.born_equal = false;
        dirty_map map(meta);
        map.set_all();
        CHECK(map.dirty_count() == regions);
        for (std::uint64_t page = 0; page < map.pages(); ++page) {
            CHECK(map.next_stale_page(page) == page);
            CHECK(map.encode_page(page) == encode_birth_page(meta, page));
        }
        CHECK(map.run_end(0, regions, true) == regions);
    }
}

TEST_CASE("dirty_map: a change that came and went is seen in the region's visits and in no other's") {
    dirty_map map(10 * region, region);
    const auto before = map.visits(3);
    const auto neighbour = map.visits(4);
    (void)map.enter({3, 4});
    const auto inside = map.visits(3);
    map.leave({3, 4});
    CHECK(inside != before);
    CHECK(map.visits(3) != before);
    CHECK(map.visits(3) != inside);
    CHECK(map.visits(4) == neighbour);
}

TEST_CASE("dirty_map: runs end where the state changes") {
    dirty_map map(1000 * region, region);
    set(map, {10, 300});
    CHECK(map.run_end(0, 1000, false) == 10);
    CHECK(map.run_end(10, 1000, true) == 300);
    CHECK(map.run_end(50, 100, true) == 100);
    CHECK(map.run_end(300, 1000, false) == 1000);
}

TEST_CASE("dirty_map: whatever happens, a page that is written later keeps what was published and not cleared") {
    std::mt19937 random(7);
    dirty_map map(300 * region, region);
    const auto any = [&](std::uint64_t below) {
        return std::uniform_int_distribution<std::uint64_t>(0, below - 1)(random);
    };
    bool syncing = false;
    std::vector<region_range> inside;
    for (int step = 0; step < 20000; ++step) {
        const auto first = any(300);
        const region_range range{first, first + 1 + any(std::min<std::uint64_t>(4, 300 - first))};
        switch (any(6)) {
            case 0: map.want(range); break;
            case 1:
                if (!syncing) map.begin_sync();
                syncing = true;
                break;
            case 2:
                if (syncing) map.publish();
                syncing = false;
                break;
            case 3: map.clear(range); break;
            case 4:
                (void)map.enter(range);
                inside.push_back(range);
                break;
            case 5:
                if (!inside.empty()) {
                    map.leave(inside.back());
                    inside.pop_back();
                }
                break;
        }
        const auto on_disk = reloaded(map, {map.encode_page(0)});
        for (const auto i : dirty_regions(map))
            if (!std::binary_search(on_disk.begin(), on_disk.end(), i)) FAIL("region " << i << " at step " << step);
    }
}

TEST_CASE("dirty_map: a change that saw its bit and a clear that saw no change never meet") {
    dirty_map map(64 * region, region);
    std::atomic<bool> inside{false};
    std::atomic<int> lies{0}, changes{0};
    std::atomic<bool> stop{false};
    std::thread changer([&] {
        while (!stop.load()) {
            if (map.enter({5, 6})) {
                inside.store(true);
                ++changes;
                inside.store(false);
            }
            map.leave({5, 6});
        }
    });
    for (int i = 0; i < 20000 || changes.load() < 1000; ++i) {
        set(map, {5, 6});
        map.clear({5, 6});
        // Clean now means that no change is inside, nor gets in, until the bit is set again.
        if (!map.is_dirty(5) && inside.load()) ++lies;
    }
    stop = true;
    changer.join();
    CHECK(changes.load() >= 1000);
    MESSAGE("changes that got in: " << changes.load());
    CHECK(lies.load() == 0);
}
