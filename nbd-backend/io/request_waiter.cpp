// SPDX-License-Identifier: Apache-2.0
#include "nbd-backend/io/request_waiter.hpp"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>

#include "nbd-backend/base/invariant.hpp"

namespace weft::io {

static_assert(sizeof(request_waiter::futex_word) == sizeof(std::uint32_t) &&
                  request_waiter::futex_word::is_always_lock_free,
              "futex(2) works on a plain 32-bit word");

std::vector<request_part>& request_waiter::prepare(std::size_t count) {
    INVARIANT(count > 0, "a request without parts");
    INVARIANT(left_.load(std::memory_order_relaxed) == 0, "two requests of one thread at a time");
    parts_.resize(count);
    for (request_part& part : parts_) part = {this, nullptr, nullptr};
    error_.store(0, std::memory_order_relaxed);
    state_.store(running, std::memory_order_relaxed);
    left_.store(count, std::memory_order_release);
    return parts_;
}

const request_waiter::futex_word* request_waiter::finish(int error) noexcept {
    if (error != 0) {
        int none = 0;
        error_.compare_exchange_strong(none, error, std::memory_order_relaxed);
    }
    const futex_word* const sleeper = &state_;
    if (left_.fetch_sub(1, std::memory_order_acq_rel) != 1) return nullptr;
    // From this exchange on, `this` may be gone.
    return state_.exchange(finished) == asleep ? sleeper : nullptr;
}

void request_waiter::wake(const futex_word* sleeper) noexcept {
    (void)::syscall(SYS_futex, sleeper, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
}

int request_waiter::wait() noexcept {
    std::uint32_t expected = running;
    if (state_.compare_exchange_strong(expected, asleep, std::memory_order_acq_rel))
        while (state_.load(std::memory_order_acquire) != finished)
            (void)::syscall(SYS_futex, &state_, FUTEX_WAIT_PRIVATE, asleep, nullptr, nullptr, 0);
    return error_.load(std::memory_order_relaxed);
}

}  // namespace weft::io
