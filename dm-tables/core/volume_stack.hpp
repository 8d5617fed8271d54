// SPDX-License-Identifier: Apache-2.0
// From a volume's layout to the device-mapper devices that it is made of, as values.
//
//   striped                            mirrored
//   weft-V                             weft-V                             linear, one row per segment
//   │ row 0: linear or striped         └─ weft-V:s0                       raid1
//   │ row 1: …                            ├─ …:s0-leg0-meta  …-data       linear: the first 4 MiB of the leg, and the
//   rest extents (/dev/nbd3 …)                 └─ …:s0-leg1-meta  …-data
//
// A mirrored volume has its linear device on top with one segment too: were the raid1 set the volume itself, the first
// grow would have to move a set that is in use to another device, and two sets would hold the same superblocks
// meanwhile.
//
// Invariants of a stack: devices stand after what they map; the last is the volume; every table passes `check`; no byte
// of an extent is mapped twice; the sum of the segments is the volume's size.
//
// Why 4 MiB of metadata: dm-raid writes its superblock into the first logical block (at most 4 KiB) and md's bitmap at
// 4 KiB (dm-raid.c: analyse_superblocks, super_validate's bitmap_info.offset); the bitmap has a header of 256 bytes and
// at most 2^21 bits, which is 256 KiB (validate_region_size). 4 MiB is that with room, and keeps the data aligned. Pure
// values; any thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "dm-tables/core/dm_name.hpp"
#include "dm-tables/core/table.hpp"
#include "nbd-backend/base/result.hpp"
#include "nbd-backend/base/units.hpp"

namespace weft::dm {

inline constexpr std::uint64_t leg_meta_bytes = 4 * mib;
static_assert(leg_meta_bytes >= 4 * kib + 256 + raid1_regions_max / 8);

enum class layout_kind { striped, mirrored };

/// What the volume's record says of a leg; only looked at in the mirrored layout.
enum class leg_state {
    up_to_date,
    rebuild,  // there, but its content counts for nothing
    missing,  // not there; its path is not looked at
};

struct extent_device {
    std::string path;  // such as /dev/nbd3
    std::uint64_t size_bytes = 0;
    leg_state state = leg_state::up_to_date;
};

struct layout_segment {
    std::vector<extent_device> extents;  // of equal size; striped: 1 or more, mirrored: 2..raid1_legs_max legs
    /// Mirrored: what raid1 believes of its legs when it starts. assume_equal is right for extents that were born all
    /// holes; it is not said of a segment that has a leg to be rebuilt. by_bitmap has no such leg (dm-raid would forget
    /// to make the others equal, raid_ctr's `rs_setup_recovery`): it is taken in when that is done.
    raid1_start start = raid1_start::by_superblock;
};

struct volume_layout {
    std::string volume_id;    // UUID
    std::string volume_name;  // passed the grammar of orchestrator/core/names.hpp
    std::string scope;        // usually empty
    layout_kind kind = layout_kind::striped;
    std::uint64_t chunk_bytes = 64 * kib;     // striped over more than one extent: a power of two, at least 4 KiB
    std::vector<layout_segment> segments;     // in logical order; a volume grows by one more at the end
    std::uint64_t resync_kib_per_second = 0;  // 0: the kernel's default
};

struct dm_device {
    std::string name;
    std::string uuid;
    device_role role;
    table rows;
};

struct volume_stack {
    std::string volume_id;
    std::string scope;
    std::vector<dm_device> devices;  // bottom up
    /// Missing legs' devices: should they exist, they must go, so that what is under them can be let go of.
    std::vector<std::string> unwanted_uuids;
    [[nodiscard]] const dm_device& top() const { return devices.back(); }
    [[nodiscard]] std::uint64_t size_bytes() const { return length_sectors(top().rows) * sector_bytes; }
};

/// Bytes of the volume that a segment of `extents` extents of `extent_bytes` gives.
std::uint64_t segment_bytes(layout_kind kind, std::size_t extents, std::uint64_t extent_bytes);

/// The stack of a volume. Errors: invalid_argument naming the segment and what is wrong with it: no extents, different
/// sizes, a size that is no multiple of the chunk (striped) or of 4 KiB, no room for metadata, a device used twice, no
/// leg up to date, a bad path, id or scope.
result<volume_stack> make_volume_stack(const volume_layout& layout);

}  // namespace weft::dm
