// SPDX-License-Identifier: Apache-2.0
#include "nbd-backend/core/dirty_map.hpp"

#include <algorithm>
#include <bit>
#include <utility>

#include "nbd-backend/base/canary.hpp"
#include "nbd-backend/base/invariant.hpp"

namespace weft::core {

using canary::broken;
using canary::rule;

namespace {

constexpr std::uint64_t one_in_flight = 1;
constexpr std::uint64_t in_flight_mask = 0xffffffff;
constexpr std::uint64_t entered = in_flight_mask + 1;

constexpr std::uint64_t divide_up(std::uint64_t n, std::uint64_t by) noexcept {
    return n / by + (n % by != 0 ? 1 : 0);
}

region_range united(region_range a, region_range b) noexcept {
    if (a.empty()) return b;
    return {std::min(a.first, b.first), std::max(a.end, b.end)};
}

}  // namespace

// The atomics are sequentially consistent where enter meets clear (see the laws); on the machines that we run on that
// costs nothing for the loads, and the counting is a locked instruction anyway.

dirty_map::dirty_map(std::uint64_t size_bytes, std::uint64_t region_bytes)
    : size_bytes_(size_bytes),
      region_bytes_(region_bytes),
      regions_(divide_up(size_bytes, region_bytes)),
      pages_(divide_up(regions_, bitmap_page_bits)),
      dirty_(std::make_unique<word[]>(divide_up(regions_, word_bits))),
      visits_(std::make_unique<word[]>(regions_)),
      wanted_(divide_up(regions_, word_bits)),
      syncing_(wanted_.size()),
      stale_(pages_) {}

region_range dirty_map::touched_by(std::uint64_t offset, std::uint64_t length) const noexcept {
    INVARIANT(offset <= size_bytes_ && length <= size_bytes_ - offset, "regions outside of the replica");
    const auto first = offset / region_bytes_;
    return length == 0 ? region_range{first, first} : region_range{first, divide_up(offset + length, region_bytes_)};
}

region_range dirty_map::covered_by(std::uint64_t offset, std::uint64_t length) const noexcept {
    INVARIANT(offset <= size_bytes_ && length <= size_bytes_ - offset, "regions outside of the replica");
    const auto first = divide_up(offset, region_bytes_);
    const auto end = offset + length == size_bytes_ ? regions_ : (offset + length) / region_bytes_;
    return {first, std::max(first, end)};
}

bool dirty_map::is_dirty(std::uint64_t region) const noexcept {
    return (dirty_[region / word_bits].load() & bit(region)) != 0;
}

bool dirty_map::all_dirty(region_range range) const noexcept {
    for (auto region = range.first; region < range.end; ++region)
        if (!is_dirty(region)) return false;
    return true;
}

std::uint64_t dirty_map::run_end(std::uint64_t from, std::uint64_t end, bool dirty) const noexcept {
    const auto whole = dirty ? ~std::uint64_t{0} : 0;
    for (++from; from < end;) {
        if (from % word_bits == 0 && end - from >= word_bits && dirty_[from / word_bits].load() == whole) {
            from += word_bits;
        } else if (is_dirty(from) == dirty) {
            ++from;
        } else {
            break;
        }
    }
    return from;
}

std::uint64_t dirty_map::dirty_count() const noexcept {
    std::uint64_t count = 0;
    for (std::size_t i = 0; i < wanted_.size(); ++i)
        count += static_cast<std::uint64_t>(std::popcount(dirty_[i].load()));
    return count;
}

bool dirty_map::enter(region_range range) noexcept {
    for (auto region = range.first; region < range.end; ++region) visits_[region].fetch_add(entered + one_in_flight);
    return all_dirty(range) || broken(rule::bits_before_change);
}

void dirty_map::leave(region_range range) noexcept {
    for (auto region = range.first; region < range.end; ++region) {
        const auto before = visits_[region].fetch_sub(one_in_flight);
        INVARIANT((before & in_flight_mask) != 0, "a change left region {} that it had not entered", region);
    }
}

void dirty_map::want_one(std::uint64_t region) noexcept {
    wanted_[region / word_bits] |= bit(region);
    wanted_span_ = united(wanted_span_, {region, region + 1});
    stale_[region / bitmap_page_bits] = 1;
}

/// How many regions behind `end` are to be set as well, `first` being the first clean one that is asked for.
std::uint64_t dirty_map::window_behind(std::uint64_t first, std::uint64_t end) noexcept {
    const auto expected =
        std::find_if(streams_.begin(), streams_.end(), [first](const stream& s) { return s.next == first; });
    const bool goes_on = expected != streams_.end();
    auto& found = goes_on ? *expected : streams_[next_stream_++ % streams_.size()];
    found.window = goes_on ? std::clamp<std::uint64_t>(2 * found.window, 1, ahead_max) : 0;
    const auto page_end = std::min(((end - 1) / bitmap_page_bits + 1) * bitmap_page_bits, regions_);
    const auto window = std::min(found.window, page_end - end);
    found.next = end + window;
    return window;
}

void dirty_map::want(region_range range) noexcept {
    const auto is_clean = [this](std::uint64_t region) { return !is_dirty(region) && !is_pending(region); };
    auto first = range.first;
    while (first < range.end && !is_clean(first)) ++first;
    if (first == range.end) return;
    const auto end = range.end + window_behind(first, range.end);
    for (auto region = first; region < end; ++region)
        if (is_clean(region)) want_one(region);
}

std::uint64_t dirty_map::next_stale_page(std::uint64_t from) const noexcept {
    for (auto page = from; page < pages_; ++page)
        if (stale_[page] != 0) return page;
    return none;
}

bitmap_page dirty_map::encode_page(std::uint64_t page) noexcept {
    INVARIANT(page < pages_, "bitmap page {} of {}", page, pages_);
    bitmap_page bytes{};
    const auto first = page * page_words;
    const auto end = std::min<std::uint64_t>(first + page_words, wanted_.size());
    for (auto i = first; i < end; ++i) {
        const auto bits = dirty_[i].load() | wanted_[i] | syncing_[i];
        for (std::size_t byte = 0; byte < sizeof bits; ++byte)
            bytes[bitmap_page_header_bytes + (i - first) * sizeof bits + byte] =
                static_cast<std::byte>(bits >> (8 * byte) & 0xff);
    }
    seal_bitmap_page(bytes, page);
    stale_[page] = 0;
    return bytes;
}

void dirty_map::begin_sync() noexcept {
    INVARIANT(syncing_span_.empty(), "two syncs of a bitmap at the same time");
    for (auto i = wanted_span_.first / word_bits; i < divide_up(wanted_span_.end, word_bits); ++i)
        syncing_[i] = std::exchange(wanted_[i], 0);
    syncing_span_ = std::exchange(wanted_span_, {});
}

void dirty_map::publish() noexcept {
    for (auto i = syncing_span_.first / word_bits; i < divide_up(syncing_span_.end, word_bits); ++i)
        dirty_[i].fetch_or(std::exchange(syncing_[i], 0));
    syncing_span_ = {};
}

void dirty_map::clear(region_range range) noexcept {
    for (auto region = range.first; region < range.end; ++region) {
        const auto index = region / word_bits;
        const bool was_dirty = (dirty_[index].fetch_and(~bit(region)) & bit(region)) != 0;
        if ((visits_[region].load() & in_flight_mask) != 0) {
            // Against the writer's promise, or a change that waits for this very bit: dirty it is, dirty it stays.
            if (was_dirty) dirty_[index].fetch_or(bit(region));
            continue;
        }
        if (!was_dirty && !is_pending(region)) continue;
        wanted_[index] &= ~bit(region);
        syncing_[index] &= ~bit(region);
        stale_[region / bitmap_page_bits] = 1;
    }
}

std::uint64_t dirty_map::used_bits(std::uint64_t word_index) const noexcept {
    const auto left = regions_ - word_index * word_bits;
    return left >= word_bits ? ~std::uint64_t{0} : bit(left) - 1;
}

bool dirty_map::load_page(std::uint64_t page, std::span<const std::byte> bytes) {
    INVARIANT(page < pages_, "bitmap page {} of {}", page, pages_);
    const auto bits = decode_bitmap_page(bytes, page);
    const auto first = page * page_words;
    const auto end = std::min<std::uint64_t>(first + page_words, wanted_.size());
    for (auto i = first; i < end; ++i) {
        std::uint64_t value = 0;
        if (bits.has_value())
            for (std::size_t byte = 0; byte < sizeof value; ++byte)
                value |= std::to_integer<std::uint64_t>((*bits)[(i - first) * sizeof value + byte]) << (8 * byte);
        dirty_[i].store((bits.has_value() ? value : ~std::uint64_t{0}) & used_bits(i));
    }
    stale_[page] = bits.has_value() ? 0 : 1;  // the next write of the map heals it
    return bits.has_value();
}

void dirty_map::set_all() noexcept {
    for (std::uint64_t i = 0; i < wanted_.size(); ++i) dirty_[i].store(used_bits(i));
    std::fill(stale_.begin(), stale_.end(), std::uint8_t{1});
}

}  // namespace weft::core
