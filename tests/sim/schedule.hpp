// SPDX-License-Identifier: Apache-2.0
// The world's time and chance: one queue of events, one generator. Everything that happens in a run follows from the
// seed; nothing in tests/sim may depend on addresses, on the wall clock or on the order of a hash table.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <queue>
#include <random>
#include <vector>

#include "nbd-backend/core/engine_types.hpp"

namespace weft::sim {

using core::instant;
using std::chrono::microseconds;
using std::chrono::milliseconds;

class schedule {
public:
    explicit schedule(std::uint64_t seed) : rng_(seed) {}

    [[nodiscard]] instant now() const { return now_; }
    /// Orders what happens at the same instant: grows with every call.
    std::uint64_t tick() { return ++tick_; }

    /// 0 .. below - 1; below > 0.
    std::uint64_t random(std::uint64_t below) { return rng_() % below; }
    bool one_in(std::uint64_t n) { return random(n) == 0; }

    /// A moment within that many microseconds from now, never now.
    instant within_us(std::uint64_t below_us) { return now_ + microseconds(1 + random(below_us)); }
    /// As within_us, with a heavy tail: one in 20 takes ten times as long, one in 400 a hundred times.
    instant delayed_us(std::uint64_t usual_us) {
        const std::uint64_t dice = random(400);
        return within_us(dice == 0 ? usual_us * 100 : dice <= 20 ? usual_us * 10 : usual_us);
    }

    void at(instant when, std::function<void()> what) { queue_.push({when, order_++, std::move(what)}); }

    /// Called after every event.
    void watch(std::function<void()> each) { each_ = std::move(each); }

    /// Lets events happen until `done` says so (true) or the next one is later than `limit` (false; it is then
    /// `limit`).
    bool run_until(instant limit, const std::function<bool()>& done = {}) {
        if (done && done()) return true;
        while (!queue_.empty() && queue_.top().when <= limit) {
            const event next = queue_.top();
            queue_.pop();
            now_ = next.when;
            next.what();
            if (each_) each_();
            if (done && done()) return true;
        }
        now_ = limit;
        return false;
    }

private:
    struct event {
        instant when;
        std::uint64_t order;
        std::function<void()> what;
        bool operator<(const event& other) const {
            return when != other.when ? when > other.when : order > other.order;
        }
    };

    std::mt19937_64 rng_;
    instant now_{0};
    std::uint64_t tick_ = 0;
    std::uint64_t order_ = 0;
    std::priority_queue<event> queue_;
    std::function<void()> each_;
};

}  // namespace weft::sim
