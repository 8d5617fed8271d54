// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/io/elastic_pool.hpp"

#include <chrono>
#include <system_error>
#include <utility>

namespace weft {

namespace {
constexpr std::chrono::seconds idle_life{
    30};  // long enough for bursts of docker commands, short enough to shrink after
}

elastic_pool::~elastic_pool() {
    finish();
}

bool elastic_pool::post(std::function<void()> job) {
    thread_list to_join;
    const std::lock_guard lock(mutex_);
    if (finishing_) return false;
    to_join.swap(ended_);
    for (auto& thread : to_join) thread.join();  // they hold no lock any more and are past their last statement
    jobs_.push_back(std::move(job));
    if (idle_ >= jobs_.size()) {
        wake_.notify_one();
        return true;
    }
    running_.emplace_back();
    const auto self = std::prev(running_.end());
    try {
        *self = std::thread([this, self] { work(self); });
    } catch (const std::system_error&) {
        running_.erase(self);
        if (!running_.empty()) return true;
        jobs_.pop_back();
        return false;
    }
    return true;
}

void elastic_pool::work(thread_list::iterator self) {
    std::unique_lock lock(mutex_);
    for (;;) {
        if (!jobs_.empty()) {
            auto job = std::move(jobs_.front());
            jobs_.pop_front();
            lock.unlock();
            job();
            job = nullptr;  // what it owns goes before the lock is taken again
            lock.lock();
            continue;
        }
        if (finishing_) break;
        ++idle_;
        const bool woken = wake_.wait_for(lock, idle_life, [this] { return finishing_ || !jobs_.empty(); });
        --idle_;
        if (!woken) break;
    }
    ended_.splice(ended_.end(), running_, self);
    wake_.notify_all();  // finish() may wait for the last one
}

void elastic_pool::finish() {
    thread_list to_join;
    {
        std::unique_lock lock(mutex_);
        finishing_ = true;
        wake_.notify_all();
        wake_.wait(lock, [this] { return running_.empty(); });
        to_join.swap(ended_);
    }
    for (auto& thread : to_join) thread.join();
}

}  // namespace weft
