// SPDX-License-Identifier: Apache-2.0
#include "nbd-backend/core/range_lock.hpp"

#include <doctest/doctest.h>

#include <random>

using weft::core::range_lock;
using mode = range_lock::mode;

TEST_CASE("range_lock: reads share, a change waits for them and is granted when the last one ends") {
    range_lock locks;
    std::vector<std::uint32_t> granted;
    const auto a = locks.claim(0, 4096, mode::shared, 1);
    const auto b = locks.claim(0, 8192, mode::shared, 2);
    const auto c = locks.claim(4096, 4096, mode::exclusive, 3);
    CHECK(a.granted);
    CHECK(b.granted);
    CHECK_FALSE(c.granted);
    locks.release(a.id, granted);
    CHECK(granted.empty());
    locks.release(b.id, granted);
    CHECK(granted == std::vector<std::uint32_t>{3});
}

TEST_CASE("range_lock: a read that comes after a waiting change waits behind it") {
    range_lock locks;
    std::vector<std::uint32_t> granted;
    const auto reader = locks.claim(0, 4096, mode::shared, 1);
    const auto change = locks.claim(0, 4096, mode::exclusive, 2);
    const auto later = locks.claim(0, 4096, mode::shared, 3);
    CHECK_FALSE(later.granted);
    locks.release(reader.id, granted);
    CHECK(granted == std::vector<std::uint32_t>{2});
    granted.clear();
    locks.release(change.id, granted);
    CHECK(granted == std::vector<std::uint32_t>{3});
}

TEST_CASE("range_lock: neighbours do not conflict") {
    range_lock locks;
    CHECK(locks.claim(0, 4096, mode::exclusive, 1).granted);
    CHECK(locks.claim(4096, 4096, mode::exclusive, 2).granted);
}

TEST_CASE("range_lock: a claim over everything conflicts once with each, however many buckets they share") {
    range_lock locks;
    std::vector<std::uint32_t> granted;
    const auto small = locks.claim(std::uint64_t{1} << 40, 1 << 25, mode::exclusive, 1);
    const auto all = locks.claim(0, std::uint64_t{1} << 41, mode::exclusive, 2);
    CHECK_FALSE(all.granted);
    locks.release(small.id, granted);
    CHECK(granted == std::vector<std::uint32_t>{2});
}

TEST_CASE("range_lock: a claim given up while waiting is forgotten by those it waited for") {
    range_lock locks;
    std::vector<std::uint32_t> granted;
    const auto holder = locks.claim(0, 4096, mode::exclusive, 1);
    const auto waiter = locks.claim(0, 4096, mode::exclusive, 2);
    const auto third = locks.claim(0, 4096, mode::exclusive, 3);
    locks.release(waiter.id, granted);
    CHECK(granted.empty());
    locks.release(holder.id, granted);
    CHECK(granted == std::vector<std::uint32_t>{3});
    granted.clear();
    locks.release(third.id, granted);
    CHECK(locks.claims() == 0);
}

TEST_CASE("range_lock: at no time do two conflicting claims hold, and every claim is granted in the end") {
    std::mt19937 random(7);
    range_lock locks;
    struct held {
        std::uint64_t offset, length;
        bool exclusive, granted;
        range_lock::ticket id;
        bool live;
    };
    std::vector<held> all;
    std::vector<std::uint32_t> granted;
    const auto check = [&](std::uint32_t owner) {
        all[owner].granted = true;
        for (std::size_t i = 0; i < all.size(); ++i) {
            if (i == owner || !all[i].live || !all[i].granted || (!all[i].exclusive && !all[owner].exclusive)) continue;
            const bool apart = all[i].offset + all[i].length <= all[owner].offset ||
                               all[owner].offset + all[owner].length <= all[i].offset;
            REQUIRE(apart);
        }
    };
    for (int step = 0; step < 4000; ++step) {
        if (random() % 2 == 0) {
            const auto owner = static_cast<std::uint32_t>(all.size());
            const std::uint64_t offset = random() % 200 * 65536;
            const std::uint64_t length = (1 + random() % 20) * 65536;
            const bool exclusive = random() % 2 == 0;
            const auto claim = locks.claim(offset, length, exclusive ? mode::exclusive : mode::shared, owner);
            all.push_back({offset, length, exclusive, false, claim.id, true});
            if (claim.granted) check(owner);
        } else {
            std::vector<std::uint32_t> holders;
            for (std::uint32_t i = 0; i < all.size(); ++i)
                if (all[i].live && all[i].granted) holders.push_back(i);
            if (holders.empty()) continue;
            const std::uint32_t owner = holders[random() % holders.size()];
            all[owner].live = false;
            granted.clear();
            locks.release(all[owner].id, granted);
            for (const std::uint32_t next : granted) check(next);
        }
    }
    for (bool any = true; any;) {
        any = false;
        for (std::uint32_t i = 0; i < all.size(); ++i) {
            if (!all[i].live || !all[i].granted) continue;
            any = true;
            all[i].live = false;
            granted.clear();
            locks.release(all[i].id, granted);
            for (const std::uint32_t next : granted) check(next);
        }
    }
    CHECK(locks.claims() == 0);
}
