// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <random>
#include <string>
#include <vector>

#include "dm-tables/core/plan.hpp"
#include "fake_dm.hpp"
#include "nbd-backend/base/units.hpp"

using namespace weft;
using namespace weft::dm;
using testing::fake_dm;
using kind = report::kind;

namespace {

const std::string id = "3f0a2c1e-5b7d-4e9f-8a1b-2c3d4e5f6071";
const std::string other_id = "aaaaaaaa-5b7d-4e9f-8a1b-2c3d4e5f6071";
constexpr std::uint64_t extent_bytes = 64 * mib;

volume_layout layout_of(layout_kind what, const std::vector<std::vector<std::string>>& paths) {
    volume_layout layout{id, "v", "", what, 64 * kib, {}, 0};
    for (const auto& segment : paths) {
        layout.segments.emplace_back();
        for (const std::string& path : segment)
            layout.segments.back().extents.push_back({path, extent_bytes, leg_state::up_to_date});
    }
    return layout;
}

volume_stack stack_of(const volume_layout& layout) {
    auto stack = make_volume_stack(layout);
    REQUIRE_MESSAGE(stack.has_value(), (stack.has_error() ? stack.error().text : ""));
    return *stack;
}

void plug(fake_dm& kernel, const std::vector<std::string>& paths, int content = 0) {
    for (const std::string& path : paths) kernel.plug(path, extent_bytes / sector_bytes, content);
}

std::string steps_of(const plan& it) {
    std::string text;
    for (const step& one : it.steps) text += fake_dm::step_text(one) + "\n";
    return text;
}

std::vector<kind> kinds_of(const plan& it) {
    std::vector<kind> kinds;
    for (const report& one : it.reports) kinds.push_back(one.what);
    return kinds;
}

/// Plans and carries out until there is nothing to do; returns all steps' texts.
std::string settle(fake_dm& kernel, const std::vector<volume_stack>& wanted, std::string_view scope = "") {
    std::string done;
    for (int round = 0; round < 3; ++round) {
        const plan next = make_plan(wanted, kernel.observe(), scope);
        for (const step& one : next.steps) {
            const std::string problem = kernel.apply(one);
            INFO("after\n" << done);
            REQUIRE(problem == "");
        }
        done += steps_of(next);
        if (!next.more) break;
        done += "--\n";
    }
    const plan rest = make_plan(wanted, kernel.observe(), scope);
    INFO("after\n" << done << "still\n" << steps_of(rest));
    CHECK(rest.steps.empty());
    CHECK_FALSE(rest.more);
    return done;
}

/// Every device of the stack is there as wanted, running.
void check_is(fake_dm& kernel, const volume_stack& stack) {
    for (const dm_device& device : stack.devices) {
        const auto* there = kernel.find(device.name);
        REQUIRE(there != nullptr);
        CHECK(there->uuid == device.uuid);
        REQUIRE(there->active.has_value());
        CHECK(render(*there->active) == render(device.rows));
        CHECK_FALSE(there->inactive.has_value());
        CHECK_FALSE(there->suspended);
    }
    for (const std::string& uuid : stack.unwanted_uuids)
        for (const auto& device : kernel.devices) CHECK(device.uuid != uuid);
}

}  // namespace

TEST_CASE("dm plan: a mirrored volume is made from below") {
    fake_dm kernel;
    plug(kernel, {"/dev/a", "/dev/b"});
    const auto stack = stack_of(layout_of(layout_kind::mirrored, {{"/dev/a", "/dev/b"}}));
    CHECK(settle(kernel, {stack}) ==
          "create weft-v:s0-leg0-meta\nload weft-v:s0-leg0-meta\nresume weft-v:s0-leg0-meta\n"
          "create weft-v:s0-leg0-data\nload weft-v:s0-leg0-data\nresume weft-v:s0-leg0-data\n"
          "create weft-v:s0-leg1-meta\nload weft-v:s0-leg1-meta\nresume weft-v:s0-leg1-meta\n"
          "create weft-v:s0-leg1-data\nload weft-v:s0-leg1-data\nresume weft-v:s0-leg1-data\n"
          "create weft-v:s0\nload weft-v:s0\nresume weft-v:s0\n"
          "create weft-v\nload weft-v\nresume weft-v\n");
    check_is(kernel, stack);
}

TEST_CASE("dm plan: growing makes the new part first, then holds the volume's I/O for two steps only") {
    fake_dm kernel;
    plug(kernel, {"/dev/a", "/dev/b", "/dev/c", "/dev/d"});
    settle(kernel, {stack_of(layout_of(layout_kind::mirrored, {{"/dev/a", "/dev/b"}}))});
    kernel.find("weft-v")->opens = 1;
    const std::string steps =
        settle(kernel, {stack_of(layout_of(layout_kind::mirrored, {{"/dev/a", "/dev/b"}, {"/dev/c", "/dev/d"}}))});
    CHECK(steps.ends_with(
        "create weft-v:s1\nload weft-v:s1\nresume weft-v:s1\nload weft-v\nsuspend weft-v\nresume weft-v\n"));
    CHECK(steps.find("weft-v:s0") == std::string::npos);

    fake_dm striped;
    plug(striped, {"/dev/a", "/dev/b"});
    settle(striped, {stack_of(layout_of(layout_kind::striped, {{"/dev/a"}}))});
    CHECK(settle(striped, {stack_of(layout_of(layout_kind::striped, {{"/dev/a"}, {"/dev/b"}}))}) ==
          "load weft-v\nsuspend weft-v\nresume weft-v\n");
}

TEST_CASE("dm plan: a missing leg leaves the set before its devices go") {
    fake_dm kernel;
    plug(kernel, {"/dev/a", "/dev/b"});
    auto layout = layout_of(layout_kind::mirrored, {{"/dev/a", "/dev/b"}});
    settle(kernel, {stack_of(layout)});
    kernel.disks["/dev/b"].content = 7;
    kernel.find("weft-v:s0")->dead.insert(1);
    layout.segments[0].extents[1].state = leg_state::missing;
    CHECK(settle(kernel, {stack_of(layout)}) ==
          "suspend weft-v:s0\nload weft-v:s0\nresume weft-v:s0\n"
          "remove weft-v:s0-leg1-meta\nremove weft-v:s0-leg1-data\n");
    check_is(kernel, stack_of(layout));
}

TEST_CASE("dm plan: a leg on another device is dropped in one round and rebuilt in the next") {
    fake_dm kernel;
    plug(kernel, {"/dev/a", "/dev/b"});
    plug(kernel, {"/dev/c", "/dev/d"}, 9);
    auto layout = layout_of(layout_kind::mirrored, {{"/dev/a", "/dev/b"}});
    settle(kernel, {stack_of(layout)});
    layout.segments[0].extents[1] = {"/dev/c", extent_bytes, leg_state::rebuild};
    const std::string steps = settle(kernel, {stack_of(layout)});
    CHECK(steps.find("remove weft-v:s0-leg1-data\n--\ncreate weft-v:s0-leg1-meta\n") != std::string::npos);
    CHECK(steps.ends_with("suspend weft-v:s0\nload weft-v:s0\nresume weft-v:s0\n"));
    CHECK(kernel.disks["/dev/c"].content == 0);
    // The table's text would be the same for the next one.
    layout.segments[0].extents[1].path = "/dev/d";
    settle(kernel, {stack_of(layout)});
    CHECK(kernel.disks["/dev/d"].content == 0);
    // And when the set gave up the same device a second time.
    kernel.disks["/dev/d"].content = 5;
    kernel.find("weft-v:s0")->dead.insert(1);
    settle(kernel, {stack_of(layout)});
    CHECK(kernel.disks["/dev/d"].content == 0);
    // Rebuilt: the word goes.
    layout.segments[0].extents[1].state = leg_state::up_to_date;
    CHECK(settle(kernel, {stack_of(layout)}) == "suspend weft-v:s0\nload weft-v:s0\nresume weft-v:s0\n");
}

TEST_CASE("dm plan: the superblocks of legs that may differ say so before a set reads them, and never under one") {
    fake_dm kernel;
    plug(kernel, {"/dev/a", "/dev/b"}, 4);
    kernel.disks["/dev/b"].under_way = 1;
    auto layout = layout_of(layout_kind::mirrored, {{"/dev/a", "/dev/b"}});
    layout.segments[0].start = raid1_start::by_bitmap;
    const auto steps = settle(kernel, {stack_of(layout)});
    CHECK(steps.find("create weft-v:s0\ndoubt weft-v:s0-leg0-meta\ndoubt weft-v:s0-leg1-meta\nload weft-v:s0\n") !=
          std::string::npos);
    CHECK(kernel.disks["/dev/b"].under_way == 0);
    // It runs: what the next table says is not read from there.
    kernel.plug("/dev/c", extent_bytes / sector_bytes, 4);
    layout.segments[0].extents[1].path = "/dev/c";
    CHECK(settle(kernel, {stack_of(layout)}).find("doubt") == std::string::npos);
    // A daemon was killed before the set had a table: once more.
    settle(kernel, {});
    kernel.disks["/dev/c"].under_way = 7;
    const plan again = make_plan({stack_of(layout)}, kernel.observe(), "");
    for (const step& one : again.steps) {
        if (one.what == step::verb::load && one.name == "weft-v:s0") break;
        REQUIRE(kernel.apply(one) == "");
    }
    CHECK(settle(kernel, {stack_of(layout)}) ==
          "doubt weft-v:s0-leg0-meta\ndoubt weft-v:s0-leg1-meta\nload weft-v:s0\nresume weft-v:s0\n"
          "create weft-v\nload weft-v\nresume weft-v\n");
    CHECK(kernel.disks["/dev/c"].under_way == 0);
}

TEST_CASE("dm plan: a device that a killed daemon left suspended goes on") {
    fake_dm kernel;
    plug(kernel, {"/dev/a"});
    const auto stack = stack_of(layout_of(layout_kind::striped, {{"/dev/a"}}));
    settle(kernel, {stack});
    kernel.find("weft-v")->suspended = true;
    kernel.find("weft-v")->inactive = table{{0, 8, error_target{}}};
    CHECK(settle(kernel, {stack}) == "clear weft-v\nresume weft-v\n");
    kernel.find("weft-v")->inactive = table{{0, 8, error_target{}}};
    CHECK(settle(kernel, {stack}) == "clear weft-v\n");
}

TEST_CASE("dm plan: detaching removes from the top; what is in use stays and is reported") {
    fake_dm kernel;
    plug(kernel, {"/dev/a", "/dev/b"});
    settle(kernel, {stack_of(layout_of(layout_kind::mirrored, {{"/dev/a", "/dev/b"}}))});
    kernel.find("weft-v")->opens = 1;
    plan held = make_plan({}, kernel.observe(), "");
    CHECK(held.steps.empty());
    CHECK(kinds_of(held) == std::vector<kind>(6, kind::leftover_in_use));
    CHECK(held.reports[0].text.find("unmount") != std::string::npos);
    kernel.find("weft-v")->opens = 0;
    kernel.find("weft-v:s0-leg1-meta")->opens = 1;
    held = make_plan({}, kernel.observe(), "");
    CHECK(held.steps.size() == 5);
    kernel.find("weft-v:s0-leg1-meta")->opens = 0;
    CHECK(settle(kernel, {}).starts_with("remove weft-v\nremove weft-v:s0\n"));
    CHECK(kernel.devices.empty());
}

TEST_CASE("dm plan: devices of another scope or of strangers are never touched") {
    fake_dm kernel;
    plug(kernel, {"/dev/a", "/dev/b"});
    auto layout = layout_of(layout_kind::striped, {{"/dev/a"}});
    layout.scope = "n1";
    settle(kernel, {stack_of(layout)}, "n1");
    kernel.devices.push_back({"vg-root", "LVM-x", "253:70", table{{0, 8, error_target{}}}, {}, false, 0, {}});
    kernel.devices.push_back({"odd", "WEFT-odd", "253:71", table{{0, 8, error_target{}}}, {}, false, 0, {}});
    plan next = make_plan({}, kernel.observe(), "");
    CHECK(next.steps.empty());
    CHECK(kinds_of(next) == std::vector<kind>{kind::not_ours});
    // The same volume in another scope: a device of its own.
    const auto plain = stack_of(layout_of(layout_kind::striped, {{"/dev/b"}}));
    CHECK(settle(kernel, {plain}) == "create weft-v\nload weft-v\nresume weft-v\n");
    CHECK(kernel.find("weft-v@n1") != nullptr);
}

TEST_CASE("dm plan: a volume that cannot be built is left alone, the others are not") {
    fake_dm kernel;
    plug(kernel, {"/dev/a", "/dev/b", "/dev/x"});
    const auto stack = stack_of(layout_of(layout_kind::striped, {{"/dev/a"}, {"/dev/b"}}));
    auto second = layout_of(layout_kind::striped, {{"/dev/x"}});
    second.volume_id = other_id;
    second.volume_name = "w";
    const auto healthy = stack_of(second);

    kernel.devices.push_back({"weft-v", "LVM-x", "253:70", table{{0, 8, error_target{}}}, {}, false, 0, {}});
    plan next = make_plan({stack, healthy}, kernel.observe(), "");
    CHECK(steps_of(next) == "create weft-w\nload weft-w\nresume weft-w\n");
    CHECK(kinds_of(next) == std::vector<kind>{kind::name_taken});
    kernel.devices.clear();

    kernel.disks.erase("/dev/b");
    next = make_plan({stack, healthy}, kernel.observe(), "");
    CHECK(steps_of(next) == "create weft-w\nload weft-w\nresume weft-w\n");
    CHECK(kinds_of(next) == std::vector<kind>{kind::device_missing});
    CHECK(next.reports[0].text == "device weft-v maps /dev/b, which is not there; it must be connected first");
    plug(kernel, {"/dev/b"});

    settle(kernel, {stack, healthy});
    next = make_plan({stack_of(layout_of(layout_kind::striped, {{"/dev/a"}})), healthy}, kernel.observe(), "");
    CHECK(next.steps.empty());
    CHECK(kinds_of(next) == std::vector<kind>{kind::would_shrink});
}

TEST_CASE("dm plan: a device that a volume has and its stack has not is reported and stays") {
    fake_dm kernel;
    plug(kernel, {"/dev/a", "/dev/b", "/dev/c", "/dev/d"});
    const auto small = stack_of(layout_of(layout_kind::mirrored, {{"/dev/a", "/dev/b"}}));
    const auto large = stack_of(layout_of(layout_kind::mirrored, {{"/dev/a", "/dev/b"}, {"/dev/c", "/dev/d"}}));
    settle(kernel, {small});
    const plan growing = make_plan({large}, kernel.observe(), "");
    for (std::size_t i = 0; i < 15; ++i)
        REQUIRE(kernel.apply(growing.steps[i]) == "");  // weft-v:s1 is there, weft-v as before
    const plan next = make_plan({small}, kernel.observe(), "");
    CHECK(next.steps.empty());
    CHECK(kinds_of(next) == std::vector<kind>(5, kind::not_in_stack));
}

TEST_CASE("dm plan: a new volume takes the name of one that was deleted") {
    fake_dm kernel;
    plug(kernel, {"/dev/a", "/dev/b"});
    settle(kernel, {stack_of(layout_of(layout_kind::striped, {{"/dev/a"}}))});
    auto again = layout_of(layout_kind::striped, {{"/dev/b"}});
    again.volume_id = other_id;
    CHECK(settle(kernel, {stack_of(again)}) == "remove weft-v\ncreate weft-v\nload weft-v\nresume weft-v\n");
}

namespace {

/// A volume through whose life chance leads: what its record says, and what lies on its disks.
class life {
public:
    explicit life(std::uint64_t seed) : random_(seed) {
        layout_ = layout_of(roll(3) == 0 ? layout_kind::striped : layout_kind::mirrored, {});
        grow();
    }

    fake_dm kernel;

    std::vector<volume_stack> wanted() {
        if (!attached_) return {};
        volume_layout now = layout_;
        for (unsigned i = 0; i < now.segments.size() && now.kind == layout_kind::mirrored; ++i)
            if (!runs(i)) assemble(now.segments[i]);
        return {stack_of(now)};
    }

    /// One or more things happen to the record and the disks.
    void change() {
        for (unsigned events = 1 + roll(2); events > 0; --events) {
            const unsigned what = roll(9);
            if (what == 0) attached_ = !attached_;
            if (what == 1) grow();
            if (what >= 2 && what < 8) change_extent(what);
            if (what == 8) cut_power();
        }
    }

    unsigned roll(unsigned sides) { return std::uniform_int_distribution<unsigned>(0, sides - 1)(random_); }

private:
    bool runs(unsigned segment) {
        const auto* set = kernel.find(fmt::format("weft-v:s{}", segment));
        return set != nullptr && set->active;
    }

    /// As the daemon does: what was made equal may be copied from.
    static void assemble(layout_segment& segment) {
        unsigned good = 0;
        for (const extent_device& leg : segment.extents) good += leg.state == leg_state::up_to_date;
        if (good < 2) return;
        segment.start = raid1_start::by_bitmap;
        for (extent_device& leg : segment.extents)
            if (leg.state == leg_state::rebuild) leg.state = leg_state::missing;
    }

    /// What was being written has reached some legs and others not.
    void cut_power() {
        kernel.devices.clear();
        if (layout_.kind == layout_kind::striped) return;
        for (auto& [path, disk] : kernel.disks) disk.under_way = static_cast<int>(roll(3));
    }

    void grow() {
        if (layout_.segments.size() > 2) return;
        const int content = ++contents_;
        layout_.segments.emplace_back();
        for (unsigned i = layout_.kind == layout_kind::striped ? 1 + roll(2) : 2 + roll(2); i > 0; --i)
            layout_.segments.back().extents.push_back({new_disk(content), extent_bytes, leg_state::up_to_date});
    }

    std::string new_disk(int content) {
        const std::string path = fmt::format("/dev/nbd{}", kernel.disks.size());
        kernel.plug(path, extent_bytes / sector_bytes, content);
        return path;
    }

    void change_extent(unsigned what) {
        auto& extents = layout_.segments[roll(static_cast<unsigned>(layout_.segments.size()))].extents;
        const unsigned leg = roll(static_cast<unsigned>(extents.size()));
        extent_device& it = extents[leg];
        const int content = kernel.disks[it.path].content;
        if (layout_.kind == layout_kind::striped || (what == 2 && it.state == leg_state::up_to_date)) {
            it.path = new_disk(content);  // the same replica under another number
            return;
        }
        unsigned others = 0;
        for (const extent_device& extent : extents) others += &extent != &it && extent.state == leg_state::up_to_date;
        if (others == 0) return;
        if (what == 3) fail(it, leg), it.state = leg_state::missing;
        if (what == 4) fail(it, leg), it.state = leg_state::rebuild;
        if (what == 5) it = {new_disk(++contents_), extent_bytes, leg_state::rebuild};
        if (what == 6 && it.state == leg_state::missing) it.state = leg_state::rebuild;
        if (what == 7 && it.state == leg_state::rebuild && equal_to_others(extents, it))
            it.state = leg_state::up_to_date;
    }

    /// The replica falls behind. A set that runs gives it up, as the writer's engine makes it.
    void fail(const extent_device& extent, unsigned leg) {
        kernel.disks[extent.path].content = ++contents_;
        for (auto& device : kernel.devices) {
            const std::string meta = fmt::format("-leg{}-data", leg);
            if (device.active && device.active->size() == 1)
                if (const auto* set = std::get_if<raid1_target>(&device.active->front().what))
                    if (leg < set->legs.size() && kernel.disk_under(set->legs[leg].data) == extent.path)
                        device.dead.insert(leg);
        }
    }

    bool equal_to_others(const std::vector<extent_device>& extents, const extent_device& it) {
        for (const extent_device& extent : extents)
            if (extent.state == leg_state::up_to_date &&
                kernel.disks[extent.path].content != kernel.disks[it.path].content)
                return false;
        return true;
    }

    std::mt19937_64 random_;
    volume_layout layout_;
    bool attached_ = true;
    int contents_ = 0;
};

void check_arrives(fake_dm& kernel, const std::vector<volume_stack>& wanted) {
    settle(kernel, wanted);
    for (const volume_stack& stack : wanted) check_is(kernel, stack);
    if (wanted.empty()) CHECK(kernel.devices.empty());
}

}  // namespace

TEST_CASE("dm plan: killed after any step, a new daemon gets there, by the old record or a newer one") {
    for (std::uint64_t seed = 0; seed < 10; ++seed) {
        CAPTURE(seed);
        life volume(seed);
        for (int change = 0; change < 6; ++change) {
            CAPTURE(change);
            const auto wanted = volume.wanted();
            const plan next = make_plan(wanted, volume.kernel.observe(), "");
            for (std::size_t prefix = 0; prefix <= next.steps.size(); ++prefix) {
                CAPTURE(prefix);
                life killed = volume;
                for (std::size_t i = 0; i < prefix; ++i) REQUIRE(killed.kernel.apply(next.steps[i]) == "");
                life later = killed;
                check_arrives(killed.kernel, wanted);
                later.change();
                const auto newer = later.wanted();
                const plan second = make_plan(newer, later.kernel.observe(), "");
                const std::size_t until = later.roll(static_cast<unsigned>(second.steps.size() + 1));
                for (std::size_t i = 0; i < until; ++i) REQUIRE(later.kernel.apply(second.steps[i]) == "");
                check_arrives(later.kernel, newer);
            }
            check_arrives(volume.kernel, wanted);
            volume.change();
        }
    }
}
