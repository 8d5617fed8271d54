// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "dm-tables/core/volume_stack.hpp"
#include "golden.hpp"

using namespace weft;
using namespace weft::dm;

namespace {

const std::string id = "3f0a2c1e-5b7d-4e9f-8a1b-2c3d4e5f6071";

volume_layout layout_of(layout_kind kind, const std::vector<std::vector<std::uint64_t>>& sizes) {
    volume_layout layout{id, "orders", "", kind, 64 * kib, {}, 0};
    int next = 0;
    for (const auto& segment : sizes) {
        layout.segments.emplace_back();
        for (const std::uint64_t size : segment)
            layout.segments.back().extents.push_back({fmt::format("/dev/nbd{}", next++), size, leg_state::up_to_date});
    }
    return layout;
}

std::string text_of(const volume_layout& layout) {
    const auto stack = make_volume_stack(layout);
    REQUIRE_MESSAGE(stack.has_value(), (stack.has_error() ? stack.error().text : ""));
    std::string text;
    for (const dm_device& device : stack->devices)
        text += fmt::format("{} {}\n{}", device.name, device.uuid, to_text(render(device.rows)));
    for (const std::string& uuid : stack->unwanted_uuids) text += fmt::format("not {}\n", uuid);
    return text + fmt::format("{} bytes\n", stack->size_bytes());
}

std::string why_not(const volume_layout& layout) {
    const auto stack = make_volume_stack(layout);
    REQUIRE(stack.has_error());
    CHECK(stack.error().code == errc::invalid_argument);
    return stack.error().text;
}

/// Marks every sector range of a device that a stack maps to the outside; a device inside is followed.
struct coverage {
    std::map<std::string, std::vector<std::pair<std::uint64_t, std::uint64_t>>> areas;  // path -> [begin, end)

    void add(const std::string& path, std::uint64_t begin, std::uint64_t length) {
        for (const auto& [from, to] : areas[path]) CHECK((begin >= to || begin + length <= from));
        areas[path].emplace_back(begin, begin + length);
    }
    void add_table(const table& rows) {
        for (const table_row& row : rows) {
            if (const auto* it = std::get_if<linear_target>(&row.what))
                add(it->device, it->offset_sectors, row.length_sectors);
            if (const auto* it = std::get_if<striped_target>(&row.what))
                for (const linear_target& stripe : it->stripes)
                    add(stripe.device, stripe.offset_sectors, row.length_sectors / it->stripes.size());
            if (const auto* it = std::get_if<raid1_target>(&row.what))
                for (const raid1_leg& leg : it->legs)
                    if (!leg.missing()) add(leg.data, 0, row.length_sectors);
        }
    }
};

volume_layout random_layout(std::mt19937_64& random) {
    const auto roll = [&random](std::uint64_t from, std::uint64_t to) {
        return std::uniform_int_distribution<std::uint64_t>(from, to)(random);
    };
    const layout_kind kind = roll(0, 1) == 0 ? layout_kind::striped : layout_kind::mirrored;
    volume_layout layout = layout_of(kind, {});
    layout.chunk_bytes = std::uint64_t{4096} << roll(0, 8);
    int next = 0;
    for (std::uint64_t segments = roll(1, 5); segments > 0; --segments) {
        const std::uint64_t extents = kind == layout_kind::striped ? roll(1, 6) : roll(2, 5);
        const std::uint64_t unit = kind == layout_kind::striped && extents > 1 ? layout.chunk_bytes : block_bytes;
        const std::uint64_t size =
            unit * roll(1, 1U << roll(1, 22)) + (kind == layout_kind::mirrored ? leg_meta_bytes : 0);
        layout.segments.emplace_back();
        const std::uint64_t good = roll(0, extents - 1);
        for (std::uint64_t i = 0; i < extents; ++i)
            layout.segments.back().extents.push_back(
                {fmt::format("/dev/nbd{}", next++), size, i == good ? leg_state::up_to_date : leg_state(roll(0, 2))});
    }
    return layout;
}

}  // namespace

TEST_CASE("dm stack: layouts become the devices that people have reviewed") {
    std::string text;
    const auto show = [&text](const std::string& title, const volume_layout& layout) {
        text += "# " + title + "\n" + text_of(layout) + "\n";
    };
    show("striped, one extent", layout_of(layout_kind::striped, {{gib}}));
    show("striped over three", layout_of(layout_kind::striped, {{gib, gib, gib}}));
    show("striped, grown twice: by one extent, by two",
         layout_of(layout_kind::striped, {{gib}, {512 * mib}, {gib, gib}}));
    show("mirrored", layout_of(layout_kind::mirrored, {{gib, gib}}));
    volume_layout layout = layout_of(layout_kind::mirrored, {{gib, gib, gib}, {512 * mib, 512 * mib}});
    layout.scope = "n1";
    for (auto& segment : layout.segments) segment.start = raid1_start::assume_equal;
    layout.resync_kib_per_second = 102400;
    layout.segments[0].extents[1].state = leg_state::missing;
    layout.segments[0].extents[2].state = leg_state::rebuild;
    show("mirrored, grown; a leg missing, a leg to be rebuilt; with a scope", layout);
    testing::check_golden("dm_stacks.txt", text);
}

TEST_CASE("dm stack: random layouts are covered once and add up") {
    std::mt19937_64 random(4);
    for (int round = 0; round < 2000; ++round) {
        const volume_layout layout = random_layout(random);
        const auto made = make_volume_stack(layout);
        CAPTURE(round);
        REQUIRE_MESSAGE(made.has_value(), (made.has_error() ? made.error().text : ""));
        std::uint64_t expected = 0;
        for (const layout_segment& segment : layout.segments)
            expected += segment_bytes(layout.kind, segment.extents.size(), segment.extents[0].size_bytes);
        CHECK(made->size_bytes() == expected);
        coverage mapped;
        std::map<std::string, std::uint64_t> lengths;
        for (const dm_device& device : made->devices) {
            CHECK(check(device.rows).has_value());
            for (const std::string& path : devices_of(device.rows))
                if (path.starts_with("/dev/mapper/")) CHECK(lengths.contains(path));  // bottom up
            lengths[node_path(device.name)] = length_sectors(device.rows);
            mapped.add_table(device.rows);
        }
        std::uint64_t metadata = 0;
        for (const layout_segment& segment : layout.segments)
            for (const extent_device& extent : segment.extents) {
                std::uint64_t sectors = 0;
                for (const auto& [from, to] : mapped.areas[extent.path]) {
                    CHECK(to <= extent.size_bytes / sector_bytes);
                    CHECK((from * sector_bytes) % block_bytes == 0);
                    sectors += to - from;
                }
                const bool missing = layout.kind == layout_kind::mirrored && extent.state == leg_state::missing;
                CHECK(sectors == (missing ? 0 : extent.size_bytes / sector_bytes));
                if (missing) metadata += 2;
            }
        CHECK(made->unwanted_uuids.size() == metadata);
        for (const auto& [path, areas] : mapped.areas)  // inner devices: whole, once
            if (path.starts_with("/dev/mapper/")) {
                REQUIRE(areas.size() == 1);
                CHECK(areas[0] == std::pair<std::uint64_t, std::uint64_t>{0, lengths[path]});
            }
    }
}

TEST_CASE("dm stack: every refusal says where and why") {
    CHECK(why_not(layout_of(layout_kind::striped, {})) == "the volume has no segments");
    CHECK(why_not(layout_of(layout_kind::striped, {{gib}, {}})) == "segment 1: it has no extents");
    CHECK(why_not(layout_of(layout_kind::striped, {{gib, gib / 2}})) ==
          "segment 0: its extents differ in size: 1073741824 and 536870912 bytes");
    CHECK(why_not(layout_of(layout_kind::striped, {{0}})) ==
          "segment 0: an extent of 0 bytes is not a multiple of 4096");
    CHECK(why_not(layout_of(layout_kind::striped, {{4097}})) ==
          "segment 0: an extent of 4097 bytes is not a multiple of 4096");
    CHECK(why_not(layout_of(layout_kind::striped, {{4096, 4096}})) ==
          "segment 0: an extent of 4096 bytes is not a multiple of 65536");
    CHECK(why_not(layout_of(layout_kind::mirrored, {{leg_meta_bytes, leg_meta_bytes}})) ==
          "segment 0: a leg of 4194304 bytes has no room for 4194304 bytes of metadata and any data");
    CHECK(why_not(layout_of(layout_kind::mirrored, {{gib}})).find("raid1 has 1 legs") != std::string::npos);
    CHECK(why_not(layout_of(layout_kind::mirrored, {std::vector<std::uint64_t>(9, gib)})) ==
          "segment 0: it has 9 legs; possible are 8");
    CHECK(why_not(layout_of(layout_kind::striped, {{tib << 20U, tib << 20U, tib << 20U, tib << 23U}})).find("differ") !=
          std::string::npos);
    CHECK(why_not(layout_of(layout_kind::striped, {{tib << 23U, tib << 23U}})).find("more than bytes can count") !=
          std::string::npos);
    CHECK(why_not(layout_of(layout_kind::striped, {{tib << 23U}, {tib << 23U}})).find("larger than bytes can count") !=
          std::string::npos);
    CHECK(why_not(layout_of(layout_kind::striped, std::vector<std::vector<std::uint64_t>>(257, {gib}))) ==
          "the volume has 257 segments; possible are 256");
    volume_layout layout = layout_of(layout_kind::striped, {{gib, gib}});
    layout.segments[0].extents[1].path = "/dev/nbd0";
    CHECK(why_not(layout) == "segment 0: device '/dev/nbd0' is in the volume twice");
    layout.segments[0].extents[1].path = "/dev/n b";
    CHECK(why_not(layout).find("weft-orders: row 0: device '/dev/n b' is not an absolute path") == 0);
    layout = layout_of(layout_kind::striped, {{gib, gib}});
    layout.chunk_bytes = 512;
    CHECK(why_not(layout) == "segment 0: a chunk of 512 bytes is not a power of two of at least 4096");
    layout.chunk_bytes = 0;
    CHECK(why_not(layout) == "segment 0: a chunk of 0 bytes is not a power of two of at least 4096");
    layout.chunk_bytes = 3 * 4096;
    layout.segments[0].extents[0].size_bytes = layout.segments[0].extents[1].size_bytes = 30 * 4096;
    CHECK(why_not(layout).find("a chunk of 24 sectors is not a power of two") != std::string::npos);
    layout = layout_of(layout_kind::mirrored, {{gib, gib}});
    layout.segments[0].extents[0].state = leg_state::missing;
    layout.segments[0].extents[1].state = leg_state::rebuild;
    CHECK(why_not(layout).find("no leg of raid1 is left that could be copied from") != std::string::npos);
    layout = layout_of(layout_kind::striped, {{gib}});
    layout.volume_id = "x";
    CHECK(why_not(layout) == "'x' is not a volume's id");
    layout.volume_id = id;
    layout.volume_name = "a:b";
    CHECK(why_not(layout) == "'a:b' is not a volume's name");
    layout.volume_name = "a";
    layout.scope = "a-b";
    CHECK(why_not(layout).find("'a-b' is not a scope") == 0);
}
