// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/core/space.hpp"

#include <doctest/doctest.h>

#include "tests/unit/sample_records.hpp"

using namespace weft;

namespace {

drive_record used(std::uint32_t percent) {
    drive_record drive;
    drive.id = test::drive(2);
    drive.node = test::node(2);
    drive.path = "/srv/d2";
    drive.host = "127.0.0.2";
    drive.size_bytes = 100 * gib;
    drive.free_bytes = (100 - percent) * gib;
    return drive;
}

std::vector<std::uint32_t> marks(const std::vector<std::uint32_t>& percents) {
    std::vector<std::uint32_t> all;
    std::uint32_t mark = 0;
    for (const auto percent : percents) all.push_back(mark = next_fill_mark(used(percent), mark));
    return all;
}

using list = std::vector<std::uint32_t>;

}  // namespace

TEST_CASE("space: a drive passes 80 and 90 percent upwards, and leaves them two points lower") {
    CHECK(marks({0, 79, 80, 89, 90, 100}) == list{0, 0, 80, 80, 90, 90});
    CHECK(marks({95, 90, 89, 88, 87, 80, 79, 78, 77, 0}) == list{90, 90, 90, 90, 80, 80, 80, 80, 0, 0});
    CHECK(marks({95, 50}) == list{90, 0});
    CHECK(marks({50, 95}) == list{0, 90});
}

TEST_CASE("space: a drive that stays about a mark passes it once") {
    CHECK(marks({80, 79, 80, 78, 81, 79}) == list{80, 80, 80, 80, 80, 80});
}

TEST_CASE("space: the percentage rounds down, knows full and empty, and does not overflow") {
    auto drive = used(80);
    drive.free_bytes += 1;
    CHECK(used_percent(drive) == 79);
    drive.free_bytes = 0;
    CHECK(used_percent(drive) == 100);
    drive.free_bytes = drive.size_bytes + 1;
    CHECK(used_percent(drive) == 0);
    drive.size_bytes = UINT64_MAX;
    drive.free_bytes = UINT64_MAX / 2;
    CHECK(used_percent(drive) == 50);
    drive.size_bytes = 0;
    CHECK(used_percent(drive) == 100);
}

TEST_CASE("space: the warning of a full drive has the figures and says what helps") {
    const auto text = describe_fill(used(83));
    CHECK(text.find("/srv/d2 on node n2 is 83 % full: 17 GiB of 100 GiB are free") == 0);
    CHECK(text.find("weft drive add") != std::string::npos);
}

TEST_CASE("space: a volume that waits names the drives that are full, each once") {
    auto record = test::attached_volume();
    record.extents.push_back(record.extents[0]);
    cluster_view view;
    view.drives[test::drive(2)] = {used(100), 7};
    std::vector<core::engine_status> extents(2);
    for (auto& extent : extents) {
        extent.slots.resize(2);
        extent.slots[0].id = test::replica(1);
        extent.slots[1].id = test::replica(2);
        extent.slots[1].full = true;
    }
    CHECK(describe_space_wait(record, extents, view).empty());  // full, but nothing waits
    extents[0].waiting_for_space = extents[1].waiting_for_space = true;
    const auto text = describe_space_wait(record, extents, view);
    CHECK(text ==
          "writes wait for space: drive /srv/d2 on node n2 (0 B of 100 GiB free) is full; free space there or "
          "make the file system larger, they go on by themselves; reads are served");
    extents[0].slots[0].full = true;
    CHECK(describe_space_wait(record, extents, view).find("are full") != std::string::npos);
    for (auto& extent : extents)
        for (auto& slot : extent.slots) slot.full = false;
    CHECK(describe_space_wait(record, extents, view).find("a drive is full") != std::string::npos);
    CHECK(describe_space_wait(record, {}, view).empty());
}
