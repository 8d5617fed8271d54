// SPDX-License-Identifier: Apache-2.0
#include "nbd-backend/io/served_replica.hpp"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "nbd-backend/base/invariant.hpp"

namespace weft::io {

using core::admission_gate;
using core::fence_key;
using core::fence_verdict;

served_replica::served_replica(replica_file file, fence_key known, const std::string& boot_id, space_guard& space,
                               const failure_reporter& report)
    : file_(std::move(file)),
      boot_id_(boot_id),
      space_(space),
      failure_(report),
      meta_(file_, boot_id_, failure_, report),
      sums_(file_, meta_.map(), report),
      fence_(std::max(known, fence_key{file_.meta().epoch, 0})) {
    INVARIANT(known.epoch <= file_.meta().epoch, "epoch {} was admitted, {} is durable", known.epoch,
              file_.meta().epoch);
}

result<admission_gate::ticket> served_replica::enter(fence_key key) {
    std::unique_lock lock(fence_mutex_);
    fence_.announce(key);
    fence_changed_.notify_all();  // openers with lower keys are stale now
    for (;;) {
        const auto step = fence_.next(key);
        switch (step.verdict) {
            case fence_verdict::joined:
                fence_changed_.notify_all();  // the other connections of this key
                return step.ticket;
            case fence_verdict::stale: return admission_gate::ticket{0};
            case fence_verdict::broken:
                return error{errc::io_failed, "an epoch could not be made durable: restart the replica server"};
            case fence_verdict::wait: fence_changed_.wait(lock); break;
            case fence_verdict::persist: {
                lock.unlock();
                auto made = meta_.raise_epoch(key.epoch);
                lock.lock();
                if (made.has_error()) {
                    fence_.broke();
                } else {
                    fence_.persisted();
                }
                fence_changed_.notify_all();
                if (made.has_error()) return std::move(made).error();
                break;
            }
        }
    }
}

void served_replica::retire() noexcept {
    if (!fence_.gate().retire()) return;
    // Through the lock, so that an opener that saw us inside is asleep by now and hears it.
    { const std::lock_guard lock(fence_mutex_); }
    fence_changed_.notify_all();
}

template <typename Work>
int served_replica::changing(std::uint64_t offset, std::uint64_t length, Work work) noexcept {
    const auto regions = meta_.map().touched_by(offset, length);
    if (const int problem = meta_.begin_change(regions); problem != 0) return problem;
    const int problem = work();
    // ENOTSUP: nothing was tried. Everything else may be applied in part.
    if (problem != 0 && problem != ENOTSUP) sums_.doubt(regions);
    meta_.end_change(regions);
    return problem;
}

int served_replica::read(std::span<std::byte> buffer, std::uint64_t offset, bool verified) noexcept {
    // A change of the same block between the look at the data and that at its sum would look like damage; the writer
    // does not do that (R9, R10), but damage is still there when one looks again.
    constexpr int looks = 3;
    std::uint64_t bad = block_sums::none;
    for (int i = 0; i < looks; ++i) {
        if (const int problem = file_.read(buffer, offset); problem != 0) return problem;
        if (!verified) return 0;
        if (const int problem = sums_.verify(buffer, offset, bad); problem != 0) {
            sums_.tell_bad(offset, errno_error(problem, "its checksums cannot be read").text);
            return EIO;
        }
        if (bad == block_sums::none) return 0;
    }
    sums_.tell_bad(bad,
                   "it differs from its checksum, so the drive does not give back what was written: the read fails, "
                   "and the writer takes another replica");
    return EIO;
}

int served_replica::write(std::span<const std::byte> buffer, std::uint64_t offset) noexcept {
    const auto room = file_.is_thick() ? space_guard::grant(true) : space_.ask(buffer.size());
    if (!room && !file_.is_allocated(offset, buffer.size())) return ENOSPC;
    return changing(offset, buffer.size(), [&]() noexcept {
        const int problem = file_.write(buffer, offset);
        if (problem == 0) sums_.wrote(buffer, offset);
        return problem;
    });
}

int served_replica::zero(std::uint64_t offset, std::uint64_t length, bool only_if_fast) noexcept {
    return changing(offset, length, [&]() noexcept {
        const int problem = file_.zero(offset, length, only_if_fast);
        if (problem == 0) sums_.zeroed(offset, length);
        return problem;
    });
}

int served_replica::clear(core::region_range range) noexcept {
    if (!sums_.is_kept()) return meta_.clear(range);
    if (const int problem = sums_.settle(range); problem != 0) return problem;
    for (auto first = range.first; first < range.end;) {
        auto end = first;
        while (end < range.end && (sums_.is_sure(end) || !meta_.map().is_dirty(end))) ++end;
        if (const int problem = meta_.clear({first, end}); problem != 0) return problem;
        first = end + 1;  // `end` stays dirty
    }
    return 0;
}

int served_replica::sync() noexcept {
    std::unique_lock lock(sync_mutex_);
    // A sync that runs already may have begun before the write that this one is for.
    const std::uint64_t wanted = syncs_started_ + 1;
    while (syncs_finished_ < wanted) {
        if (is_failed()) return EIO;
        if (syncing_) {
            sync_done_.wait(lock);
            continue;
        }
        syncing_ = true;
        ++syncs_started_;
        lock.unlock();
        // One at a time: the kernel tells a write-back error to one caller only, and it must be known before another
        // caller can get the answer "nothing wrong".
        const int problem = file_.sync();
        if (problem != 0) failure_.set(errno_error(problem, "sync data").text);
        lock.lock();
        syncing_ = false;
        syncs_finished_ = syncs_started_;
        sync_done_.notify_all();
    }
    return is_failed() ? EIO : 0;
}

fence_key served_replica::highest() const {
    const std::lock_guard lock(fence_mutex_);
    return fence_.highest();
}

core::export_description served_replica::describe(bool fenced) const {
    return {fenced, boot_id_, highest(), meta_.change_boot_id()};
}

}  // namespace weft::io
