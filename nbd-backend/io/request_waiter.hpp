// SPDX-License-Identifier: Apache-2.0
// Where a thread waits for its request: one per thread, reused, no allocation once warm.
//
// A whole-volume request becomes several parts, one per extent that it touches; the waiter is done when its last part
// is. Each part is linked into its engine host's list of outstanding parts, under that host's mutex.
//
// Life time: finish() is called under a host's mutex; after the call that finishes the last part the waiting thread may
// return at once and even end. What finish() returns is therefore only an address for futex(2): wake() never reads it,
// and a wake-up of memory that belongs to somebody else by then is a spurious one, which every futex user tolerates.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace weft::io {

class request_waiter;

struct request_part {
    request_waiter* waiter = nullptr;
    request_part* previous = nullptr;
    request_part* next = nullptr;
};

class request_waiter {
public:
    using futex_word = std::atomic<std::uint32_t>;

    request_waiter() = default;
    request_waiter(const request_waiter&) = delete;
    request_waiter& operator=(const request_waiter&) = delete;

    /// Starts a request of `count` parts, count >= 1; nothing of an earlier request may be outstanding. The parts stay
    /// where they are until the next prepare().
    std::vector<request_part>& prepare(std::size_t count);

    /// One part ended with an errno (0: well). The first error is kept. Returns what to wake(), or nullptr.
    [[nodiscard]] const futex_word* finish(int error) noexcept;
    static void wake(const futex_word* sleeper) noexcept;

    /// The waiting thread: has every part ended? Then wait() returns at once. Sequentially consistent, as link_poller
    /// needs it.
    [[nodiscard]] bool is_done() const noexcept { return state_.load() == finished; }
    /// Blocks until every part has ended; returns the errno of the request.
    int wait() noexcept;

private:
    static constexpr std::uint32_t running = 0, finished = 1, asleep = 2;

    std::vector<request_part> parts_;
    std::atomic<std::size_t> left_{0};
    std::atomic<int> error_{0};
    futex_word state_{finished};
};

}  // namespace weft::io
