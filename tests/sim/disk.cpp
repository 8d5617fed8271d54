// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/disk.hpp"

#include "nbd-backend/base/invariant.hpp"
#include "nbd-backend/base/units.hpp"

namespace weft::sim {

disk::disk(std::uint64_t region_bytes, bool all_dirty) : region_bytes_(region_bytes) {
    bits_ = std::make_unique<core::dirty_map>(blocks * block_bytes, region_bytes_);
    INVARIANT(bits_->pages() == 1, "the model's bitmap is one page, not {}", bits_->pages());
    if (all_dirty) bits_->set_all();
    page_cached_ = bits_->encode_page(0);
    page_stable_ = page_cached_;
}

void disk::change(std::uint64_t b, block to, schedule& time) {
    if (time.one_in(8)) stable_[b] = cached_[b];
    cached_[b] = to;
    rotten_[b] = false;
}

void disk::flush() {
    stable_ = cached_;
}

void disk::write_page() {
    if (bits_->next_stale_page(0) != core::dirty_map::none) page_cached_ = bits_->encode_page(0);
}

void disk::process_dies() {
    bits_ = std::make_unique<core::dirty_map>(blocks * block_bytes, region_bytes_);
    (void)bits_->load_page(0, page_cached_);
}

void disk::kernel_dies(schedule& time) {
    for (std::uint32_t b = 0; b < blocks; ++b) {
        if (cached_[b] == stable_[b]) continue;
        if (time.one_in(2)) cached_[b] = stable_[b];
        stable_[b] = cached_[b];
    }
    if (page_cached_ != page_stable_) {
        const auto dice = time.random(8);
        if (dice < 3) page_cached_ = page_stable_;
        if (dice == 7) page_cached_[core::bitmap_page_header_bytes] ^= std::byte{0xff};  // torn: does not check
        page_stable_ = page_cached_;
    }
    process_dies();
}

}  // namespace weft::sim
