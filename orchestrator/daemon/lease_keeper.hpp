// SPDX-License-Identifier: Apache-2.0
// Keeps the node's lease, on a thread and through a store connection of its own, so that neither a slow mount nor a
// busy store mutex delays a renewal (every ttl/3).
//
// The holder's id is the state directory's, not the process's: a weftd that was killed with -9 has its lease back at
// once, and that only one process uses a state directory is the flock's business. A second node under the same name has
// another state directory and so another holder: it is refused.
// A stop of weftd does not drop the lease: the data path goes on without it (containers notice nothing), so for the
// other nodes this one must go on looking alive for as long as a short restart takes. Whoever stays away longer than
// the ttl can be taken over from.
#pragma once

#include <chrono>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

#include "orchestrator/daemon/gates.hpp"
#include "orchestrator/io/store.hpp"

namespace weft {

class lease_keeper {
public:
    /// `on_trouble(text)` is called once when renewing begins to fail and `on_trouble("")` once when it works again, on
    /// the keeper's thread. `on_renewed` is called after every renewal, on the thread that renewed.
    lease_keeper(store& own_connection, std::string node, std::string holder, std::chrono::milliseconds ttl,
                 std::function<void(const std::string&)> on_trouble, std::function<void()> on_renewed);
    ~lease_keeper();
    lease_keeper(const lease_keeper&) = delete;
    lease_keeper& operator=(const lease_keeper&) = delete;

    /// One renewal by the caller, before start(). Errors: busy (another holder), unavailable.
    status renew();
    /// Starts the thread.
    void start();

    /// We took or renewed the lease less than its ttl ago: what R1 needs of whoever becomes a writer.
    [[nodiscard]] bool held() const;

    /// A tenure is a time without a gap: every renewal's answer came while the one before still held, so nobody can
    /// have seen this node without a lease since the tenure began.
    struct holding {
        std::uint64_t tenure = 0;           // counts up; 0: never held
        std::chrono::nanoseconds until{0};  // CLOCK_BOOTTIME
    };
    [[nodiscard]] holding current() const;

private:
    void run();

    store& store_;
    const std::string node_;
    const std::string holder_;
    const std::chrono::milliseconds ttl_;
    const std::function<void(const std::string&)> on_trouble_;
    const std::function<void()> on_renewed_;
    mutable std::mutex mutex_;
    holding holding_;  // under mutex_
    stop_gate stop_;
    std::thread thread_;
};

}  // namespace weft
