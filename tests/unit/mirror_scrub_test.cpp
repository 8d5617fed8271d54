// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/core/mirror_scrub.hpp"

#include <doctest/doctest.h>

using namespace weft;
using work = set_state::work;

namespace {
constexpr set_state idle{work::idle, true, 0, 0, 1000};
constexpr set_state differing{work::idle, true, 512, 0, 1000};
constexpr set_state checking{work::checking, true, 0, 300, 1000};
constexpr set_state repairing{work::repairing, true, 0, 300, 1000};
constexpr set_state degraded{work::idle, false, 0, 0, 1000};
}  // namespace

TEST_CASE("mirror scrub: a set that is equal is checked once") {
    set_scrub one;
    CHECK(one.step(idle, 0) == set_order::none);
    CHECK(one.step(idle, 3) == set_order::check);
    CHECK(one.step(checking, 3) == set_order::none);
    CHECK(one.status().running);
    CHECK(one.status().done_bytes == 300);
    CHECK(one.step(idle, 3) == set_order::none);
    CHECK_FALSE(one.status().running);
    CHECK(one.status().serial == 3);
    CHECK(one.status().done_bytes == 1000);
    CHECK(one.status().differing_bytes == 0);
    CHECK(one.step(idle, 3) == set_order::none);
    CHECK(one.step(idle, 4) == set_order::check);
}

TEST_CASE("mirror scrub: what differs is made equal, and nobody claims to know which leg was right") {
    set_scrub one;
    CHECK(one.step(idle, 1) == set_order::check);
    CHECK(one.step(differing, 1) == set_order::repair);
    CHECK(one.status().running);
    CHECK(one.step(repairing, 1) == set_order::none);
    CHECK(one.step(idle, 1) == set_order::none);
    CHECK(one.status().differing_bytes == 512);
    CHECK(one.status().repaired_bytes == 512);
    CHECK(one.status().undecided_bytes == 512);
}

TEST_CASE("mirror scrub: it waits for a set that lacks a leg, and begins again after one failed") {
    set_scrub one;
    CHECK(one.step(degraded, 1) == set_order::none);
    CHECK(one.step({work::other, false, 0, 0, 1000}, 1) == set_order::none);
    CHECK(one.step(idle, 1) == set_order::check);
    CHECK(one.step(degraded, 1) == set_order::none);
    CHECK(one.status().running);
    CHECK(one.step(idle, 1) == set_order::check);
}

TEST_CASE("mirror scrub: a restarted weftd goes on with the check that is under way") {
    set_scrub one;
    CHECK(one.step(checking, 2) == set_order::none);
    CHECK(one.step(idle, 2) == set_order::none);
    CHECK_FALSE(one.status().running);
    CHECK(one.status().serial == 2);
}
