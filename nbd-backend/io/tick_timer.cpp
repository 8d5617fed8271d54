// SPDX-License-Identifier: Apache-2.0
#include "nbd-backend/io/tick_timer.hpp"

#include <poll.h>

#include <algorithm>
#include <ctime>
#include <utility>

#include "nbd-backend/io/threads.hpp"

namespace weft::io {

namespace {
constexpr core::instant::rep never = core::instant::max().count();
}

core::instant now() noexcept {
    timespec t{};
    (void)::clock_gettime(CLOCK_BOOTTIME, &t);
    return std::chrono::seconds(t.tv_sec) + std::chrono::nanoseconds(t.tv_nsec);
}

tick_timer::tick_timer(std::function<void()> tick) : tick_(std::move(tick)) {}

tick_timer::~tick_timer() {
    stop();
}

status tick_timer::start() {
    TRY(bell_.open());
    thread_ = start_thread("weft-timer", [this] { run(); });
    return ok();
}

void tick_timer::stop() {
    if (!thread_.joinable()) return;
    stopping_.store(true);
    bell_.ring();
    thread_.join();
}

void tick_timer::arm(core::instant due) noexcept {
    core::instant::rep armed = armed_.load(std::memory_order_acquire);
    while (due.count() < armed)
        if (armed_.compare_exchange_weak(armed, due.count(), std::memory_order_acq_rel)) {
            bell_.ring();
            return;
        }
}

void tick_timer::run() {
    pollfd entry{bell_.fd(), POLLIN, 0};
    while (!stopping_.load()) {
        const core::instant::rep armed = armed_.load(std::memory_order_acquire);
        const core::instant::rep left = armed == never ? never : armed - now().count();
        if (left > 0) {
            const timespec pause{static_cast<time_t>(left / 1'000'000'000), static_cast<long>(left % 1'000'000'000)};
            if (::ppoll(&entry, 1, armed == never ? nullptr : &pause, nullptr) > 0) bell_.answer();
            continue;
        }
        armed_.store(never, std::memory_order_release);
        tick_();
    }
}

}  // namespace weft::io
