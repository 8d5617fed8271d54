// SPDX-License-Identifier: Apache-2.0
// Waits for somebody, in any process, to commit to the SQLite store: inotify on the store's directory.
//
//   committer:  write -wal ... fsync ... commit becomes visible (in shared memory: no event) ... touch the store file
//   watcher:          log_grew                                                                   changed
// The touch (ring) is the event that matters; reading the store causes none, so watchers do not wake each other. A
// committer that is killed between the two last steps leaves only the earlier events: after log_grew the watcher is to
// look once more a little later. Events of other files in the directory are dropped here without waking the caller.
// When there is nothing to watch (the directory is gone, no inotify instances left) wait() says "changed" once a
// second. One thread waits at a time; interrupt() from any thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "nbd-backend/base/result.hpp"
#include "orchestrator/io/atomic_file.hpp"

namespace weft {

class store_watch {
public:
    using clock = std::chrono::steady_clock;
    enum class wake : std::uint8_t { changed, log_grew, interrupted, timed_out };

    /// `path` of the store file, absolute. Errors: io_failed (no descriptors left).
    static result<std::unique_ptr<store_watch>> create(const std::string& path);

    /// Watches from now on; what happened before is dropped, and returned (timed_out: nothing). Read the store after
    /// this, then wait.
    wake rearm();
    /// Waits until something happened since rearm() or the last wait(), or until `deadline`.
    wake wait(clock::time_point deadline);
    /// Makes the present or the next wait() return `interrupted`, once.
    void interrupt() noexcept;
    /// Forgets an interrupt() that no wait() has seen.
    void forget_interrupt() noexcept;

    /// Tells the watchers of all processes that the store at `path` has changed.
    static void ring(const std::string& path) noexcept;

private:
    store_watch(std::string directory, std::string name, unique_fd events, unique_fd interrupts);
    /// Takes what is queued and says what it means; timed_out: nothing.
    wake take_events();

    const std::string directory_;
    const std::string name_;
    const unique_fd events_;      // inotify; may be absent
    const unique_fd interrupts_;  // eventfd
    int watched_ = -1;            // watch descriptor of the directory as it is now
};

}  // namespace weft
