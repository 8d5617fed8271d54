// SPDX-License-Identifier: Apache-2.0
// The `meta` file of a replica as bytes: two slots of 4 KiB and the write-intent bitmap. FORMAT.md is the
// specification.
//
// Laws:
//   - a slot is accepted only if its magic, version, CRC-32C (Castagnoli), place and every field are right, and its
//     reserved bytes are 0; so encode(decode(bytes)) == bytes;
//   - of two good slots the higher generation wins; generation % 2 is the slot that it is stored in, so that writing
//     generation g + 1 never touches generation g;
//   - a bitmap page that does not check counts as "every region dirty", which is always safe (R6).
// Pure; values; any thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "nbd-backend/base/ids.hpp"
#include "nbd-backend/base/result.hpp"
#include "nbd-backend/base/units.hpp"

namespace weft::core {

inline constexpr std::size_t meta_slot_bytes = 4096;
inline constexpr std::size_t meta_slots = 2;
inline constexpr std::uint32_t meta_version = 1;
inline constexpr std::uint64_t bitmap_offset_bytes = meta_slots * meta_slot_bytes;

inline constexpr std::size_t bitmap_page_bytes = 4096;
inline constexpr std::size_t bitmap_page_header_bytes = 32;
inline constexpr std::uint64_t bitmap_page_bits = 8 * (bitmap_page_bytes - bitmap_page_header_bytes);

/// One bit of the bitmap covers this much: the engine's unit of copying, so that one dirty bit costs one copy.
inline constexpr std::uint64_t region_bytes_default = 4 * mib;
inline constexpr std::uint64_t region_bytes_min = 64 * kib;
inline constexpr std::uint64_t region_bytes_max = gib;
/// Largest replica: an off_t must hold it.
inline constexpr std::uint64_t replica_bytes_max = 4096 * tib;

/// Incompatible feature: the bitmap is kept up to date by every writer since this bit was set (R6). Replicas are born
/// with it; FORMAT.md says what is done with one that is older.
inline constexpr std::uint64_t incompat_bitmap_kept = 1;
/// Incompatible feature: every change keeps the checksums in `sums` (block_sum.hpp).
inline constexpr std::uint64_t incompat_sums_kept = 2;
/// Incompatible feature: all space of `data` is allocated and stays so; zeroing and trimming do not give it back.
inline constexpr std::uint64_t incompat_thick = 4;
inline constexpr std::uint64_t incompat_known = incompat_bitmap_kept | incompat_sums_kept | incompat_thick;

struct replica_meta {
    std::uint64_t incompat = 0;    // features that a reader must know
    std::uint64_t compat = 0;      // features that a reader may ignore; kept as they are
    std::uint64_t generation = 0;  // grows by 1 with every slot written
    replica_id replica;
    volume_id volume;
    std::uint64_t size_bytes = 0;                       // of `data`
    std::uint64_t region_bytes = region_bytes_default;  // power of two
    std::uint64_t epoch = 0;                            // the highest that was opened here; 0: none
    bool born_equal = true;                             // false: added to an existing extent, born with every bit set
    std::string change_boot_id;  // of the kernel under which the last change was admitted; empty: none ever was

    [[nodiscard]] bool keeps_bitmap() const noexcept { return (incompat & incompat_bitmap_kept) != 0; }
    [[nodiscard]] bool keeps_sums() const noexcept { return (incompat & incompat_sums_kept) != 0; }
    [[nodiscard]] bool is_thick() const noexcept { return (incompat & incompat_thick) != 0; }
    friend bool operator==(const replica_meta&, const replica_meta&) = default;
};

using meta_slot = std::array<std::byte, meta_slot_bytes>;
using bitmap_page = std::array<std::byte, bitmap_page_bytes>;

/// Errors: invalid_argument naming the field that cannot be stored.
status check(const replica_meta& meta);

/// The slot that this generation belongs into.
constexpr std::size_t slot_of(std::uint64_t generation) noexcept {
    return generation % meta_slots;
}

/// Precondition: check(meta).
meta_slot encode_meta(const replica_meta& meta);
/// Errors: corrupt (naming what is wrong), unsupported (a later version or an unknown incompatible feature, intact).
result<replica_meta> decode_meta(std::span<const std::byte> bytes);

/// The state that the two slots of a file hold.
/// Errors: corrupt when neither is good or they are of different replicas; unsupported when either is of a later
/// version.
result<replica_meta> choose_meta(std::span<const std::byte> slot_0, std::span<const std::byte> slot_1);

/// The same replica after a higher epoch was opened; generation + 1. No change: change_boot_id stays.
replica_meta with_epoch(const replica_meta& meta, std::uint64_t epoch);
/// The same replica when it is about to admit the first change under another kernel; generation + 1.
replica_meta with_change_boot_id(const replica_meta& meta, std::string boot_id);

/// The same replica with these incompatible features as well; generation + 1.
replica_meta with_incompat(const replica_meta& meta, std::uint64_t features);

/// Number of regions, of bitmap pages, and the bytes of the whole meta file.
std::uint64_t region_count(const replica_meta& meta) noexcept;
std::uint64_t bitmap_page_count(const replica_meta& meta) noexcept;
std::uint64_t meta_file_bytes(const replica_meta& meta) noexcept;
/// The bytes of the file of checksums.
std::uint64_t sums_file_bytes(const replica_meta& meta) noexcept;

/// A page of the bitmap at birth: no bit set, or each that stands for a region. Precondition: index <
/// bitmap_page_count.
bitmap_page encode_birth_page(const replica_meta& meta, std::uint64_t index);
/// Puts everything but the bits into a page whose header is all zeros.
void seal_bitmap_page(bitmap_page& bytes, std::uint64_t index) noexcept;
/// The bits of a page, least significant first. Errors: corrupt; the caller then takes every region of it as dirty.
result<std::span<const std::byte>> decode_bitmap_page(std::span<const std::byte> bytes, std::uint64_t index);

}  // namespace weft::core
