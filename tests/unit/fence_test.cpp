// SPDX-License-Identifier: Apache-2.0
#include "nbd-backend/core/fence.hpp"

#include <doctest/doctest.h>

#include <thread>
#include <vector>

using namespace weft::core;

namespace {

/// Opens as an owner would when nothing is in flight: announce, make durable if asked, join.
admission_gate::ticket join(fence& f, fence_key key) {
    f.announce(key);
    auto step = f.next(key);
    if (step.verdict == fence_verdict::persist) {
        f.persisted();
        step = f.next(key);
    }
    REQUIRE(step.verdict == fence_verdict::joined);
    return step.ticket;
}

}  // namespace

TEST_CASE("fence: nothing is admitted before somebody joined") {
    fence f({3, 0});
    CHECK(!f.gate().admit(0));
    CHECK(!f.gate().admit(1));
}

TEST_CASE("fence: a higher epoch is made durable before it is admitted, an equal key just joins") {
    fence f({3, 0});
    f.announce({4, 1});
    CHECK(f.next({4, 1}).verdict == fence_verdict::persist);
    CHECK(f.next({4, 1}).verdict == fence_verdict::wait);  // a second connection of the same link
    f.persisted();
    CHECK(f.durable_epoch() == 4);
    const auto first = f.next({4, 1});
    const auto second = f.next({4, 1});
    CHECK(first.verdict == fence_verdict::joined);
    CHECK(second.verdict == fence_verdict::joined);
    CHECK(first.ticket == second.ticket);
    CHECK(f.gate().admit(first.ticket));
    CHECK(!f.gate().retire());  // open: nobody waits for the last one
}

TEST_CASE("fence: the durable epoch itself joins without another write, a lower one is stale") {
    fence f({3, 0});
    f.announce({2, 9});
    CHECK(f.next({2, 9}).verdict == fence_verdict::stale);
    f.announce({3, 1});
    CHECK(f.next({3, 1}).verdict == fence_verdict::joined);
    CHECK(f.highest() == fence_key{3, 1});
}

TEST_CASE("fence: a remembered session survives that every connection was closed") {
    fence f({3, 5});
    f.announce({3, 4});
    CHECK(f.next({3, 4}).verdict == fence_verdict::stale);
    f.announce({3, 5});
    CHECK(f.next({3, 5}).verdict == fence_verdict::joined);
}

TEST_CASE("fence: a higher key fences the lower one at once and waits for its admitted requests") {
    for (const fence_key higher : {fence_key{4, 2}, fence_key{5, 1}}) {
        fence f({3, 0});
        const auto old_ticket = join(f, {4, 1});
        REQUIRE(f.gate().admit(old_ticket));
        REQUIRE(f.gate().admit(old_ticket));

        f.announce(higher);
        CHECK(!f.gate().admit(old_ticket));
        CHECK(f.next({4, 1}).verdict == fence_verdict::stale);
        CHECK(f.next(higher).verdict == fence_verdict::wait);
        CHECK(f.durable_epoch() == 4);  // not even durable before the drain
        CHECK(!f.gate().retire());
        CHECK(f.next(higher).verdict == fence_verdict::wait);
        CHECK(f.gate().retire());  // the last one wakes the opener

        const auto ticket = join(f, higher);
        CHECK(ticket != old_ticket);
        CHECK(f.gate().admit(ticket));
        CHECK(!f.gate().admit(old_ticket));
    }
}

TEST_CASE("fence: of two openers at a time the higher wins, whoever came first") {
    fence f({1, 0});
    f.announce({2, 1});
    CHECK(f.next({2, 1}).verdict == fence_verdict::persist);
    f.announce({3, 1});  // arrives while epoch 2 is being written
    CHECK(f.next({3, 1}).verdict == fence_verdict::wait);
    f.persisted();
    CHECK(f.next({2, 1}).verdict == fence_verdict::stale);
    CHECK(f.next({3, 1}).verdict == fence_verdict::persist);
    f.persisted();
    CHECK(f.next({3, 1}).verdict == fence_verdict::joined);
    CHECK(f.durable_epoch() == 3);
    f.announce({2, 7});
    CHECK(f.next({2, 7}).verdict == fence_verdict::stale);
}

TEST_CASE("fence: when an epoch cannot be made durable nobody is admitted any more") {
    fence f({1, 0});
    const auto ticket = join(f, {2, 1});
    f.announce({3, 1});
    CHECK(f.next({3, 1}).verdict == fence_verdict::persist);
    f.broke();
    CHECK(!f.gate().admit(ticket));
    CHECK(f.next({3, 1}).verdict == fence_verdict::broken);
    f.announce({4, 1});
    CHECK(f.next({4, 1}).verdict == fence_verdict::broken);
}

TEST_CASE("fence: under contention no request is inside when a new key joins") {
    fence f({0, 0});
    std::atomic<std::uint32_t> shared_ticket{join(f, {1, 1})};
    std::atomic<std::uint32_t> holder{shared_ticket.load()};  // the ticket under which requests are inside now
    std::atomic<bool> stop{false};
    std::atomic<int> overlaps{0};
    std::vector<std::thread> requests;
    for (int i = 0; i < 3; ++i)
        requests.emplace_back([&] {
            while (!stop.load()) {
                const auto ticket = shared_ticket.load();
                if (!f.gate().admit(ticket)) continue;
                if (holder.load() != ticket) overlaps.fetch_add(1);
                (void)f.gate().retire();
            }
        });
    for (std::uint64_t session = 2; session < 2000; ++session) {
        f.announce({1, session});
        auto step = f.next({1, session});
        while (step.verdict == fence_verdict::wait) step = f.next({1, session});
        CHECK(step.verdict == fence_verdict::joined);
        holder = step.ticket;
        shared_ticket = step.ticket;
    }
    stop = true;
    for (auto& thread : requests) thread.join();
    CHECK(overlaps.load() == 0);
    f.announce({2, 1});
    CHECK(f.next({2, 1}).verdict == fence_verdict::persist);
}
