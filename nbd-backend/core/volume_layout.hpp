// SPDX-License-Identifier: Apache-2.0
// Where a byte of a volume lies: segments one after the other, each over one extent or striped over several. Pure.
//
//   volume    |        segment 0 (stripes = 2)        | segment 1 (stripes = 1) |
//             | c0 | c1 | c2 | c3 |  …                |                         |
//   extent 0    c0        c2           extent 2         all of it
//   extent 1         c1        c3
//
// The same arithmetic as device-mapper's `linear` and `striped` targets (Documentation/admin-guide/device-mapper/
// striped.rst): chunk k of a segment is chunk k / stripes of its extent k % stripes. So what the kernel path writes
// through its table and the portable attach through the whole-volume export is the same volume.
//
// mirrored: every segment is one extent, whose replicas are the legs of a raid1 set of device-mapper's. A leg begins
// with what dm-raid writes there about the set, mirror_meta_bytes, and the volume's bytes follow.
//
// Invariants (make checks them): extents are used in order, each by one segment; the extents of a striped segment have
// equal sizes, multiples of the chunk; growing only appends segments, so no byte ever moves.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "nbd-backend/base/result.hpp"

namespace weft::core {

/// What a new volume gets: LVM's default stripe size (lvcreate(8), --stripesize).
inline constexpr std::uint64_t chunk_default_bytes = 64 * 1024;
inline constexpr std::uint32_t stripes_max = 16;
/// What dm-raid has of a leg (dm-tables/core/volume_stack.hpp says why so much).
inline constexpr std::uint64_t mirror_meta_bytes = 4 * 1024 * 1024;

struct volume_layout {
    std::uint64_t chunk_bytes = chunk_default_bytes;  // a power of two >= 4096; of no use without stripes
    std::vector<std::uint32_t> stripes;               // extents of each segment, in order
    bool mirrored = false;                            // device-mapper replicates; no segment has stripes

    friend bool operator==(const volume_layout&, const volume_layout&) = default;
};

/// Each extent a segment by itself.
volume_layout concatenation(std::size_t extents);

class volume_map {
public:
    /// Errors: invalid_argument, saying which invariant does not hold.
    static result<volume_map> make(const volume_layout& layout, const std::vector<std::uint64_t>& extent_sizes);

    [[nodiscard]] std::uint64_t size_bytes() const noexcept { return segments_.back().end; }

    /// A run of bytes that is contiguous in the volume and in one extent.
    struct run {
        std::size_t extent = 0;
        std::uint64_t offset = 0;  // in the extent
        std::uint64_t length = 0;
    };
    /// The longest run that begins at byte `offset` of the volume. Precondition: offset < size_bytes().
    [[nodiscard]] run at(std::uint64_t offset) const;

private:
    struct segment {
        std::uint64_t start = 0;
        std::uint64_t end = 0;
        std::size_t first_extent = 0;
        std::uint32_t stripes = 1;
    };
    std::uint64_t chunk_ = chunk_default_bytes;
    std::uint64_t lead_ = 0;  // bytes of each extent that are not the volume's
    std::vector<segment> segments_;
};

}  // namespace weft::core
