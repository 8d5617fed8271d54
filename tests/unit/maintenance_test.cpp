// SPDX-License-Identifier: Apache-2.0
// Which volume that nobody uses is attached for repair, where, and until when (orchestrator/core/maintenance.hpp).
#include "orchestrator/core/maintenance.hpp"

#include <doctest/doctest.h>

#include "healing_view.hpp"

using namespace weft;
using namespace weft::test;

namespace {

/// Detached in order after some use.
volume_record detached(unsigned replicas = 2) {
    auto record = sample_volume(replicas);
    record.epoch = 5;
    return record;
}

std::string wanted(const volume_record& record, const std::set<node_name>& alive = all_nodes(3)) {
    const auto view = view_of({record}, 3);
    return needs_maintenance(record, {view, alive});
}

repair_state state_of(const volume_record& record, const engine_report& engines,
                      const std::set<node_name>& alive = all_nodes(3)) {
    return repair_state_of(record, engines.extents, view_of({record}, 3), alive);
}

}  // namespace

TEST_CASE("maintenance: a healthy volume needs none, nor does one that was never attached") {
    CHECK(wanted(detached()).empty());
    CHECK(wanted(sample_volume()).empty());
}

TEST_CASE("maintenance: after an unclean detach, and for a replica that is behind and reachable") {
    auto unclean = detached();
    unclean.clean = false;
    CHECK(wanted(unclean) == "its last writer did not detach in order");
    for (const auto state : {replica_state::outdated, replica_state::inconsistent}) {
        auto behind = detached();
        behind.extents[0].replicas[1].state = state;
        CHECK(wanted(behind).find(replica(2).str()) != std::string::npos);
        CHECK(wanted(behind, {node(1), node(3)}).empty());
        behind.extents[0].replicas[1].created = false;
        CHECK(wanted(behind).empty());
    }
    auto recovering = detached();
    recovering.extents[0].replicas[1].recovering = true;
    CHECK(wanted(recovering).find("recovering") != std::string::npos);
}

TEST_CASE("maintenance: never while somebody is the writer, dead or alive") {
    auto used = detached();
    used.extents[0].replicas[1].state = replica_state::outdated;
    used.clean = false;
    used.writer = node(1);
    CHECK(wanted(used).empty());
    CHECK(wanted(used, {node(2)}).empty());
}

TEST_CASE("maintenance: a replica on a drive that is down or failed is not waited for") {
    auto record = detached();
    record.extents[0].replicas[1].state = replica_state::outdated;
    auto view = view_of({record}, 3);
    view.drives[drive(2)].record.down = true;
    CHECK(needs_maintenance(record, {view, all_nodes(3)}).empty());
    record.extents[0].replicas[1].state = replica_state::failed;
    CHECK(wanted(record).empty());
}

TEST_CASE("maintenance: not tried when the engine could not serve, because R4 forbids to demote what is away") {
    auto record = detached(3);
    record.clean = false;
    record.min_replicas = 2;
    CHECK_FALSE(wanted(record, {node(1), node(2)}).empty());
    CHECK(wanted(record, {node(1)}).empty());
    CHECK(wanted(record, {}).empty());
    // What is not up to date need not be demoted: one of one is enough.
    record.extents[0].replicas[1].state = record.extents[0].replicas[2].state = replica_state::outdated;
    CHECK_FALSE(wanted(record, {node(1)}).empty());
}

TEST_CASE("maintenance: the first living node with an up-to-date replica does it, the same one for everybody") {
    auto record = detached(3);
    const auto view = view_of({record}, 3);
    CHECK(maintenance_node(record, view, all_nodes(3)) == node(1));
    CHECK(maintenance_node(record, view, {node(2), node(3)}) == node(2));
    record.extents[0].replicas[1].state = replica_state::outdated;
    CHECK(maintenance_node(record, view, {node(2), node(3)}) == node(3));
    record.extents[0].replicas[2].recovering = true;
    CHECK(maintenance_node(record, view, {node(2), node(3)}).empty());
}

TEST_CASE("maintenance: works while something is repaired or could be, settles while regions are dirty, then ends") {
    auto record = detached();
    record.writer = node(1);
    record.maintenance = true;
    record.clean = false;
    const auto view = view_of({record}, 3);
    auto engines = report(view, {true});
    CHECK(state_of(record, {record.id, {}}).stage == repair_stage::working);
    CHECK(state_of(record, engines).stage == repair_stage::finished);
    CHECK(state_of(record, engines).serving);
    engines.extents[0].dirty_bytes = 4 * mib;
    CHECK(state_of(record, engines).stage == repair_stage::settling);
    engines.extents[0].recovery_left_bytes = 4 * mib;
    CHECK(state_of(record, engines).stage == repair_stage::working);
    engines = report(view, {true});
    engines.extents[0].slots[1].resyncing = true;
    CHECK(state_of(record, engines).stage == repair_stage::working);
    engines = report(view, {true});
    engines.extents[0].scrub.running = true;
    CHECK(state_of(record, engines).stage == repair_stage::working);
    engines = report(view, {true});
    engines.extents[0].state = core::engine_state::fencing;
    CHECK(state_of(record, engines).stage == repair_stage::working);
    CHECK_FALSE(state_of(record, engines).serving);
}

TEST_CASE("maintenance: a replica that should be there is waited for, one whose node is away is not") {
    auto record = detached();
    record.writer = node(1);
    record.maintenance = true;
    record.clean = false;
    record.extents[0].replicas[1].state = replica_state::outdated;
    auto engines = report(view_of({record}, 3), {false});
    CHECK(state_of(record, engines).stage == repair_stage::working);
    CHECK(state_of(record, engines, {node(1), node(3)}).stage == repair_stage::finished);
    // Regions stay dirty while a replica is behind (R6): that is not waited for.
    engines.extents[0].dirty_bytes = 4 * mib;
    CHECK(state_of(record, engines, {node(1), node(3)}).stage == repair_stage::finished);
    // A replacement whose files are still being made comes in a moment.
    record.extents[0].replicas[1].created = false;
    CHECK(state_of(record, engines).stage == repair_stage::working);
}

TEST_CASE("maintenance: the mark moves with progress and stands still without") {
    auto record = detached();
    record.writer = node(1);
    record.extents[0].replicas[1].state = replica_state::inconsistent;
    auto engines = report(view_of({record}, 3), {true});
    const auto before = state_of(record, engines).mark;
    CHECK(state_of(record, engines).mark == before);
    engines.extents[0].slots[1].resync_done_bytes = 1;
    CHECK(state_of(record, engines).mark != before);
}

TEST_CASE("maintenance: an attempt is worth repeating at once only if states or presence changed") {
    auto record = detached();
    const auto view = view_of({record}, 3);
    const auto before = repair_signature(record, view, all_nodes(3));
    record.clean = false;
    record.epoch += 1;
    CHECK(repair_signature(record, view, all_nodes(3)) == before);
    CHECK(repair_signature(record, view, {node(1)}) != before);
    record.extents[0].replicas[1].state = replica_state::outdated;
    CHECK(repair_signature(record, view, all_nodes(3)) != before);
}
