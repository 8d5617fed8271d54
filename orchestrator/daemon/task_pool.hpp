// SPDX-License-Identifier: Apache-2.0
// Threads for what the reconciler wants done and must not wait for: one task per key at a time, so that a volume that
// hangs delays only itself. A task whose key is queued or running is not taken again: the next pass of the reconciler
// will plan it anew if it is still wanted. Threads are started on demand and joined at the end.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace weft {

class task_pool {
public:
    explicit task_pool(std::size_t threads_max) : threads_max_(threads_max) {}
    ~task_pool() { stop(); }
    task_pool(const task_pool&) = delete;
    task_pool& operator=(const task_pool&) = delete;

    /// False if the key is at work already or the pool is stopping.
    bool submit(std::string key, std::function<void()> task);
    /// Drops what is queued, waits for what runs. Tasks must have been told to end by other means.
    void stop();

private:
    void run();

    const std::size_t threads_max_;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::set<std::string> keys_;
    std::deque<std::pair<std::string, std::function<void()>>> queue_;
    std::vector<std::thread> threads_;
    std::size_t idle_ = 0;
    bool stopping_ = false;
};

}  // namespace weft
