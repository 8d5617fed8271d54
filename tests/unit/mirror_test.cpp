// SPDX-License-Identifier: Apache-2.0
// Mirrored volumes in the records: which legs the set has, how a leg's place gets another replica, the options.
#include "orchestrator/core/mirror.hpp"

#include <doctest/doctest.h>

#include "healing_view.hpp"
#include "orchestrator/core/create_options.hpp"
#include "orchestrator/core/growth.hpp"
#include "orchestrator/core/healing.hpp"
#include "orchestrator/core/policy_change.hpp"
#include "orchestrator/core/reconcile.hpp"
#include "orchestrator/core/repairs.hpp"

using namespace weft;
using namespace weft::test;

namespace {

volume_record mirrored(unsigned legs = 2) {
    auto record = attached_volume(legs);
    record.layout.mirrored = true;
    record.size_bytes -= core::mirror_meta_bytes;
    for (unsigned i = 0; i < legs; ++i) record.extents[0].replicas[i].leg = i;
    REQUIRE(check(record).has_value());
    return record;
}

std::vector<core::engine_status> engines_of(const volume_record& record) {
    core::engine_status engine;
    engine.state = core::engine_state::serving;
    for (const auto& one : record.extents[0].replicas) {
        core::slot_status slot;
        slot.id = one.id;
        slot.state = one.state;
        slot.link_up = true;
        slot.resyncing = one.state == replica_state::inconsistent;
        engine.slots.push_back(slot);
    }
    return {engine};
}

}  // namespace

TEST_CASE("mirror: the set has the legs that the record trusts, and those to be rebuilt that the engine reaches") {
    auto record = mirrored(3);
    using use = leg_shape::use;
    CHECK(legs_of(record, {}) ==
          leg_table{{{replica(1), use::up_to_date}, {replica(2), use::up_to_date}, {replica(3), use::up_to_date}}});
    record.extents[0].replicas[0].state = replica_state::outdated;
    record.extents[0].replicas[2].state = replica_state::inconsistent;
    auto engines = engines_of(record);
    CHECK(legs_of(record, engines) == leg_table{{{}, {replica(2), use::up_to_date}, {replica(3), use::rebuild}}});
    CHECK(any_rebuilding(legs_of(record, engines)));
    engines[0].slots[2].link_up = false;
    CHECK(legs_of(record, engines) == leg_table{{{}, {replica(2), use::up_to_date}, {}}});
    CHECK_FALSE(any_rebuilding(legs_of(record, engines)));
    record.extents[0].replicas.erase(record.extents[0].replicas.begin());  // a forgotten node: the others keep places
    CHECK(legs_of(record, {}) == leg_table{{{}, {replica(2), use::up_to_date}, {}}});
    CHECK(legs_of(attached_volume(), {}).empty());
}

TEST_CASE("mirror: an outdated leg's place gets another replica on the same drive, as soon as its node is there") {
    auto record = mirrored();
    record.extents[0].replicas[0].state = replica_state::outdated;
    const auto view = view_of({record}, 3);
    const auto plan = plan_healing({view, node(1), all_nodes(3), {}});
    REQUIRE(plan.replacements.size() == 1);
    CHECK(plan.replacements[0].old->id == replica(1));
    CHECK(plan.replacements[0].place.node == node(1));
    CHECK(plan.replacements[0].place.drive == drive(1));

    replica_record fresh;
    fresh.id = replica(9);
    fresh.node = node(1);
    fresh.drive = drive(1);
    const auto done = replace_replica(record, 0, replica(1), fresh);
    REQUIRE(done.has_value());
    REQUIRE(check(*done).has_value());
    CHECK(done->extents[0].replicas.back().id == replica(9));
    CHECK(done->extents[0].replicas.back().leg == 0);
    CHECK(done->extents[0].replicas.back().state == replica_state::inconsistent);
}

TEST_CASE("mirror: a place is not renewed without a writer, for a node that is away, or in a striped volume") {
    auto record = mirrored();
    record.extents[0].replicas[1].state = replica_state::outdated;
    auto alive = all_nodes(3);
    alive.erase(node(2));
    CHECK(plan_healing({view_of({record}, 3), node(1), alive, {}}).replacements.empty());
    auto idle = record;
    idle.writer = node_name{};
    CHECK(plan_healing({view_of({idle}, 3), node(1), all_nodes(3), {}}).replacements.empty());
    auto striped = attached_volume();
    striped.extents[0].replicas[1].state = replica_state::outdated;
    CHECK(plan_healing({view_of({striped}, 3), node(1), all_nodes(3), {}}).replacements.empty());
}

TEST_CASE("mirror: the set follows the record once, until the record or the set changes") {
    auto record = mirrored();
    const auto view = view_of({record}, 2);
    observed_node seen;
    seen.me = node(1);
    seen.records_current = true;
    seen.serving = {drive(1)};
    observed_attachment one;
    one.id = record.id;
    one.epoch = 5;
    one.server_alive = one.wanted = true;
    one.engines = engines_of(record);
    const auto follows = [&] {
        seen.attachments = {one};
        const auto plan = plan_actions(view, seen);
        return plan.size() == 1 && std::holds_alternative<follow_legs>(plan.front());
    };
    CHECK(follows());
    one.legs = legs_of(record, one.engines);
    CHECK_FALSE(follows());
    one.legs = leg_table{{{replica(1), leg_shape::use::up_to_date}, {}}};
    CHECK(follows());
    one.engines[0].state = core::engine_state::fencing;
    CHECK_FALSE(follows());
}

TEST_CASE("mirror: a volume grows by a segment that has room for what device-mapper writes") {
    const auto split = split_growth(mirrored(), 12 * gib, 64 * gib);
    REQUIRE(split.has_value());
    CHECK(split->stripes == std::vector<std::uint32_t>{1});
    CHECK(split->sizes == std::vector<std::uint64_t>{2 * gib + 2 * core::mirror_meta_bytes});
}

TEST_CASE("mirror: what device-mapper cannot keep is refused under the option's name") {
    CHECK(parse_create_options({{"layout", "mirrored"}})->mirrored);
    CHECK_FALSE(parse_create_options({{"layout", "striped"}})->mirrored);
    const std::pair<const char*, const char*> bad[] = {
        {"replicas", "1"}, {"min-replicas", "2"}, {"stripes", "2"}, {"on-full", "fail"}};
    for (const auto& option : bad) {
        const auto refused = parse_create_options({{"layout", "mirrored"}, {option.first, option.second}});
        CAPTURE(option.first);
        REQUIRE(refused.has_error());
        CHECK(refused.error().text.find(option.first) != std::string::npos);
    }
    CHECK(parse_create_options({{"layout", "raid5"}}).error().code == errc::invalid_argument);
    CHECK(change_policy(mirrored(3), *parse_policy_change({{"min-replicas", "2"}})).has_error());
    CHECK(change_policy(mirrored(), *parse_policy_change({{"on-full", "fail"}})).has_error());
    CHECK(change_policy(mirrored(), *parse_policy_change({{"resync-rate", "10MiB"}})).has_value());
}
