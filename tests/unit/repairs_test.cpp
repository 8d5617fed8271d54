// SPDX-License-Identifier: Apache-2.0
// Changes of which replicas a volume has, and R12 (orchestrator/core/repairs.hpp).
#include "orchestrator/core/repairs.hpp"

#include <doctest/doctest.h>

#include "sample_records.hpp"

using namespace weft;
using namespace weft::test;

namespace {

volume_record behind(unsigned replicas = 2) {
    auto record = attached_volume(replicas);
    record.extents[0].replicas[1].state = replica_state::outdated;
    return record;
}

replica_record fresh(unsigned number) {
    return {replica(number), node(number), drive(number), replica_state::up_to_date, true, true};
}

std::set<replica_id> ids(std::initializer_list<unsigned> numbers) {
    std::set<replica_id> all;
    for (const auto number : numbers) all.insert(replica(number));
    return all;
}

}  // namespace

TEST_CASE("repairs: a replacement takes the old one's place, empty and with every bit set; writer and epoch stay") {
    const auto done = replace_replica(behind(), 0, replica(2), fresh(3));
    REQUIRE(done.has_value());
    const auto& replicas = done->extents[0].replicas;
    REQUIRE(replicas.size() == 2);
    CHECK(replicas[1].id == replica(3));
    CHECK(replicas[1].state == replica_state::inconsistent);
    CHECK_FALSE(replicas[1].created);
    CHECK_FALSE(replicas[1].born_equal);
    CHECK(done->writer == node(1));
    CHECK(done->epoch == 5);
    CHECK(check(*done).has_value());
    CHECK(done->ready());
}

// Bug guarded against: the id was drawn once. A commit whose outcome was unknown had taken effect, an operator removed
// the replica, and the next attempt gave its id to another one, which a late proposal about the first then called up to
// date.
TEST_CASE("repairs: a replacement that is tried again finds itself, or takes another id") {
    unsigned next = 40;
    replacement_attempts attempts(0, replica(2), fresh(3), [&] { return replica(next++); });
    const auto first = attempts.decide(behind());
    REQUIRE(first.has_value());
    CHECK(attempts.fresh().id == replica(40));

    const auto found = attempts.decide(*first);  // it had been committed
    REQUIRE(found.has_value());
    CHECK(encode(*found) == encode(*first));
    CHECK(attempts.fresh().id == replica(40));

    REQUIRE(attempts.decide(behind()).has_value());  // it had been committed and removed, or never was
    CHECK(attempts.fresh().id == replica(41));
    CHECK(attempts.decide(*first)->extents[0].replicas[1].id == replica(40));
    CHECK(attempts.fresh().id == replica(40));
}

TEST_CASE("repairs: what became up to date meanwhile is not replaced, what is gone is not found") {
    CHECK(replace_replica(attached_volume(), 0, replica(2), fresh(3)).error().code == errc::conflict);
    CHECK(replace_replica(behind(), 0, replica(7), fresh(3)).error().code == errc::not_found);
    CHECK(replace_replica(behind(), 3, replica(2), fresh(3)).error().code == errc::not_found);
}

TEST_CASE("repairs: no second replica on a node or drive, none beyond replicas_wanted") {
    auto twin = fresh(3);
    twin.node = node(1);
    CHECK(replace_replica(behind(), 0, replica(2), twin).error().code == errc::conflict);
    twin = fresh(3);
    twin.drive = drive(1);
    CHECK(replace_replica(behind(), 0, replica(2), twin).error().code == errc::conflict);
    CHECK(replace_replica(behind(), 0, std::nullopt, fresh(3)).error().code == errc::conflict);
    auto fewer = behind();
    fewer.replicas_wanted = 3;
    CHECK(replace_replica(fewer, 0, std::nullopt, fresh(3))->extents[0].replicas.size() == 3);
}

TEST_CASE("repairs: an outdated replica stays while nothing could fill another one") {
    auto record = behind();
    record.extents[0].replicas[0].state = replica_state::outdated;
    CHECK(replace_replica(record, 0, replica(2), fresh(3)).error().code == errc::no_quorum);
    record = behind();
    record.extents[0].replicas[0].recovering = true;
    CHECK(replace_replica(record, 0, replica(2), fresh(3)).error().code == errc::no_quorum);
}

TEST_CASE("repairs: forgetting a node takes its replicas and its writer, and names what would be lost") {
    const auto done = forget_node(attached_volume(), node(1), false);
    REQUIRE(done.has_value());
    CHECK(done->record.writer.empty());
    CHECK_FALSE(done->record.clean);
    CHECK(done->record.epoch == 5);
    REQUIRE(done->removed.size() == 1);
    CHECK(done->removed[0].id == replica(1));
    CHECK(check(done->record).has_value());

    CHECK(loss_by_forgetting(behind(), node(2)).empty());
    CHECK(loss_by_forgetting(behind(), node(1)).find("last up-to-date replica") != std::string::npos);
    const auto refused = forget_node(behind(), node(1), false);
    CHECK(refused.error().code == errc::no_quorum);
    CHECK(refused.error().text.find("'db'") != std::string::npos);
    const auto forced = forget_node(behind(), node(1), true);
    REQUIRE(forced.has_value());
    CHECK(forced->record.extents[0].replicas.size() == 1);
    CHECK(check(forced->record).has_value());
}

TEST_CASE("repairs: forgetting what min_replicas needs is a loss of protection") {
    auto record = attached_volume();
    record.min_replicas = 2;
    CHECK(loss_by_forgetting(record, node(2)).find("min-replicas") != std::string::npos);
    CHECK(loss_by_forgetting(record, node(3)).empty());
}

TEST_CASE("repairs: an extent whose only replica is forgotten keeps it as failed, so that the record stays legal") {
    const auto done = forget_node(attached_volume(1), node(1), true);
    REQUIRE(done.has_value());
    CHECK(done->removed.empty());
    CHECK(done->record.extents[0].replicas[0].state == replica_state::failed);
    CHECK(check(done->record).has_value());
}

TEST_CASE("repairs: a volume that was never attached stays clean when its node is forgotten") {
    const auto done = forget_node(sample_volume(), node(1), false);
    REQUIRE(done.has_value());
    CHECK(done->record.clean);
    CHECK(check(done->record).has_value());
}

TEST_CASE("repairs: a replica is named by its id or the beginning of it") {
    const auto record = attached_volume();
    CHECK(*find_replica_by_text(record, replica(2).str()) == replica(2));
    CHECK(find_replica_by_text(record, "0000").error().code == errc::invalid_argument);
    CHECK(find_replica_by_text(record, "abc").error().code == errc::not_found);
    CHECK(find_replica_by_text(record, "").error().code == errc::not_found);
}

TEST_CASE("repairs: R12: going on from an outdated replica is a decision that says what is lost") {
    auto record = behind();
    const auto asked = recover_from(record, replica(2), ids({2}), false, false);
    CHECK(asked.error().code == errc::invalid_argument);
    CHECK(asked.error().text.find("--accept-data-loss") != std::string::npos);
    const auto done = recover_from(record, replica(2), ids({2}), false, true);
    REQUIRE(done.has_value());
    CHECK(done->extents[0].replicas[1].state == replica_state::up_to_date);
    CHECK(done->extents[0].replicas[0].state == replica_state::outdated);
    CHECK(done->writer.empty());
    CHECK_FALSE(done->clean);
    CHECK(check(*done).has_value());
}

TEST_CASE("repairs: R12: refused while an up-to-date replica or a living writer is there, or the chosen one is not") {
    const auto record = behind();
    CHECK(recover_from(record, replica(2), ids({1, 2}), false, true).error().code == errc::invalid_argument);
    CHECK(recover_from(record, replica(2), ids({2}), true, true).error().code == errc::busy);
    CHECK(recover_from(record, replica(2), ids({}), false, true).error().code == errc::invalid_argument);
    CHECK(recover_from(record, replica(9), ids({2}), false, true).error().code == errc::not_found);
    auto repairing = record;
    repairing.maintenance = true;
    CHECK(recover_from(repairing, replica(2), ids({2}), true, true).has_value());
    auto half = record;
    half.extents[0].replicas[1].state = replica_state::inconsistent;
    CHECK(recover_from(half, replica(2), ids({2}), false, false).error().text.find("never filled") !=
          std::string::npos);
}
