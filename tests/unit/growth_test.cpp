// SPDX-License-Identifier: Apache-2.0
// A volume becomes larger: all of the new segments at once, or nothing.
#include "orchestrator/core/growth.hpp"

#include <doctest/doctest.h>

#include "nbd-backend/base/units.hpp"
#include "orchestrator/core/reconcile.hpp"
#include "orchestrator/core/repairs.hpp"
#include "orchestrator/core/transitions.hpp"
#include "tests/unit/sample_records.hpp"

using namespace weft;

namespace {

replica_record fresh(unsigned number, unsigned on) {
    return {test::replica(number), test::node(on), test::drive(on), replica_state::up_to_date, false, true};
}

/// One more segment of `size` on n1 and n2, not made yet.
growth_record one_segment(std::uint64_t size) {
    return {{1}, {{size, {fresh(71, 1), fresh(72, 2)}}}};
}

volume_record growing() {
    const auto volume = test::attached_volume(2);
    return *begin_growth(volume, volume.size_bytes, one_segment(gib));
}

}  // namespace

TEST_CASE("growth: the missing bytes become segments as wide as the last one, in whole MiB for each stripe") {
    auto volume = test::sample_volume(2);
    const auto size = volume.size_bytes;
    CHECK(split_growth(volume, size, 64 * gib)->sizes.empty());
    CHECK(split_growth(volume, size + 1, 64 * gib)->sizes == std::vector<std::uint64_t>{mib});
    CHECK(split_growth(volume, size + 5 * gib, 4 * gib)->sizes == std::vector<std::uint64_t>{4 * gib, gib});
    volume.layout.stripes = {1, 3};
    const auto wide = split_growth(volume, size + 10 * mib, 64 * gib);
    CHECK(wide->stripes == std::vector<std::uint32_t>{3});
    CHECK(wide->sizes == std::vector<std::uint64_t>{4 * mib, 4 * mib, 4 * mib});
}

TEST_CASE("growth: a volume does not shrink, grow beyond the largest, or grow twice at a time") {
    const auto volume = test::sample_volume(2);
    CHECK(split_growth(volume, volume.size_bytes - 1, gib).error().code == errc::invalid_argument);
    CHECK(split_growth(volume, 64 * tib + 1, gib).error().code == errc::invalid_argument);
    CHECK(split_growth(growing(), 64 * gib, gib).error().code == errc::busy);
    CHECK(begin_growth(growing(), volume.size_bytes, one_segment(gib)).error().code == errc::busy);
    CHECK(begin_growth(volume, volume.size_bytes - mib, one_segment(gib)).error().code == errc::conflict);
}

TEST_CASE("growth: it is the volume's when the last replica's files exist, and in that change") {
    auto volume = growing();
    const auto before = volume.size_bytes;
    REQUIRE(check(volume).has_value());
    REQUIRE(decode_volume(encode(volume)).has_value());
    CHECK(encode(*decode_volume(encode(volume))) == encode(volume));
    CHECK(volume.ready());  // what it has is ready: attaching does not wait for what comes
    CHECK(nodes_awaited(volume.growth.extents) == std::set<node_name>{test::node(1), test::node(2)});

    volume = *mark_created(volume, test::replica(71));
    CHECK(volume.size_bytes == before);
    CHECK(volume.extents.size() == 1);
    CHECK(nodes_awaited(volume.growth.extents) == std::set<node_name>{test::node(2)});
    volume = *mark_created(volume, test::replica(71));  // told twice
    volume = *mark_created(volume, test::replica(72));
    CHECK(volume.size_bytes == before + gib);
    CHECK(volume.extents.size() == 2);
    CHECK(volume.layout.stripes == std::vector<std::uint32_t>{1, 1});
    CHECK(volume.growth.stripes.empty());
    CHECK(volume.growth.extents.empty());
    CHECK(check(volume).has_value());
    CHECK(mark_created(volume, test::replica(99)).error().code == errc::not_found);
}

TEST_CASE("growth: what is given up leaves the volume as it was, its replicas become trash") {
    const auto given_up = give_up_growth(growing());
    CHECK(encode(given_up.record) == encode(test::attached_volume(2)));
    REQUIRE(given_up.removed.size() == 2);
    CHECK(given_up.removed[0].id == test::replica(71));
    CHECK(give_up_growth(test::attached_volume(2)).removed.empty());
}

TEST_CASE("growth: each node makes its new replicas, which take space from the start") {
    cluster_view view;
    view.revision = 3;
    view.volumes["db"] = {growing(), 3};
    observed_node observed{test::node(2), true, {}, {}};
    bool planned = false;
    for (const auto& what : plan_actions(view, observed))
        if (const auto* made = std::get_if<create_replica>(&what)) {
            CHECK(made->replica.id == test::replica(72));
            CHECK(made->size_bytes == gib);
            planned = true;
        }
    CHECK(planned);
    drive_record drive;
    drive.id = test::drive(2);
    drive.node = test::node(2);
    const auto pool = make_pool({drive}, {growing()});
    CHECK(pool.front().promised_bytes == test::attached_volume(2).size_bytes + gib);
    CHECK(replicas_on(view, test::drive(2)) == 2);
}

// Bug guarded against: the growth would wait for ever for a node that does not exist any more.
TEST_CASE("growth: forgetting a node that is to have a part of it gives it up") {
    auto volume = test::attached_volume(3);
    volume = *begin_growth(volume, volume.size_bytes, one_segment(gib));
    const auto done = forget_node(volume, test::node(2), true);
    REQUIRE(done.has_value());
    CHECK(done->record.growth.stripes.empty());
    CHECK(check(done->record).has_value());
    std::set<replica_id> removed;
    for (const auto& one : done->removed) removed.insert(one.id);
    CHECK(removed.contains(test::replica(71)));
    CHECK(removed.contains(test::replica(72)));
}

TEST_CASE("growth: a growth that does not fit the volume is corrupt") {
    auto volume = growing();
    volume.growth.stripes = {2};
    CHECK(check(volume).error().code == errc::corrupt);
    volume = growing();
    volume.growth.extents[0].replicas[0].id = volume.extents[0].replicas[0].id;
    CHECK(check(volume).error().code == errc::corrupt);
}
