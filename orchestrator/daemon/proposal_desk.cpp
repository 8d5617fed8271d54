// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/daemon/proposal_desk.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "nbd-backend/base/crash_point.hpp"
#include "orchestrator/core/transitions.hpp"
#include "orchestrator/daemon/log.hpp"

namespace weft {

namespace {

constexpr std::chrono::milliseconds retry_pause{200};  // while the store does not answer

bool same(const proposal_desk::entry& a, const proposal_desk::entry& b) {
    return a.proposal.id == b.proposal.id && a.id == b.id && a.epoch == b.epoch && !a.from.owner_before(b.from) &&
           !b.from.owner_before(a.from);
}

const replica_record* find_replica(const volume_record& record, const replica_id& id) {
    for (const auto& extent : record.extents)
        for (const auto& replica : extent.replicas)
            if (replica.id == id) return &replica;
    return nullptr;
}

}  // namespace

proposal_desk::proposal_desk(volume_records& records, event_log& events, node_name me, std::function<void()> on_commit)
    : records_(records), events_(events), me_(std::move(me)), on_commit_(std::move(on_commit)), worker_([this] {
          run();
      }) {}

proposal_desk::~proposal_desk() {
    {
        const std::lock_guard lock(mutex_);
        stopping_ = true;
    }
    changed_.notify_all();
    worker_.join();
}

void proposal_desk::hand_in(entry what) {
    {
        const std::lock_guard lock(mutex_);
        if (std::any_of(queue_.begin(), queue_.end(), [&](const entry& other) { return same(other, what); })) return;
        queue_.push_back(std::move(what));
    }
    changed_.notify_all();
}

void proposal_desk::tell(const entry& what, const volume_record& record, replica_state before) {
    const auto* replica = find_replica(record, what.proposal.replica);
    if (replica == nullptr || before == what.proposal.to) return;
    const auto level = what.proposal.to < before ? severity::warning : severity::info;
    events_.emit(level, "volume " + what.volume,
                 fmt::format("replica {} on node {} is {} (was {}): {}", replica->id.str(), replica->node.str(),
                             to_string(what.proposal.to), to_string(before), what.proposal.reason));
}

bool proposal_desk::decide(const entry& what) {
    const auto from = what.from.lock();
    if (!from || from->exited()) return true;
    core::result_message answer{what.proposal.id, core::proposal_outcome::committed, {}};
    replica_state before = what.proposal.to;
    bool found_volume = false;
    const auto to = what.proposal.to;
    WEFT_CRASH_POINT_IF(to == replica_state::outdated, "demote.asked");
    WEFT_CRASH_POINT_IF(to == replica_state::inconsistent, "resync.asked");
    WEFT_CRASH_POINT_IF(to == replica_state::up_to_date, "promote.asked");
    const auto changed = records_.change(what.volume, what.id, [&](volume_record record) {
        found_volume = true;
        if (const auto* replica = find_replica(record, what.proposal.replica)) before = replica->state;
        return set_replica_state(std::move(record), me_, what.epoch, what.proposal.replica, what.proposal.to,
                                 what.proposal.recovering);
    });
    WEFT_CRASH_POINT_IF(to == replica_state::outdated, "demote.recorded");
    WEFT_CRASH_POINT_IF(to == replica_state::inconsistent, "resync.recorded");
    WEFT_CRASH_POINT_IF(to == replica_state::up_to_date, "promote.recorded");
    std::uint64_t revision = 0;
    if (changed.has_value()) {
        revision = changed->revision;
        tell(what, changed->record, before);
    } else {
        answer.text = changed.error().text;
        const errc code = changed.error().code;
        if (code == errc::stale_epoch || (code == errc::not_found && !found_volume)) {
            answer.outcome = core::proposal_outcome::fenced;
        } else if (code == errc::no_quorum || code == errc::not_found || code == errc::invalid_argument ||
                   (code == errc::corrupt && found_volume)) {
            answer.outcome = core::proposal_outcome::refused;
        } else {
            if (last_trouble_ != answer.text)
                log(log_level::warning, "proposals", "the store does not take a replica's new state, trying again",
                    {{"volume", what.volume}, {"error", answer.text}});
            last_trouble_ = answer.text;
            return false;
        }
    }
    last_trouble_.clear();
    from->answer(answer, revision);
    WEFT_CRASH_POINT("propose.answered");
    if (revision != 0) on_commit_();
    return true;
}

void proposal_desk::run() {
    std::unique_lock lock(mutex_);
    while (true) {
        changed_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
        if (stopping_) return;
        const entry head = queue_.front();  // stays in the queue meanwhile, so that a repetition is recognised
        lock.unlock();
        const bool answered = decide(head);
        lock.lock();
        if (answered)
            queue_.pop_front();
        else
            changed_.wait_for(lock, retry_pause, [this] { return stopping_; });
    }
}

}  // namespace weft
