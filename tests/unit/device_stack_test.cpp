// SPDX-License-Identifier: Apache-2.0
// The tree of a volume's layers, from what was seen to what is shown.
#include "orchestrator/core/device_stack.hpp"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>

#include "fake_service.hpp"
#include "golden.hpp"
#include "nbd-backend/base/units.hpp"
#include "orchestrator/api/view_json.hpp"
#include "orchestrator/cli/render.hpp"

using namespace weft;
using namespace weft::testing;

namespace {

const std::string mount_point = "/var/lib/weft/mounts/aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa";

/// One extent for each digit, on n1 and n2; the replicas of extent 3 are 3111… and 3222….
volume_view volume_of(std::size_t extents) {
    volume_view view = sample_volume("db");
    const auto first = view.record.extents[0];
    const auto engine = view.live_extents[0];
    view.record.extents.clear();
    view.live_extents.clear();
    for (std::size_t i = 0; i < extents; ++i) {
        auto extent = first;
        auto slots = engine;
        extent.size_bytes = gib;
        for (std::size_t r = 0; r < extent.replicas.size(); ++r) {
            std::string id = extent.replicas[r].id.str();
            id[0] = static_cast<char>('0' + i);
            extent.replicas[r].id = slots.slots[r].id = replica_id(id);
        }
        view.record.extents.push_back(extent);
        view.live_extents.push_back(slots);
    }
    view.record.size_bytes = extents * gib;
    return view;
}

seen_nbd nbd(int index, std::uint32_t extent, replica_id leg = {}) {
    return {fmt::format("/dev/nbd{}", index), fmt::format("43:{}", 16 * index), gib, extent, std::move(leg)};
}

seen_row row(const std::string& type, std::uint64_t bytes, const std::vector<std::string>& mapped) {
    seen_row made;
    made.type = type;
    made.size_bytes = bytes;
    made.mapped = mapped;
    return made;
}

seen_row linear(const std::string& number, std::uint64_t bytes = gib) {
    return row("linear", bytes, {number});
}

/// Grown: one extent, then two side by side.
seen_stack striped() {
    seen_stack seen;
    auto wide = row("striped", 2 * gib, {"43:16", "43:32"});
    wide.chunk_bytes = 64 * kib;
    seen.mappers = {{"weft-db", "253:0", true, false, {linear("43:0"), wide}}};
    seen.nbds = {nbd(0, 0), nbd(1, 1), nbd(2, 2)};
    seen.mounts = {{"253:0", "ext4", mount_point}};
    seen.link = "/dev/weft/db";
    seen.link_number = "253:0";
    return seen;
}

seen_stack encrypted() {
    seen_stack seen = striped();
    auto clear = row("crypt", 3 * gib - 16 * mib, {"253:0"});
    clear.cipher = "aes-xts-plain64";
    seen.mappers.push_back({"weft-db:crypt", "253:1", false, false, {clear}});
    seen.mounts = {{"253:1", "xfs", mount_point}};
    seen.link_number = "253:1";
    return seen;
}

/// Three legs: in sync, being rebuilt, and one whose replica is outdated and has no device.
std::pair<volume_view, seen_stack> mirrored() {
    volume_view view = volume_of(1);
    auto& replicas = view.record.extents[0].replicas;
    replicas[1].state = replica_state::inconsistent;
    replicas[1].leg = 1;
    replicas.push_back({replica_id("03333333-3333-4333-8333-333333333333"), node_name{"n3"},
                        drive_id{"d3d3d3d3-3333-4333-8333-333333333333"}, replica_state::outdated, true, true, 2});
    view.record.layout.mirrored = true;
    view.record.replicas_wanted = 3;
    seen_stack seen;
    auto set = row("raid", gib - 4 * mib, {});
    set.action = "recover";
    set.done_bytes = 428 * mib;
    set.all_bytes = gib - 4 * mib;
    set.legs = {{leg_condition::in_sync, "253:1"}, {leg_condition::syncing, "253:3"}, {leg_condition::missing, ""}};
    seen.mappers = {{"weft-db:s0-leg0-meta", "253:0", false, false, {linear("43:0", 4 * mib)}},
                    {"weft-db:s0-leg0-data", "253:1", false, false, {linear("43:0")}},
                    {"weft-db:s0-leg1-data", "253:3", false, false, {linear("43:16")}},
                    {"weft-db:s0", "253:4", false, false, {set}},
                    {"weft-db", "253:5", true, false, {linear("253:4", gib - 4 * mib)}}};
    seen.nbds = {nbd(0, 0, replicas[0].id), nbd(1, 0, replicas[1].id)};
    seen.mounts = {{"253:5", "ext4", mount_point}};
    return {view, seen};
}

seen_stack portable() {
    seen_stack seen;
    seen.loops = {{"/dev/loop3", "7:3"}};
    seen.nbdfuse_pid = 4711;
    seen.whole_socket = "/run/weft/volumes/aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa/nbd.sock";
    seen.mounts = {{"7:3", "ext4", mount_point}, {"7:3", "ext4", "/mnt/too"}};
    return seen;
}

std::string shown(volume_view view, const seen_stack& seen, bool unicode = true) {
    view.stack = make_stack(view.record, seen);
    return cli::render_volume({false, unicode}, to_json(view), to_json(sample_drives()), {});
}

void count(const std::vector<stack_node>& nodes, std::vector<std::string>& replicas) {
    for (const auto& node : nodes) {
        if (node.replica) replicas.push_back(node.replica->id.str());
        count(node.below, replicas);
    }
}

/// The law: every replica of the record is in the tree once.
bool shows_every_replica_once(const volume_record& record, const seen_stack& seen) {
    std::vector<std::string> found;
    std::vector<std::string> wanted;
    count(make_stack(record, seen).tree, found);
    for (const auto& extent : record.extents)
        for (const auto& replica : extent.replicas) wanted.push_back(replica.id.str());
    std::sort(found.begin(), found.end());
    std::sort(wanted.begin(), wanted.end());
    return found == wanted;
}

}  // namespace

TEST_CASE("device_stack: kernel, encrypted, mirrored, portable and detached volumes as golden files") {
    check_golden("stack_striped.txt", shown(volume_of(3), striped()));
    check_golden("stack_striped_ascii.txt", shown(volume_of(3), striped(), false));
    check_golden("stack_encrypted.txt", shown(volume_of(3), encrypted()));
    check_golden("stack_mirrored.txt", shown(mirrored().first, mirrored().second));
    check_golden("stack_portable.txt", shown(volume_of(2), portable()));
    auto detached = volume_of(2);
    detached.record.writer = node_name{};
    detached.record.clean = true;
    detached.mountpoint.clear();
    detached.live.reset();
    detached.live_extents.clear();
    check_golden("stack_detached.txt", shown(detached, {}));
}

TEST_CASE("device_stack: as JSON, the fields of each layer and no others, as a golden file") {
    std::string text;
    for (const auto& [view, seen] : {mirrored(), {volume_of(3), encrypted()}, {volume_of(1), portable()}})
        text += boost::json::serialize(to_json(make_stack(view.record, seen))) + "\n";
    check_golden("api_stack.json", text);
}

TEST_CASE("device_stack: what could not be looked at is said, and the replicas are shown all the same") {
    auto seen = striped();
    seen.mappers.clear();
    seen.note = "device-mapper's devices are not shown: device-mapper is being changed";
    const auto made = make_stack(volume_of(3).record, seen);
    CHECK(made.attach == "kernel");
    CHECK(made.note == seen.note);
    CHECK(made.tree.size() == 3);
    CHECK(shows_every_replica_once(volume_of(3).record, seen));
    CHECK(shown(volume_of(3), seen).find("  note        device-mapper's devices are not shown") != std::string::npos);
}

TEST_CASE("device_stack: every replica is shown once, whatever part of the devices was seen") {
    const auto [mirror, whole] = mirrored();
    CHECK(shows_every_replica_once(mirror.record, whole));
    CHECK(shows_every_replica_once(volume_of(3).record, striped()));
    CHECK(shows_every_replica_once(volume_of(2).record, portable()));
    for (std::size_t gone = 0; gone < whole.mappers.size(); ++gone) {
        auto part = whole;
        part.mappers.erase(part.mappers.begin() + static_cast<std::ptrdiff_t>(gone));
        CHECK(shows_every_replica_once(mirror.record, part));
    }
    auto no_nbd = whole;
    no_nbd.nbds.clear();
    CHECK(shows_every_replica_once(mirror.record, no_nbd));
    // The volume has grown, and its device has not yet.
    CHECK(shows_every_replica_once(volume_of(4).record, striped()));
    const auto grown = make_stack(volume_of(4).record, striped());
    const auto& volume = grown.tree[0].below[0];
    CHECK(volume.below.back().what == stack_layer::extent);
}

TEST_CASE("device_stack: a leg whose replica the record has replaced is shown as what it is") {
    auto [view, seen] = mirrored();
    view.record.extents[0].replicas[1].id = replica_id("04444444-4444-4444-8444-444444444444");
    const auto segment = make_stack(view.record, seen).tree[0].below[0].below[0];
    CHECK(segment.below[1].below[0].below[0].what == stack_layer::other);
    CHECK(segment.below.back().name == "04444444-4444-4444-8444-444444444444");
}

TEST_CASE("device_stack: a volume that nobody mounted begins with its device; two mounts are one file system") {
    auto seen = striped();
    seen.mounts.clear();
    CHECK(make_stack(volume_of(3).record, seen).tree[0].what == stack_layer::volume);
    const auto twice = make_stack(volume_of(2).record, portable()).tree[0];
    CHECK(twice.what == stack_layer::file_system);
    CHECK(twice.mount_points == std::vector<std::string>{mount_point, "/mnt/too"});
}

TEST_CASE("device_stack: devices that map each other in a circle, which only a race can show, end the tree") {
    seen_stack seen;
    seen.mappers = {{"weft-db", "253:0", true, false, {linear("253:1")}},
                    {"weft-db:s0", "253:1", false, false, {linear("253:2")}},
                    {"weft-db:s1", "253:2", false, false, {linear("253:1")}}};
    CHECK(shows_every_replica_once(volume_of(1).record, seen));
}
