// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/io/mirror_legs.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <set>

#include "dm-tables/core/raid_superblock.hpp"
#include "dm-tables/core/status.hpp"
#include "dm-tables/io/dm_driver.hpp"
#include "nbd-backend/base/crash_point.hpp"
#include "nbd-backend/base/units.hpp"
#include "orchestrator/core/nbd_identity.hpp"
#include "orchestrator/io/nbd_device.hpp"
#include "orchestrator/io/process.hpp"

namespace weft {

namespace {

using std::chrono::milliseconds;

constexpr milliseconds cut_wait{500};  // it is not free before the set has let go of it
constexpr milliseconds look_wait{60000};

result<std::string> mark_of(const kernel_scope& scope, const volume_shape& shape, std::size_t extent,
                            const replica_id& replica) {
    return encode_nbd_identity({scope.node, shape.id, static_cast<std::uint16_t>(extent), replica});
}

result<std::set<std::string>> wanted_marks(const kernel_scope& scope, const volume_shape& shape) {
    std::set<std::string> marks;
    for (std::size_t i = 0; i < shape.legs.size(); ++i)
        for (const auto& leg : shape.legs[i]) {
            if (leg.as == leg_shape::use::missing) continue;
            TRY_ASSIGN(auto mark, mark_of(scope, shape, i, leg.replica));
            marks.insert(std::move(mark));
        }
    return marks;
}

result<std::vector<nbd_device>> unwanted_devices(const kernel_scope& scope, const volume_shape& shape) {
    TRY_ASSIGN(const auto marks, wanted_marks(scope, shape));
    TRY_ASSIGN(const auto prefix, nbd_identity_prefix(scope.node, shape.id));
    TRY_ASSIGN(auto devices, find_nbd(prefix));
    std::erase_if(devices, [&](const nbd_device& one) { return marks.contains(one.backend); });
    return devices;
}

result<nbd_device> connect_leg(const kernel_scope& scope, const volume_paths& paths, const volume_shape& shape,
                               std::size_t extent, const replica_id& replica, milliseconds timeout) {
    TRY_ASSIGN(auto mark, mark_of(scope, shape, extent, replica));
    auto made = connect_export(paths, fmt::format("leg/{}/{}", extent, replica.str()), std::move(mark),
                               shape.extent_sizes[extent], timeout);
    if (made.has_error())
        return made.error().within(fmt::format("connect replica {} of extent {} to nbd", replica.str(), extent));
    return made;
}

/// In a child (run_isolated). Past the page cache, which may have been filled before another device wrote there.
int call_look(int, const void* argument) {
    alignas(block_bytes) static std::array<std::byte, block_bytes> block;
    const int fd = ::open(static_cast<const char*>(argument), O_RDONLY | O_DIRECT | O_CLOEXEC);
    if (fd < 0) return errno;
    const ssize_t got = ::pread(fd, block.data(), block.size(), 0);
    if (got != static_cast<ssize_t>(block.size())) return got < 0 ? errno : EIO;
    switch (dm::content_of(block)) {
        case dm::leg_content::blank: return 0;
        case dm::leg_content::superblock: return EEXIST;
        case dm::leg_content::other: break;
    }
    return EILSEQ;
}

/// Has no set been on this leg yet?
result<bool> is_blank(const std::string& device, int server) {
    const auto looked =
        run_isolated({call_look, device.c_str(), {}, server}, fmt::format("read {}", device), look_wait);
    if (looked.has_value()) return true;
    if (looked.error().os_errno == EEXIST) return false;
    if (looked.error().os_errno == EILSEQ)
        return error{errc::corrupt, EILSEQ,
                     fmt::format("{} is a leg that holds something else than dm-raid's superblock where that should be",
                                 device)};
    return looked.error();
}

const dm::observed_device* find_set(const dm::observation& found, unsigned segment) {
    for (const auto& device : found.devices) {
        const auto who = dm::parse_uuid(device.uuid);
        if (who.has_value() && who->role.what == dm::device_role::part::segment && who->role.segment == segment)
            return &device;
    }
    return nullptr;
}

/// Was the set that runs told so?
bool was_told(const dm::observed_device& set, std::string_view word) {
    return set.active && set.active->size() == 1 &&
           set.active->front().params.find(fmt::format(" {} ", word)) != std::string::npos;
}

std::size_t count_legs(const dm::layout_segment& segment, dm::leg_state state) {
    return static_cast<std::size_t>(std::count_if(segment.extents.begin(), segment.extents.end(),
                                                  [&](const dm::extent_device& leg) { return leg.state == state; }));
}

/// Legs to be rebuilt wait until the others are equal: dm-raid cannot do both, and would forget that they may differ
/// (raid_ctr: a table with "rebuild" sets recovery_cp to "in sync"). leg_report::left_out tells when that is over.
void hold_back_rebuilds(dm::layout_segment& segment) {
    for (auto& leg : segment.extents)
        if (leg.state == dm::leg_state::rebuild) leg.state = dm::leg_state::missing;
}

/// Legs that nobody rebuilds.
bool is_becoming_equal(const dm::observed_device& set) {
    if (was_told(set, "rebuild")) return false;
    if (set.status.size() != 1) return true;
    const auto told = dm::parse_raid_status(set.status.front().params);
    return told.has_error() || told->unequal_sectors() > 0;
}

/// Of a set that is assembled now. All legs blank: they were born all holes, so they are equal. Some: a daemon or a
/// host died while the first superblocks were written, and that comes before the first write of data; the blank ones
/// are filled from the others, because dm-raid wants it so (super_init_validation: "New device injected into existing
/// raid set"). None: unless the last set ended in order, they may differ where md's bitmap has marks (R7). Not asked of
/// legs that are equal: while a set lacks a leg it keeps all marks, and would copy everything that was written since.
status decide_assembly(dm::layout_segment& segment, bool clean, int server) {
    std::vector<dm::extent_device*> blank;
    std::size_t known = 0;
    for (auto& leg : segment.extents) {
        if (leg.state != dm::leg_state::up_to_date) continue;
        TRY_ASSIGN(const bool empty, is_blank(leg.path, server));
        if (empty)
            blank.push_back(&leg);
        else
            ++known;
    }
    if (known == 0) {
        segment.start = dm::raid1_start::assume_equal;
    } else if (!blank.empty()) {
        for (auto* leg : blank) leg->state = dm::leg_state::rebuild;
    } else if (known > 1 && !clean) {
        segment.start = dm::raid1_start::by_bitmap;
        hold_back_rebuilds(segment);
    }
    return ok();
}

/// What the set is to believe of its legs.
status decide_start(dm::layout_segment& segment, const dm::observed_device* set, bool clean, int server) {
    if (set == nullptr || !set->active) return decide_assembly(segment, clean, server);
    // Saying the same again keeps its table as it is.
    if (was_told(*set, "nosync")) segment.start = dm::raid1_start::assume_equal;
    if (count_legs(segment, dm::leg_state::up_to_date) > 1 && is_becoming_equal(*set)) hold_back_rebuilds(segment);
    return ok();
}

std::string set_name(const kernel_scope& scope, const volume_shape& shape, std::size_t extent) {
    const dm::device_role role{dm::device_role::part::segment, static_cast<unsigned>(extent), 0};
    return dm::render_name({scope.scope, shape.id.str(), role}, shape.name);
}

result<dm::raid_status> read_set(const kernel_scope& scope, const volume_shape& shape, std::size_t extent) {
    TRY_ASSIGN(const auto rows, dm::driver::status_rows(set_name(scope, shape, extent)));
    if (rows.size() != 1)
        return error{errc::corrupt, fmt::format("the set of extent {} has {} rows", extent, rows.size())};
    return dm::parse_raid_status(rows.front().params);
}

}  // namespace

result<std::vector<dm::layout_segment>> connect_legs(const kernel_scope& scope, const volume_paths& paths,
                                                     const volume_shape& shape, const dm::observation& found,
                                                     const attach_wait& wait) {
    TRY_ASSIGN(const auto unwanted, unwanted_devices(scope, shape));
    for (const auto& device : unwanted)
        if (const auto cut = disconnect_nbd(device, cut_wait);
            cut.has_error() && cut.error().code != errc::busy && cut.error().code != errc::timed_out)
            return cut.error();
    WEFT_CRASH_POINT_IF(!unwanted.empty(), "legs.cut");
    std::vector<dm::layout_segment> segments;
    for (std::size_t i = 0; i < shape.legs.size(); ++i) {
        dm::layout_segment segment;
        for (const auto& leg : shape.legs[i]) {
            dm::extent_device device{{}, shape.extent_sizes[i], dm::leg_state::missing};
            if (leg.as != leg_shape::use::missing) {
                TRY_ASSIGN(const auto connected, connect_leg(scope, paths, shape, i, leg.replica, wait.timeout));
                device.path = connected.device;
                device.state = leg.as == leg_shape::use::rebuild ? dm::leg_state::rebuild : dm::leg_state::up_to_date;
                WEFT_CRASH_POINT("legs.connected");
            }
            segment.extents.push_back(std::move(device));
        }
        TRY(decide_start(segment, find_set(found, static_cast<unsigned>(i)), shape.clean, wait.server));
        segments.push_back(std::move(segment));
    }
    return segments;
}

status release_legs(const kernel_scope& scope, const volume_shape& shape, milliseconds timeout) {
    TRY_ASSIGN(const auto unwanted, unwanted_devices(scope, shape));
    for (const auto& device : unwanted) TRY(disconnect_nbd(device, timeout));
    return ok();
}

result<std::vector<leg_report>> read_legs(const kernel_scope& scope, const volume_shape& shape) {
    std::vector<leg_report> all;
    for (std::size_t i = 0; i < shape.legs.size(); ++i) {
        TRY_ASSIGN(const auto set, read_set(scope, shape, i));
        for (std::size_t place = 0; place < std::min(set.legs.size(), shape.legs[i].size()); ++place) {
            const auto& leg = shape.legs[i][place];
            if (leg.as == leg_shape::use::missing) continue;
            leg_report told;
            told.extent = static_cast<std::uint32_t>(i);
            told.replica = leg.replica;
            const bool rebuilding = leg.as == leg_shape::use::rebuild;
            if (set.legs[place] == dm::leg_health::failed) told.event = core::leg_event::given_up;
            if (rebuilding && set.legs[place] == dm::leg_health::in_sync && set.action == dm::sync_action::idle)
                told.event = core::leg_event::in_sync;
            if (rebuilding && set.legs[place] == dm::leg_health::syncing)
                told.done_bytes = set.done_sectors * dm::sector_bytes;
            told.left_out = rebuilding && set.legs[place] == dm::leg_health::absent && set.unequal_sectors() == 0;
            if (told.event || rebuilding) all.push_back(std::move(told));
        }
    }
    return all;
}

result<std::vector<set_state>> read_sets(const kernel_scope& scope, const volume_shape& shape) {
    std::vector<set_state> all;
    for (std::size_t i = 0; i < shape.legs.size(); ++i) {
        TRY_ASSIGN(const auto set, read_set(scope, shape, i));
        set_state state;
        using work = set_state::work;
        state.now = set.action == dm::sync_action::idle     ? work::idle
                    : set.action == dm::sync_action::check  ? work::checking
                    : set.action == dm::sync_action::repair ? work::repairing
                                                            : work::other;
        state.whole = std::all_of(set.legs.begin(), set.legs.end(),
                                  [](dm::leg_health leg) { return leg == dm::leg_health::in_sync; });
        state.differing_bytes = set.mismatches * dm::sector_bytes;
        state.done_bytes = set.done_sectors * dm::sector_bytes;
        state.size_bytes = set.all_sectors * dm::sector_bytes;
        state.unequal_bytes = set.unequal_sectors() * dm::sector_bytes;
        all.push_back(state);
    }
    return all;
}

status order_set(const kernel_scope& scope, const volume_shape& shape, std::size_t extent, set_order what) {
    if (what == set_order::none) return ok();
    return dm::driver::message(set_name(scope, shape, extent), 0, what == set_order::check ? "check" : "repair");
}

}  // namespace weft
