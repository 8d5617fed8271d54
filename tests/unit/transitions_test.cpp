// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/core/transitions.hpp"

#include <doctest/doctest.h>

#include <limits>

#include "tests/unit/sample_records.hpp"

using namespace weft;
using enum replica_state;

namespace {
constexpr auto alive = writer_liveness::alive;
constexpr auto expired = writer_liveness::expired;

replica_state state_of(const volume_record& volume, std::size_t index) {
    return volume.extents[0].replicas[index].state;
}
}  // namespace

TEST_CASE("transitions: R1 attaching a free volume makes a writer and raises the epoch") {
    const auto volume = *attach(test::sample_volume(), test::node(2), expired, false);
    CHECK(volume.writer == test::node(2));
    CHECK(volume.epoch == 1);
    CHECK_FALSE(volume.clean);
    CHECK_FALSE(check(volume).has_error());
}

TEST_CASE("transitions: R1 a volume in use on a living node is refused with that node's name") {
    const auto refused = attach(test::attached_volume(), test::node(2), alive, false);
    REQUIRE(refused.has_error());
    CHECK(refused.error().code == errc::busy);
    CHECK(refused.error().text.find("n1") != std::string::npos);
    CHECK(refused.error().text.find("db") != std::string::npos);
}

TEST_CASE("transitions: R1 the volume of a dead writer is taken over under a higher epoch") {
    const auto volume = *attach(test::attached_volume(), test::node(2), expired, false);
    CHECK(volume.writer == test::node(2));
    CHECK(volume.epoch == 6);
    CHECK_FALSE(volume.clean);
}

// Bug guarded against: the epoch wrapped to 0, and the record could not be read any more.
TEST_CASE("transitions: R1 an epoch never wraps") {
    auto volume = test::attached_volume();
    volume.epoch = std::numeric_limits<std::uint64_t>::max();
    const auto refused = attach(volume, test::node(2), expired, false);
    REQUIRE(refused.has_error());
    CHECK(refused.error().code == errc::corrupt);
}

TEST_CASE("transitions: R1 an operator's force takes it from a living writer") {
    const auto volume = *attach(test::attached_volume(), test::node(2), alive, true);
    CHECK(volume.writer == test::node(2));
    CHECK(volume.epoch == 6);
}

TEST_CASE("transitions: R1 a volume server that starts again is a new writer") {
    const auto volume = *attach(test::attached_volume(), test::node(1), alive, false);
    CHECK(volume.writer == test::node(1));
    CHECK(volume.epoch == 6);
}

TEST_CASE("transitions: R12 without an up_to_date replica nothing is attached, not even by force") {
    auto volume = test::sample_volume();
    volume.extents.push_back(volume.extents[0]);
    for (auto& replica : volume.extents[1].replicas) replica.state = outdated;
    for (const bool force : {false, true}) {
        const auto refused = attach(volume, test::node(1), expired, force);
        REQUIRE(refused.has_error());
        CHECK(refused.error().code == errc::no_quorum);
        CHECK(refused.error().text.find("extent 1") != std::string::npos);
    }
}

TEST_CASE("transitions: a volume whose replicas are still being created is not attached yet") {
    auto volume = test::sample_volume();
    volume.extents[0].replicas[1].created = false;
    const auto refused = attach(volume, test::node(1), alive, false);
    REQUIRE(refused.has_error());
    CHECK(refused.error().code == errc::unavailable);
    CHECK(refused.error().text.find("n2") != std::string::npos);
    CHECK_FALSE(attach(*mark_created(volume, test::replica(2)), test::node(1), alive, false).has_error());
}

TEST_CASE("transitions: a replica added later that is not yet created does not keep the volume from being attached") {
    auto volume = test::sample_volume();
    volume.extents[0].replicas[1].created = false;
    volume.extents[0].replicas[1].state = inconsistent;
    CHECK_FALSE(attach(volume, test::node(1), alive, false).has_error());
}

TEST_CASE("transitions: R11 releasing leaves a clean volume without a writer at the same epoch") {
    const auto volume = *release(test::attached_volume(), test::node(1), 5);
    CHECK(volume.writer.empty());
    CHECK(volume.clean);
    CHECK(volume.epoch == 5);
    CHECK_FALSE(check(volume).has_error());
}

TEST_CASE("transitions: R11 a writer that died is released without calling the volume clean") {
    const auto volume = *abandon(test::attached_volume(), test::node(1), 5);
    CHECK(volume.writer.empty());
    CHECK_FALSE(volume.clean);
}

TEST_CASE("transitions: R5 only the writer of the present epoch changes anything") {
    const auto volume = test::attached_volume();
    const auto stale = [](const auto& outcome) {
        return outcome.has_error() && outcome.error().code == errc::stale_epoch;
    };
    const std::pair<node_name, std::uint64_t> strangers[] = {
        {test::node(1), 4}, {test::node(1), 6}, {test::node(2), 5}, {node_name{}, 5}};
    for (const auto& row : strangers) {
        const auto& node = row.first;
        const auto& epoch = row.second;
        CAPTURE(node.str());
        CAPTURE(epoch);
        CHECK(stale(release(volume, node, epoch)));
        CHECK(stale(abandon(volume, node, epoch)));
        CHECK(stale(set_replica_state(volume, node, epoch, test::replica(2), outdated)));
        CHECK(stale(mark_formatted(volume, node, epoch)));
    }
    const auto released = *release(volume, test::node(1), 5);
    CHECK(stale(set_replica_state(released, test::node(1), 5, test::replica(2), outdated)));
    CHECK(stale(release(released, test::node(1), 5)));
}

TEST_CASE("transitions: R4 a replica that failed is demoted, the last one never") {
    const auto first = *set_replica_state(test::attached_volume(), test::node(1), 5, test::replica(2), outdated);
    CHECK(state_of(first, 0) == up_to_date);
    CHECK(state_of(first, 1) == outdated);
    for (const auto to : {failed, inconsistent, outdated}) {
        const auto refused = set_replica_state(first, test::node(1), 5, test::replica(1), to);
        REQUIRE(refused.has_error());
        CHECK(refused.error().code == errc::no_quorum);
        CHECK(refused.error().text.find("n1") != std::string::npos);
    }
    // Those that are behind already may fall further.
    CHECK(state_of(*set_replica_state(first, test::node(1), 5, test::replica(2), failed), 1) == failed);
}

TEST_CASE("transitions: R4 no demotion below min_replicas") {
    auto volume = test::attached_volume(3);
    volume.min_replicas = 2;
    const auto once = *set_replica_state(volume, test::node(1), 5, test::replica(3), outdated);
    CHECK(set_replica_state(once, test::node(1), 5, test::replica(2), outdated).error().code == errc::no_quorum);
}

TEST_CASE("transitions: R4 each extent is counted for itself") {
    auto volume = test::attached_volume();
    volume.extents.push_back(volume.extents[0]);
    volume.extents[1].replicas[0].id = test::replica(11);
    volume.extents[1].replicas[1].id = test::replica(12);
    const auto first = *set_replica_state(volume, test::node(1), 5, test::replica(2), outdated);
    const auto second = *set_replica_state(first, test::node(1), 5, test::replica(11), outdated);
    CHECK(second.extents[0].replicas[1].state == outdated);
    CHECK(second.extents[1].replicas[0].state == outdated);
    CHECK(set_replica_state(second, test::node(1), 5, test::replica(12), outdated).error().code == errc::no_quorum);
}

TEST_CASE("transitions: R4 asking for the state that it has returns the record, for its new revision's sake") {
    const auto volume = test::attached_volume(1);
    CHECK(encode(*set_replica_state(volume, test::node(1), 5, test::replica(1), up_to_date)) == encode(volume));
}

TEST_CASE("transitions: R8 a replica goes through inconsistent to up_to_date") {
    auto volume = *set_replica_state(test::attached_volume(), test::node(1), 5, test::replica(2), outdated);
    volume = *set_replica_state(volume, test::node(1), 5, test::replica(2), inconsistent);
    CHECK(state_of(volume, 1) == inconsistent);
    volume = *set_replica_state(volume, test::node(1), 5, test::replica(2), up_to_date);
    CHECK(encode(volume) == encode(test::attached_volume()));
}

TEST_CASE("transitions: an unknown replica is not found") {
    const auto volume = test::attached_volume();
    CHECK(set_replica_state(volume, test::node(1), 5, test::replica(7), outdated).error().code == errc::not_found);
    CHECK(mark_created(volume, test::replica(7)).error().code == errc::not_found);
}

TEST_CASE("transitions: created and formatted are marked, twice is the same as once") {
    auto volume = test::attached_volume();
    volume.extents[0].replicas[0].created = false;
    const auto created = *mark_created(*mark_created(volume, test::replica(1)), test::replica(1));
    CHECK(created.ready());
    const auto formatted = *mark_formatted(*mark_formatted(volume, test::node(1), 5), test::node(1), 5);
    CHECK(formatted.formatted);
}

TEST_CASE("transitions: R1 a volume is removed only when no living node uses it") {
    CHECK_FALSE(may_remove(test::sample_volume(), alive).has_error());
    CHECK_FALSE(may_remove(test::attached_volume(), expired).has_error());
    const auto refused = may_remove(test::attached_volume(), alive);
    REQUIRE(refused.has_error());
    CHECK(refused.error().code == errc::busy);
    CHECK(refused.error().text.find("n1") != std::string::npos);
}

TEST_CASE("transitions: R1 only the node that uses a volume may restart its server, and is named to others") {
    CHECK_FALSE(may_restart(test::attached_volume(), node_name{"n1"}).has_error());
    const auto elsewhere = may_restart(test::attached_volume(), node_name{"n2"});
    REQUIRE(elsewhere.has_error());
    CHECK(elsewhere.error().code == errc::busy);
    CHECK(elsewhere.error().text.find("attached on node n1") != std::string::npos);
    CHECK(may_restart(test::sample_volume(), node_name{"n1"}).error().code == errc::invalid_argument);
    auto repaired = test::attached_volume();
    repaired.maintenance = true;
    CHECK(may_restart(repaired, node_name{"n1"}).error().code == errc::invalid_argument);
}

TEST_CASE("transitions: R1 repair takes a volume from nobody, and anybody takes it from a repair") {
    auto unused = test::sample_volume();
    unused.epoch = 5;
    const auto repairing = attach_for_maintenance(unused, test::node(1));
    REQUIRE(repairing.has_value());
    CHECK(repairing->maintenance);
    CHECK(repairing->writer == test::node(1));
    CHECK(repairing->epoch == 6);
    CHECK_FALSE(repairing->clean);
    CHECK(check(*repairing).has_value());
    CHECK(attach_for_maintenance(*repairing, test::node(2)).error().code == errc::busy);
    CHECK(attach_for_maintenance(test::attached_volume(), test::node(1)).error().code == errc::busy);
    CHECK(may_remove(*repairing, alive).has_value());

    const auto taken = attach(*repairing, test::node(2), alive, false);
    REQUIRE(taken.has_value());
    CHECK(taken->epoch == 7);
    CHECK_FALSE(taken->maintenance);
}

TEST_CASE("transitions: a repair that is claimed goes on in the same epoch and is nobody else's any more") {
    auto unused = test::sample_volume();
    const auto repairing = *attach_for_maintenance(unused, test::node(1));
    const auto used = claim(repairing, test::node(1), repairing.epoch);
    REQUIRE(used.has_value());
    CHECK(used->epoch == repairing.epoch);
    CHECK_FALSE(used->maintenance);
    CHECK(attach(*used, test::node(2), alive, false).error().code == errc::busy);
    const auto taken = *attach(repairing, test::node(2), alive, false);
    CHECK(claim(taken, test::node(1), repairing.epoch).error().code == errc::stale_epoch);
}
