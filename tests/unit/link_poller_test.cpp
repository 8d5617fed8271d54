// SPDX-License-Identifier: Apache-2.0
// Who polls: nobody may wait for an answer that nobody looks for.
#include "nbd-backend/io/link_poller.hpp"

#include <doctest/doctest.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <deque>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include "nbd-backend/io/request_waiter.hpp"

using namespace weft;
using io::link_poller;
using io::request_waiter;

namespace {

/// A server that answers at once: an op is a waiter in a queue and a count in an eventfd.
class echo_link final : public io::polled_link {
public:
    echo_link() : fd_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}
    ~echo_link() { ::close(fd_); }

    /// Any thread: carries out one request as engine_host does.
    void request(link_poller& poller) {
        thread_local request_waiter waiter;
        (void)waiter.prepare(1);
        ops_.fetch_add(1);
        {
            const std::lock_guard lock(mutex_);
            asked_.push_back(&waiter);
        }
        answer();
        poller.attend(waiter);
        (void)waiter.wait();
    }

    /// An op for which nobody waits, as a copy's.
    void lend() { ops_.fetch_add(1); }
    void answer() {
        const std::uint64_t one = 1;
        REQUIRE(::write(fd_, &one, sizeof one) == sizeof one);
    }

    core::instant append(std::vector<pollfd>& polled) override {
        polled.push_back({fd_, POLLIN, 0});
        return core::instant::max();
    }
    void progress(const pollfd* polled) override {
        std::uint64_t answers = 0;
        if (polled->revents != 0 && ::read(fd_, &answers, sizeof answers) != sizeof answers) answers = 0;
        for (; answers > 0; --answers) {
            const std::lock_guard lock(mutex_);
            pollers_.insert(std::this_thread::get_id());
            ops_.fetch_sub(1, std::memory_order_relaxed);
            if (asked_.empty()) continue;
            const auto* sleeper = asked_.front()->finish(0);
            asked_.pop_front();
            if (sleeper != nullptr) request_waiter::wake(sleeper);
        }
        if (orders.exchange(false)) carried_out.store(true);
        carried_out.notify_all();
    }
    [[nodiscard]] bool calm() const override { return true; }
    void close_for_good() override { closed = true; }
    [[nodiscard]] std::uint32_t in_flight() const noexcept override { return ops_.load(); }

    bool polled_by(std::thread::id who) {
        const std::lock_guard lock(mutex_);
        return pollers_.contains(who);
    }
    void wait_until_idle() const {
        while (in_flight() > 0) std::this_thread::yield();
    }

    std::atomic<bool> orders{false};
    std::atomic<bool> carried_out{false};
    bool closed = false;

private:
    int fd_;
    std::atomic<std::uint32_t> ops_{0};
    std::mutex mutex_;
    std::deque<request_waiter*> asked_;
    std::set<std::thread::id> pollers_;
};

}  // namespace

// Bug guarded against: the poller slept without the link, was rung for its first order, answered the bell, and slept
// on.
TEST_CASE("link_poller: a link that is added while the poller sleeps gets the order that it was rung for") {
    for (int i = 0; i < 200; ++i) {
        echo_link link;
        link_poller poller("test");
        REQUIRE(poller.start().has_value());
        poller.add(0, link);
        link.orders = true;
        poller.bell().ring();
        link.carried_out.wait(false);
        poller.stop();
        CHECK(link.closed);
    }
}

// Bug guarded against: an op for which nobody rings was lent to a link that the sleeping poller did not know.
TEST_CASE("link_poller: a link that is added while the poller sleeps is polled without another ring") {
    for (int i = 0; i < 200; ++i) {
        echo_link link;
        link_poller poller("test");
        REQUIRE(poller.start().has_value());
        if (i % 2 == 0) ::usleep(500);  // on its way to sleep, or asleep
        poller.add(0, link);
        link.lend();
        poller.look();
        link.answer();
        link.wait_until_idle();  // a hang fails the suite
        poller.stop();
    }
}

TEST_CASE("link_poller: the thread that waits polls when requests come one at a time") {
    echo_link link;
    link_poller poller("test");
    REQUIRE(poller.start().has_value());
    poller.add(0, link);
    while (!link.polled_by(std::this_thread::get_id())) link.request(poller);  // a hang fails the suite
    poller.stop();
    CHECK(link.in_flight() == 0);
}

TEST_CASE("link_poller: an op for which nobody waits is seen to, whoever polled before") {
    echo_link link;
    link_poller poller("test");
    REQUIRE(poller.start().has_value());
    poller.add(0, link);
    for (int i = 0; i < 2000; ++i) {
        for (int k = 0; k < i % 7; ++k) link.request(poller);  // into standby, or on the way to it
        link.lend();
        poller.look();
        link.answer();
        link.wait_until_idle();
    }
    poller.stop();
    CHECK(link.in_flight() == 0);
}

TEST_CASE("link_poller: no answer is missed while threads come and go as guests") {
    echo_link links[2];
    link_poller poller("test");
    REQUIRE(poller.start().has_value());
    poller.add(0, links[0]);
    poller.add(1, links[1]);
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t)
        threads.emplace_back([&, t] {
            for (int i = 0; i < 5000; ++i) {
                links[(i + t) % 2].request(poller);
                if (i % 100 == t) poller.bell().ring();  // an order, in the middle of somebody's visit
                if (t > 0 && i % 500 < 250) std::this_thread::yield();
            }
        });
    for (std::thread& one : threads) one.join();
    poller.stop();
    CHECK(links[0].in_flight() + links[1].in_flight() == 0);
}
