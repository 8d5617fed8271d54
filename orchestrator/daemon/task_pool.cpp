// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/daemon/task_pool.hpp"

namespace weft {

bool task_pool::submit(std::string key, std::function<void()> task) {
    const std::lock_guard lock(mutex_);
    if (stopping_ || !keys_.insert(key).second) return false;
    queue_.emplace_back(std::move(key), std::move(task));
    if (idle_ < queue_.size() && threads_.size() < threads_max_) threads_.emplace_back([this] { run(); });
    changed_.notify_one();
    return true;
}

void task_pool::stop() {
    std::vector<std::thread> threads;
    {
        const std::lock_guard lock(mutex_);
        stopping_ = true;
        queue_.clear();
        threads.swap(threads_);
    }
    changed_.notify_all();
    for (auto& thread : threads) thread.join();
}

void task_pool::run() {
    std::unique_lock lock(mutex_);
    while (true) {
        ++idle_;
        changed_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
        --idle_;
        if (stopping_) return;
        auto [key, task] = std::move(queue_.front());
        queue_.pop_front();
        lock.unlock();
        task();
        lock.lock();
        keys_.erase(key);
    }
}

}  // namespace weft
