// SPDX-License-Identifier: Apache-2.0
#include "nbd-backend/core/volume_layout.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <limits>

#include "nbd-backend/base/invariant.hpp"

namespace weft::core {

volume_layout concatenation(std::size_t extents) {
    return {chunk_default_bytes, std::vector<std::uint32_t>(extents, 1), false};
}

result<volume_map> volume_map::make(const volume_layout& layout, const std::vector<std::uint64_t>& extent_sizes) {
    const auto wrong = [](std::string text) { return error{errc::invalid_argument, std::move(text)}; };
    if (!std::has_single_bit(layout.chunk_bytes) || layout.chunk_bytes < 4096)
        return wrong(fmt::format("a chunk of {} bytes is not a power of two of at least 4096", layout.chunk_bytes));
    if (layout.stripes.empty()) return wrong("a volume without segments");
    volume_map map;
    map.chunk_ = layout.chunk_bytes;
    map.lead_ = layout.mirrored ? mirror_meta_bytes : 0;
    std::size_t next = 0;
    std::uint64_t end = 0;
    for (std::size_t i = 0; i < layout.stripes.size(); ++i) {
        const std::uint32_t stripes = layout.stripes[i];
        if (stripes < 1 || stripes > stripes_max)
            return wrong(fmt::format("segment {} has {} stripes, not 1 to {}", i, stripes, stripes_max));
        if (extent_sizes.size() - next < stripes)
            return wrong(fmt::format("segment {} has {} stripes, there are {} extents left", i, stripes,
                                     extent_sizes.size() - next));
        if (layout.mirrored && stripes != 1)
            return wrong(fmt::format("segment {} of a mirrored volume has {} stripes", i, stripes));
        if (extent_sizes[next] <= map.lead_) return wrong(fmt::format("extent {} is empty", next));
        const std::uint64_t size = extent_sizes[next] - map.lead_;
        for (std::size_t k = next; stripes > 1 && k < next + stripes; ++k)
            if (extent_sizes[k] != size || size % layout.chunk_bytes != 0)
                return wrong(
                    fmt::format("extent {} has {} bytes: the stripes of segment {} must have equal sizes, "
                                "multiples of {}",
                                k, extent_sizes[k], i, layout.chunk_bytes));
        if (size > (std::numeric_limits<std::uint64_t>::max() - end) / stripes)
            return wrong("the extents' sizes overflow");
        map.segments_.push_back({end, end + size * stripes, next, stripes});
        end += size * stripes;
        next += stripes;
    }
    if (next != extent_sizes.size())
        return wrong(fmt::format("its segments use {} extents, there are {}", next, extent_sizes.size()));
    return map;
}

volume_map::run volume_map::at(std::uint64_t offset) const {
    INVARIANT(offset < size_bytes(), "byte {} of a volume of {}", offset, size_bytes());
    const auto found = std::upper_bound(segments_.begin(), segments_.end(), offset,
                                        [](std::uint64_t byte, const segment& one) { return byte < one.end; });
    const std::uint64_t within = offset - found->start;
    if (found->stripes == 1) return {found->first_extent, lead_ + within, found->end - offset};
    const std::uint64_t chunk = within / chunk_;
    const std::uint64_t in_chunk = within % chunk_;
    return {found->first_extent + static_cast<std::size_t>(chunk % found->stripes),
            chunk / found->stripes * chunk_ + in_chunk, chunk_ - in_chunk};
}

}  // namespace weft::core
