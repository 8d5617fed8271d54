// SPDX-License-Identifier: Apache-2.0
#include "nbd-backend/io/replica_server.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <exception>
#include <utility>

#include "nbd-backend/base/invariant.hpp"
#include "nbd-backend/core/engine_types.hpp"
#include "nbd-backend/io/replica_dir.hpp"

namespace weft::io {

using core::admission_gate;
using core::fence_key;
using core::fence_verdict;

served_replica::served_replica(replica_file file, fence_key known, const std::string& boot_id,
                               const failure_reporter& report)
    : file_(std::move(file)),
      boot_id_(boot_id),
      report_(report),
      change_stored_(file_.meta().change_boot_id == boot_id),
      fence_(std::max(known, fence_key{file_.meta().epoch, 0})),
      change_boot_id_(file_.meta().change_boot_id) {
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
                auto made = persist(key.epoch);
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

status served_replica::persist(std::uint64_t epoch) {
    const std::lock_guard lock(meta_mutex_);
    // The first change may have failed to store its boot id while we waited for it: what the slots hold is unknown.
    if (is_failed()) return error{errc::io_failed, "the replica failed before: restart the replica server"};
    auto made = file_.raise_epoch(epoch);
    if (made.has_error()) fail(made.error().text);
    return made;
}

int served_replica::store_change_boot_id() noexcept {
    const std::lock_guard lock(meta_mutex_);
    if (change_stored_.load(std::memory_order_relaxed)) return 0;  // another first change did it while we waited
    if (is_failed()) return EIO;
    if (const auto made = file_.store_change_boot_id(boot_id_); made.has_error()) {
        fail(made.error().text);
        return EIO;
    }
    {
        const std::lock_guard told(fence_mutex_);
        change_boot_id_ = boot_id_;
    }
    change_stored_.store(true, std::memory_order_release);
    return 0;
}

void served_replica::retire() noexcept {
    if (!fence_.gate().retire()) return;
    // Through the lock, so that an opener that saw us inside is asleep by now and hears it.
    { const std::lock_guard lock(fence_mutex_); }
    fence_changed_.notify_all();
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
        if (problem != 0) fail(errno_error(problem, "sync data").text);
        lock.lock();
        syncing_ = false;
        syncs_finished_ = syncs_started_;
        sync_done_.notify_all();
    }
    return is_failed() ? EIO : 0;
}

void served_replica::fail(const std::string& text) noexcept {
    if (failed_.exchange(true)) return;
    try {
        report_(fmt::format("{}: writes may be lost, so every request on this replica fails until the server restarts",
                            text));
    } catch (const std::exception&) {
        return;  // no memory for the words; the deed is done
    }
}

fence_key served_replica::highest() const {
    const std::lock_guard lock(fence_mutex_);
    return fence_.highest();
}

core::export_description served_replica::describe(bool fenced) const {
    const std::lock_guard lock(fence_mutex_);
    return {fenced, boot_id_, fence_.highest(), change_boot_id_};
}

replica_connection::replica_connection(replica_server& server, core::export_name name,
                                       std::shared_ptr<served_replica> replica, admission_gate::ticket ticket)
    : server_(server),
      name_(std::move(name)),
      replica_(std::move(replica)),
      ticket_(ticket),
      description_(render(replica_->describe(name_.is_writer() && ticket == 0))) {}

replica_connection::~replica_connection() {
    server_.release(name_.replica);
}

int replica_connection::read(std::span<std::byte> buffer, std::uint64_t offset) noexcept {
    if (buffer.size() > core::max_request_bytes) return EINVAL;
    return admitted(effect::none, offset, buffer.size(),
                    [&]() noexcept { return replica_->file().read(buffer, offset); });
}

int replica_connection::write(std::span<const std::byte> buffer, std::uint64_t offset, bool fua) noexcept {
    if (buffer.size() > core::max_request_bytes) return EINVAL;
    return admitted(effect::change, offset, buffer.size(), [&]() noexcept {
        const int problem = replica_->file().write(buffer, offset);
        return problem == 0 && fua ? replica_->sync() : problem;
    });
}

int replica_connection::zero(std::uint64_t offset, std::uint64_t length, bool fua, bool only_if_fast) noexcept {
    return admitted(effect::change, offset, length, [&]() noexcept {
        const int problem = replica_->file().zero(offset, length, only_if_fast);
        return problem == 0 && fua ? replica_->sync() : problem;
    });
}

int replica_connection::flush() noexcept {
    return admitted(effect::sync, 0, 0, [&]() noexcept { return replica_->sync(); });
}

result<std::unique_ptr<replica_connection>> replica_server::open(std::string_view export_name) {
    TRY_ASSIGN(auto name, core::parse_export_name(export_name));
    TRY_ASSIGN(auto replica, acquire(name.replica));
    admission_gate::ticket ticket = 0;
    if (name.is_writer()) {
        auto entered = replica->enter(name.key);
        if (entered.has_error()) {
            release(name.replica);
            return std::move(entered).error().within(fmt::format("open {}", render(name)));
        }
        ticket = *entered;
    }
    return std::make_unique<replica_connection>(*this, std::move(name), std::move(replica), ticket);
}

result<std::vector<replica_id>> replica_server::list() const {
    return list_replicas(drive_);
}

result<std::shared_ptr<served_replica>> replica_server::acquire(const replica_id& id) {
    const auto context = [&] { return fmt::format("replica {} on {}", id.str(), drive_); };
    const std::lock_guard lock(mutex_);
    const auto known = entries_.find(id);
    if (known != entries_.end() && known->second.failed)
        return error{errc::io_failed, "a sync failed: restart the replica server"}.within(context());
    if (known != entries_.end() && known->second.live) {
        auto& live = known->second.live;
        if (live->is_failed())
            return error{errc::io_failed, "a sync failed: restart the replica server"}.within(context());
        if (!live->file().is_at(drive_))
            return error{errc::not_found, "it was removed; earlier connections still have it open"}.within(context());
        ++known->second.connections;
        return live;
    }
    auto file = replica_file::open(drive_, id);
    if (file.has_error()) return std::move(file).error().within(context());
    auto& fresh = entries_[id];
    fresh.live = std::make_shared<served_replica>(std::move(*file), fresh.highest, boot_id_, report_);
    fresh.connections = 1;
    return fresh.live;
}

void replica_server::release(const replica_id& id) noexcept {
    std::shared_ptr<served_replica> last;  // closes its files after the lock is gone: freeing a removed one takes time
    const std::lock_guard lock(mutex_);
    const auto known = entries_.find(id);
    INVARIANT(known != entries_.end() && known->second.connections > 0, "replica {} was released twice", id.str());
    if (--known->second.connections > 0) return;
    last = std::move(known->second.live);
    known->second.highest = last->highest();
    known->second.failed = last->is_failed();
    if (!last->file().is_at(drive_)) entries_.erase(known);
}

}  // namespace weft::io
