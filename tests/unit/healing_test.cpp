// SPDX-License-Identifier: Apache-2.0
// What self-healing replaces, where, and what it leaves alone and says why (orchestrator/core/healing.hpp).
#include "orchestrator/core/healing.hpp"

#include <doctest/doctest.h>

#include "healing_view.hpp"

using namespace weft;
using namespace weft::test;

namespace {

/// Written by n1; its replica on n2 missed writes.
volume_record behind(unsigned replicas = 2) {
    auto record = attached_volume(replicas);
    record.extents[0].replicas[1].state = replica_state::outdated;
    return record;
}

std::set<node_name> without(unsigned gone, unsigned nodes) {
    auto alive = all_nodes(nodes);
    alive.erase(node(gone));
    return alive;
}

absences gone_nodes(std::set<node_name> nodes) {
    absences overdue;
    overdue.nodes = std::move(nodes);
    return overdue;
}

}  // namespace

TEST_CASE("healing: a dead node's replica goes to a node that has none") {
    const auto view = view_of({behind()}, 3);
    const auto plan = plan_healing({view, node(1), without(2, 3), gone_nodes({node(2)})});
    REQUIRE(plan.replacements.size() == 1);
    const auto& what = plan.replacements[0];
    CHECK(what.volume == "db");
    CHECK(what.old->id == replica(2));
    CHECK(what.place.node == node(3));
    CHECK(what.why == "node n2 is gone");
    CHECK(plan.troubles.empty());
}

TEST_CASE("healing: nothing happens before the grace period is over") {
    const auto view = view_of({behind()}, 3);
    const auto plan = plan_healing({view, node(1), without(2, 3), {}});
    CHECK(plan.replacements.empty());
    CHECK(plan.troubles.empty());
}

TEST_CASE("healing: only the writer's node decides for a volume in use, only the caretaker for another") {
    auto view = view_of({behind()}, 3);
    CHECK(plan_healing({view, node(3), without(2, 3), gone_nodes({node(2)})}).replacements.empty());
    auto& record = view.volumes["db"].record;
    record.writer = node_name{};
    CHECK(plan_healing({view, node(1), without(2, 3), gone_nodes({node(2)})}).replacements.size() == 1);
    CHECK(plan_healing({view, node(3), without(2, 3), gone_nodes({node(2)})}).replacements.empty());
    // A dead writer's volume is nobody's until somebody takes it over.
    record.writer = node(2);
    CHECK(caretaker(record, view, without(2, 3)).empty());
}

TEST_CASE("healing: what the record calls up to date stays, and is demoted first where nobody uses the volume") {
    auto view = view_of({attached_volume()}, 3);
    const auto used = plan_healing({view, node(1), without(2, 3), gone_nodes({node(2)})});
    CHECK(used.replacements.empty());
    CHECK(used.demotions.empty());
    view.volumes["db"].record.writer = node_name{};
    const auto unused = plan_healing({view, node(1), without(2, 3), gone_nodes({node(2)})});
    CHECK(unused.replacements.empty());
    REQUIRE(unused.demotions.size() == 1);
    CHECK(unused.demotions[0].replica == replica(2));
}

TEST_CASE("healing: nothing is demoted for a replacement that has no place") {
    auto record = attached_volume(3);
    record.writer = node_name{};
    const auto view = view_of({record}, 3);
    const auto plan = plan_healing({view, node(1), without(2, 3), gone_nodes({node(2)})});
    CHECK(plan.demotions.empty());
    REQUIRE(plan.troubles.size() == 1);
    CHECK(plan.troubles[0].subject == "volume db");
    CHECK(plan.troubles[0].text.find("node n2 is gone") != std::string::npos);
}

TEST_CASE("healing: the last up-to-date replica and what min_replicas needs stay, and it is said why") {
    auto record = attached_volume();
    record.min_replicas = 2;
    const auto view = view_of({record}, 3);
    const auto plan = plan_healing({view, node(1), without(2, 3), gone_nodes({node(2)})});
    CHECK(plan.replacements.empty());
    CHECK(plan.demotions.empty());
    REQUIRE(plan.troubles.size() == 1);
    CHECK(plan.troubles[0].text.find("min-replicas is 2") != std::string::npos);
}

TEST_CASE("healing: without an up-to-date replica that can be reached an outdated one is left to the operator") {
    auto record = behind();
    record.writer = node_name{};
    const auto away = view_of({record}, 5);
    const auto alive = std::set{node(2), node(3), node(4), node(5)};
    const auto plan = plan_healing({away, node(2), alive, gone_nodes({node(1)})});
    CHECK(plan.replacements.empty());
    REQUIRE(plan.troubles.size() == 1);
    CHECK(plan.troubles[0].text.find("none of its up-to-date replicas can be reached") != std::string::npos);
    record.extents[0].replicas[0].state = replica_state::outdated;
    const auto lost = view_of({record}, 3);
    const auto told = plan_healing({lost, node(1), all_nodes(3), {}});
    REQUIRE(told.troubles.size() == 1);
    CHECK(told.troubles[0].text.find("weft volume recover") != std::string::npos);
}

TEST_CASE("healing: half of the nodes away is a partition: nothing is replaced, one node says so") {
    const auto view = view_of({behind()}, 4);
    const auto alive = std::set{node(1), node(3)};
    const auto overdue = gone_nodes({node(2), node(4)});
    const auto first = plan_healing({view, node(1), alive, overdue});
    CHECK(first.replacements.empty());
    REQUIRE(first.troubles.size() == 1);
    CHECK(first.troubles[0].subject == "cluster");
    CHECK(first.troubles[0].text.find("n2, n4") != std::string::npos);
    CHECK(plan_healing({view, node(3), alive, overdue}).troubles.empty());
    // Fewer than half of five is a failure, and an operator's command asks no such question.
    const auto five = view_of({behind()}, 5);
    const std::set<node_name> three_of_five{node(1), node(3), node(5)};
    CHECK(plan_healing({five, node(1), three_of_five, overdue}).replacements.size() == 1);
    const auto& record = view.volumes.at("db").record;
    CHECK(plan_healing({view, node(1), alive, overdue}, &record).replacements.size() == 1);
}

TEST_CASE("healing: nodes that live but that no engine here reaches count as away: it may be us who are cut off") {
    auto record = attached_volume(3);
    record.extents[0].replicas[1].state = record.extents[0].replicas[2].state = replica_state::outdated;
    const auto view = view_of({record}, 4);
    absences overdue;
    overdue.replicas = {replica(2)};
    CHECK(plan_healing({view, node(1), all_nodes(4), overdue}).replacements.size() == 1);
    overdue.replicas = {replica(2), replica(3)};
    CHECK(plan_healing({view, node(1), all_nodes(4), overdue}).replacements.empty());
    overdue.reached = {replica(3)};
    CHECK(plan_healing({view, node(1), all_nodes(4), overdue}).replacements.size() == 1);
}

TEST_CASE("healing: a replica that an engine reaches is not missing although its node's lease is gone") {
    const auto view = view_of({behind()}, 3);
    auto overdue = gone_nodes({node(2)});
    overdue.reached = {replica(2)};
    CHECK(plan_healing({view, node(1), without(2, 3), overdue}).replacements.empty());
}

TEST_CASE("healing: a drive that is down is replaced by another drive, on the same node if that has one") {
    auto view = view_of({behind()}, 2);
    view.drives[drive(2)].record.down = true;
    drive_record second = view.drives[drive(2)].record;
    second.id = drive(9);
    second.down = false;
    view.drives[second.id] = {second, 4};
    absences overdue;
    overdue.drives = {drive(2)};
    const auto plan = plan_healing({view, node(1), all_nodes(2), overdue});
    REQUIRE(plan.replacements.size() == 1);
    CHECK(plan.replacements[0].place.drive == drive(9));
}

TEST_CASE("healing: an extent with fewer replicas than wanted gets one more, at once") {
    auto record = attached_volume();
    record.extents[0].replicas.pop_back();
    const auto view = view_of({record}, 2);
    const auto plan = plan_healing({view, node(1), all_nodes(2), {}});
    REQUIRE(plan.replacements.size() == 1);
    CHECK_FALSE(plan.replacements[0].old);
    CHECK(plan.replacements[0].place.node == node(2));
}

TEST_CASE("healing: a trouble's mark stands still while only figures change") {
    auto view = view_of({behind(3)}, 4);
    const auto overdue = gone_nodes({node(2)});
    view.drives[drive(4)].record.free_bytes = 3 * mib;
    const auto before = plan_healing({view, node(1), without(2, 4), overdue}).troubles;
    view.drives[drive(4)].record.free_bytes = 2 * mib;
    const auto after = plan_healing({view, node(1), without(2, 4), overdue}).troubles;
    REQUIRE(before.size() == 1);
    REQUIRE(after.size() == 1);
    CHECK(before[0].mark == after[0].mark);
    CHECK(before[0].text != after[0].text);
}
