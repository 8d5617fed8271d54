// SPDX-License-Identifier: Apache-2.0
#include "nbd-backend/io/meta_keeper.hpp"

#include <fmt/format.h>

#include <cerrno>

#include "nbd-backend/base/crash_point.hpp"

namespace weft::io {

meta_keeper::meta_keeper(replica_file& file, const std::string& boot_id, failure_latch& failure,
                         const failure_reporter& report)
    : file_(file),
      boot_id_(boot_id),
      failure_(failure),
      change_boot_id_(file.meta().change_boot_id),
      map_(file.meta()) {
    // A predecessor may have been killed between writing and syncing: what is read here may be in the kernel only.
    // Bits, epoch and boot id count as durable from here on, so they must be (R2, R6).
    if (const int problem = file_.sync_meta(); problem != 0)
        (void)fail(problem, "sync what the last server has written");
    load_map(report);
    keeps_bitmap_ = file_.meta().keeps_bitmap();
    may_change_ = file_.meta().change_boot_id == boot_id_ && file_.meta().keeps_bitmap();
}

void meta_keeper::load_map(const failure_reporter& report) {
    core::bitmap_page bytes{};
    for (std::uint64_t page = 0; page < map_.pages(); ++page) {
        const int problem = file_.read_page(page, bytes);
        if (map_.load_page(page, problem == 0 ? std::span<const std::byte>(bytes) : std::span<const std::byte>()))
            continue;
        report(
            fmt::format("replica {}: page {} of its bitmap is bad ({}): its regions count as dirty, recovery will "
                        "copy them",
                        file_.meta().replica.str(), page,
                        problem != 0 ? errno_error(problem, "read").text : std::string("torn or rotten")));
    }
    // FORMAT.md, "bitmap kept": whoever changed it so far did not set bits.
    if (!file_.meta().keeps_bitmap() && file_.meta().epoch != 0) map_.set_all();
}

int meta_keeper::fail(int problem, std::string_view what) noexcept {
    failure_.set(errno_error(problem, what).text);
    return EIO;
}

status meta_keeper::raise_epoch(std::uint64_t epoch) {
    const std::lock_guard lock(meta_mutex_);
    // A change may have failed to store something while we waited for it: what the slots hold is unknown.
    if (failure_.is_set()) return error{errc::io_failed, "the replica failed before: restart the replica server"};
    auto made = file_.raise_epoch(epoch);
    if (made.has_error()) failure_.set(made.error().text);
    return made;
}

std::string meta_keeper::change_boot_id() const {
    const std::lock_guard lock(told_mutex_);
    return change_boot_id_;
}

/// Precondition: meta_mutex_ is held.
status meta_keeper::store_bitmap_kept() {
    if (file_.meta().keeps_bitmap()) return ok();
    int problem = 0;
    {
        const std::lock_guard lock(map_mutex_);
        problem = write_stale_pages();
    }
    if (problem == 0) problem = file_.sync_meta();
    if (problem != 0) return errno_error(problem, "store the bitmap");
    TRY(file_.add_incompat(core::incompat_bitmap_kept));
    keeps_bitmap_.store(true, std::memory_order_release);
    return ok();
}

int meta_keeper::keep_bitmap() noexcept {
    if (keeps_bitmap_.load(std::memory_order_acquire)) return 0;
    const std::lock_guard lock(meta_mutex_);
    if (failure_.is_set()) return EIO;
    const auto kept = store_bitmap_kept();
    if (kept.has_error()) failure_.set(kept.error().text);
    return kept.has_error() ? EIO : 0;
}

int meta_keeper::prepare_change() noexcept {
    const std::lock_guard lock(meta_mutex_);
    if (may_change_.load(std::memory_order_relaxed)) return 0;  // another first change did it while we waited
    if (failure_.is_set()) return EIO;
    auto made = store_bitmap_kept();
    if (made.has_value() && file_.meta().change_boot_id != boot_id_) made = file_.store_change_boot_id(boot_id_);
    if (made.has_error()) {
        failure_.set(made.error().text);
        return EIO;
    }
    {
        const std::lock_guard told(told_mutex_);
        change_boot_id_ = boot_id_;
    }
    may_change_.store(true, std::memory_order_release);
    return 0;
}

int meta_keeper::begin_change(core::region_range range) noexcept {
    if (!may_change_.load(std::memory_order_acquire))
        if (const int problem = prepare_change(); problem != 0) return problem;
    if (map_.enter(range)) return 0;
    const int problem = set(range);
    if (problem != 0) map_.leave(range);
    return problem;
}

int meta_keeper::set(core::region_range range) noexcept {
    std::unique_lock lock(map_mutex_);
    while (!map_.all_dirty(range)) {
        if (failure_.is_set()) return EIO;
        map_.want(range);
        if (leading_) {
            set_done_.wait(lock);
            continue;
        }
        leading_ = true;
        lock.unlock();
        (void)sync_wanted();  // a failure is remembered in failure_, for all who wait
        lock.lock();
        leading_ = false;
        set_done_.notify_all();
    }
    return 0;
}

int meta_keeper::sync_wanted() noexcept {
    const std::lock_guard lock(meta_mutex_);
    if (failure_.is_set()) return EIO;
    int problem = 0;
    {
        const std::lock_guard writing(map_mutex_);
        map_.begin_sync();
        problem = write_stale_pages();
    }
    WEFT_CRASH_POINT("replica.bit-written");
    if (problem == 0) problem = file_.sync_meta();
    if (problem != 0) return fail(problem, "store the bitmap");
    WEFT_CRASH_POINT("replica.bit-stored");
    const std::lock_guard publishing(map_mutex_);
    map_.publish();
    bit_syncs_.fetch_add(1, std::memory_order_relaxed);
    return 0;
}

/// Precondition: map_mutex_ is held. 0 or an errno.
int meta_keeper::write_stale_pages() noexcept {
    for (auto page = map_.next_stale_page(0); page != core::dirty_map::none; page = map_.next_stale_page(page + 1))
        if (const int problem = file_.write_page(page, map_.encode_page(page)); problem != 0) return problem;
    return 0;
}

int meta_keeper::clear(core::region_range range) noexcept {
    if (range.empty()) return 0;
    if (const int problem = keep_bitmap(); problem != 0) return problem;
    const std::lock_guard lock(map_mutex_);
    map_.clear(range);
    WEFT_CRASH_POINT("clear.told");
    const int problem = write_stale_pages();
    WEFT_CRASH_POINT("clear.written");
    // What the page holds now is unknown, and so is what a later sync would answer for.
    return problem == 0 ? 0 : fail(problem, "write the bitmap");
}

int meta_keeper::sync() noexcept {
    const std::lock_guard lock(meta_mutex_);
    if (failure_.is_set()) return EIO;
    const int problem = file_.sync_meta();
    return problem == 0 ? 0 : fail(problem, "sync the bitmap");
}

}  // namespace weft::io
