// SPDX-License-Identifier: Apache-2.0
#include "nbd-backend/io/engine_host.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "nbd-backend/base/crash_point.hpp"
#include "nbd-backend/base/invariant.hpp"

namespace weft::io {

namespace {

// An engine that names an instant in the past is called again after this, so that no bug of its can spin the timer.
constexpr core::instant tick_pause_min = std::chrono::milliseconds(1);

// How exactly the engines know of each other's applications; well below engine_config::busy_window.
constexpr core::instant active_resolution = std::chrono::milliseconds(20);

core::engine_config engine_config_of(std::uint32_t extent, const core::attach_config& config) {
    core::engine_config one;
    one.size_bytes = config.extents[extent].size_bytes;
    one.min_replicas = config.min_replicas;
    one.clean = config.clean;
    one.legs = config.layout.mirrored;
    one.device_lives = config.device_lives;
    one.policy = config.policy;
    for (const core::member_address& replica : config.extents[extent].replicas) one.members.push_back(replica.member);
    one.request_timeout = std::chrono::milliseconds(config.request_timeout_ms);
    one.reconnect_window = std::chrono::milliseconds(config.reconnect_window_ms);
    one.attach_timeout = std::chrono::milliseconds(config.attach_timeout_ms);
    return one;
}

/// Some of a resync is done and some is left.
[[maybe_unused]] bool is_resyncing(const core::engine_status& told) {
    return std::any_of(told.slots.begin(), told.slots.end(),
                       [](const core::slot_status& slot) { return slot.resyncing && slot.resync_copied_bytes > 0; });
}

}  // namespace

/// Reused lists of one thread. No event is driven inside another's, so one set per thread is enough.
struct engine_host::scratch {
    core::actions actions;
    std::vector<const request_waiter::futex_word*> sleepers;
    bool has_orders = false;
    bool tell_weftd = false;
    core::instant due = core::instant::max();
};

engine_host::scratch& engine_host::thread_scratch() {
    thread_local scratch mine;
    return mine;
}

engine_host::engine_host(std::uint32_t extent, const core::attach_config& config, outbox& to_weftd, tick_timer& timer,
                         copy_budget& budget)
    : extent_(extent),
      epoch_(config.epoch),
      size_bytes_(config.extents[extent].size_bytes),
      connections_(config.connections),
      request_timeout_(config.request_timeout_ms),
      outbox_(to_weftd),
      timer_(timer),
      budget_(budget),
      poller_(fmt::format("weft-x{}", extent)),
      engine_(engine_config_of(extent, config)) {
    for (const core::member_address& replica : config.extents[extent].replicas)
        addresses_[replica.member.id] = {replica.host, replica.port};
}

engine_host::~engine_host() {
    stop();
}

/// The one way into the engine. `event` is called with the mutex held.
template <typename Event>
void engine_host::drive(driver who, Event event) {
    scratch& work = thread_scratch();
    {
        const std::lock_guard lock(mutex_);
        // Inside the lock, so that time never runs backwards for the engine.
        const core::instant time = now();
        engine_.on_share({std::max(budget_.copying.load(std::memory_order_relaxed), 1U),
                          core::instant(budget_.active_at.load(std::memory_order_relaxed))});
        event(time, work);
        take_out(work);
        if (const bool copies = engine_.copying(); copies != copying_) {
            copying_ = copies;
            if (copies)
                budget_.copying.fetch_add(1, std::memory_order_relaxed);
            else
                budget_.copying.fetch_sub(1, std::memory_order_relaxed);
        }
        if (!stopped_) work.due = std::max(engine_.next_tick(), time + tick_pause_min);
    }
    carry_out(who, work);
}

/// With the mutex: what must happen in the engine's order.
void engine_host::take_out(scratch& work) {
    core::actions& actions = work.actions;
    for (const core::completion& one : actions.complete)
        finish(*static_cast<request_part*>(one.cookie), one.error, work);
    for (const core::link_command& one : actions.links) {
        link_order order{one.action, one.session, engine_.replica_in(one.slot), {}, 0};
        if (const auto at = addresses_.find(order.replica); at != addresses_.end()) {
            order.host = at->second.host;
            order.port = at->second.port;
        }
        link_for(one.slot).post(std::move(order));
        work.has_orders = true;
    }
    for (const core::proposal& one : actions.propose) {
        outbox_.propose(extent_, engine_.replica_in(one.slot), one);
        WEFT_CRASH_POINT_IF(one.to == replica_state::outdated, "demote.proposed");
        WEFT_CRASH_POINT_IF(one.to == replica_state::inconsistent, "resync.proposed");
        WEFT_CRASH_POINT_IF(one.to == replica_state::up_to_date, "promote.proposed");
    }
    for (const core::notice& one : actions.notices) outbox_.notify(extent_, one);
    const bool moved = std::exchange(state_, engine_.state()) != engine_.state();
    WEFT_CRASH_POINT_IF(moved && state_ == core::engine_state::serving, "attach.fenced-all");
    WEFT_CRASH_POINT_IF(moved && state_ == core::engine_state::detached, "detach.all-flushed");
    if (moved || !actions.links.empty() || !actions.propose.empty() || !actions.notices.empty()) {
        outbox_.changed();
        work.tell_weftd = true;
    }
}

/// Without the mutex. Everything here may be overtaken by another thread's actions; see the header.
void engine_host::carry_out(driver who, scratch& work) {
    for (const core::io_op& op : work.actions.send) links_[op.slot]->send(op);
    for (const request_waiter::futex_word* sleeper : work.sleepers) request_waiter::wake(sleeper);
    if (work.has_orders) poller_.bell().ring();
    // A guest polls for answers and may not sleep over a request that ended without one; a submitter sees to the
    // answers of what it sent itself.
    const bool ended = !work.actions.complete.empty();
    if (who != driver::poller && (ended || (who == driver::other && !work.actions.send.empty()))) poller_.look();
    if (work.tell_weftd) outbox_.flush();
    timer_.arm(work.due);
    work.actions.clear();
    work.sleepers.clear();
    work.has_orders = false;
    work.tell_weftd = false;
    work.due = core::instant::max();
}

/// With the mutex: the part's waiter may return as soon as this has finished its last part.
void engine_host::finish(request_part& part, int error, scratch& work) {
    if (part.previous != nullptr)
        part.previous->next = part.next;
    else
        outstanding_ = part.next;
    if (part.next != nullptr) part.next->previous = part.previous;
    if (const auto* sleeper = part.waiter->finish(error); sleeper != nullptr) work.sleepers.push_back(sleeper);
}

replica_link& engine_host::link_for(core::slot_index slot) {
    if (links_[slot] == nullptr) {
        links_[slot] = std::make_unique<replica_link>(
            link_settings{slot, epoch_, size_bytes_, connections_, request_timeout_}, *this, poller_.bell());
        poller_.add(slot, *links_[slot]);
    }
    return *links_[slot];
}

weft::status engine_host::start() {
    WEFT_CRASH_POINT("attach.engine-starting");
    TRY(poller_.start());
    drive(driver::other, [this](core::instant time, scratch& work) { engine_.start(time, work.actions); });
    return ok();
}

void engine_host::stop() {
    {
        const std::lock_guard lock(mutex_);
        stopped_ = true;
    }
    poller_.stop();
    // No link touches a buffer any more, and the engine is not asked any more: the requests may go.
    scratch& work = thread_scratch();
    {
        const std::lock_guard lock(mutex_);
        while (outstanding_ != nullptr) finish(*outstanding_, ESHUTDOWN, work);
    }
    carry_out(driver::other, work);
}

void engine_host::submit(request_part& part, core::request what, const replica_id& leg) {
    what.cookie = &part;
    drive(driver::submitter, [&](core::instant time, scratch& work) {
        // Not at every request: the other processors' copies of the line would have to go each time.
        if (time.count() - budget_.active_at.load(std::memory_order_relaxed) > active_resolution.count())
            budget_.active_at.store(time.count(), std::memory_order_relaxed);
        part.previous = nullptr;
        part.next = outstanding_;
        if (outstanding_ != nullptr) outstanding_->previous = &part;
        outstanding_ = &part;
        if (!leg.empty()) what.only = engine_.leg(leg);
        if (stopped_)
            finish(part, ESHUTDOWN, work);
        else if (!leg.empty() && what.only == 0)
            finish(part, EIO, work);
        else
            engine_.submit(what, time, work.actions);
    });
}

void engine_host::on_link_events(core::slot_index slot, link_events& events) {
    drive(driver::poller, [&](core::instant time, scratch& work) {
        if (stopped_) return;
        for (core::op_result& answer : events.answers) engine_.on_op_done(std::move(answer), time, work.actions);
        if (events.what == link_events::change::up) {
            last_loss_[slot].clear();
            engine_.on_link_up(slot, events.session, events.hello, time, work.actions);
        } else if (events.what == link_events::change::down) {
            report_loss(slot, events);
            engine_.on_link_down(slot, events.session, events.loss, time, work.actions);
        }
        if (events.what != link_events::change::none) {
            outbox_.changed();
            work.tell_weftd = true;
        }
    });
}

/// With the mutex. One notice per trouble, not one per attempt.
void engine_host::report_loss(core::slot_index slot, const link_events& events) {
    if (events.detail.empty() || events.detail == last_loss_[slot]) return;
    last_loss_[slot] = events.detail;
    outbox_.notify(extent_, {core::notice::level::info,
                             fmt::format("replica {}: {}", engine_.replica_in(slot).str(), events.detail)});
}

void engine_host::on_proposal_result(std::uint64_t id, core::proposal_outcome outcome) {
    WEFT_CRASH_POINT("propose.told");
    drive(driver::other, [&](core::instant time, scratch& work) {
        if (!stopped_) engine_.on_proposal_result(id, outcome, time, work.actions);
    });
}

void engine_host::on_members(const core::extent_members& members, const core::engine_policy& policy) {
    INVARIANT(members.size_bytes == size_bytes_, "an extent of {} bytes became one of {}", size_bytes_,
              members.size_bytes);
    std::vector<core::replica_member> all;
    for (const core::member_address& replica : members.replicas) all.push_back(replica.member);
    drive(driver::other, [&](core::instant time, scratch& work) {
        if (stopped_) return;
        addresses_.clear();
        for (const core::member_address& replica : members.replicas)
            addresses_[replica.member.id] = {replica.host, replica.port};
        engine_.on_membership(all, time, work.actions);
        engine_.on_policy(policy, time, work.actions);
    });
}

void engine_host::on_leg(const replica_id& replica, core::leg_event what) {
    drive(driver::other, [&](core::instant time, scratch& work) {
        if (!stopped_) engine_.on_leg(replica, what, time, work.actions);
    });
}

bool engine_host::has_leg(const replica_id& replica) {
    const std::lock_guard lock(mutex_);
    return engine_.leg(replica) != 0;
}

std::vector<replica_id> engine_host::legs() {
    std::vector<replica_id> all;
    for (const auto& slot : status().slots) all.push_back(slot.id);
    return all;
}

void engine_host::on_lease(core::instant until) {
    drive(driver::other, [&](core::instant, scratch&) { engine_.on_lease(until); });
}

void engine_host::detach() {
    WEFT_CRASH_POINT("detach.told");
    drive(driver::other, [&](core::instant time, scratch& work) {
        if (!stopped_) engine_.detach(time, work.actions);
    });
}

void engine_host::tick() {
    drive(driver::other, [&](core::instant time, scratch& work) {
        if (!stopped_ && engine_.next_tick() <= time) engine_.on_tick(time, work.actions);
    });
}

core::engine_status engine_host::status() {
    const std::lock_guard lock(mutex_);
    auto told = engine_.status(now());
    WEFT_CRASH_POINT_IF(is_resyncing(told), "resync.under-way");
    WEFT_CRASH_POINT_IF(told.state == core::engine_state::serving && told.recovery_left_bytes > 0,
                        "recovery.under-way");
    return told;
}

}  // namespace weft::io
