// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/core/health.hpp"

#include <doctest/doctest.h>

#include "tests/unit/sample_records.hpp"

using namespace weft;

namespace {
const std::set<node_name> all = {test::node(1), test::node(2), test::node(3)};
}

TEST_CASE("health: a volume with everything that was wanted is healthy, attached or not") {
    CHECK(health_of(test::sample_volume(), all) == volume_health::healthy);
    CHECK(health_of(test::attached_volume(3), all) == volume_health::healthy);
}

TEST_CASE("health: a replica that is behind, failed, missing or on a dead node degrades it") {
    for (const auto state : {replica_state::failed, replica_state::inconsistent, replica_state::outdated}) {
        auto volume = test::attached_volume();
        volume.extents[0].replicas[1].state = state;
        CHECK(health_of(volume, all) == volume_health::degraded);
    }
    CHECK(health_of(test::sample_volume(), {test::node(1)}) == volume_health::degraded);
    auto volume = test::sample_volume();
    volume.replicas_wanted = 3;
    CHECK(health_of(volume, all) == volume_health::degraded);
}

TEST_CASE("health: with fewer good replicas than min_replicas on living nodes it is unavailable") {
    CHECK(health_of(test::sample_volume(), {test::node(3)}) == volume_health::unavailable);
    auto volume = test::attached_volume();
    volume.min_replicas = 2;
    CHECK(health_of(volume, {test::node(1)}) == volume_health::unavailable);
    volume = test::attached_volume();
    volume.extents.push_back(volume.extents[0]);
    for (auto& replica : volume.extents[1].replicas) replica.state = replica_state::outdated;
    CHECK(health_of(volume, all) == volume_health::unavailable);
}

TEST_CASE("health: a volume whose replicas are not there yet is being created, a used one is degraded") {
    auto volume = test::sample_volume();
    volume.extents[0].replicas[1].created = false;
    CHECK(health_of(volume, all) == volume_health::creating);
    volume.epoch = 1;
    CHECK(health_of(volume, all) == volume_health::degraded);
}
