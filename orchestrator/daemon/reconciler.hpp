// SPDX-License-Identifier: Apache-2.0
// The loop that compares the records with this node and has the difference worked off (core/reconcile.hpp plans).
//
// Two threads: the watcher waits for the store's next revision, refreshes the cache and its copy on disk; the planner
// wakes at every change (store, processes that exit, control messages, our own calls) and every tick, observes, plans
// and hands the actions to the task pool, keyed so that one volume or drive is worked on once at a time. It never
// blocks on an action itself. It also enrols the node: the cluster's record, if this is the first node ever, and the
// node's own. The service manager's watchdog hears of every turn of the planner while the watcher turns, too: when
// either hangs, systemd ends this weftd and starts another, which costs no container anything.
#pragma once

#include <atomic>
#include <string>
#include <thread>

#include "orchestrator/daemon/drive_keeper.hpp"
#include "orchestrator/daemon/healer.hpp"
#include "orchestrator/daemon/task_pool.hpp"
#include "orchestrator/daemon/trouble_board.hpp"
#include "orchestrator/daemon/volume_keeper.hpp"
#include "orchestrator/daemon/volume_watch.hpp"
#include "orchestrator/io/service_manager.hpp"

namespace weft {

class reconciler {
public:
    struct environment {
        const daemon_options& options;
        store& cluster;
        cluster_cache& cache;
        event_log& events;
        volume_keeper& volumes;
        drive_keeper& drives;
        healer& healing;
        volume_watch& watch;
        drive_devices& devices;
        wake_gate& news;  // somebody says there: something changed that a plan may depend on
        service_manager& manager;
    };
    explicit reconciler(environment around);
    ~reconciler();
    reconciler(const reconciler&) = delete;
    reconciler& operator=(const reconciler&) = delete;

    void start();
    /// Ends the threads and waits for running actions, which must have been told to give up.
    void stop();

private:
    void watch_store();
    void plan_forever();
    void plan_once();
    void tell_manager(const observed_node& observed);
    void enrol(const cluster_view& view);
    status put_if_absent_or_changed(const std::string& key, const std::string& value, std::uint64_t revision);
    void perform(const action& what);
    void submit(std::string key, std::string subject, std::function<status()> task);
    void measure_drives(const cluster_view& view);
    /// Hands over what its block devices need; returns the drives on which nothing can be done meanwhile.
    std::vector<drive_id> tend_devices(const cluster_view& view, bool current);

    const environment env_;
    std::atomic<bool> stopping_{false};
    std::chrono::nanoseconds measured_at_{0};         // planner's thread only
    std::atomic<std::int64_t> watcher_turned_ns_{0};  // monotonic
    trouble_board troubles_;
    task_pool tasks_;
    std::thread watcher_;
    std::thread planner_;
};

}  // namespace weft
