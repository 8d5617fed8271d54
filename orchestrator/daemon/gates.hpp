// SPDX-License-Identifier: Apache-2.0
// Two small places to wait in: stop_gate (until somebody says stop) and wake_gate (until somebody has news).
//
// Both are level-triggered: what was said before the wait began is not lost. Any thread.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>

namespace weft {

/// Closed once, for good, at the end of the program.
class stop_gate {
public:
    void stop() {
        {
            const std::lock_guard lock(mutex_);
            stopped_ = true;
        }
        changed_.notify_all();
    }
    [[nodiscard]] bool stopped() const {
        const std::lock_guard lock(mutex_);
        return stopped_;
    }
    /// True: stopped. False: the time is over.
    bool wait_for(std::chrono::milliseconds time) const {
        std::unique_lock lock(mutex_);
        return changed_.wait_for(lock, time, [this] { return stopped_; });
    }

private:
    mutable std::mutex mutex_;
    mutable std::condition_variable changed_;
    bool stopped_ = false;
};

/// Many callers of wake(), one waiter; several wakes while it is busy are one.
class wake_gate {
public:
    void wake() {
        {
            const std::lock_guard lock(mutex_);
            pending_ = true;
        }
        changed_.notify_one();
    }
    /// Returns at a wake, or when the time is over.
    void wait_for(std::chrono::milliseconds time) {
        std::unique_lock lock(mutex_);
        changed_.wait_for(lock, time, [this] { return pending_; });
        pending_ = false;
    }

private:
    std::mutex mutex_;
    std::condition_variable changed_;
    bool pending_ = false;
};

}  // namespace weft
