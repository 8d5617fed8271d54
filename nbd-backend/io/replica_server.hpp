// SPDX-License-Identifier: Apache-2.0
// The replicas of one drive as connections use them: fencing (R2), one object per replica, remembered failures.
//
//   replica_server  1 ── n  served_replica (files, fence, syncs)  1 ── n  replica_connection (key, ticket)
//
// Laws:
//   - a request touches the data only while its ticket is admitted; a new key joins only after those of lower keys left
//     and its epoch is durable;
//   - a change touches the data only when the boot id of this kernel is durable as the one of the last change
//   (FORMAT.md,
//     "Why a boot id"): the first change since the kernel started pays for it, later ones pay one atomic load;
//   - after a failed sync of data or meta no request on this replica succeeds in this process any more, whoever asks:
//     the kernel reports a lost page once, and nobody may take the silence afterwards for success;
//   - the highest (epoch, session) and that failure are remembered after the last connection closed; the files are not
//     kept open.
//
// Two write the meta file: an opener that raises the epoch, and the first change. They never meet, since the opener
// does so only after the gate closed and drained, and the first change is inside of the gate until it is over; the
// mutex that both hold while they write says so to the compiler, and queues first changes that come at the same time.
// Deadlock is excluded: an opener that drains holds no lock at all (fence_mutex_ is released while it waits), and a
// change under that mutex waits for the disk and, for a moment, for fence_mutex_, which nobody holds across a wait.
//
// Thread rule: everything from any thread. No lock is held across I/O on the data or a sync of it; the list of replicas
// is locked while a replica's files are opened, meta_mutex_ while its meta is written. A connection belongs to the
// server that made it and must not outlive it.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "nbd-backend/core/export_name.hpp"
#include "nbd-backend/core/fence.hpp"
#include "nbd-backend/io/replica_file.hpp"

namespace weft::io {

/// Tells people of a failure that no single request owns. Called from any thread.
using failure_reporter = std::function<void(const std::string& text)>;

/// An open replica, shared by its connections.
class served_replica {
public:
    /// `known`: the highest key remembered from earlier connections. `boot_id`: of this kernel.
    served_replica(replica_file file, core::fence_key known, const std::string& boot_id,
                   const failure_reporter& report);

    /// R2: fences lower keys, waits until their requests are done, makes the epoch durable. Returns the ticket, 0 for a
    /// stale key. Errors: io_failed when an epoch could not be made durable, now or before. Blocks.
    result<core::admission_gate::ticket> enter(core::fence_key key);

    [[nodiscard]] bool admit(core::admission_gate::ticket ticket) noexcept { return fence_.gate().admit(ticket); }
    void retire() noexcept;

    /// Every admitted change (write, zero, trim) calls this before it touches the data: returns when this kernel's boot
    /// id is durable as the one of the last change. 0 or EIO, which fails the replica. Blocks the first time.
    int before_change() noexcept { return change_stored_.load(std::memory_order_acquire) ? 0 : store_change_boot_id(); }

    /// Makes all writes that were answered before the call durable; those who ask at the same time share one fdatasync.
    /// 0 or EIO.
    int sync() noexcept;

    [[nodiscard]] const replica_file& file() const noexcept { return file_; }
    [[nodiscard]] bool is_failed() const noexcept { return failed_.load(); }
    [[nodiscard]] core::fence_key highest() const;
    [[nodiscard]] core::export_description describe(bool fenced) const;

private:
    status persist(std::uint64_t epoch);
    int store_change_boot_id() noexcept;
    void fail(const std::string& text) noexcept;

    replica_file file_;
    const std::string& boot_id_;
    const failure_reporter& report_;
    std::atomic<bool> failed_{false};

    std::mutex meta_mutex_;                   // before fence_mutex_; held while meta is written
    std::atomic<bool> change_stored_{false};  // file_'s change boot id is ours and durable; never false again

    mutable std::mutex fence_mutex_;
    std::condition_variable fence_changed_;
    core::fence fence_;           // under fence_mutex_, except its gate
    std::string change_boot_id_;  // under fence_mutex_: what file_ has, to be told without waiting for meta_mutex_

    std::mutex sync_mutex_;
    std::condition_variable sync_done_;
    std::uint64_t syncs_started_ = 0;  // under sync_mutex_, as the next two
    std::uint64_t syncs_finished_ = 0;
    bool syncing_ = false;
};

class replica_server;

/// One NBD connection. Its requests may run at the same time; each returns 0 or an errno that NBD can carry: ESHUTDOWN
/// (fenced), EINVAL (not whole blocks, or too long), EPERM (a look does not write), ENOSPC, EIO, ENOTSUP.
class replica_connection {
public:
    replica_connection(replica_server& server, core::export_name name, std::shared_ptr<served_replica> replica,
                       core::admission_gate::ticket ticket);
    ~replica_connection();
    replica_connection(const replica_connection&) = delete;
    replica_connection& operator=(const replica_connection&) = delete;

    [[nodiscard]] std::uint64_t size_bytes() const noexcept { return replica_->file().size_bytes(); }
    [[nodiscard]] bool is_writer() const noexcept { return name_.is_writer(); }
    /// As it was when the connection was opened.
    [[nodiscard]] const std::string& description() const noexcept { return description_; }

    int read(std::span<std::byte> buffer, std::uint64_t offset) noexcept;
    int write(std::span<const std::byte> buffer, std::uint64_t offset, bool fua) noexcept;
    /// Also trim: both leave a hole.
    int zero(std::uint64_t offset, std::uint64_t length, bool fua, bool only_if_fast) noexcept;
    int flush() noexcept;
    /// Calls add(extent) from `offset` on, in order, until `length` is covered or add returns false.
    template <typename Add>
    int extents(std::uint64_t offset, std::uint64_t length, Add add) noexcept {
        return admitted(effect::none, offset, length, [&]() noexcept {
            const std::uint64_t end = offset + length;
            for (file_extent found{offset, 0, false}; found.offset + found.length < end;) {
                const int problem = replica_->file().extent_at(found.offset + found.length, end, found);
                if (problem != 0) return problem;
                if (!add(found)) break;
            }
            return 0;
        });
    }

private:
    enum class effect : std::uint8_t { none, sync, change };

    template <typename Work>
    int admitted(effect has, std::uint64_t offset, std::uint64_t length, Work work) noexcept {
        if (offset % block_bytes != 0 || length % block_bytes != 0) return EINVAL;
        if (offset > size_bytes() || length > size_bytes() - offset) return has == effect::change ? ENOSPC : EINVAL;
        if (is_writer()) {
            if (!replica_->admit(ticket_)) return ESHUTDOWN;
        } else if (has != effect::none) {
            return EPERM;
        }
        // Between admit and retire: the next key waits for us.
        int problem = replica_->is_failed() ? EIO : 0;
        if (problem == 0 && has == effect::change) problem = replica_->before_change();
        if (problem == 0) problem = work();
        if (is_writer()) replica_->retire();
        return problem;
    }

    replica_server& server_;
    const core::export_name name_;
    const std::shared_ptr<served_replica> replica_;
    const core::admission_gate::ticket ticket_;  // 0: stale, or a look
    const std::string description_;
};

class replica_server {
public:
    /// `drive`: an initialised drive whose lock the caller holds. `boot_id`: of this kernel.
    replica_server(std::string drive, std::string boot_id, failure_reporter report)
        : drive_(std::move(drive)), boot_id_(std::move(boot_id)), report_(std::move(report)) {}

    /// Opens an export by its name; a stale writer gets a connection on which every request fails. Blocks while
    /// requests of lower keys are under way. Errors: invalid_argument (the name), not_found, busy (removed, and created
    /// again while old connections are open), corrupt, unsupported, io_failed.
    result<std::unique_ptr<replica_connection>> open(std::string_view export_name);

    /// Errors: not_found, io_failed.
    [[nodiscard]] result<std::vector<replica_id>> list() const;

    [[nodiscard]] const std::string& boot_id() const noexcept { return boot_id_; }

private:
    friend class replica_connection;
    struct entry {
        std::shared_ptr<served_replica> live;  // while connections > 0
        std::uint64_t connections = 0;
        core::fence_key highest;
        bool failed = false;
    };
    result<std::shared_ptr<served_replica>> acquire(const replica_id& id);
    void release(const replica_id& id) noexcept;

    const std::string drive_;
    const std::string boot_id_;
    const failure_reporter report_;
    std::mutex mutex_;
    std::map<replica_id, entry> entries_;  // under mutex_
};

}  // namespace weft::io
