// SPDX-License-Identifier: Apache-2.0
#include "nbd-backend/core/range_lock.hpp"

#include <algorithm>

#include "nbd-backend/base/invariant.hpp"

namespace weft::core {

range_lock::range_lock() = default;

bool range_lock::conflicts(const entry& a, const entry& b) const noexcept {
    if (a.how == mode::shared && b.how == mode::shared) return false;
    return a.offset < b.offset + b.length && b.offset < a.offset + a.length;
}

template <typename Visit>
void range_lock::each_bucket(const entry& e, Visit visit) {
    const std::uint64_t first = e.offset >> bucket_shift;
    const std::uint64_t last = (e.offset + e.length - 1) >> bucket_shift;
    const std::uint64_t count = std::min(last - first + 1, bucket_count);
    for (std::uint64_t i = 0; i < count; ++i) visit(buckets_[(first + i) % bucket_count]);
}

range_lock::claim_result range_lock::claim(std::uint64_t offset, std::uint64_t length, mode how, std::uint32_t owner) {
    INVARIANT(length > 0, "empty claim at {}", offset);
    ticket id = 0;
    if (free_.empty()) {
        id = static_cast<ticket>(entries_.size());
        entries_.emplace_back();
    } else {
        id = free_.back();
        free_.pop_back();
    }
    entry& mine = entries_[id];
    mine.offset = offset;
    mine.length = length;
    mine.owner = owner;
    mine.how = how;
    mine.used = true;
    mine.blockers = 0;
    mine.waiters.clear();
    mine.seen_by = ++serial_;
    each_bucket(mine, [&](std::vector<ticket>& bucket) {
        for (const ticket other : bucket) {
            entry& theirs = entries_[other];
            if (theirs.seen_by == serial_ || !conflicts(mine, theirs)) continue;
            theirs.seen_by = serial_;
            theirs.waiters.push_back(id);
            ++mine.blockers;
        }
    });
    each_bucket(mine, [&](std::vector<ticket>& bucket) { bucket.push_back(id); });
    ++in_use_;
    return {id, mine.blockers == 0};
}

void range_lock::release(ticket id, std::vector<std::uint32_t>& granted) {
    INVARIANT(id < entries_.size() && entries_[id].used, "release of claim {} that nobody has", id);
    entry& mine = entries_[id];
    each_bucket(mine, [&](std::vector<ticket>& bucket) {
        const auto at = std::find(bucket.begin(), bucket.end(), id);
        *at = bucket.back();
        bucket.pop_back();
    });
    if (mine.blockers > 0) {
        // Given up while waiting: those it waits for must not count it any more. Rare (only when all I/O fails).
        for (entry& other : entries_) std::erase(other.waiters, id);
    }
    for (const ticket waiter : mine.waiters) {
        entry& theirs = entries_[waiter];
        INVARIANT(theirs.used && theirs.blockers > 0, "claim {} waits without a blocker", waiter);
        if (--theirs.blockers == 0) granted.push_back(theirs.owner);
    }
    mine.waiters.clear();
    mine.used = false;
    free_.push_back(id);
    --in_use_;
}

}  // namespace weft::core
