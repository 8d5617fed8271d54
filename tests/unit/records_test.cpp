// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/core/records.hpp"

#include <doctest/doctest.h>

#include <functional>
#include <utility>

#include "tests/unit/sample_records.hpp"

using namespace weft;

namespace {

std::string replaced(std::string text, const std::string& what, const std::string& with) {
    const auto at = text.find(what);
    REQUIRE(at != std::string::npos);
    return text.replace(at, what.size(), with);
}

}  // namespace

TEST_CASE("records: a volume has this JSON, fields in order, no white space") {
    CHECK(encode(test::sample_volume(1)) ==
          R"({"name":"db","id":"00000000-0000-4000-8000-000000000001","size_bytes":10737418240,"fs":"ext4",)"
          R"("fs_uuid":"00000000-0000-4000-8000-000000000002","formatted":false,"replicas_wanted":1,"min_replicas":1,)"
          R"("encrypt":false,"luks_uuid":"",)"
          R"("epoch":0,"writer":"","clean":true,"maintenance":false,"thick":false,"checksums":true,"on_full":"hold",)"
          R"("resync_rate":0,"scrub_every_s":0,"scrub_wanted":0,"scrub_finished":0,"scrubbed_at":"","scrub_report":"",)"
          R"("created_at":"2024-05-01T12:00:00.000Z","chunk_bytes":65536,"stripes":[1],"mirrored":false,"extents":)"
          R"([{"size_bytes":10737418240,"replicas":[{"id":"00000000-0000-4000-8000-000000000101","node":"n1",)"
          R"("drive":"00000000-0000-4000-8000-000000000201","state":"up_to_date","created":true,)"
          R"("born_equal":true,"recovering":false,"leg":0}]}],"growth":{"stripes":[],"extents":[]}})");
}

// Bug guarded against: a cluster of the first Weft, whose records know no layout, would be unreadable after an upgrade.
TEST_CASE("records: without a layout every extent is a segment by itself") {
    auto old = replaced(encode(test::sample_volume(1)), R"("chunk_bytes":65536,"stripes":[1],"mirrored":false,)", "");
    old = replaced(old, R"(,"growth":{"stripes":[],"extents":[]})", "");
    old = replaced(old, R"(,"leg":0)", "");
    const auto decoded = decode_volume(old);
    REQUIRE(decoded.has_value());
    CHECK(decoded->layout == core::concatenation(1));
    // Bug guarded against, seen by the address sanitizer: the extents were looked at after an insertion had moved them.
    const auto halfway =
        decode_volume(replaced(encode(test::sample_volume(1)), R"("chunk_bytes":65536,"stripes":[1],)", ""));
    REQUIRE(halfway.has_value());
    CHECK(halfway->layout == core::concatenation(1));
}

// Bug guarded against: the same, for a cluster whose records know no encryption.
TEST_CASE("records: without a word of encryption a volume is not encrypted") {
    const auto old = decode_volume(replaced(encode(test::sample_volume(1)), R"("encrypt":false,"luks_uuid":"",)", ""));
    REQUIRE(old.has_value());
    CHECK_FALSE(old->encrypt);
    CHECK(encode(*old) == encode(test::sample_volume(1)));
}

TEST_CASE("records: a LUKS UUID is there exactly when the volume is encrypted") {
    for (const auto& with : {R"("encrypt":true,"luks_uuid":"",)", R"("encrypt":true,"luks_uuid":"X",)",
                             R"("encrypt":false,"luks_uuid":"x",)", R"("encrypt":true,)", R"("luks_uuid":"",)",
                             R"("encrypt":"on","luks_uuid":"",)"}) {
        CAPTURE(with);
        const auto decoded =
            decode_volume(replaced(encode(test::sample_volume(1)), R"("encrypt":false,"luks_uuid":"",)", with));
        REQUIRE(decoded.has_error());
        CHECK(decoded.error().code == errc::corrupt);
    }
}

TEST_CASE("records: half a layout is not taken for none") {
    const auto half = replaced(encode(test::sample_volume(1)), R"("stripes":[1],)", "");
    REQUIRE(decode_volume(half).has_error());
    CHECK(decode_volume(half).error().text.find("stripes") != std::string::npos);
}

TEST_CASE("records: a mirrored volume has legs, and what device-mapper could not keep is corrupt") {
    auto volume = test::sample_volume(2);
    volume.layout.mirrored = true;
    volume.size_bytes -= core::mirror_meta_bytes;
    volume.extents[0].replicas[1].leg = 1;
    REQUIRE(check(volume).has_value());
    CHECK(encode(*decode_volume(encode(volume))) == encode(volume));
    const auto broken = [&](auto change) {
        auto other = volume;
        change(other);
        return check(other).has_error();
    };
    CHECK(broken([](auto& it) { it.extents[0].replicas[1].leg = 0; }));
    CHECK(broken([](auto& it) { it.extents[0].replicas[1].leg = 2; }));
    CHECK(broken([](auto& it) { it.min_replicas = 2; }));
    CHECK(broken([](auto& it) { it.on_full = core::full_policy::fail; }));
    CHECK(broken([](auto& it) { it.size_bytes += core::mirror_meta_bytes; }));
}

TEST_CASE("records: a layout that does not fit the extents is corrupt") {
    for (const auto* stripes : {R"("stripes":[])", R"("stripes":[2])", R"("stripes":[1,1])", R"("stripes":[0])",
                                R"("stripes":[17])", R"("stripes":["1"])", R"("stripes":7)"}) {
        const auto decoded = decode_volume(replaced(encode(test::sample_volume(1)), R"("stripes":[1])", stripes));
        CAPTURE(stripes);
        REQUIRE(decoded.has_error());
        CHECK(decoded.error().code == errc::corrupt);
    }
}

TEST_CASE("records: every kind survives encode, decode, encode") {
    auto volume = test::attached_volume(3);
    volume.fs = fs_type::xfs;
    volume.maintenance = volume.thick = volume.extents[0].replicas[0].recovering = true;
    volume.checksums = false;
    volume.encrypt = true;
    volume.luks_uuid = test::uuid(3);
    volume.on_full = core::full_policy::fail;
    volume.resync_rate = 100 * mib;
    volume.scrub_every_s = 604800;
    volume.scrub_wanted = 3;
    volume.scrub_finished = 2;
    volume.scrubbed_at = "2024-05-01T12:00:00.000Z";
    volume.scrub_report = "4096 bytes repaired";
    volume.formatted = true;
    volume.min_replicas = 2;
    volume.epoch = ~std::uint64_t{0};
    volume.extents[0].replicas[1].state = replica_state::outdated;
    volume.extents[0].replicas[2].created = false;
    volume.extents[0].replicas[2].born_equal = false;
    CHECK(encode(*decode_volume(encode(volume))) == encode(volume));

    drive_record drive{test::drive(1), test::node(1), "/srv/weft disk", "127.0.0.1", 7480, 10 * gib, 9 * gib, true};
    CHECK(encode(*decode_drive(encode(drive))) == encode(drive));
    drive.device = {test::uuid(5), "/dev/disk one", "A disk", "S3R14L", 11 * gib, true};
    const auto block = decode_drive(encode(drive));
    REQUIRE(block.has_value());
    CHECK(block->is_block());
    CHECK(encode(*block) == encode(drive));
    node_record node{test::node(2), "storage2.example.net", "0.1.0"};
    CHECK(encode(*decode_node(encode(node))) == encode(node));
    trash_record trash{test::replica(1), test::drive(1), test::node(1), "db"};
    CHECK(encode(*decode_trash(encode(trash))) == encode(trash));
    cluster_record cluster{test::uuid(9)};
    CHECK(encode(*decode_cluster(encode(cluster))) == encode(cluster));
}

TEST_CASE("records: a volume with a wrong, missing or unknown field is corrupt, and the field is named") {
    const std::string good = encode(test::sample_volume());
    const std::pair<std::string, std::pair<std::string, std::string>> cases[] = {
        {"name", {R"("name":"db")", R"("name":"../db")"}},
        {"name", {R"("name":"db",)", ""}},
        {"id", {R"("id":"00000000)", R"("id":"../00000)"}},
        {"size_bytes", {R"("size_bytes":10737418240,"fs")", R"("size_bytes":-1,"fs")"}},
        {"size_bytes", {R"("size_bytes":10737418240,"fs")", R"("size_bytes":1.5,"fs")"}},
        {"size_bytes", {R"("size_bytes":10737418240,"fs")", R"("size_bytes":"10","fs")"}},
        {"fs", {"ext4", "ntfs"}},
        {"formatted", {R"("formatted":false)", R"("formatted":0)"}},
        {"replicas_wanted", {R"("replicas_wanted":2)", R"("replicas_wanted":4294967297)"}},
        {"writer", {R"("writer":"")", R"("writer":"a/b")"}},
        {"epoch", {R"("epoch":0)", R"("epoch":null)"}},
        {"state", {R"("state":"up_to_date")", R"("state":"fine")"}},
        {"id", {"000000000101", "00000000010"}},
        {"drive", {R"("drive":"0)", R"("drive":"X)"}},
        {"node", {R"("node":"n1")", R"("node":"")"}},
        {"extents", {R"("extents":[{)", R"("extents":[7,{)"}},
        {"future", {R"("epoch":0)", R"("epoch":0,"future":1)"}},
        {"spare", {R"("created":true)", R"("created":true,"spare":1)"}},
    };
    for (const auto& row : cases) {
        const auto& field = row.first;
        const auto& change = row.second;
        CAPTURE(field);
        const auto decoded = decode_volume(replaced(good, change.first, change.second));
        REQUIRE(decoded.has_error());
        CHECK(decoded.error().code == errc::corrupt);
        const bool named = decoded.error().text.find("'" + field + "'") != std::string::npos;
        const bool state = field == "state" && decoded.error().text.find("'fine'") != std::string::npos;
        CHECK_MESSAGE((named || state), decoded.error().text);
    }
}

TEST_CASE("records: what is not a JSON object is corrupt") {
    for (const std::string& text :
         {std::string(), std::string("null"), std::string("[]"), std::string("{"), std::string("{}x"),
          std::string("\xff"), std::string(10000, '['), encode(test::sample_volume()).substr(0, 200)}) {
        CAPTURE(text.substr(0, 20));
        const auto decoded = decode_volume(text);
        REQUIRE(decoded.has_error());
        CHECK(decoded.error().code == errc::corrupt);
        CHECK(decoded.error().text.starts_with("volume record: "));
        CHECK(decoded.error().text.size() < 300);
    }
}

TEST_CASE("records: a drive's record that an earlier Weft wrote is a directory's") {
    const std::string now = encode(drive_record{test::drive(1), test::node(1), "/d", "h", 7480, 1, 1, false});
    const auto before = decode_drive(replaced(now, R"(,"device":null)", ""));
    REQUIRE(before.has_value());
    CHECK(!before->is_block());
    CHECK(encode(*before) == now);
    const std::string wrong = R"(,"device":{"filesystem":"","name":"/dev/vdb","model":"","serial":"","size_bytes":1,)"
                              R"("missing":false})";
    CHECK(decode_drive(replaced(now, R"(,"device":null)", wrong)).error().text.find("'filesystem'") !=
          std::string::npos);
}

TEST_CASE("records: drives, nodes and trash are held to their grammar") {
    const std::string drive = encode(drive_record{test::drive(1), test::node(1), "/d", "h", 7480, 1, 1, false});
    CHECK(decode_drive(replaced(drive, "7480", "65536")).error().text.find("'port'") != std::string::npos);
    CHECK(decode_drive(replaced(drive, R"("/d")", R"("d")")).error().text.find("'path'") != std::string::npos);
    CHECK(decode_drive(replaced(drive, R"("h")", R"("h h")")).error().text.find("'host'") != std::string::npos);
    CHECK(decode_node(R"({"name":"n 1","host":"h","version":"1"})").error().text.find("'name'") != std::string::npos);
    CHECK(decode_cluster(R"({"id":"1"})").error().code == errc::corrupt);
    const std::string trash = encode(trash_record{test::replica(1), test::drive(1), test::node(1), "db"});
    CHECK(decode_trash(replaced(trash, "0101", "../1")).error().text.find("'id'") != std::string::npos);
}

TEST_CASE("records: check names every broken invariant of a volume") {
    REQUIRE_FALSE(check(test::sample_volume()).has_error());
    const std::pair<const char*, std::function<void(volume_record&)>> cases[] = {
        {"min_replicas (0)", [](auto& v) { v.min_replicas = 0; }},
        {"min_replicas (3)", [](auto& v) { v.min_replicas = 3; }},
        {"replicas_wanted (4)", [](auto& v) { v.replicas_wanted = 4; }},
        {"no extents", [](auto& v) { v.extents.clear(); }},
        {"extent 0 has 0 replicas", [](auto& v) { v.extents[0].replicas.clear(); }},
        {"extent 0 has 9 replicas", [](auto& v) { v.extents[0].replicas.resize(9); }},
        {"two replicas on drive", [](auto& v) { v.extents[0].replicas[1].drive = test::drive(1); }},
        {"two replicas have the id", [](auto& v) { v.extents[0].replicas[1].id = test::replica(1); }},
        {"its size is", [](auto& v) { v.size_bytes += block_bytes; }},
        {"multiple of 4096", [](auto& v) { v.extents[0].size_bytes += 1; }},
        {"called clean", [](auto& v) { v.epoch = 1, v.writer = test::node(1); }},
        {"never attached", [](auto& v) { v.formatted = true; }},
        {"never attached", [](auto& v) { v.clean = false; }},
        {"overflow",
         [](auto& v) {
             v.extents[0].size_bytes = ~std::uint64_t{0} - block_bytes + 1;
             v.extents.push_back(v.extents[0]);
             for (auto& r : v.extents[1].replicas) r.id = replica_id{"x" + r.id.str()};
             v.layout = core::concatenation(2);
         }},
    };
    for (const auto& row : cases) {
        const auto& text = row.first;
        const auto& spoil = row.second;
        CAPTURE(text);
        auto volume = test::sample_volume();
        spoil(volume);
        const auto bad = check(volume);
        REQUIRE(bad.has_error());
        CHECK(bad.error().code == errc::corrupt);
        CHECK_MESSAGE(bad.error().text.find(text) != std::string::npos, bad.error().text);
    }
}

TEST_CASE("records: R12 a volume without any up_to_date replica stays readable") {
    auto volume = test::sample_volume();
    for (auto& replica : volume.extents[0].replicas) replica.state = replica_state::outdated;
    CHECK_FALSE(decode_volume(encode(volume)).has_error());
}

TEST_CASE("records: a volume is ready when every replica's files exist") {
    auto volume = test::sample_volume();
    CHECK(volume.ready());
    volume.extents[0].replicas[1].created = false;
    CHECK_FALSE(volume.ready());
}

TEST_CASE("records: keys") {
    CHECK(volume_key("db") == "volumes/db");
    CHECK(node_key(test::node(1)) == "nodes/n1");
    CHECK(drive_key(test::drive(1)) == "drives/" + test::uuid(0x201));
    CHECK(trash_key(test::replica(1)) == "trash/" + test::uuid(0x101));
}

TEST_CASE("records: a volume is ready when its up-to-date replicas exist: a replacement on its way does not count") {
    auto volume = test::sample_volume();
    volume.extents[0].replicas[1].created = false;
    CHECK_FALSE(volume.ready());
    volume.extents[0].replicas[1].state = replica_state::inconsistent;
    CHECK(volume.ready());
}
