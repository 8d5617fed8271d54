// SPDX-License-Identifier: Apache-2.0
#include "nbd-backend/io/link_poller.hpp"

#include <algorithm>
#include <ctime>

#include "nbd-backend/io/threads.hpp"
#include "nbd-backend/io/tick_timer.hpp"

namespace weft::io {

namespace {

// Several requests at a time are better served by the thread, which handles all their answers in one go.
constexpr unsigned quiet_rounds_min = 4;
// How long nobody polls when no guest comes: a connection that ends in that time is noticed so much later.
constexpr timespec standby_time{0, 20'000'000};

timespec time_until(core::instant due) {
    const core::instant time = now();
    const core::instant left = due > time ? due - time : core::instant{0};
    return {static_cast<time_t>(left.count() / 1'000'000'000), static_cast<long>(left.count() % 1'000'000'000)};
}

}  // namespace

link_poller::~link_poller() {
    stop();
}

status link_poller::start() {
    TRY(bell_.open());
    thread_ = start_thread(name_, [this] { run(); });
    return ok();
}

void link_poller::stop() {
    if (!thread_.joinable()) return;
    stopping_.store(true);
    bell_.ring();
    thread_.join();
}

bool link_poller::anything_in_flight() const noexcept {
    return std::any_of(links_.begin(), links_.end(), [](const std::atomic<polled_link*>& one) {
        const polled_link* link = one.load(std::memory_order_acquire);
        return link != nullptr && link->in_flight() > 0;
    });
}

/// Waits for the sockets and the bell, then lets every link handle what came.
link_poller::round_end link_poller::poll_once(std::vector<pollfd>& polled, bool answer) {
    std::array<polled_link*, core::max_slots> links{};
    std::array<std::size_t, core::max_slots> first{};
    core::instant due = core::instant::max();
    polled.clear();
    polled.push_back({bell_.fd(), POLLIN, 0});
    for (std::size_t i = 0; i < links_.size(); ++i) {
        links[i] = links_[i].load(std::memory_order_acquire);
        first[i] = polled.size();
        if (links[i] != nullptr) due = std::min(due, links[i]->append(polled));
    }
    timespec limit{0, 0};
    if (due != core::instant::max()) limit = time_until(due);
    if (::ppoll(polled.data(), polled.size(), due == core::instant::max() ? nullptr : &limit, nullptr) < 0)
        for (pollfd& one : polled) one.revents = 0;  // EINTR: look again
    round_end end;
    end.rung = polled[0].revents != 0;
    if (answer && end.rung) bell_.answer();
    for (std::size_t i = 0; i < links.size(); ++i) {
        if (links[i] == nullptr) {
            // Added while we slept, and the bell that rang for it is answered: have the next round at once.
            if (links_[i].load(std::memory_order_acquire) != nullptr) bell_.ring();
            continue;
        }
        links[i]->progress(polled.data() + first[i]);
        end.calm = end.calm && links[i]->calm();
    }
    return end;
}

void link_poller::run() {
    while (!stopping_.load() || who_.load() != poller::thread) {
        if (who_.load() == poller::thread)
            consider_standby(poll_once(polled_, true).calm);
        else
            stand_by();
    }
    for (const auto& one : links_)
        if (polled_link* link = one.load(); link != nullptr) link->close_for_good();
}

void link_poller::consider_standby(bool calm) {
    if (!calm || stopping_.load() || anything_in_flight()) {
        quiet_rounds_ = 0;
        return;
    }
    if (++quiet_rounds_ < quiet_rounds_min) return;
    visited_.store(true);  // a whole standby time for the first guest
    who_.store(poller::standby);
    auto expected = poller::standby;
    if (anything_in_flight()) who_.compare_exchange_strong(expected, poller::thread);
}

/// The thread, while it is not the one who polls: waits for the bell, or until no guest comes any more.
void link_poller::stand_by() {
    pollfd bell{bell_.fd(), POLLIN, 0};
    const bool rung = ::ppoll(&bell, 1, &standby_time, nullptr) > 0;
    if (!rung && visited_.exchange(false)) return;
    auto expected = poller::standby;
    if (who_.compare_exchange_strong(expected, poller::thread)) {
        // Idle: the next answer brings the next standby.
        quiet_rounds_ = rung ? 0 : quiet_rounds_min - 1;
        return;
    }
    if (rung) who_.wait(poller::guest);  // it sees the bell, too
}

void link_poller::add(core::slot_index slot, polled_link& link) noexcept {
    links_[slot].store(&link);
    bell_.ring();
}

void link_poller::look() noexcept {
    auto seen = who_.load();
    if (seen == poller::thread) return;
    if (seen == poller::standby) who_.compare_exchange_strong(seen, poller::thread);
    bell_.ring();
}

/// A guest gives the links to the thread.
void link_poller::hand_over(bool rung) noexcept {
    quiet_rounds_ = 0;
    who_.store(poller::thread);
    who_.notify_one();
    if (!rung) bell_.ring();
}

void link_poller::attend(const request_waiter& waiter) {
    auto expected = poller::standby;
    if (!who_.compare_exchange_strong(expected, poller::guest)) return;
    visited_.store(true, std::memory_order_relaxed);
    while (!waiter.is_done()) {
        const round_end end = poll_once(polled_, false);
        if (end.rung || !end.calm) {
            hand_over(end.rung);
            return;
        }
    }
    if (anything_in_flight()) {
        hand_over(false);
        return;
    }
    who_.store(poller::standby);
    who_.notify_one();
    expected = poller::standby;
    if (anything_in_flight() && who_.compare_exchange_strong(expected, poller::thread)) bell_.ring();
}

}  // namespace weft::io
