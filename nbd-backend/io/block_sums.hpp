// SPDX-License-Identifier: Apache-2.0
// The checksum of every block of a replica: kept with each change, verified with each read of a writer, so that bytes
// that the drive changed by itself are never returned (R10). FORMAT.md, "sums", is the format and the reasoning.
//
// Laws:
//   - the sums of a region are trusted only while it was clean when the server opened the replica (they were synced
//     before it became clean), or the replica was never changed before, or the region was summed again since; and no
//     change of it failed half-way. The other regions are *unsure*, and not verified;
//   - a region becomes clean only after its sums are right and durable (settle);
//   - a sum is written after its block, by the change that wrote the block; overlapping changes do not meet (R9).
//
// A replica without sums (an older one, or by policy) passes everything. Thread rule: everything from any thread; no
// lock on the way of changes and reads.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string_view>

#include "nbd-backend/core/dirty_map.hpp"
#include "nbd-backend/io/failure_latch.hpp"
#include "nbd-backend/io/replica_file.hpp"

namespace weft::io {

class block_sums {
public:
    static constexpr std::uint64_t none = ~std::uint64_t{0};
    /// How long one settle reads a drive at most: the writer holds changes of the range back meanwhile, and takes a
    /// server that does not answer for some seconds for hung (R4).
    static constexpr std::chrono::milliseconds settle_budget{250};

    /// What is dirty in `map` now is unsure, unless the replica was never changed. All arguments must outlive this.
    block_sums(const replica_file& file, const core::dirty_map& map, const failure_reporter& report,
               std::chrono::milliseconds budget = settle_budget);

    [[nodiscard]] bool is_kept() const noexcept { return kept_; }
    /// Will a read of this region be verified?
    [[nodiscard]] bool is_sure(std::uint64_t region) const noexcept {
        return kept_ && (unsure_[region / word_bits].load() >> (region % word_bits) & 1) == 0;
    }

    // After a change was applied, before it is answered. Precondition: whole blocks.
    void wrote(std::span<const std::byte> bytes, std::uint64_t offset) noexcept;
    void zeroed(std::uint64_t offset, std::uint64_t length) noexcept;
    /// A change failed: it may be applied in part.
    void doubt(core::region_range range) noexcept;

    /// Compares what was read with its sums. 0, with `bad` the offset of the first block that differs or `none`; or an
    /// errno when the sums cannot be read.
    int verify(std::span<const std::byte> bytes, std::uint64_t offset, std::uint64_t& bad) const noexcept;
    /// Tells people that a read was refused; once a second at most.
    void tell_bad(std::uint64_t offset, std::string_view why) noexcept;

    /// Makes the sums of the dirty ones among these regions right and durable, so that they may become clean. Regions
    /// in which a change is under way meanwhile stay unsure: leave them dirty. 0 or EIO: leave all dirty; ask again,
    /// since it is also EIO when summing takes longer than the budget. What was summed then stays summed, so that
    /// asking again comes to an end.
    int settle(core::region_range range) noexcept;

private:
    static constexpr std::uint64_t word_bits = 64;

    int sum_again(std::uint64_t region) noexcept;
    int sync() noexcept;
    void report(std::string_view text) noexcept;

    const replica_file& file_;
    const core::dirty_map& map_;
    const failure_reporter& report_;
    const std::chrono::milliseconds budget_;
    const bool kept_;
    std::unique_ptr<std::atomic<std::uint64_t>[]> unsure_;  // by region; never set for a clean one, but after a failure
    std::atomic<std::chrono::steady_clock::rep> told_{0};   // when tell_bad last told something; 0: never

    std::mutex sync_mutex_;                        // one sync at a time, since the kernel tells an error once
    std::atomic<std::uint64_t> syncs_started_{0};  // changed under sync_mutex_
};

}  // namespace weft::io
