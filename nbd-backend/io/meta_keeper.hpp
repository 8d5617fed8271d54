// SPDX-License-Identifier: Apache-2.0
// Everything that is written into the meta file of an open replica: epochs (R2), the boot id of the last change, and
// the write-intent bitmap (R6, core/dirty_map.hpp).
//
// Laws:
//   - a change touches the data only when the boot id of this kernel is durable as the one of the last change
//     (FORMAT.md, "Why a boot id"), the bitmap is marked as kept, and the bits of its regions are durable. The first
//     change since the kernel started pays for the former, the first change of a clean region for the latter; later
//     ones pay a few atomic instructions;
//   - changes that come to clean regions at the same time share one page write and one sync;
//   - syncs of the file are made one at a time, and the outcome of each is known before the next begins (the kernel
//     tells a write-back error to one caller only); a failed one fails the replica;
//   - clearing writes without a sync. It may reach the disk at any time, or never: then the region is dirty again.
//
// Locks: meta_mutex_ (held while slots are stored and while the file is synced) before map_mutex_ (held while pages are
// encoded and written, never across a sync, so that the pages reach the kernel in the order of their encoding).
// Deadlock is excluded: who holds one of them waits for the disk only. Thread rule: everything from any thread.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>

#include "nbd-backend/base/result.hpp"
#include "nbd-backend/core/dirty_map.hpp"
#include "nbd-backend/io/failure_latch.hpp"
#include "nbd-backend/io/replica_file.hpp"

namespace weft::io {

class meta_keeper {
public:
    /// Reads the bitmap; a page that is bad, and every page of a replica that was changed while nobody kept the bitmap,
    /// counts as dirty. `boot_id`: of this kernel. All arguments must outlive the keeper.
    meta_keeper(replica_file& file, const std::string& boot_id, failure_latch& failure, const failure_reporter& report);

    /// Makes a higher epoch durable. Precondition: no change is in flight. Errors: io_failed, which fails the replica.
    status raise_epoch(std::uint64_t epoch);

    /// Under which the last change was admitted, as it is durable; empty: never. Never waits for the disk.
    [[nodiscard]] std::string change_boot_id() const;

    /// A change of these regions may be applied when this returned 0; then end_change, once, when it is over. Otherwise
    /// EIO, which fails the replica. Blocks when the first law above has something to do.
    int begin_change(core::region_range range) noexcept;
    void end_change(core::region_range range) noexcept { map_.leave(range); }

    /// Makes regions clean. The caller (the writer) promises that no change is in flight there; where one is, the
    /// region stays dirty, which is always safe. 0 or EIO.
    int clear(core::region_range range) noexcept;
    /// Makes what was cleared before the call durable. 0 or EIO.
    int sync() noexcept;

    /// For its calls from any thread.
    [[nodiscard]] const core::dirty_map& map() const noexcept { return map_; }
    /// How often the file was synced for bits that had to be set.
    [[nodiscard]] std::uint64_t bit_syncs() const noexcept { return bit_syncs_.load(std::memory_order_relaxed); }

private:
    void load_map(const failure_reporter& report);
    int prepare_change() noexcept;
    status store_bitmap_kept();
    int keep_bitmap() noexcept;
    int set(core::region_range range) noexcept;
    int sync_wanted() noexcept;
    int write_stale_pages() noexcept;
    int fail(int problem, std::string_view what) noexcept;

    replica_file& file_;
    const std::string& boot_id_;
    failure_latch& failure_;

    mutable std::mutex meta_mutex_;
    std::atomic<bool> may_change_{false};    // our boot id is durable and the bitmap is kept; never false again
    std::atomic<bool> keeps_bitmap_{false};  // the latter alone

    mutable std::mutex told_mutex_;  // innermost, for a moment only
    std::string change_boot_id_;     // under told_mutex_: what file_ has, to be told without waiting for the disk

    std::mutex map_mutex_;
    std::condition_variable set_done_;
    core::dirty_map map_;   // under map_mutex_, except its calls from any thread
    bool leading_ = false;  // under map_mutex_: one of those who wait for bits makes them durable for all
    std::atomic<std::uint64_t> bit_syncs_{0};
};

}  // namespace weft::io
