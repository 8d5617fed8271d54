// SPDX-License-Identifier: Apache-2.0
// An open replica, shared by its connections: its fence (R2), its data, its meta (meta_keeper.hpp) and its checksums
// (block_sums.hpp).
//
// Laws:
//   - a request touches the data or the bitmap only while its ticket is admitted; a new key joins only after those of
//     lower keys left and its epoch is durable;
//   - after a failed sync of data or meta no request on this replica succeeds in this process any more, whoever asks.
//
// Deadlock is excluded: an opener that drains holds no lock at all (fence_mutex_ is released while it waits), nobody
// holds fence_mutex_ or sync_mutex_ across I/O. Thread rule: everything from any thread.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <span>
#include <string>

#include "nbd-backend/core/export_name.hpp"
#include "nbd-backend/core/fence.hpp"
#include "nbd-backend/io/block_sums.hpp"
#include "nbd-backend/io/failure_latch.hpp"
#include "nbd-backend/io/meta_keeper.hpp"
#include "nbd-backend/io/replica_file.hpp"
#include "nbd-backend/io/space_guard.hpp"

namespace weft::io {

class served_replica {
public:
    /// `known`: the highest key remembered from earlier connections. `boot_id`: of this kernel. `space`: of the drive.
    served_replica(replica_file file, core::fence_key known, const std::string& boot_id, space_guard& space,
                   const failure_reporter& report);

    /// R2: fences lower keys, waits until their requests are done, makes the epoch durable. Returns the ticket, 0 for a
    /// stale key. Errors: io_failed when an epoch could not be made durable, now or before. Blocks.
    result<core::admission_gate::ticket> enter(core::fence_key key);

    [[nodiscard]] bool admit(core::admission_gate::ticket ticket) noexcept { return fence_.gate().admit(ticket); }
    void retire() noexcept;

    // Requests that were admitted; 0 or an errno. Precondition: the range lies inside.
    /// `verified`: EIO rather than bytes that differ from their checksums. Without, as they are on the drive.
    int read(std::span<std::byte> buffer, std::uint64_t offset, bool verified) noexcept;
    /// ENOSPC before anything is applied when it needs new space and the drive is nearly full; a drive that somebody
    /// else fills meanwhile may still answer ENOSPC half-way.
    int write(std::span<const std::byte> buffer, std::uint64_t offset) noexcept;
    /// Also trim: both leave a hole. `only_if_fast`: ENOTSUP rather than writing zeros.
    int zero(std::uint64_t offset, std::uint64_t length, bool only_if_fast) noexcept;
    /// Makes all changes that were answered before the call durable; those who ask at the same time share one
    /// fdatasync.
    int sync() noexcept;

    /// Makes these regions clean (meta_keeper::clear), after their checksums are right and durable. 0 or EIO, and then
    /// they are as dirty as before.
    int clear(core::region_range range) noexcept;

    [[nodiscard]] meta_keeper& meta() noexcept { return meta_; }
    [[nodiscard]] const replica_file& file() const noexcept { return file_; }
    [[nodiscard]] bool is_failed() const noexcept { return failure_.is_set(); }
    [[nodiscard]] core::fence_key highest() const;
    [[nodiscard]] core::export_description describe(bool fenced) const;

private:
    template <typename Work>
    int changing(std::uint64_t offset, std::uint64_t length, Work work) noexcept;

    replica_file file_;
    const std::string& boot_id_;
    space_guard& space_;
    failure_latch failure_;
    meta_keeper meta_;
    block_sums sums_;

    mutable std::mutex fence_mutex_;
    std::condition_variable fence_changed_;
    core::fence fence_;  // under fence_mutex_, except its gate

    std::mutex sync_mutex_;
    std::condition_variable sync_done_;
    std::uint64_t syncs_started_ = 0;  // under sync_mutex_, as the next two
    std::uint64_t syncs_finished_ = 0;
    bool syncing_ = false;
};

}  // namespace weft::io
