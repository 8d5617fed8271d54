// SPDX-License-Identifier: Apache-2.0
// What a node plans from records and observations (orchestrator/core/reconcile.hpp): each law and each way in which a
// kill -9 can leave things.
#include "orchestrator/core/reconcile.hpp"

#include <doctest/doctest.h>

#include "nbd-backend/base/units.hpp"

using namespace weft;

namespace {

const node_name n1{"n1"};
const node_name n2{"n2"};
const volume_id volume{"11111111-1111-4111-8111-111111111111"};
const drive_id drive_a{"aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa"};
const drive_id drive_b{"bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb"};
const replica_id replica_a{"a0000000-0000-4000-8000-000000000000"};
const replica_id replica_b{"b0000000-0000-4000-8000-000000000000"};

/// Volume "db" on n1 and n2, attached on n1 in epoch 5; a drive on each.
cluster_view attached_on_n1() {
    cluster_view view;
    view.revision = 10;
    volume_record record;
    record.name = "db";
    record.id = volume;
    record.size_bytes = 64 * mib;
    record.epoch = 5;
    record.writer = n1;
    record.clean = false;
    record.extents = {{64 * mib,
                       {{replica_a, n1, drive_a, replica_state::up_to_date, true, true},
                        {replica_b, n2, drive_b, replica_state::up_to_date, true, true}}}};
    view.volumes["db"] = {record, 9};
    for (const auto& [id, node] : {std::pair{drive_a, n1}, std::pair{drive_b, n2}}) {
        drive_record drive;
        drive.id = id;
        drive.node = node;
        drive.path = "/srv/" + node.str();
        drive.host = "127.0.0.1";
        drive.port = 7480;
        view.drives[id] = {drive, 3};
    }
    return view;
}

observed_attachment healthy() {
    observed_attachment seen;
    seen.id = volume;
    seen.epoch = 5;
    seen.server_alive = true;
    seen.wanted = true;
    return seen;
}

observed_node on_n1(std::vector<observed_attachment> attachments) {
    return {n1, true, {drive_a}, std::move(attachments)};
}

template <typename Wanted>
const Wanted* only(const std::vector<action>& plan) {
    REQUIRE(plan.size() == 1);
    const auto* found = std::get_if<Wanted>(&plan.front());
    REQUIRE_MESSAGE(found != nullptr, describe(plan.front()));
    return found;
}

}  // namespace

TEST_CASE("reconcile: an attachment that is used and ours is left alone") {
    CHECK(plan_actions(attached_on_n1(), on_n1({healthy()})).empty());
}

TEST_CASE("reconcile: nothing known means nothing done") {
    CHECK(plan_actions(cluster_view{}, on_n1({healthy()})).empty());
}

TEST_CASE("reconcile: an unused attachment is detached, unless another mount namespace holds it") {
    auto seen = healthy();
    seen.wanted = false;
    CHECK(only<detach_unused>(plan_actions(attached_on_n1(), on_n1({seen})))->volume == "db");
    seen.held = true;
    CHECK(plan_actions(attached_on_n1(), on_n1({seen})).empty());
}

TEST_CASE("reconcile: a higher epoch in the record fences, even in an old copy of the records") {
    auto view = attached_on_n1();
    view.volumes["db"].record.epoch = 6;
    view.volumes["db"].record.writer = n2;
    auto node = on_n1({healthy()});
    node.records_current = false;
    const auto plan = plan_actions(view, node);
    const auto* fenced = only<tear_down_fenced>(plan);
    CHECK(fenced->epoch == 5);
    CHECK(fenced->why.find("n2") != std::string::npos);
}

TEST_CASE("reconcile: a released record fences what a kill left behind between release and the server's end") {
    auto view = attached_on_n1();
    view.volumes["db"].record.writer = node_name{};
    CHECK(only<tear_down_fenced>(plan_actions(view, on_n1({healthy()})))->id == volume);
}

TEST_CASE("reconcile: a record older than the attachment proves nothing") {
    auto view = attached_on_n1();
    view.volumes["db"].record.epoch = 4;
    view.volumes["db"].record.writer = n2;
    CHECK(plan_actions(view, on_n1({healthy()})).empty());
}

TEST_CASE("reconcile: absence of the record fences only when the records are current and readable") {
    auto view = attached_on_n1();
    view.volumes.clear();
    auto node = on_n1({healthy()});
    CHECK(only<tear_down_fenced>(plan_actions(view, node))->why == "the volume was removed");
    node.records_current = false;
    CHECK(plan_actions(view, node).empty());
    node.records_current = true;
    view.bad["volumes/db"] = "not JSON";
    CHECK(plan_actions(view, node).empty());
}

TEST_CASE("reconcile: a dead or failed server is taken apart when nobody uses the volume, and not before") {
    for (const bool dead : {true, false}) {
        auto seen = healthy();
        seen.server_alive = !dead;
        seen.failed = !dead;
        CHECK(plan_actions(attached_on_n1(), on_n1({seen})).empty());
        seen.wanted = false;
        seen.held = true;
        CHECK(plan_actions(attached_on_n1(), on_n1({seen})).empty());
        seen.held = false;
        CHECK(only<tear_down_dead>(plan_actions(attached_on_n1(), on_n1({seen})))->id == volume);
    }
}

TEST_CASE("reconcile: what a call works on is left to it, whatever the record says") {
    auto view = attached_on_n1();
    view.volumes["db"].record.epoch = 9;
    observed_attachment seen;
    seen.id = volume;
    seen.at_work = true;
    CHECK(plan_actions(view, on_n1({seen})).empty());
}

TEST_CASE("reconcile: a writer without an attachment is given up, only on current records") {
    auto node = on_n1({});
    const auto plan = plan_actions(attached_on_n1(), node);
    CHECK(only<abandon_writer>(plan)->epoch == 5);
    node.records_current = false;
    CHECK(plan_actions(attached_on_n1(), node).empty());
}

TEST_CASE("reconcile: replica servers run for our drives only, also on an old copy of the records") {
    auto node = on_n1({healthy()});
    node.serving = {};
    node.records_current = false;
    CHECK(only<start_server>(plan_actions(attached_on_n1(), node))->drive.id == drive_a);
    node.serving = {drive_a, drive_b};
    CHECK(plan_actions(attached_on_n1(), node).empty());  // an old copy stops nothing
    node.records_current = true;
    CHECK(only<stop_server>(plan_actions(attached_on_n1(), node))->drive == drive_b);
    auto view = attached_on_n1();
    view.drives.erase(drive_b);
    view.bad[drive_key(drive_b)] = "field 'port' is missing";
    CHECK(plan_actions(view, node).empty());
}

TEST_CASE("reconcile: our replicas that are not created yet are created, those of others are not") {
    auto view = attached_on_n1();
    for (auto& replica : view.volumes["db"].record.extents[0].replicas) replica.created = false;
    const auto plan = plan_actions(view, on_n1({healthy()}));
    const auto* create = only<create_replica>(plan);
    CHECK(create->replica.id == replica_a);
    CHECK(create->size_bytes == 64 * mib);
    CHECK(create->drive == drive_a);
}

TEST_CASE("reconcile: our trash is deleted; when its drive was removed only the key is left to erase") {
    auto view = attached_on_n1();
    view.trash[replica_b] = {{replica_b, drive_b, n2, "old"}, 8};
    CHECK(plan_actions(view, on_n1({healthy()})).empty());
    view.trash[replica_a] = {{replica_a, drive_a, n1, "old"}, 8};
    CHECK(only<delete_replica>(plan_actions(view, on_n1({healthy()})))->drive_known);
    view.trash[replica_a].record.drive = drive_id{"cccccccc-cccc-4ccc-8ccc-cccccccccccc"};
    CHECK_FALSE(only<delete_replica>(plan_actions(view, on_n1({healthy()})))->drive_known);
}

TEST_CASE("reconcile: fenced attachments come first") {
    auto view = attached_on_n1();
    view.volumes["db"].record.writer = n2;
    view.volumes["db"].record.epoch = 6;
    auto node = on_n1({healthy()});
    node.serving = {};
    const auto plan = plan_actions(view, node);
    REQUIRE(plan.size() == 2);
    CHECK(std::holds_alternative<tear_down_fenced>(plan[0]));
    CHECK(std::holds_alternative<start_server>(plan[1]));
}

TEST_CASE("reconcile: an attachment that only repairs is not detached because nobody uses it") {
    auto view = attached_on_n1();
    auto seen = healthy();
    seen.wanted = false;
    CHECK(only<detach_unused>(plan_actions(view, on_n1({seen}))) != nullptr);
    view.volumes["db"].record.maintenance = true;
    CHECK(plan_actions(view, on_n1({seen})).empty());
    seen.server_alive = false;
    CHECK(only<tear_down_dead>(plan_actions(view, on_n1({seen}))) != nullptr);
    seen.server_alive = true;
    view.volumes["db"].record.writer = n2;
    CHECK(only<tear_down_fenced>(plan_actions(view, on_n1({seen}))) != nullptr);
}

TEST_CASE("reconcile: the trash of a node that was forgotten is nobody's files, only its key is erased") {
    auto view = attached_on_n1();
    const node_name gone{"n9"};
    const drive_id its_drive{"99999999-9999-4999-8999-999999999999"};
    const replica_id its_replica{"90000000-0000-4000-8000-000000000000"};
    view.trash[its_replica] = {trash_record{its_replica, its_drive, gone, "old"}, 4};
    const auto plan = plan_actions(view, on_n1({healthy()}));
    const auto* erased = only<delete_replica>(plan);
    REQUIRE(erased != nullptr);
    CHECK_FALSE(erased->drive_known);
    // A node that is only away keeps its trash until it comes back.
    view.nodes[gone] = {node_record{gone, "127.0.0.9", "test"}, 2};
    CHECK(plan_actions(view, on_n1({healthy()})).empty());
}

TEST_CASE("reconcile: a dead server under a device that waits is replaced, not torn down") {
    auto seen = healthy();
    seen.server_alive = false;
    seen.waits = true;
    auto view = attached_on_n1();
    CHECK(only<replace_server>(plan_actions(view, on_n1({seen})))->volume == "db");
    seen.wanted = false;
    CHECK(only<tear_down_dead>(plan_actions(view, on_n1({seen})))->id == volume);
    seen.held = true;
    CHECK(only<replace_server>(plan_actions(view, on_n1({seen})))->id == volume);

    // R1: a weftd took the next epoch for it and was killed. A further one may have been another writer's meanwhile.
    view.volumes["db"].record.epoch = 6;
    CHECK(only<replace_server>(plan_actions(view, on_n1({seen})))->id == volume);
    view.volumes["db"].record.epoch = 7;
    CHECK(only<tear_down_fenced>(plan_actions(view, on_n1({seen})))->epoch == 5);
    view.volumes["db"].record.epoch = 6;
    view.volumes["db"].record.writer = n2;
    CHECK(only<tear_down_fenced>(plan_actions(view, on_n1({seen})))->epoch == 5);
    view.volumes["db"].record.epoch = 5;
    CHECK(only<tear_down_fenced>(plan_actions(view, on_n1({seen})))->epoch == 5);
}

TEST_CASE("reconcile: a used volume whose device does not wait keeps what is left of it until it is unused") {
    auto seen = healthy();
    seen.server_alive = false;
    CHECK(plan_actions(attached_on_n1(), on_n1({seen})).empty());
}

TEST_CASE("reconcile: a device that is smaller than its volume grows, used or not") {
    auto seen = healthy();
    seen.device_bytes = 32 * mib;
    CHECK(only<grow_device>(plan_actions(attached_on_n1(), on_n1({seen})))->volume == "db");
    seen.device_bytes = 64 * mib;
    CHECK(plan_actions(attached_on_n1(), on_n1({seen})).empty());
    seen.device_bytes = 0;  // a portable one
    CHECK(plan_actions(attached_on_n1(), on_n1({seen})).empty());
}

TEST_CASE("reconcile: a set follows the legs of the record, and its limit for copies") {
    auto view = attached_on_n1();
    auto& record = view.volumes["db"].record;
    record.layout.mirrored = true;
    auto seen = healthy();
    core::engine_status engine;
    engine.state = core::engine_state::serving;
    seen.engines = {engine};
    CHECK(only<follow_legs>(plan_actions(view, on_n1({seen})))->id == volume);  // not known what it has
    seen.legs = legs_of(record, seen.engines);
    CHECK(plan_actions(view, on_n1({seen})).empty());
    record.resync_rate = 32 * mib;
    CHECK(only<follow_legs>(plan_actions(view, on_n1({seen})))->id == volume);
    seen.legs_rate = record.resync_rate;
    CHECK(plan_actions(view, on_n1({seen})).empty());
    record.extents[0].replicas[1].state = replica_state::outdated;
    CHECK(only<follow_legs>(plan_actions(view, on_n1({seen})))->id == volume);
    seen.server_alive = false;
    CHECK(plan_actions(view, on_n1({seen})).empty());
}

TEST_CASE("reconcile: on a drive that is not mounted nothing is started, made or deleted") {
    auto view = attached_on_n1();
    view.volumes["db"].record.extents[0].replicas[0].created = false;
    const replica_id buried{"c0000000-0000-4000-8000-000000000000"};
    view.trash[buried] = {{buried, drive_a, n1, "old"}, 8};
    auto node = on_n1({healthy()});
    node.serving.clear();
    CHECK(plan_actions(view, node).size() == 3);
    node.away = {drive_a};
    CHECK(plan_actions(view, node).empty());
    // What stops a server is not held up by that.
    node.serving = {drive_b};
    CHECK(only<stop_server>(plan_actions(view, node))->drive == drive_b);
}
