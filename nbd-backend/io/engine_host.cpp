// SPDX-License-Identifier: Apache-2.0
#include "nbd-backend/io/engine_host.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "nbd-backend/base/invariant.hpp"

namespace weft::io {

namespace {

// An engine that names an instant in the past is called again after this, so that no bug of its can spin the timer.
constexpr core::instant tick_pause_min = std::chrono::milliseconds(1);

core::engine_config engine_config_of(std::uint32_t extent, const core::attach_config& config) {
    core::engine_config one;
    one.size_bytes = config.extents[extent].size_bytes;
    one.min_replicas = config.min_replicas;
    one.clean = config.clean;
    for (const core::member_address& replica : config.extents[extent].replicas) one.members.push_back(replica.member);
    one.request_timeout = std::chrono::milliseconds(config.request_timeout_ms);
    one.reconnect_window = std::chrono::milliseconds(config.reconnect_window_ms);
    one.attach_timeout = std::chrono::milliseconds(config.attach_timeout_ms);
    return one;
}

}  // namespace

/// Reused lists of one thread. No event is driven inside another's, so one set per thread is enough.
struct engine_host::scratch {
    core::actions actions;
    std::vector<const request_waiter::futex_word*> sleepers;
    core::slot_mask woken_links = 0;
    bool tell_weftd = false;
    core::instant due = core::instant::max();
};

engine_host::scratch& engine_host::thread_scratch() {
    thread_local scratch mine;
    return mine;
}

engine_host::engine_host(std::uint32_t extent, const core::attach_config& config, outbox& to_weftd, tick_timer& timer)
    : extent_(extent),
      epoch_(config.epoch),
      size_bytes_(config.extents[extent].size_bytes),
      connections_(config.connections),
      request_timeout_(config.request_timeout_ms),
      outbox_(to_weftd),
      timer_(timer),
      engine_(engine_config_of(extent, config)) {
    for (const core::member_address& replica : config.extents[extent].replicas)
        addresses_[replica.member.id] = {replica.host, replica.port};
}

engine_host::~engine_host() {
    stop();
}

/// The one way into the engine. `event` is called with the mutex held.
template <typename Event>
void engine_host::drive(Event event) {
    scratch& work = thread_scratch();
    {
        const std::lock_guard lock(mutex_);
        // Inside the lock, so that time never runs backwards for the engine.
        const core::instant time = now();
        event(time, work);
        take_out(work);
        if (!stopped_) work.due = std::max(engine_.next_tick(), time + tick_pause_min);
    }
    carry_out(work);
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
        work.woken_links |= static_cast<core::slot_mask>(1U << one.slot);
    }
    for (const core::proposal& one : actions.propose) outbox_.propose(extent_, engine_.replica_in(one.slot), one);
    for (const core::notice& one : actions.notices) outbox_.notify(extent_, one);
    const bool moved = std::exchange(state_, engine_.state()) != engine_.state();
    if (moved || !actions.links.empty() || !actions.propose.empty() || !actions.notices.empty()) {
        outbox_.changed();
        work.tell_weftd = true;
    }
}

/// Without the mutex. Everything here may be overtaken by another thread's actions; see the header.
void engine_host::carry_out(scratch& work) {
    for (const core::io_op& op : work.actions.send) links_[op.slot]->send(op);
    for (const request_waiter::futex_word* sleeper : work.sleepers) request_waiter::wake(sleeper);
    for (core::slot_index i = 0; i < core::max_slots; ++i)
        if ((work.woken_links >> i & 1) != 0) links_[i]->wake();
    if (work.tell_weftd) outbox_.flush();
    timer_.arm(work.due);
    work.actions.clear();
    work.sleepers.clear();
    work.woken_links = 0;
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
        links_[slot] =
            std::make_unique<replica_link>(link_settings{fmt::format("weft-x{}-r{}", extent_, slot), slot, epoch_,
                                                         size_bytes_, connections_, request_timeout_},
                                           *this);
        // Out of descriptors or threads: this extent could not reach a replica, and could not even say so in order.
        // A dead volume server is a case that weftd handles (R1); a half-alive one is not.
        const weft::status started = links_[slot]->start();
        INVARIANT(started.has_value(), "cannot make a link: {}; raise the limit of open files", started.error().text);
    }
    return *links_[slot];
}

void engine_host::start() {
    drive([this](core::instant time, scratch& work) { engine_.start(time, work.actions); });
}

void engine_host::stop() {
    {
        const std::lock_guard lock(mutex_);
        stopped_ = true;
    }
    for (const auto& link : links_)
        if (link != nullptr) link->stop();
    // No link touches a buffer any more, and the engine is not asked any more: the requests may go.
    scratch& work = thread_scratch();
    {
        const std::lock_guard lock(mutex_);
        while (outstanding_ != nullptr) finish(*outstanding_, ESHUTDOWN, work);
    }
    carry_out(work);
}

void engine_host::submit(request_part& part, core::request what) {
    what.cookie = &part;
    drive([&](core::instant time, scratch& work) {
        part.previous = nullptr;
        part.next = outstanding_;
        if (outstanding_ != nullptr) outstanding_->previous = &part;
        outstanding_ = &part;
        if (stopped_)
            finish(part, ESHUTDOWN, work);
        else
            engine_.submit(what, time, work.actions);
    });
}

void engine_host::on_link_events(core::slot_index slot, link_events& events) {
    drive([&](core::instant time, scratch& work) {
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
    drive([&](core::instant time, scratch& work) {
        if (!stopped_) engine_.on_proposal_result(id, outcome, time, work.actions);
    });
}

void engine_host::on_members(const core::extent_members& members) {
    INVARIANT(members.size_bytes == size_bytes_, "an extent of {} bytes became one of {}", size_bytes_,
              members.size_bytes);
    std::vector<core::replica_member> all;
    for (const core::member_address& replica : members.replicas) all.push_back(replica.member);
    drive([&](core::instant time, scratch& work) {
        if (stopped_) return;
        addresses_.clear();
        for (const core::member_address& replica : members.replicas)
            addresses_[replica.member.id] = {replica.host, replica.port};
        engine_.on_membership(all, time, work.actions);
    });
}

void engine_host::detach() {
    drive([&](core::instant time, scratch& work) {
        if (!stopped_) engine_.detach(time, work.actions);
    });
}

void engine_host::tick() {
    drive([&](core::instant time, scratch& work) {
        if (!stopped_ && engine_.next_tick() <= time) engine_.on_tick(time, work.actions);
    });
}

core::engine_status engine_host::status() {
    const std::lock_guard lock(mutex_);
    return engine_.status(now());
}

}  // namespace weft::io
