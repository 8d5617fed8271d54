// SPDX-License-Identifier: Apache-2.0
#include "nbd-backend/core/fence.hpp"

#include <limits>

#include "nbd-backend/base/canary.hpp"
#include "nbd-backend/base/invariant.hpp"

namespace weft::core {

using canary::broken;
using canary::rule;

namespace {
constexpr int ticket_shift = 32;
constexpr std::uint64_t count_mask = (std::uint64_t{1} << ticket_shift) - 1;
}  // namespace

// Sequentially consistent on purpose: the effects of a request happen before its retire, which happens before the
// opener that sees the gate drained goes on.

bool admission_gate::admit(ticket t) noexcept {
    if (t == 0) return false;
    std::uint64_t seen = word_.load();
    do {
        if (seen >> ticket_shift != t && !broken(rule::refuse_old_keys)) return false;
    } while (!word_.compare_exchange_weak(seen, seen + 1));
    return true;
}

bool admission_gate::retire() noexcept {
    const std::uint64_t before = word_.fetch_sub(1);
    INVARIANT((before & count_mask) != 0, "a request left a gate that it had not entered");
    return before == 1;  // ticket 0 and count 1: closed, and it was the last
}

void admission_gate::close() noexcept {
    word_.fetch_and(count_mask);
}

admission_gate::ticket admission_gate::open() {
    INVARIANT(is_drained(), "a gate is opened while older requests are inside");
    INVARIANT(last_ != std::numeric_limits<ticket>::max(), "tickets are used up");
    ++last_;
    word_.store(std::uint64_t{last_} << ticket_shift);
    return last_;
}

bool admission_gate::is_drained() const noexcept {
    return word_.load() == 0;
}

void fence::announce(fence_key key) noexcept {
    if (key <= highest_) return;
    highest_ = key;
    ticket_ = 0;
    gate_.close();
}

fence_step fence::next(fence_key key) {
    INVARIANT(key <= highest_, "epoch {} session {} was not announced", key.epoch, key.session);
    if (broken_) return {fence_verdict::broken};
    if (key < highest_) return {fence_verdict::stale};
    if (ticket_ != 0) return {fence_verdict::joined, ticket_};
    if (persisting_ != 0 || !gate_.is_drained()) return {fence_verdict::wait};
    if (key.epoch > durable_epoch_) {
        persisting_ = key.epoch;
        return {fence_verdict::persist};
    }
    ticket_ = gate_.open();
    return {fence_verdict::joined, ticket_};
}

void fence::persisted() {
    INVARIANT(persisting_ > durable_epoch_, "epoch {} became durable after {}", persisting_, durable_epoch_);
    durable_epoch_ = persisting_;
    persisting_ = 0;
}

void fence::broke() noexcept {
    broken_ = true;
    persisting_ = 0;
    ticket_ = 0;
    gate_.close();
}

}  // namespace weft::core
