// SPDX-License-Identifier: Apache-2.0
// What one replica has on its host: the kernel's view (`cached`), what its drive keeps when the kernel dies (`stable`),
// and the meta file with the epoch, the boot id of the last change and the write-intent bitmap.
//
// When the kernel dies each block that was not flushed is kept or lost by itself (data tears per block); a bitmap page
// that was written and not synced may be the old one, the new one, or torn. A rotten block cannot be read (the server
// keeps checksums) until it is written again.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "nbd-backend/core/dirty_map.hpp"
#include "tests/sim/history.hpp"
#include "tests/sim/schedule.hpp"

namespace weft::sim {

inline constexpr std::uint32_t blocks = 32;

struct block {
    value v = 0;
    bool allocated = false;
    friend bool operator==(const block&, const block&) = default;
};

class disk {
public:
    disk(std::uint64_t region_bytes, bool all_dirty);

    [[nodiscard]] const block& cached(std::uint64_t b) const { return cached_[b]; }
    [[nodiscard]] const block& stable(std::uint64_t b) const { return stable_[b]; }
    [[nodiscard]] bool rotten(std::uint64_t b) const { return rotten_[b]; }
    [[nodiscard]] bool any_rotten() const { return std::find(rotten_.begin(), rotten_.end(), true) != rotten_.end(); }
    void rot(std::uint64_t b) { rotten_[b] = ever_rotten = true; }
    void heal(std::uint64_t b) { rotten_[b] = false; }

    /// The kernel may write a block back at any time: sometimes it does so just before the block changes.
    void change(std::uint64_t b, block to, schedule& time);
    void flush(std::uint64_t b) { stable_[b] = cached_[b]; }
    void flush();

    /// The running server's bitmap; between two runs, what the next one will load.
    [[nodiscard]] core::dirty_map& bits() { return *bits_; }
    [[nodiscard]] const core::dirty_map& bits() const { return *bits_; }
    /// Writes the pages that changed; they are durable after sync_page.
    void write_page();
    void sync_page() { page_stable_ = page_cached_; }

    /// The server's memory is gone: its bitmap is the page that the kernel has.
    void process_dies();
    void kernel_dies(schedule& time);

    std::uint64_t epoch = 0;        // durable
    std::uint64_t change_boot = 0;  // durable; under which kernel it last admitted a change
    bool full = false;
    bool was_full = false;  // at some time
    bool ever_rotten = false;
    bool gone = false;  // the drive is destroyed

private:
    std::vector<block> cached_{blocks};
    std::vector<block> stable_{blocks};
    std::vector<bool> rotten_ = std::vector<bool>(blocks);
    std::uint64_t region_bytes_;
    std::unique_ptr<core::dirty_map> bits_;
    core::bitmap_page page_cached_{};
    core::bitmap_page page_stable_{};
};

}  // namespace weft::sim
