// SPDX-License-Identifier: Apache-2.0
// Threads for jobs that may block for minutes: a job never waits for another one.
//
// A job goes to an idle thread or to a new one; a thread idle for 30 s ends. The caller bounds the number of jobs at a
// time (the HTTP server: one per connection), and with it the number of threads. Thread-safe.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <list>
#include <mutex>
#include <thread>

namespace weft {

class elastic_pool {
public:
    elastic_pool() = default;
    /// As finish().
    ~elastic_pool();
    elastic_pool(const elastic_pool&) = delete;
    elastic_pool& operator=(const elastic_pool&) = delete;

    /// Runs the job soon, on another thread. The job must not throw. If the system has no thread to give, the job waits
    /// for one of the pool's; false (job not taken) if there is none at all or after finish(). Does not block.
    [[nodiscard]] bool post(std::function<void()> job);

    /// Runs what was posted, then ends all threads. Blocks for as long as the jobs do. Never call it from a job.
    void finish();

private:
    using thread_list = std::list<std::thread>;
    void work(thread_list::iterator self);

    std::mutex mutex_;
    std::condition_variable wake_;
    std::deque<std::function<void()>> jobs_;
    thread_list running_;
    thread_list ended_;     // not yet joined
    std::size_t idle_ = 0;  // threads that wait for a job
    bool finishing_ = false;
};

}  // namespace weft
