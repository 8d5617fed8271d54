// SPDX-License-Identifier: Apache-2.0
// The records as one value (orchestrator/core/cluster_view.hpp, members.hpp): building it, its copy on disk, questions.
#include "orchestrator/core/cluster_view.hpp"

#include <doctest/doctest.h>

#include "orchestrator/core/members.hpp"
#include "tests/unit/sample_records.hpp"

using namespace weft;
using namespace std::chrono_literals;

namespace {

drive_record sample_drive(unsigned number) {
    drive_record drive;
    drive.id = test::drive(number);
    drive.node = test::node(number);
    drive.path = "/srv/weft";
    drive.host = fmt::format("127.0.0.{}", number);
    drive.port = static_cast<std::uint16_t>(7480 + number);
    drive.size_bytes = 100 * gib;
    drive.free_bytes = 50 * gib;
    return drive;
}

cluster_view sample_view() {
    cluster_view view;
    put_entry(view, "cluster", encode(cluster_record{test::uuid(9)}), 1);
    put_entry(view, node_key(test::node(1)), encode(node_record{test::node(1), "127.0.0.1", "0.1.0"}), 2);
    for (unsigned i = 1; i <= 2; ++i) put_entry(view, drive_key(test::drive(i)), encode(sample_drive(i)), 2 + i);
    put_entry(view, volume_key("db"), encode(test::attached_volume()), 7);
    const trash_record trash{test::replica(8), test::drive(2), test::node(2), "old"};
    put_entry(view, trash_key(trash.id), encode(trash), 6);
    return view;
}

}  // namespace

TEST_CASE("cluster_view: entries go under their ids; events and unknown keys are not its business") {
    auto view = sample_view();
    put_entry(view, "events/0000000000001-n1-000000", "{}", 8);
    CHECK(view.bad.empty());
    CHECK(view.cluster->record.id == test::uuid(9));
    CHECK(view.volumes.at("db").revision == 7);
    CHECK(find_volume(view, volume_id{test::uuid(1)})->record.name == "db");
    CHECK(find_volume(view, volume_id{test::uuid(77)}) == nullptr);
    CHECK(entry_revision(view, drive_key(test::drive(2))) == 4);
    CHECK(entry_revision(view, volume_key("nope")) == 0);
}

TEST_CASE("cluster_view: a damaged record is neither present nor absent") {
    auto view = sample_view();
    put_entry(view, volume_key("db"), "{", 8);
    CHECK_FALSE(view.volumes.contains("db"));
    CHECK(view.bad.contains("volumes/db"));
    put_entry(view, volume_key("db"), encode(test::attached_volume()), 9);
    CHECK(view.bad.empty());
    put_entry(view, volume_key("db"), "{", 10);
    erase_entry(view, volume_key("db"));
    CHECK(view.bad.empty());
}

TEST_CASE("cluster_view: a record under another record's key is damaged") {
    cluster_view view;
    put_entry(view, volume_key("other"), encode(test::sample_volume()), 3);
    CHECK(view.volumes.empty());
    CHECK(view.bad.at("volumes/other").find("'db'") != std::string::npos);
}

TEST_CASE("cluster_view: the copy on disk brings every record back with its revision, and no lease") {
    auto view = sample_view();
    view.leases[test::node(1)] = {5s, 0s};
    const auto copy = decode_cluster_view(encode(view));
    REQUIRE(copy.has_value());
    CHECK(encode(*copy) == encode(view));
    CHECK(copy->revision == 7);
    CHECK(copy->trash.size() == 1);
    CHECK(copy->leases.empty());
}

TEST_CASE("cluster_view: a copy that is not one is corrupt") {
    for (const char* text : {"", "{", "[]", "{}", R"({"version":2,"entries":[]})", R"({"version":1,"entries":[1]})",
                             R"({"version":1,"entries":[{"key":"cluster","value":"{}","revision":"x"}]})"}) {
        CAPTURE(text);
        const auto copy = decode_cluster_view(text);
        REQUIRE(copy.has_error());
        CHECK(copy.error().code == errc::corrupt);
    }
}

TEST_CASE("cluster_view: a lease runs on while nobody looks") {
    cluster_view view;
    view.leases[test::node(1)] = {5s, 100s};
    CHECK(lease_left(view, test::node(1), 103s) == 2s);
    CHECK(lease_left(view, test::node(1), 106s) == 0s);
    CHECK(lease_left(view, test::node(2), 100s) == 0s);
    CHECK(living_nodes(view, 104s).size() == 1);
    CHECK(living_nodes(view, 105s).empty());
}

TEST_CASE("cluster_view: replicas in the trash still occupy their drive") {
    const auto view = sample_view();
    CHECK(replicas_on(view, test::drive(1)) == 1);
    CHECK(replicas_on(view, test::drive(2)) == 2);
}

TEST_CASE("members: the record's replicas in its order, with addresses, the writer's own one marked") {
    const auto view = sample_view();
    const auto members = members_of(view.volumes.at("db").record, view, test::node(1));
    REQUIRE(members.has_value());
    REQUIRE(members->extents.size() == 1);
    const auto& replicas = members->extents.front().replicas;
    REQUIRE(replicas.size() == 2);
    CHECK(members->extents.front().size_bytes == 10 * gib);
    CHECK(replicas[0].member.local);
    CHECK_FALSE(replicas[1].member.local);
    CHECK(replicas[1].host == "127.0.0.2");
    CHECK(replicas[1].port == 7482);
}

TEST_CASE("members: without a drive's record there is no address to wait for") {
    auto view = sample_view();
    erase_entry(view, drive_key(test::drive(2)));
    const auto members = members_of(view.volumes.at("db").record, view, test::node(1));
    REQUIRE(members.has_error());
    CHECK(members.error().code == errc::unavailable);
    CHECK(members.error().text.find("n2") != std::string::npos);
}
