// SPDX-License-Identifier: Apache-2.0
// dm-raid's superblock, the first block of a leg's metadata device, as far as weftd has to touch it.
//
// Why it does. md marks in a bitmap what is being written and clears the marks when all legs have it; after an end that
// was not orderly the marks tell where the legs may differ. But it looks at them only above the sector up to which the
// set is said to be in sync (md-bitmap.c, md_bitmap_load: `start = mddev->recovery_cp`). md's own superblock takes that
// back while a set is written to (md.c, super_1_sync: resync_offset is 0 unless in_sync); dm-raid's does not
// (dm-raid.c, super_sync writes recovery_cp as it is). So a set that is assembled after a power cut would take its legs
// for equal everywhere. Said to be in sync up to sector 0, it makes equal what is marked, and nothing else. An orderly
// end leaves no marks (md_bitmap_flush), unless the set lacked a leg: then all are kept for that leg's return, and it
// is not to be said of legs that are known to be equal. Not 1 or more: that would copy everything from there on
// (raid_preresume sets MD_RECOVERY_REQUESTED).
//
// Layout: dm-raid.c, struct dm_raid_superblock, little endian, no checksum:
//   0  u32 magic "DmRd"      16 u64 events            40 u64 array_resync_offset (sectors; all ones: in sync)
//   4  u32 compat_features   24 u64 failed_devices    48 …
//   8  u32 num_devices       32 u64 disk_recovery_offset
//   12 u32 array_position
// Pure; any thread.
#pragma once

#include <cstddef>
#include <span>

#include "nbd-backend/base/units.hpp"

namespace weft::dm {

/// A leg's first block: dm-raid's superblock is one logical block, which is never larger.
using leg_block = std::span<std::byte, block_bytes>;

enum class leg_content {
    blank,       // all zeroes: no set has been on this leg yet
    superblock,  // dm-raid's
    other,
};

leg_content content_of(std::span<const std::byte, block_bytes> block);

/// The set is not in sync where its bitmap has marks. Precondition: the block is a superblock. False: it said so
/// already.
bool mark_dirty(leg_block block);

}  // namespace weft::dm
