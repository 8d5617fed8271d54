// SPDX-License-Identifier: Apache-2.0
// This node's drives: their replica servers, their replicas' files and their records.
//
// Laws: a server that dies is started again, with a pause that doubles while it keeps dying; a server that an earlier
// weftd started is adopted if it serves what the record says, else replaced. The record of a drive exists before a
// server for it does; it is erased before the server is stopped. A replica's files exist before the record says so, and
// are gone before the trash forgets them. Ports: the smallest from port-base on that no drive with the same host has
// and nobody listens on. Thread-safe. start/stop/create/remove block (seconds); one call per drive or replica at a time
// is the caller's business.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "nbd-backend/io/drive_dir.hpp"
#include "orchestrator/core/daemon_options.hpp"
#include "orchestrator/core/reconcile.hpp"
#include "orchestrator/daemon/drive_devices.hpp"
#include "orchestrator/daemon/event_log.hpp"
#include "orchestrator/daemon/volume_records.hpp"
#include "orchestrator/io/replica_process.hpp"

namespace weft {

class drive_keeper {
public:
    struct environment {
        const daemon_options& options;
        store& cluster;
        cluster_cache& cache;
        volume_records& records;
        event_log& events;
        exit_watcher& exits;
        drive_devices& devices;
        std::function<void()> wake_reconciler;
    };
    explicit drive_keeper(environment around) : env_(std::move(around)) {}

    /// Finds the servers that run, at start-up.
    void adopt();
    /// Stops watching the servers, which live on; no callback comes afterwards. No call may run.
    void let_go();

    /// A directory, or a block device, which is formatted; `erase`: what may be lost by that (core/drive_device.hpp).
    result<drive_record> add(const std::string& path, const std::string& erase);
    status remove(const std::string& id_or_path);
    [[nodiscard]] bool serving(const drive_id& id) const;

    // For the reconciler.
    /// Drives that need no start now: their server runs, or its pause is not over.
    [[nodiscard]] std::vector<drive_id> settled() const;
    /// How long until the shortest pause is over; nullopt when none is running.
    [[nodiscard]] std::optional<std::chrono::milliseconds> next_start() const;
    status do_start(const drive_record& drive);
    status do_stop(const drive_id& id);
    status do_create(const create_replica& what);
    status do_delete(const delete_replica& what);
    /// Brings the record of a drive up to date: its host is ours, its sizes are measured, whether its server stays up.
    status do_measure(const drive_record& drive);

    // Drives that are block devices, for the reconciler (drive_keeper_devices.cpp).
    status do_mount(const drive_record& drive, const std::string& device);
    /// Its server stopped, its mount gone, its record says so. In that order: an interrupted one is found again.
    status do_release(const drive_record& drive, const drive_plan& plan);
    status do_tell_missing(const drive_record& drive, const std::string& why);
    /// Lets go of what is mounted for a drive that no record knows.
    status do_release_stray(const drive_id& id);

private:
    struct server_state {
        std::optional<process_identity> process;
        std::uint64_t token = 0;  // of the exit watcher
        std::chrono::nanoseconds started_at{0};
        std::chrono::nanoseconds not_before{0};  // the pause
        std::chrono::milliseconds pause{0};
        std::chrono::nanoseconds measured_at{0};
    };

    /// Commits what was measured, and tells when the drive passed a mark of space.hpp.
    status tell_space(const drive_id& id, const io::drive_space& space);
    void watch(const drive_id& id, const process_identity& process);
    void on_exit(const drive_id& id, const process_identity& process);
    void pause_after_failure(server_state& state);
    [[nodiscard]] bool is_down(const drive_id& id, bool told) const;
    status tell_whether_down(const drive_record& drive);
    result<drive_id> resolve(const cluster_view& view, const std::string& id_or_path) const;
    result<std::uint16_t> free_port(const cluster_view& view) const;
    result<drive_record> record_drive(drive_record drive);
    result<drive_record> change_record(const drive_id& id, const std::function<void(drive_record&)>& edit);
    [[nodiscard]] status refuse_strangers(const cluster_view& view, const std::string& directory) const;
    [[nodiscard]] status check_mounted(const drive_record& drive) const;
    [[nodiscard]] bool is_measurable(const drive_record& drive) const;  // and in order, else the reconciler is told
    [[nodiscard]] status unmount_removed(const drive_id& id) const;
    [[nodiscard]] error holds_replicas(const cluster_view& view, const drive_record& drive) const;

    const environment env_;
    std::mutex start_mutex_;  // add and the reconciler may both want a new drive's server; taken before mutex_
    mutable std::mutex mutex_;
    std::map<drive_id, server_state> servers_;
};

}  // namespace weft
