// SPDX-License-Identifier: Apache-2.0
// A lock that one gives up waiting for: one holder at a time, and waiting has an end.
//
// Not std::timed_mutex: ThreadSanitizer of GCC 12 does not see its locking (pthread_mutex_clocklock) and would call
// every use a race. Not recursive; any thread.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>

namespace weft {

/// One holder at a time, and waiting for it has an end. Not std::timed_mutex: ThreadSanitizer of GCC 12 does not see
/// its locking (pthread_mutex_clocklock) and would call every use a race.
class turn_gate {
public:
    bool enter(std::chrono::milliseconds patience) {
        std::unique_lock lock(mutex_);
        if (!free_.wait_for(lock, patience, [this] { return !taken_; })) return false;
        taken_ = true;
        return true;
    }
    void leave() {
        {
            const std::lock_guard lock(mutex_);
            taken_ = false;
        }
        free_.notify_one();
    }

private:
    std::mutex mutex_;
    std::condition_variable free_;
    bool taken_ = false;
};

/// The turn of whoever made it, if mine(), until it goes out of scope.
class turn {
public:
    turn(turn_gate& gate, std::chrono::milliseconds patience) : gate_(gate), mine_(gate.enter(patience)) {}
    ~turn() {
        if (mine_) gate_.leave();
    }
    turn(const turn&) = delete;
    turn& operator=(const turn&) = delete;
    [[nodiscard]] bool mine() const noexcept { return mine_; }

private:
    turn_gate& gate_;
    const bool mine_;
};

}  // namespace weft
