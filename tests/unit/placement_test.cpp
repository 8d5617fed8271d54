// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/core/placement.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <map>

#include "tests/unit/sample_records.hpp"

using namespace weft;

namespace {

pool_drive make_drive(unsigned number, unsigned on, std::uint64_t size, std::uint64_t free) {
    pool_drive made;
    made.record = {
        test::drive(number), test::node(on), fmt::format("/srv/d{}", number), "127.0.0.1", 7480, size, free, false};
    return made;
}

const std::set<node_name> three = {test::node(1), test::node(2), test::node(3)};

std::vector<std::string> nodes_of(const std::vector<placed_replica>& replicas) {
    std::vector<std::string> nodes;
    for (const auto& replica : replicas) nodes.push_back(replica.node.str());
    return nodes;
}

using names = std::vector<std::string>;

}  // namespace

TEST_CASE("placement: replicas go to distinct nodes, the local one first, then the most headroom") {
    const std::vector<pool_drive> pool = {make_drive(1, 1, 100 * gib, 20 * gib), make_drive(2, 2, 100 * gib, 50 * gib),
                                          make_drive(3, 3, 100 * gib, 80 * gib)};
    CHECK(nodes_of(place_volume(pool, three, {{10 * gib}, 2, test::node(1)})->front()) == names{"n1", "n3"});
    CHECK(nodes_of(place_volume(pool, three, {{10 * gib}, 2, node_name{}})->front()) == names{"n3", "n2"});
    CHECK(nodes_of(place_volume(pool, three, {{10 * gib}, 3, test::node(2)})->front()) == names{"n2", "n3", "n1"});
    CHECK(nodes_of(place_volume(pool, three, {{10 * gib}, 1, test::node(1)})->front()) == names{"n1"});
}

TEST_CASE("placement: on a node with several drives the one with the most headroom is taken") {
    const std::vector<pool_drive> pool = {make_drive(1, 1, 100 * gib, 20 * gib), make_drive(2, 1, 100 * gib, 90 * gib)};
    CHECK(place_volume(pool, three, {{gib}, 1, test::node(1)})->front().front().drive == test::drive(2));
}

TEST_CASE("placement: what is promised counts even while nothing is written") {
    std::vector<pool_drive> pool = {make_drive(1, 1, 100 * gib, 100 * gib), make_drive(2, 2, 100 * gib, 90 * gib)};
    CHECK(nodes_of(place_volume(pool, three, {{gib}, 1, node_name{}})->front()) == names{"n1"});
    pool[0].promised_bytes = 50 * gib;
    CHECK(nodes_of(place_volume(pool, three, {{gib}, 1, node_name{}})->front()) == names{"n2"});
}

TEST_CASE("placement: ties go to fewer replicas, then to the node's name, then to the drive's id") {
    std::vector<pool_drive> pool = {make_drive(4, 2, gib, gib), make_drive(3, 2, gib, gib), make_drive(2, 1, gib, gib),
                                    make_drive(1, 1, gib, gib)};
    const auto first = [&] { return place_volume(pool, three, {{mib}, 1, node_name{}})->front().front().drive; };
    CHECK(first() == test::drive(1));
    pool[3].replicas = 1;
    CHECK(first() == test::drive(2));
    pool[2].replicas = 1;
    CHECK(first() == test::drive(3));
    std::reverse(pool.begin(), pool.end());
    CHECK(first() == test::drive(3));
}

TEST_CASE("placement: thin volumes may promise more than a drive has left, but no replica is larger than its drive") {
    std::vector<pool_drive> pool = {make_drive(1, 1, 100 * gib, 10 * gib)};
    pool[0].promised_bytes = 500 * gib;
    CHECK_FALSE(place_volume(pool, three, {{100 * gib}, 1, test::node(1)}).has_error());
    const auto refused = place_volume(pool, three, {{100 * gib + mib}, 1, test::node(1)});
    REQUIRE(refused.has_error());
    CHECK(refused.error().code == errc::no_space);
}

TEST_CASE("placement: an almost full drive takes nothing new, a small replica needs no more than its size") {
    const auto fits = [](std::uint64_t drive, std::uint64_t free, std::uint64_t size) {
        return !place_volume({make_drive(1, 1, drive, free)}, three, {{size}, 1, test::node(1)}).has_error();
    };
    CHECK_FALSE(fits(100 * gib, 2 * gib - 1, 10 * gib));
    CHECK(fits(100 * gib, 2 * gib, 10 * gib));
    CHECK(fits(100 * gib, 20 * mib, 20 * mib));
    CHECK_FALSE(fits(100 * gib, 19 * mib, 20 * mib));
    CHECK_FALSE(fits(gib, 63 * mib, 500 * mib));
    CHECK(fits(gib, 64 * mib, 500 * mib));
}

TEST_CASE("placement: dead nodes and draining drives get nothing") {
    std::vector<pool_drive> pool = {make_drive(1, 1, gib, gib), make_drive(2, 2, gib, gib), make_drive(3, 3, gib, gib)};
    CHECK(nodes_of(place_volume(pool, {test::node(2), test::node(3)}, {{mib}, 2, test::node(1)})->front()) ==
          names{"n2", "n3"});
    pool[1].record.draining = true;
    CHECK(nodes_of(place_volume(pool, three, {{mib}, 2, test::node(2)})->front()) == names{"n1", "n3"});
}

TEST_CASE("placement: too few nodes is no_quorum and says of every node what it has") {
    const std::vector<pool_drive> pool = {make_drive(1, 1, 100 * gib, 12 * gib), make_drive(2, 2, 100 * gib, 50 * gib),
                                          make_drive(4, 4, 100 * gib, 50 * gib)};
    const auto refused = place_volume(pool, three, {{10 * gib}, 3, test::node(1)});
    REQUIRE(refused.has_error());
    CHECK(refused.error().code == errc::no_quorum);
    CHECK(refused.error().text ==
          "3 replicas of 10 GiB need 3 nodes with a drive that has room; 2 have: n1 (/srv/d1: 100 GiB, 12 GiB free), "
          "n2 (/srv/d2: 100 GiB, 50 GiB free); not usable: n3 has no drive, n4 does not answer; add a drive with "
          "`weft drive add PATH` on another node or ask for fewer replicas or a smaller size");
}

TEST_CASE("placement: enough nodes without room is no_space") {
    const std::vector<pool_drive> pool = {make_drive(1, 1, 100 * gib, 12 * gib), make_drive(2, 2, 5 * gib, 5 * gib)};
    const auto refused = place_volume(pool, three, {{10 * gib}, 2, test::node(1)});
    REQUIRE(refused.has_error());
    CHECK(refused.error().code == errc::no_space);
    CHECK(refused.error().text.find("not usable: n2 (/srv/d2: 5 GiB, 5 GiB free)") != std::string::npos);
}

TEST_CASE("placement: an empty pool is explained") {
    const auto refused = place_volume({}, {test::node(1)}, {{10 * gib}, 1, test::node(1)});
    REQUIRE(refused.has_error());
    CHECK(refused.error().code == errc::no_quorum);
    CHECK(refused.error().text.find("no node has one; not usable: n1 has no drive") != std::string::npos);
}

TEST_CASE("placement: the extents of a large volume spread over drives none of which could hold it") {
    const std::vector<pool_drive> pool = {make_drive(1, 1, 50 * gib, 50 * gib), make_drive(2, 2, 100 * gib, 100 * gib),
                                          make_drive(3, 3, 50 * gib, 50 * gib)};
    const auto placed = *place_volume(pool, three, {std::vector<std::uint64_t>(10, 10 * gib), 2, test::node(1)});
    REQUIRE(placed.size() == 10);
    std::map<std::string, std::uint64_t> used;
    for (const auto& extent : placed) {
        REQUIRE(extent.size() == 2);
        CHECK(extent[0].node != extent[1].node);
        for (const auto& replica : extent) used[replica.node.str()] += 10 * gib;
    }
    CHECK(used["n1"] <= 50 * gib);
    CHECK(used["n2"] <= 100 * gib);
    CHECK(used["n3"] <= 50 * gib);
}

TEST_CASE("placement: what does not fit in extents is refused as a whole") {
    const std::vector<pool_drive> pool = {make_drive(1, 1, 50 * gib, 50 * gib), make_drive(2, 2, 50 * gib, 50 * gib)};
    const auto refused = place_volume(pool, three, {std::vector<std::uint64_t>(6, 10 * gib), 2, test::node(1)});
    REQUIRE(refused.has_error());
    CHECK(refused.error().text.find("60 GiB in 6 extents: ") == 0);
}

TEST_CASE("placement: the same pool gives the same answer, in whatever order it comes") {
    std::vector<pool_drive> pool;
    for (unsigned i = 1; i <= 9; ++i)
        pool.push_back(make_drive(i, (i - 1) / 3 + 1, (50 + i * 7 % 5) * gib, (40 + i % 3) * gib));
    const placement_request request{std::vector<std::uint64_t>(12, 8 * gib), 3, test::node(2)};
    const auto render = [&] {
        std::string text;
        const auto placed = *place_volume(pool, three, request);
        for (const auto& extent : placed)
            for (const auto& replica : extent) text += replica.drive.str() + " ";
        return text;
    };
    const auto first = render();
    std::reverse(pool.begin(), pool.end());
    CHECK(render() == first);
    std::rotate(pool.begin(), pool.begin() + 4, pool.end());
    CHECK(render() == first);
}

TEST_CASE("placement: a replacement goes to a node without a replica, not to a drive to be avoided") {
    const std::vector<pool_drive> pool = {make_drive(1, 1, gib, gib), make_drive(2, 2, gib, gib),
                                          make_drive(3, 3, gib, gib), make_drive(4, 3, gib, gib / 2)};
    extent_record extent;
    extent.size_bytes = 100 * mib;
    extent.replicas = {{test::replica(1), test::node(1), test::drive(1)},
                       {test::replica(2), test::node(2), test::drive(2)}};
    CHECK(place_replacement(pool, three, extent, {}, false)->drive == test::drive(3));
    CHECK(place_replacement(pool, three, extent, {test::drive(3)}, false)->drive == test::drive(4));
    const auto refused = place_replacement(pool, three, extent, {test::drive(3), test::drive(4)}, false);
    REQUIRE(refused.has_error());
    CHECK(refused.error().code == errc::no_quorum);
    CHECK(refused.error().text.find("1 replica of 100 MiB needs 1 other node") == 0);
}

TEST_CASE("placement: the pool adds up what the volumes have on each drive") {
    auto volume = test::sample_volume();
    volume.extents[0].replicas[1].drive = test::drive(99);  // removed from the pool meanwhile
    const auto pool = make_pool({make_drive(1, 1, 100 * gib, gib).record, make_drive(2, 2, 100 * gib, gib).record},
                                {volume, test::sample_volume()});
    REQUIRE(pool.size() == 2);
    CHECK(pool[0].promised_bytes == 20 * gib);
    CHECK(pool[0].replicas == 2);
    CHECK(pool[1].promised_bytes == 10 * gib);
    CHECK(pool[1].replicas == 1);
}

TEST_CASE("placement: a thick replica needs its whole size free and leaves the drive's reserve") {
    const auto fits = [](std::uint64_t drive, std::uint64_t free, std::uint64_t size) {
        return !place_volume({make_drive(1, 1, drive, free)}, three, {{size}, 1, test::node(1), true}).has_error();
    };
    CHECK(fits(100 * gib, 12 * gib, 10 * gib));
    CHECK_FALSE(fits(100 * gib, 12 * gib - 1, 10 * gib));
    CHECK(fits(gib, 164 * mib, 100 * mib));
    CHECK_FALSE(fits(gib, 164 * mib - 1, 100 * mib));
    CHECK_FALSE(fits(gib, 10 * mib, 1 * mib));
}

TEST_CASE("placement: thick replicas that are not made yet keep their space from everybody") {
    std::vector<pool_drive> pool = {make_drive(1, 1, 100 * gib, 50 * gib)};
    pool[0].reserved_bytes = 40 * gib;
    CHECK_FALSE(place_volume(pool, three, {{8 * gib}, 1, test::node(1), true}).has_error());
    CHECK(place_volume(pool, three, {{9 * gib}, 1, test::node(1), true}).has_error());
    CHECK_FALSE(place_volume(pool, three, {{20 * gib}, 1, test::node(1), false}).has_error());
    pool[0].reserved_bytes = 49 * gib;
    CHECK(place_volume(pool, three, {{20 * gib}, 1, test::node(1), false}).has_error());
    pool[0].reserved_bytes = 60 * gib;  // more than there is: nothing is free, and nothing wraps around
    CHECK(place_volume(pool, three, {{mib}, 1, test::node(1), true}).has_error());
}

TEST_CASE("placement: the extents of a thick volume together must fit, a thin one may promise more") {
    const std::vector<pool_drive> pool = {make_drive(1, 1, 100 * gib, 32 * gib)};
    const std::vector<std::uint64_t> extents(4, 10 * gib);
    CHECK_FALSE(place_volume(pool, three, {extents, 1, test::node(1), false}).has_error());
    CHECK(place_volume(pool, three, {extents, 1, test::node(1), true}).has_error());
    CHECK_FALSE(place_volume(pool, three, {{10 * gib, 10 * gib, 10 * gib}, 1, test::node(1), true}).has_error());
}

TEST_CASE("placement: the refusal of a thick volume has the figures") {
    std::vector<pool_drive> pool = {make_drive(1, 1, 100 * gib, 50 * gib), make_drive(2, 2, 100 * gib, 12 * gib)};
    pool[0].reserved_bytes = 45 * gib;
    const auto refused = place_volume(pool, three, {{20 * gib}, 2, test::node(1), true});
    REQUIRE(refused.has_error());
    CHECK(refused.error().code == errc::no_space);
    CHECK(
        refused.error().text.find("2 thick replicas of 20 GiB need 2 nodes with a drive that has 20 GiB free beside a "
                                  "reserve of 2 %") == 0);
    CHECK(refused.error().text.find("/srv/d1: 100 GiB, 50 GiB free, 45 GiB of it for thick replicas being made") !=
          std::string::npos);
    CHECK(refused.error().text.find("/srv/d2: 100 GiB, 12 GiB free)") != std::string::npos);
    CHECK(refused.error().text.find("provisioning=thin") != std::string::npos);
}

TEST_CASE("placement: a thick replica counts as reserved until it is made, then its space is not free any more") {
    auto volume = test::sample_volume();
    volume.thick = true;
    volume.extents[0].replicas[0].created = false;
    const auto pool = make_pool(
        {make_drive(1, 1, 100 * gib, 50 * gib).record, make_drive(2, 2, 100 * gib, 40 * gib).record}, {volume});
    CHECK(pool[0].reserved_bytes == 10 * gib);
    CHECK(pool[1].reserved_bytes == 0);
    CHECK(pool[1].promised_bytes == 10 * gib);
}

TEST_CASE("placement: a volume is cut into extents, the last one takes the rest") {
    using numbers = std::vector<std::uint64_t>;
    CHECK(split_extents(10 * gib, 64 * gib, 1).sizes == numbers{10 * gib});
    CHECK(split_extents(128 * gib, 64 * gib, 1).sizes == numbers{64 * gib, 64 * gib});
    CHECK(split_extents(65 * gib, 64 * gib, 1).sizes == numbers{64 * gib, gib});
    CHECK(split_extents(65 * gib, 64 * gib, 1).stripes == std::vector<std::uint32_t>{1, 1});
}

TEST_CASE("placement: a striped volume is cut into segments of equal extents") {
    const auto split = split_extents(14 * gib, 4 * gib, 2);
    CHECK(split.sizes == std::vector<std::uint64_t>{4 * gib, 4 * gib, 3 * gib, 3 * gib});
    CHECK(split.stripes == std::vector<std::uint32_t>{2, 2});
}

TEST_CASE("placement: stripes are spread over drives and nodes, each extent's replicas over nodes") {
    // n1 has three drives, n2 and n3 one each, much larger: headroom alone would take those for everything.
    const std::vector<pool_drive> pool = {make_drive(1, 1, 10 * gib, 10 * gib), make_drive(2, 1, 10 * gib, 10 * gib),
                                          make_drive(3, 1, 10 * gib, 10 * gib), make_drive(4, 2, 90 * gib, 90 * gib),
                                          make_drive(5, 3, 90 * gib, 90 * gib)};
    const std::vector<std::uint64_t> sizes(4, gib);
    const auto single = place_volume(pool, three, {sizes, 1, test::node(1), false, {4}});
    REQUIRE(single.has_value());
    std::set<drive_id> drives;
    std::set<std::string> nodes;
    for (const auto& extent : *single) {
        drives.insert(extent.front().drive);
        nodes.insert(extent.front().node.str());
    }
    CHECK(drives.size() == 4);
    CHECK(nodes.size() == 3);

    const auto doubled = place_volume(pool, three, {sizes, 2, test::node(1), false, {4}});
    REQUIRE(doubled.has_value());
    std::map<drive_id, int> use;
    for (const auto& extent : *doubled) {
        CHECK(extent[0].node != extent[1].node);
        for (const auto& replica : extent) use[replica.drive] += 1;
    }
    CHECK(use.size() == 5);
    CHECK(std::all_of(use.begin(), use.end(), [](const auto& one) { return one.second <= 3; }));
}

TEST_CASE("placement: each segment is spread anew, and an unstriped one prefers the local node") {
    const std::vector<pool_drive> pool = {make_drive(1, 1, 50 * gib, 50 * gib), make_drive(2, 2, 50 * gib, 50 * gib)};
    const auto placed =
        place_volume(pool, three, {std::vector<std::uint64_t>(5, gib), 1, test::node(2), false, {2, 2, 1}});
    REQUIRE(placed.has_value());
    CHECK((*placed)[0].front().drive != (*placed)[1].front().drive);
    CHECK((*placed)[2].front().drive != (*placed)[3].front().drive);
    CHECK((*placed)[4].front().node == test::node(2));
}

TEST_CASE("placement: more stripes than drives is refused, saying so") {
    const std::vector<pool_drive> pool = {make_drive(1, 1, 50 * gib, 50 * gib), make_drive(2, 2, 50 * gib, 50 * gib)};
    const auto refused = place_volume(pool, three, {std::vector<std::uint64_t>(3, gib), 2, test::node(1), false, {3}});
    REQUIRE(refused.has_error());
    CHECK(refused.error().code == errc::no_quorum);
    CHECK(refused.error().text ==
          "3 stripes need 3 drives, each with room for a replica of 1 GiB, and there are fewer; "
          "add drives with `weft drive add PATH` or ask for fewer stripes");
}
