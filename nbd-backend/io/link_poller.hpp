// SPDX-License-Identifier: Apache-2.0
// Who polls the sockets of one extent's links: a thread of its own or, while requests come one at a time, the thread
// that waits for its request anyway. A wake-up of another thread costs more than all else that a 4 KiB request does.
//
//            ┌── ops in flight without a guest, orders, anything unusual (the bell) ──┐
//            ▼                                                                        │
//         thread ── some rounds in a row ended with nothing in flight ──▶ standby ── attend() ──▶ guest
//            ▲                                                             ▲  │                     │
//            └──────────── nobody came for a while: wait for the sockets ──┼──┘                     │
//                                                                          └── its request is done ─┘
//
// Laws:
//   - `who_` names the one thread that touches the links' polled side; passing it on passes everything on;
//   - while an op is in flight somebody polls: whoever lends an op to a connection looks at `who_` afterwards, whoever
//     goes to `standby` looks at the ops in flight afterwards (both sequentially consistent: one of them sees the
//     other);
//   - the bell is answered by the thread alone, and only when it is the one who polls; a guest that sees it ring
//   leaves,
//     so nothing that the bell stands for (orders, a part of a request that a full socket left unsent, stop) waits for
//     a guest's request.
#pragma once

#include <poll.h>

#include <array>
#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "nbd-backend/base/result.hpp"
#include "nbd-backend/core/engine_types.hpp"
#include "nbd-backend/io/request_waiter.hpp"
#include "nbd-backend/io/wakeup.hpp"

namespace weft::io {

/// What is polled. Except for in_flight() every call comes from the one who polls.
class polled_link {
public:
    /// Appends what to poll for. Returns when to come back although nothing happened; instant::max(): never.
    virtual core::instant append(std::vector<pollfd>& polled) = 0;
    /// `polled`: the entries of append(), after poll(2). Handles what came and carries out orders.
    virtual void progress(const pollfd* polled) = 0;
    /// Nothing is being set up or torn down: only answers are expected.
    [[nodiscard]] virtual bool calm() const = 0;
    /// The last call: closes everything.
    virtual void close_for_good() = 0;
    /// Any thread: ops that were lent and are not answered. Counted and read sequentially consistently, see the laws.
    [[nodiscard]] virtual std::uint32_t in_flight() const noexcept = 0;

protected:
    ~polled_link() = default;
};

class link_poller {
public:
    explicit link_poller(std::string name) : name_(std::move(name)) {}
    ~link_poller();
    link_poller(const link_poller&) = delete;
    link_poller& operator=(const link_poller&) = delete;

    /// Errors: io_failed.
    status start();
    /// Closes every link and joins the thread; afterwards no link is called. Idempotent.
    void stop();

    /// Any thread, after start(). Rings the bell: the thread may be asleep in a poll(2) that does not know the link and
    /// look() relies on every link being polled. The link must live until stop() has returned. Each slot once.
    void add(core::slot_index slot, polled_link& link) noexcept;
    [[nodiscard]] wakeup& bell() noexcept { return bell_; }

    /// Any thread that sent ops, or completed requests, and does not attend(): makes sure that somebody polls, and that
    /// no guest waits for what is done already. Not for the one who polls.
    void look() noexcept;
    /// The thread that waits for `waiter`, after its ops were sent: polls meanwhile if nobody does. May return before
    /// the waiter is done.
    void attend(const request_waiter& waiter);

private:
    enum class poller : int { thread, standby, guest };  // an int: that is what futex(2) waits for
    struct round_end {
        bool calm = true;
        bool rung = false;
    };

    void run();
    void stand_by();
    void consider_standby(bool calm);
    round_end poll_once(std::vector<pollfd>& polled, bool answer);
    [[nodiscard]] bool anything_in_flight() const noexcept;
    void hand_over(bool rung) noexcept;

    const std::string name_;
    wakeup bell_;
    std::array<std::atomic<polled_link*>, core::max_slots> links_{};
    std::atomic<poller> who_{poller::thread};
    std::atomic<bool> stopping_{false};
    std::atomic<bool> visited_{false};  // by a guest since the thread last looked
    // Of the one who polls.
    std::vector<pollfd> polled_;
    unsigned quiet_rounds_ = 0;  // in a row, that ended with nothing in flight
    std::thread thread_;
};

}  // namespace weft::io
