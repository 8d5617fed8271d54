// SPDX-License-Identifier: Apache-2.0
// The engine's public face: submit, tick, status, and how it ends. See engine.hpp and engine_impl.hpp.
#include "nbd-backend/core/engine.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cerrno>

#include "nbd-backend/base/canary.hpp"
#include "nbd-backend/base/invariant.hpp"
#include "nbd-backend/core/engine_impl.hpp"

namespace weft::core {

using canary::broken;
using canary::rule;

std::string_view to_string(engine_state state) noexcept {
    switch (state) {
        case engine_state::fencing: return "fencing";
        case engine_state::serving: return "serving";
        case engine_state::detaching: return "detaching";
        case engine_state::detached: return "detached";
        case engine_state::fenced: return "fenced";
        case engine_state::lost: return "lost";
    }
    return "unknown";
}

std::string_view to_string(full_policy policy) noexcept {
    switch (policy) {
        case full_policy::hold: return "hold";
        case full_policy::fail: return "fail";
    }
    return "unknown";
}

engine::impl::impl(engine_config config) : config_(std::move(config)), copies_(config_.copies_max) {
    INVARIANT(config_.size_bytes > 0 && config_.size_bytes % block_bytes == 0, "extent of {} bytes",
              config_.size_bytes);
    INVARIANT(config_.members.size() <= max_slots, "{} replicas in one extent", config_.members.size());
    INVARIANT(config_.chunk_bytes % config_.piece_bytes == 0 && config_.piece_bytes % block_bytes == 0,
              "chunk of {} bytes, piece of {}", config_.chunk_bytes, config_.piece_bytes);
    const std::uint64_t chunks = (config_.size_bytes + config_.chunk_bytes - 1) / config_.chunk_bytes;
    unrecovered_ = region_set(chunks);
    recovering_ = region_set(chunks);
    damaged_ = region_set(chunks);
    rewritten_ = region_set(chunks);
    dirty_ = region_set(chunks);
    touched_ = region_set(chunks);
    for (std::size_t i = 0; i < config_.members.size(); ++i) {
        use_slot(slots_[i], config_.members[i]);
        // What the last writer had acknowledged may not be flushed yet: a restart of the host loses it under us too.
        if (!config_.clean) slots_[i].changes_done = 1;
    }
    INVARIANT(!config_.legs || config_.min_replicas <= 1, "device-mapper goes on with one leg");
}

void engine::impl::start(actions& out) {
    for (slot_index i = 0; i < max_slots; ++i) {
        slot& it = slots_[i];
        if (!it.used) continue;
        if (required(it) && !is_leg(it)) it.demote_at = now_ + config_.attach_timeout;
        connect(i, out);
    }
    consider_serving(out);
}

void engine::impl::submit(const request& what, actions& out) {
    const bool sized = what.kind != op_kind::flush;
    const bool aligned = what.offset % block_bytes == 0 && what.length % block_bytes == 0 && what.length > 0 &&
                         what.length <= config_.size_bytes && what.offset <= config_.size_bytes - what.length;
    const bool payload = what.kind == op_kind::read || what.kind == op_kind::write;
    int refused = 0;
    if ((what.kind > op_kind::flush) || config_.legs != (what.only != 0) || (sized && !aligned) ||
        (payload && what.length > max_request_bytes))
        refused = EINVAL;
    else if (state_ == engine_state::lost)
        refused = EIO;
    else if (state_ != engine_state::fencing && state_ != engine_state::serving)
        refused = ESHUTDOWN;
    if (refused != 0) {
        out.complete.push_back({what.cookie, refused});
        return;
    }
    const std::uint32_t index =
        new_job(what.kind, job_owner::application, sized ? what.offset : 0, sized ? what.length : 0, what.data);
    job& it = jobs_[index];
    it.fua = what.fua;
    it.cookie = what.cookie;
    if (what.only != 0) {
        it.only = what.only;
        it.tenant = slots_[static_cast<std::size_t>(std::countr_zero(what.only))].tenant;
    }
    active_at_ = now_;
    ++application_jobs_;
    if (state_ == engine_state::fencing) {
        it.phase = job_phase::parked;
        parked_.push_back(index);
        return;
    }
    admit(index, out);
}

/// Takes the range's claim (R9, R10); runs at once or when settle() hears that the claim is granted.
void engine::impl::admit(std::uint32_t index, actions& out) {
    job& it = jobs_[index];
    if (it.kind == op_kind::flush) {
        run(index, out);
        return;
    }
    const bool alone = it.kind != op_kind::read && !broken(rule::serialise_changes);
    const auto how = !alone ? range_lock::mode::shared : range_lock::mode::exclusive;
    // Each leg has a stretch of the lock's space to itself.
    const std::uint64_t base = it.only == 0 ? 0 : config_.size_bytes * std::uint64_t(std::countr_zero(it.only));
    const auto claim = locks_.claim(base + it.offset, it.length, how, index);
    it.claim = claim.id;
    it.claimed = true;
    it.phase = job_phase::claiming;
    if (claim.granted) run(index, out);
}

/// R5 and `lost`: every application request fails, every link is closed. A request whose op is still in flight is
/// completed only when its link is down, because the op may still use the application's buffer (E5).
void engine::impl::fail_everything(engine_state how, const std::string& why, actions& out) {
    if (over()) return;
    state_ = how;
    note(out, notice::level::error, why);
    for (slot_index i = 0; i < max_slots; ++i) {
        slot& it = slots_[i];
        if (!it.used) continue;
        release_owed(i, out);
        stop_resync(i);
        it.demote_at = never;
        it.retry_at = never;
        it.proposal = 0;
        fail_link(i, why, out);
    }
    unrecovered_.clear_all();
    wanted_chunks_.clear();
    repairs_.clear();
    clears_.clear();
    scrub_.running = false;
    parked_.clear();
    reads_later_.clear();
    unconfirmed_.clear();
    recovery_waiters_.clear();
    for (copy& it : copies_) it.cancelled = true;
    for (std::uint32_t i = 0; i < jobs_.size(); ++i)
        if (jobs_[i].phase != job_phase::idle) finish_if_idle(i, out);
}

void engine::impl::detach(actions& out) {
    if (state_ == engine_state::detaching || state_ == engine_state::detached || over()) return;
    if (state_ == engine_state::fencing) {
        // Nothing was served: nothing is in flight, nothing needs a flush, the replicas are as equal as they were.
        for (const std::uint32_t index : std::exchange(parked_, {})) {
            jobs_[index].error = ESHUTDOWN;
            finish(index, out);
        }
        if (!config_.clean) unrecovered_.set_all();
        state_ = engine_state::detached;
        return;
    }
    state_ = engine_state::detaching;
    for (slot_index i = 0; i < max_slots; ++i) stop_resync(i);
    for (copy& it : copies_)
        if (it.used && it.purpose == copy_purpose::scrub) it.cancelled = true;
    scrub_.running = false;
    repairs_.clear();
    clears_.clear();
    continue_detach(out);
}

/// R11: when the last request and copy are through, flush every required replica; then nothing is left to lose. What is
/// equal everywhere is then declared clean.
void engine::impl::continue_detach(actions& out) {
    if (state_ != engine_state::detaching) return;
    if (detach_flush_sent_) {
        if (detach_flushed_ && clears_.empty() && !clearing_) state_ = engine_state::detached;
        return;
    }
    if (application_jobs_ > 0 || clearing_ || upkeep_flush_) return;
    if (std::any_of(copies_.begin(), copies_.end(), [](const copy& it) { return it.used; })) return;
    if (std::any_of(slots_.begin(), slots_.end(),
                    [](const slot& it) { return it.used && (it.proposal != 0 || it.map_asked); }))
        return;
    detach_flush_sent_ = true;
    ++sweep_;  // so that only this flush counts
    run(new_job(op_kind::flush, job_owner::detach, 0, 0, nullptr), out);
}

void engine::impl::on_policy(const engine_policy& policy, actions& out) {
    config_.policy = policy;
    if (policy.min_replicas > 0) config_.min_replicas = policy.min_replicas;
    pace_at_ = std::min(pace_at_, now_);
    consider_scrub(out);
    consider_demotions(out);  // fewer replicas may be enough now
}

/// Were we stopped? (The process, its host, or a machine without time for us.) Then answers may lie in our sockets, and
/// a link may only wait for us: who would be late now gets a new window. `due`: when a tick was wanted.
void engine::impl::forgive_own_gap(instant due) {
    if (due == never || now_ - due <= config_.request_timeout / 4) return;
    patient_until_ = now_ + config_.request_timeout;
    const auto window = state_ == engine_state::fencing ? config_.attach_timeout : config_.reconnect_window;
    for (slot& it : slots_)
        if (it.used && it.demote_at != never && it.demote_at >= due && it.demote_at <= now_)
            it.demote_at = now_ + window;
}

/// When the slot's oldest request is late; never if there is none.
instant engine::impl::late_at(slot_index index) const {
    const slot& it = slots_[index];
    if (it.link != link_state::up || it.flight.head == nobody) return never;
    return std::max(jobs_[it.flight.head].sent_at[index] + config_.request_timeout, patient_until_);
}

void engine::impl::tick(actions& out) {
    for (slot_index i = 0; i < max_slots; ++i) {
        slot& it = slots_[i];
        if (!it.used) continue;
        if (late_at(i) <= now_) {
            it.demote_at = required(it) ? now_ : never;
            fail_link(i, fmt::format("did not answer for {} ms", config_.request_timeout.count()), out);
        }
        if (it.link == link_state::down && it.retry_at <= now_) connect(i, out);
        if (it.resync_at <= now_) {
            if (it.syncing) it.resync_at = never;  // settle() goes on with it
            consider_resync(i, out);
        }
        if (it.space_at <= now_) {
            it.space_at = never;
            if (it.proposal == 0 && !it.lost_changes) resend_owed(i, out);
            if (it.starved > 0) it.space_at = now_ + config_.space_retry;
        }
    }
    if (sweep_at_ <= now_) sweep(out);
    consider_serving(out);
    consider_demotions(out);
}

instant engine::impl::next_tick() const {
    instant next = over() ? never : sweep_at_;
    if (background_waits()) next = std::min(next, pace_at_);
    for (slot_index i = 0; i < max_slots; ++i) {
        const slot& it = slots_[i];
        if (!it.used) continue;
        next = std::min(next, late_at(i));
        if (it.link == link_state::down) next = std::min(next, it.retry_at);
        if (it.link == link_state::up && !required(it)) next = std::min(next, it.resync_at);
        next = std::min(next, it.space_at);
        // A demotion that is due but not allowed waits for an event, not for time.
        if (it.proposal == 0 && it.demote_at > now_) next = std::min(next, it.demote_at);
    }
    return next;
}

/// Ends every public call: runs what became runnable, starts copies, keeps account of holding.
void engine::impl::settle(actions& out) {
    bool progress = true;
    while (progress) {
        progress = false;
        while (!granted_.empty()) {
            progress = true;
            const std::uint32_t owner = granted_.back();
            granted_.pop_back();
            if ((owner & copy_owner) != 0)
                continue_copy(owner & ~copy_owner, out);
            else if (jobs_[owner].phase == job_phase::claiming)  // else it was failed since it was granted
                run(owner, out);
        }
        if (recovery_waiters_due_) {
            progress = true;
            recovery_waiters_due_ = false;
            for (const std::uint32_t index : std::exchange(recovery_waiters_, {})) admit(index, out);
        }
        if (serving()) {
            if (!parked_.empty() && !stranded())
                for (const std::uint32_t index : std::exchange(parked_, {})) admit(index, out);
            confirm_reads(out);
            schedule_copies(out);
            consider_trust(out);
            next_clear(out);
        }
        if (!granted_.empty() || recovery_waiters_due_) progress = true;
        if (serving() && !clearing_ && !clears_.empty()) progress = true;
    }
    continue_detach(out);

    const bool holding =
        owed_total_ > 0 || !reads_later_.empty() || !unconfirmed_.empty() || (serving() && !parked_.empty());
    if (holding && hold_since_ == never) hold_since_ = now_;
    if (!holding && hold_since_ != never) {
        longest_hold_ =
            std::max(longest_hold_, std::chrono::duration_cast<std::chrono::milliseconds>(now_ - hold_since_));
        hold_since_ = never;
    }
}

engine_status engine::impl::status(instant now) const {
    engine_status all;
    all.state = state_;
    for (const slot& it : slots_) {
        if (!it.used || it.removed) continue;
        slot_status one;
        one.id = it.member.id;
        one.state = it.member.state;
        one.link_up = it.link == link_state::up;
        one.resyncing = it.syncing || (is_leg(it) && one.link_up);
        one.recovering = it.member.recovering;
        one.full = it.full;
        if (it.starved > 0) all.waiting_for_space = true;
        if (it.syncing) {
            const std::uint64_t left = it.todo.count() * config_.chunk_bytes;
            one.resync_done_bytes = config_.size_bytes - std::min(left, config_.size_bytes);
        }
        one.resync_copied_bytes = it.copied_bytes;
        all.slots.push_back(std::move(one));
    }
    all.recovery_left_bytes =
        std::min((unrecovered_.count() + damaged_.count()) * config_.chunk_bytes, config_.size_bytes);
    all.dirty_bytes = std::min(dirty_.count() * config_.chunk_bytes, config_.size_bytes);
    all.scrub = scrub_;
    all.requests_in_flight = application_jobs_;
    all.holding = hold_since_ != never;
    if (all.holding) all.held_for = std::chrono::duration_cast<std::chrono::milliseconds>(now - hold_since_);
    all.longest_hold = std::max(longest_hold_, all.held_for);
    all.reads = reads_;
    all.writes = writes_;
    all.read_bytes = read_bytes_;
    all.written_bytes = written_bytes_;
    return all;
}

std::string engine::impl::describe(slot_index index) const {
    return fmt::format("replica {}", slots_[index].member.id.str());
}

engine::engine(engine_config config) : impl_(std::make_unique<impl>(std::move(config))) {}
engine::~engine() = default;

void engine::start(instant now, actions& out) {
    impl_->now_ = now;
    impl_->start(out);
    impl_->settle(out);
}

void engine::submit(const request& what, instant now, actions& out) {
    impl_->now_ = now;
    impl_->submit(what, out);
    impl_->settle(out);
}

void engine::on_op_done(op_result what, instant now, actions& out) {
    impl_->now_ = now;
    impl_->on_op_done(std::move(what), out);
    impl_->settle(out);
}

void engine::on_link_up(slot_index slot, std::uint64_t session, const link_hello& hello, instant now, actions& out) {
    impl_->now_ = now;
    const auto& it = impl_->slots_.at(slot);
    if (it.session != session || it.link != impl::link_state::connecting) return;
    impl_->on_link_up(slot, hello, out);
    impl_->settle(out);
}

void engine::on_link_down(slot_index slot, std::uint64_t session, link_loss loss, instant now, actions& out) {
    impl_->now_ = now;
    const auto& it = impl_->slots_.at(slot);
    if (it.session != session || it.link == impl::link_state::down) return;
    impl_->on_link_down(slot, loss, out);
    impl_->settle(out);
}

void engine::on_proposal_result(std::uint64_t id, proposal_outcome outcome, instant now, actions& out) {
    impl_->now_ = now;
    impl_->on_proposal_result(id, outcome, out);
    impl_->settle(out);
}

void engine::on_membership(const std::vector<replica_member>& members, instant now, actions& out) {
    impl_->now_ = now;
    impl_->on_membership(members, out);
    impl_->settle(out);
}

void engine::on_policy(const engine_policy& policy, instant now, actions& out) {
    impl_->now_ = now;
    impl_->on_policy(policy, out);
    impl_->settle(out);
}

void engine::on_lease(instant until) {
    impl_->lease_until_ = until;
}

void engine::on_share(const copy_share& share) {
    impl_->share_ = share;
}

bool engine::copying() const {
    return impl_->copying();
}

void engine::on_fenced(instant now, actions& out) {
    impl_->now_ = now;
    impl_->fail_everything(engine_state::fenced, "another epoch owns the volume", out);
    impl_->settle(out);
}

void engine::on_leg(const replica_id& replica, leg_event what, instant now, actions& out) {
    impl_->now_ = now;
    impl_->on_leg(replica, what, out);
    impl_->settle(out);
}

slot_mask engine::leg(const replica_id& replica) const {
    return impl_->leg(replica);
}

void engine::detach(instant now, actions& out) {
    impl_->now_ = now;
    impl_->detach(out);
    impl_->settle(out);
}

void engine::on_tick(instant now, actions& out) {
    const instant due = impl_->next_tick();
    impl_->now_ = now;
    impl_->forgive_own_gap(due);
    impl_->tick(out);
    impl_->settle(out);
}

instant engine::next_tick() const {
    return impl_->next_tick();
}
engine_state engine::state() const {
    return impl_->state_;
}
engine_status engine::status(instant now) const {
    return impl_->status(now);
}
const replica_id& engine::replica_in(slot_index slot) const {
    return impl_->slots_.at(slot).member.id;
}

}  // namespace weft::core
