// SPDX-License-Identifier: Apache-2.0
// One thread that lets time pass for all engines of a volume: it sleeps until the earliest instant that any of them
// named, calls them, and sleeps again.
//
// arm() is on the path of every request, so it is one atomic load unless the instant is earlier than what the thread
// already sleeps for. The thread never re-arms to a later instant before it fired: a request timeout costs at most one
// wake-up per timeout, not one per request.
#pragma once

#include <atomic>
#include <functional>
#include <thread>

#include "nbd-backend/base/result.hpp"
#include "nbd-backend/core/engine_types.hpp"
#include "nbd-backend/io/wakeup.hpp"

namespace weft::io {

/// The time that engines are given: CLOCK_BOOTTIME, which goes on while the machine sleeps: a lease (R1) does, too.
core::instant now() noexcept;

class tick_timer {
public:
    /// `tick` is called on the timer's thread; whoever it calls arms the timer again.
    explicit tick_timer(std::function<void()> tick);
    ~tick_timer();

    /// Errors: io_failed.
    status start();
    /// Joins the thread; idempotent.
    void stop();
    /// Any thread: call `tick` at `due` or a little later. instant::max(): nothing to wait for.
    void arm(core::instant due) noexcept;

private:
    void run();

    std::function<void()> tick_;
    wakeup bell_;
    std::atomic<core::instant::rep> armed_{core::instant::max().count()};
    std::atomic<bool> stopping_{false};
    std::thread thread_;
};

}  // namespace weft::io
