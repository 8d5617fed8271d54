// SPDX-License-Identifier: Apache-2.0
// The write-intent bitmap of one replica in memory (R6), and what of it has to be written where. FORMAT.md, "The
// write-intent bitmap", is the format of a page.
//
//             want            begin_sync           publish
//   clean ──────────▶ wanted ───────────▶ syncing ─────────▶ dirty ───┐
//     ▲                  │  (its page is written, then synced)        │
//     └──────────────────┴──────────────────┴───── clear ◀────────────┘   unless a change is in flight there
//
// Laws:
//   - a change (write, zero, trim) of a region is applied only between enter and leave, and only when all its regions
//     are dirty: that is, when a page with their bits is on stable storage;
//   - every page that is encoded holds the bits of all regions that are wanted, syncing or dirty, so that whatever is
//     written after a region became dirty keeps its bit on the disk; the pages of one map are therefore encoded and
//     written under one lock, in the order of their encoding;
//   - a region is never made clean while a change is in flight in it. enter counts first and looks at the bit then,
//     clear takes the bit first and looks at the count then: one of the two sees the other;
//   - setting rounds outward, clearing inward; a page that does not check is all dirty.
//
// Pure: no lock, file or clock; the server (io/meta_keeper.hpp) and the simulator use this same class. Thread rule: the
// calls marked "any thread" are lock-free; all others belong under their owner's lock.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "nbd-backend/core/replica_meta.hpp"

namespace weft::core {

/// The regions [first, end).
struct region_range {
    std::uint64_t first = 0;
    std::uint64_t end = 0;

    [[nodiscard]] bool empty() const noexcept { return first >= end; }
    friend bool operator==(const region_range&, const region_range&) = default;
};

class dirty_map {
public:
    static constexpr std::uint64_t none = ~std::uint64_t{0};
    /// How far a sequential writer's regions are set ahead.
    static constexpr std::uint64_t ahead_max = 16;

    /// Every region clean. Precondition: sizes as core::check(replica_meta) wants them.
    dirty_map(std::uint64_t size_bytes, std::uint64_t region_bytes);
    explicit dirty_map(const replica_meta& meta) : dirty_map(meta.size_bytes, meta.region_bytes) {}

    // --- any thread ---

    [[nodiscard]] std::uint64_t size_bytes() const noexcept { return size_bytes_; }
    [[nodiscard]] std::uint64_t region_bytes() const noexcept { return region_bytes_; }
    [[nodiscard]] std::uint64_t regions() const noexcept { return regions_; }
    [[nodiscard]] std::uint64_t pages() const noexcept { return pages_; }

    /// The regions that these bytes touch: what a change dirties. Precondition for both: the range lies inside.
    [[nodiscard]] region_range touched_by(std::uint64_t offset, std::uint64_t length) const noexcept;
    /// The regions that lie wholly in these bytes: what may be cleared. The last region ends where the replica ends.
    [[nodiscard]] region_range covered_by(std::uint64_t offset, std::uint64_t length) const noexcept;

    [[nodiscard]] bool is_dirty(std::uint64_t region) const noexcept;
    [[nodiscard]] bool all_dirty(region_range range) const noexcept;
    /// The end of the run of regions from `from` on that are `dirty` (or clean), at least from + 1 and at most `end`.
    [[nodiscard]] std::uint64_t run_end(std::uint64_t from, std::uint64_t end, bool dirty) const noexcept;
    [[nodiscard]] std::uint64_t dirty_count() const noexcept;

    /// A change of these regions begins. True: all are dirty, apply it. False: have them set first (want … publish);
    /// clear leaves them alone from now on. In both cases: leave, once, when the change is over.
    [[nodiscard]] bool enter(region_range range) noexcept;
    void leave(region_range range) noexcept;
    /// Differs from what it was whenever a change entered or left the region in between.
    [[nodiscard]] std::uint64_t visits(std::uint64_t region) const noexcept { return visits_[region].load(); }

    // --- under the owner's lock ---

    /// Asks for the bits of those regions that are clean. A sequential writer (its first clean region is the one behind
    /// what was asked for last) gets a growing window ahead in the same page: otherwise each of its regions would cost
    /// it a sync of its own.
    void want(region_range range) noexcept;
    [[nodiscard]] bool has_wanted() const noexcept { return !wanted_span_.empty(); }

    /// The first page >= from whose bytes on the disk are not those of the map, or none.
    [[nodiscard]] std::uint64_t next_stale_page(std::uint64_t from) const noexcept;
    /// Its bytes; from now on it does not count as stale: write them before anything else of this map is encoded.
    bitmap_page encode_page(std::uint64_t page) noexcept;

    /// All wanted regions are on their way to the disk: write the stale pages, sync, then publish. One at a time.
    void begin_sync() noexcept;
    /// The sync succeeded: what was on its way, and was not cleared meanwhile, is dirty.
    void publish() noexcept;

    /// Makes clean what is not in flight. Write the stale pages afterwards; no sync is needed: when the write is lost,
    /// the regions come back dirty.
    void clear(region_range range) noexcept;

    /// A page as read from the disk; every region of it is dirty when it does not check (false), which is also right
    /// for a page that could not be read (an empty span). Precondition: nothing is wanted, syncing or in flight.
    bool load_page(std::uint64_t page, std::span<const std::byte> bytes);
    /// Every region dirty, every page stale. Precondition as load_page.
    void set_all() noexcept;

private:
    static constexpr std::uint64_t word_bits = 64;
    static constexpr std::uint64_t page_words = bitmap_page_bits / word_bits;
    static_assert(bitmap_page_bits % word_bits == 0, "a word of the map lies in one page");

    /// A sequential writer: the region that it is expected to ask for next, and the window that it got last.
    struct stream {
        std::uint64_t next = none;
        std::uint64_t window = 0;
    };
    using word = std::atomic<std::uint64_t>;

    [[nodiscard]] static std::uint64_t bit(std::uint64_t region) noexcept {
        return std::uint64_t{1} << (region % word_bits);
    }
    [[nodiscard]] bool is_pending(std::uint64_t region) const noexcept {
        return ((wanted_[region / word_bits] | syncing_[region / word_bits]) & bit(region)) != 0;
    }
    [[nodiscard]] std::uint64_t window_behind(std::uint64_t first, std::uint64_t end) noexcept;
    void want_one(std::uint64_t region) noexcept;
    /// The bits of a word that stand for regions.
    [[nodiscard]] std::uint64_t used_bits(std::uint64_t word_index) const noexcept;

    std::uint64_t size_bytes_;
    std::uint64_t region_bytes_;
    std::uint64_t regions_;
    std::uint64_t pages_;
    std::unique_ptr<word[]> dirty_;
    std::unique_ptr<word[]> visits_;  // per region: changes that entered << 32 | changes in flight
    std::vector<std::uint64_t> wanted_;
    std::vector<std::uint64_t> syncing_;
    region_range wanted_span_;   // holds every wanted region; so that small changes of large maps stay cheap
    region_range syncing_span_;  // the same of the syncing ones
    std::vector<std::uint8_t> stale_;
    std::array<stream, 4> streams_{};
    std::size_t next_stream_ = 0;
};

}  // namespace weft::core
