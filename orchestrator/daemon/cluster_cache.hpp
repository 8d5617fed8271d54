// SPDX-License-Identifier: Apache-2.0
// The node's copy of the records: what Docker's reads are answered from, and what the reconciler compares with.
//
// Laws: the view only goes forward (a refresh that was overtaken by our own commit is made again), so a caller reads
// its own writes; a view, once handed out, never changes. The copy on disk follows the view (records only, leases would
// be lies later) and is loaded at start, so that Get, List and Path answer after a restart without the store. view(),
// put(), erase() and waiting never touch the store; refresh() does and belongs to the watcher's thread, and to callers
// that must know before they decide. Thread-safe.
#pragma once

#include <condition_variable>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "orchestrator/core/cluster_view.hpp"
#include "orchestrator/io/store.hpp"

namespace weft {

class cluster_cache {
public:
    cluster_cache(store& source, std::filesystem::path file);

    /// Takes the copy on disk; nothing if there is none. Errors: corrupt, io_failed (the caller goes on without).
    status load();

    [[nodiscard]] std::shared_ptr<const cluster_view> view() const;
    [[nodiscard]] std::string cluster_id() const;  // empty while not known

    /// Did the store answer the latest look? If not, `problem` is why.
    struct availability {
        bool current = false;
        std::string problem;
    };
    [[nodiscard]] availability available() const;
    /// A store that is locked by somebody answers looks but takes no commits: writes that need one are held (R4). Empty
    /// when commits work; the lease's renewal notices.
    void note_commit_trouble(const std::string& problem);
    /// For people: available() for looks and commits together.
    [[nodiscard]] availability fully_available() const;

    /// Reads everything from the store. Errors: the store's; the view then stays and is not current any more.
    status refresh();
    /// Reads only the leases: cheap, and they change without a new revision.
    status refresh_leases();

    /// What this node has just committed, visible at once.
    void put(const std::string& key, const std::string& value, std::uint64_t revision);
    void erase(const std::string& key, std::uint64_t revision);

    /// Returns when `done(view)` is true, or false at `deadline`, or when wake_waiters() was called for the end.
    bool wait_until(const std::function<bool(const cluster_view&)>& done,
                    std::chrono::steady_clock::time_point deadline);
    /// The program ends: every wait_until returns.
    void stop_waiting();

    /// Writes the copy on disk if the records changed since the last time. Errors: io_failed, no_space.
    status save();

private:
    void publish(cluster_view fresh);  // with mutex_ held

    store& source_;
    const std::filesystem::path file_;
    mutable std::mutex mutex_;
    std::condition_variable changed_;
    std::shared_ptr<const cluster_view> view_;
    availability available_;
    std::string commit_trouble_;
    std::uint64_t own_revision_ = 0;  // newest commit of ours: a list that is older must not be published
    bool from_disk_ = false;          // the view is the copy on disk: the store has not answered yet
    bool stopping_ = false;
    std::mutex save_mutex_;
    std::string saved_;  // what the file holds; guarded by save_mutex_
};

}  // namespace weft
