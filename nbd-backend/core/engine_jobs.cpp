// SPDX-License-Identifier: Apache-2.0
// Jobs: sending to replicas, collecting answers, completing (R3, R9, R10). See engine_impl.hpp.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

#include "nbd-backend/base/canary.hpp"
#include "nbd-backend/base/invariant.hpp"
#include "nbd-backend/core/engine_impl.hpp"

namespace weft::core {

using canary::broken;
using canary::rule;

namespace {
/// An op's id: where its job stands, whose answer it is, and enough of generation and session to know a late answer.
std::uint64_t op_id(std::uint32_t index, std::uint16_t generation, slot_index to, std::uint64_t session) {
    return (std::uint64_t{index} << 32) | (std::uint64_t{generation} << 16) | ((session & 0xfff) << 4) | to;
}
static_assert(max_slots <= 16, "an op's id has four bits for the slot");

constexpr bool is_change(op_kind kind) {
    return kind == op_kind::write || kind == op_kind::zero || kind == op_kind::trim;
}
}  // namespace

std::uint32_t engine::impl::new_job(op_kind kind, job_owner owner, std::uint64_t offset, std::uint32_t length,
                                    std::byte* data) {
    std::uint32_t index = 0;
    if (free_jobs_.empty()) {
        index = static_cast<std::uint32_t>(jobs_.size());
        INVARIANT(index < copy_owner, "too many requests in flight");
        jobs_.emplace_back();
    } else {
        index = free_jobs_.back();
        free_jobs_.pop_back();
    }
    job& it = jobs_[index];
    it.owner = owner;
    it.phase = job_phase::running;
    it.kind = kind;
    it.fua = false;
    it.claimed = false;
    it.in_flight = it.owed = it.tried = it.answered = it.refused = it.starved = 0;
    it.sweep = sweep_;
    it.only = 0;
    it.leased = false;
    ++it.generation;
    it.error = 0;
    it.offset = offset;
    it.length = length;
    it.data = data;
    it.cookie = nullptr;
    it.copy = nobody;
    return index;
}

slot_mask engine::impl::required_slots() const {
    slot_mask all = 0;
    for (std::size_t i = 0; i < max_slots; ++i)
        if (slots_[i].used && required(slots_[i]) && !is_leg(slots_[i])) all |= bit(i);
    return all;
}

/// Where changes go now: everybody required, and everybody who is being resynced (R8).
slot_mask engine::impl::writable() const {
    slot_mask all = 0;
    for (std::size_t i = 0; i < max_slots; ++i)
        if (slots_[i].used && (required(slots_[i]) || (slots_[i].syncing && !broken(rule::write_while_resync))))
            all |= bit(i);
    return all;
}

slot_mask engine::impl::syncing_slots() const {
    slot_mask all = 0;
    for (std::size_t i = 0; i < max_slots; ++i)
        if (slots_[i].used && slots_[i].syncing) all |= bit(i);
    return all;
}

/// E4. A replica with a pending proposal may already be outdated in the record, or not yet up_to_date there.
slot_mask engine::impl::readable() const {
    slot_mask all = 0;
    for (std::size_t i = 0; i < max_slots; ++i) {
        const slot& it = slots_[i];
        const bool trusted =
            it.member.state == replica_state::up_to_date || is_leg(it) || (it.syncing && broken(rule::read_up_to_date));
        if (it.used && !it.removed && trusted && it.proposal == 0 && it.link == link_state::up && !it.suspect &&
            !it.lost_changes)
            all |= bit(i);
    }
    return all;
}

/// Is there an up_to_date replica that was not tried and may become a source (again)? For a copy not one that is
/// behind: it becomes one only when all copies are done. Where a recovery has found a block that nobody else can read,
/// the one that is behind never becomes one as long as the block stays as it is.
bool engine::impl::readable_later(const job& it) const {
    for (std::size_t i = 0; i < max_slots; ++i) {
        const slot& one = slots_[i];
        if (!one.used || one.member.state != replica_state::up_to_date || (it.tried & bit(i)) != 0) continue;
        if (it.only != 0) continue;  // another leg is device-mapper's to ask
        if (!one.suspect) return true;
        if (it.owner != job_owner::copy && !damaged_.any(first_chunk(it), last_chunk(it))) return true;
    }
    return false;
}

/// Runs a job whose claim, if it needs one, is held.
void engine::impl::run(std::uint32_t index, actions& out) {
    job& it = jobs_[index];
    it.phase = job_phase::running;
    if (over()) {
        finish_if_idle(index, out);
        return;
    }
    if (it.owner == job_owner::clear) {
        run_clear(index, out);
        return;
    }
    if (it.only != 0 && leg_is_gone(it)) {
        it.error = EIO;
        finish_if_idle(index, out);
        return;
    }
    if (it.owner == job_owner::application && it.kind != op_kind::read && it.only == 0 && stranded()) {
        strand(index);
        return;
    }
    if (it.claimed && !recovered(it.offset, it.length)) {
        // R7: equal first. The copy needs the range's claim, so this job gives its own up and queues again after it.
        locks_.release(it.claim, granted_);
        it.claimed = false;
        want_recovered(index);
        return;
    }
    if (it.kind == op_kind::read || it.kind == op_kind::block_status)
        run_read(index, out);
    else if (it.only != 0)
        run_change(index, it.only, out);
    else if (it.kind != op_kind::flush)
        run_change(index, writable(), out);
    else
        run_change(index, it.owner == job_owner::trust ? bit(static_cast<slot_index>(it.copy)) : required_slots(), out);
}

/// R12: the record trusts no replica of this extent any more (an operator removed the last one). There is nobody whose
/// answer would count, and what to go on from is for people to decide: I/O holds.
bool engine::impl::stranded() const {
    return std::none_of(slots_.begin(), slots_.end(),
                        [this](const slot& it) { return it.used && !it.removed && required(it); });
}

/// The change or flush waits until the record trusts a replica again; its range is free meanwhile.
void engine::impl::strand(std::uint32_t index) {
    job& it = jobs_[index];
    if (it.claimed) locks_.release(it.claim, granted_);
    it.claimed = false;
    it.answered = it.refused = 0;
    it.error = 0;
    it.phase = job_phase::parked;
    parked_.push_back(index);
}

/// Sends a change or flush to `targets`. A required replica that cannot be reached now is owed the change (R4); one
/// that is only being resynced and cannot be reached will be copied to again.
void engine::impl::run_change(std::uint32_t index, slot_mask targets, actions& out) {
    for (slot_index i = 0; i < max_slots; ++i) {
        if ((targets & bit(i)) == 0) continue;
        const slot& to = slots_[i];
        // Also when it is only owed: a resync that begins meanwhile must know of it.
        if (is_change(jobs_[index].kind)) mark_changed(jobs_[index], i);
        const bool demoting = to.proposal != 0 && to.proposed < replica_state::up_to_date;
        if (to.link == link_state::up && !(required(to) && (demoting || to.lost_changes)))
            send(index, i, out);
        else if (required(to) && !is_upkeep(jobs_[index]) && !broken(rule::ack_after_all))
            owe(index, i);
    }
    finish_if_idle(index, out);
}

/// R10: one source, the local one when there is one, else the one with the fewest ops in flight.
void engine::impl::run_read(std::uint32_t index, actions& out) {
    job& it = jobs_[index];
    if (it.owner == job_owner::copy && copy_is_void(copies_[it.copy])) {
        finish(index, out);
        return;
    }
    slot_mask candidates = readable() & static_cast<slot_mask>(~it.tried);
    if (it.only != 0) candidates &= it.only;
    if (candidates == 0) {
        if (it.only != 0 && leg_is_gone(it)) it.error = EIO;
        if ((it.tried != 0 || it.error != 0) && !readable_later(it)) {
            finish(index, out);  // every replica that could have it says that it cannot be read
            return;
        }
        if (it.claimed && !recovered(it.offset, it.length)) {
            // Who is behind becomes a source by a recovery, and that needs this range.
            locks_.release(it.claim, granted_);
            it.claimed = false;
            want_recovered(index);
            return;
        }
        it.phase = job_phase::reading_later;
        reads_later_.push_back(index);
        return;
    }
    slot_index best = max_slots;
    for (slot_index i = 0; i < max_slots; ++i) {
        if ((candidates & bit(i)) == 0) continue;
        if (slots_[i].member.local) {
            best = i;
            break;
        }
        if (best == max_slots || slots_[i].flight.size < slots_[best].flight.size) best = i;
    }
    it.phase = job_phase::running;
    it.leased = now_ < lease_until_ || broken(rule::confirm_reads);
    it.asked = now_;
    send(index, best, out);
}

/// E7: gives out the reads for which every required replica has shown since that nobody has fenced us.
void engine::impl::confirm_reads(actions& out) {
    if (unconfirmed_.empty()) return;
    const slot_mask all = required_slots();
    std::erase_if(unconfirmed_, [&](std::uint32_t index) {
        job& it = jobs_[index];
        bool confirmed = true;
        for (slot_index i = 0; i < max_slots; ++i)
            if ((all & bit(i)) != 0 && !heard_since(i, it.asked, out)) confirmed = false;
        if (!confirmed) return false;
        it.phase = job_phase::running;
        it.leased = true;
        finish(index, out);
        return true;
    });
}

void engine::impl::retry_reads(actions& out) {
    for (const std::uint32_t index : std::exchange(reads_later_, {})) run_read(index, out);
}

void engine::impl::append(job_list& list, std::uint32_t index, slot_index of) {
    job& it = jobs_[index];
    it.previous[of] = list.tail;
    it.next[of] = nobody;
    if (list.tail == nobody)
        list.head = index;
    else
        jobs_[list.tail].next[of] = index;
    list.tail = index;
    ++list.size;
}

void engine::impl::unlink(job_list& list, std::uint32_t index, slot_index of) {
    const job& it = jobs_[index];
    if (it.previous[of] == nobody)
        list.head = it.next[of];
    else
        jobs_[it.previous[of]].next[of] = it.next[of];
    if (it.next[of] == nobody)
        list.tail = it.previous[of];
    else
        jobs_[it.next[of]].previous[of] = it.previous[of];
    --list.size;
}

void engine::impl::send(std::uint32_t index, slot_index to, actions& out) {
    job& it = jobs_[index];
    slot& target = slots_[to];
    INVARIANT(target.link == link_state::up, "op for {} without a link", describe(to));
    INVARIANT(((it.in_flight | it.owed) & bit(to)) == 0, "two ops of one job for {}", describe(to));
    it.in_flight |= bit(to);
    it.sent_at[to] = now_;
    it.flush_mark[to] = target.changes_done;
    append(target.flight, index, to);
    out.send.push_back({to, target.session, op_id(index, it.generation, to, target.session), it.kind, it.fua, it.offset,
                        it.length, it.data});
}

void engine::impl::owe(std::uint32_t index, slot_index to) {
    job& it = jobs_[index];
    INVARIANT(((it.in_flight | it.owed) & bit(to)) == 0, "{} owed twice", describe(to));
    it.owed |= bit(to);
    if (is_leg(slots_[to]) && slots_[to].link != link_state::up && slots_[to].demote_at == never)
        slots_[to].demote_at = now_ + config_.reconnect_window;
    append(slots_[to].owed, index, to);
    ++owed_total_;
}

void engine::impl::on_op_done(op_result what, actions& out) {
    const auto index = static_cast<std::uint32_t>(what.id >> 32);
    const auto from = static_cast<slot_index>(what.id & 0xf);
    if (index >= jobs_.size() || from >= max_slots) return;
    job& it = jobs_[index];
    slot& source = slots_[from];
    if ((it.in_flight & bit(from)) == 0 || what.id != op_id(index, it.generation, from, source.session)) return;
    unlink(source.flight, index, from);
    it.in_flight &= static_cast<slot_mask>(~bit(from));
    if (what.error != 0) {
        on_op_failed(index, from, what.error, out);
        return;
    }
    it.answered |= bit(from);
    source.heard = std::max(source.heard, it.sent_at[from]);
    source.backoff = config_.retry_min;
    if ((it.starved & bit(from)) != 0) {
        it.starved &= static_cast<slot_mask>(~bit(from));
        if (--source.starved == 0) {
            source.full = false;
            note(out, notice::level::info, describe(from) + ": has space again");
        }
    }
    if (is_change(it.kind) && source.full && source.starved == 0 && now_ - source.full_at >= full_memory) {
        source.full = false;
        note(out, notice::level::info, describe(from) + ": has had space for a while");
    }
    if (is_change(it.kind) && !it.fua) ++source.changes_done;
    if (it.kind == op_kind::flush) {
        source.changes_flushed = std::max(source.changes_flushed, it.flush_mark[from]);
        source.flush_mark = std::max(source.flush_mark, it.sweep);
    }
    last_stretches_ = std::move(what.stretches);
    finish_if_idle(index, out);
}

/// A replica answered with an error. A read goes elsewhere (R10); a change makes it a failed replica (R4).
void engine::impl::on_op_failed(std::uint32_t index, slot_index from, int error, actions& out) {
    job& it = jobs_[index];
    slot& source = slots_[from];
    const std::string text = std::generic_category().message(error);
    if (over()) {
        finish_if_idle(index, out);
        return;
    }
    if (error == ESHUTDOWN) {
        // Either a higher epoch fenced us or nbdkit is being stopped (it answers ESHUTDOWN then): the next hello tells
        // which, so this is a lost link and not yet R5.
        if (required(source) && !is_question(it) && !is_upkeep(it)) owe(index, from);
        fail_link(from, "shut down", out);
        if (is_question(it))
            run_read(index, out);
        else
            finish_if_idle(index, out);
        return;
    }
    if (it.owner == job_owner::ping) {
        finish_if_idle(index, out);
        return;
    }
    if (is_question(it)) {
        note(out, notice::level::warning,
             fmt::format(
                 "{}: {} bytes at {} cannot be read: {}; {}", describe(from), it.length, it.offset, text,
                 config_.legs ? "device-mapper reads another leg and writes them anew" : "reading another replica"));
        it.tried |= bit(from);
        it.error = error;
        run_read(index, out);
        return;
    }
    if (it.kind == op_kind::map_status || it.kind == op_kind::map_clear) {
        it.error = error;
        if (it.kind == op_kind::map_clear)  // stays dirty; tried again when it has been idle for another sweep
            touched_.set(first_chunk(it), last_chunk(it));
        finish_if_idle(index, out);
        return;
    }
    const bool needed = required(source);
    if (error == ENOSPC && is_change(it.kind) && needed) {
        on_no_space(index, from, out);
        return;
    }
    if (needed && !is_upkeep(it)) owe(index, from);
    source.demote_at = needed ? now_ : never;
    if (error == ENOSPC) {
        if (!source.full && !needed)
            note(out, notice::level::error,
                 fmt::format("{}: its drive is full, so it cannot be brought up to date: free space on that drive or "
                             "enlarge it; it is tried again by itself",
                             describe(from)));
        source.full = true;
        source.full_at = now_;
    }
    if (!needed) {
        source.resync_at = now_ + source.resync_backoff;
        source.resync_backoff = std::min(source.resync_backoff * 2, resync_backoff_max);
    }
    fail_link(from, fmt::format("refused a change of {} bytes at {}: {}", it.length, it.offset, text), out);
    finish_if_idle(index, out);
}

/// A drive is full, and nothing of the change was applied there. Held: it is owed like one of a lost link, and tried
/// again. Failed: the others go on; who applied it takes it back when all have answered.
void engine::impl::on_no_space(std::uint32_t index, slot_index from, actions& out) {
    job& it = jobs_[index];
    slot& source = slots_[from];
    if (!source.full)
        note(out, notice::level::error,
             fmt::format("{}: its drive is full: {}", describe(from),
                         config_.policy.on_full == full_policy::hold
                             ? "writes that need space wait for it: free space on that drive or enlarge it; with "
                               "on-full=fail they fail instead"
                             : "writes that need space fail: free space on that drive or enlarge it"));
    source.full = true;
    source.full_at = now_;
    // Only who can be read can give back what was there; one that is about to be trusted, or is behind, waits instead.
    if (it.owner == job_owner::application && config_.policy.on_full == full_policy::fail &&
        (readable() & bit(from)) != 0) {
        it.refused |= bit(from);
        finish_if_idle(index, out);
        return;
    }
    owe(index, from);
    if ((it.starved & bit(from)) == 0) ++source.starved;
    it.starved |= bit(from);
    if (source.space_at == never) source.space_at = now_ + config_.space_retry;
}

/// Some replicas have a change that another one had no space for.
bool engine::impl::must_take_back(const job& it) const {
    const slot_mask required_now = required_slots();
    return (it.refused & required_now) != 0 && (it.answered & static_cast<slot_mask>(~it.refused) & writable()) != 0;
}

void engine::impl::finish_if_idle(std::uint32_t index, actions& out) {
    const job& it = jobs_[index];
    if (it.in_flight == 0 && it.owed == 0 && it.phase != job_phase::idle) finish(index, out);
}

/// Nobody works on the job any more: gives its claim back and tells its owner.
void engine::impl::finish(std::uint32_t index, actions& out) {
    job& it = jobs_[index];
    INVARIANT(it.in_flight == 0 && it.owed == 0, "job finished while replicas work on it");
    if (it.refused != 0 && !over()) {
        if ((it.refused & required_slots()) != 0) it.error = ENOSPC;  // else they were demoted: it is made
        if (must_take_back(it)) {
            take_back(index, out);
            return;
        }
    }
    if (it.owner == job_owner::application && it.kind == op_kind::read && it.answered != 0 && !it.leased && !over()) {
        if (it.claimed) locks_.release(it.claim, granted_);  // the data is here; only its answer waits
        it.claimed = false;
        it.phase = job_phase::unconfirmed;
        unconfirmed_.push_back(index);
        return;
    }
    if (is_change(it.kind)) touched_.set(first_chunk(it), last_chunk(it));
    if (is_change(it.kind) && it.owner == job_owner::application && damaged_.any(first_chunk(it), last_chunk(it)))
        rewritten_.set(first_chunk(it), last_chunk(it));
    if (it.owner == job_owner::application && it.kind != op_kind::read && it.only == 0 && !over() && stranded()) {
        if (it.copy != nobody) copies_[std::exchange(it.copy, nobody)].job = nobody;
        strand(index);
        return;
    }
    it.phase = job_phase::idle;
    if (it.owner == job_owner::application && it.copy != nobody) copies_[it.copy].job = nobody;
    if (it.claimed) locks_.release(it.claim, granted_);
    it.claimed = false;
    if ((it.kind == op_kind::read || it.kind == op_kind::block_status) && it.answered != 0) it.error = 0;
    if (it.kind == op_kind::flush && !is_upkeep(it) && it.answered == 0 && !over() && it.error == 0 && it.only == 0 &&
        !stranded()) {
        // Every replica that it was sent to was demoted, so another one was promoted meanwhile: flush that one.
        it.phase = job_phase::running;
        run(index, out);
        return;
    }
    switch (it.owner) {
        case job_owner::application: complete_application(it, out); break;
        case job_owner::copy: {
            std::vector<stretch> stretches = std::exchange(last_stretches_, {});
            on_copy_job(it.copy, it, stretches, out);
            break;
        }
        case job_owner::trust:
            on_trust_flushed(static_cast<slot_index>(it.copy), it.answered != 0 ? 0 : EIO, out);
            break;
        case job_owner::detach:
            if (!over() && stranded()) unrecovered_.set_all();  // nothing says that it is clean
            if (!over()) queue_clears(sweep_, false);
            detach_flushed_ = true;
            break;
        case job_owner::map: {
            const std::vector<stretch> told = std::exchange(last_stretches_, {});
            on_map_job(it, told, out);
            break;
        }
        case job_owner::clear: on_clear_done(it); break;
        case job_owner::upkeep: upkeep_flush_ = false; break;
        case job_owner::ping:
            slots_[it.copy].pinged = false;
            if (it.answered != 0) consider_demotions(out);
            break;
    }
    free_jobs_.push_back(index);
}

void engine::impl::complete_application(job& it, actions& out) {
    --application_jobs_;
    int error = it.error;
    if (state_ == engine_state::lost)
        error = EIO;
    else if (state_ == engine_state::fenced && !broken(rule::silent_after_fence))
        error = ESHUTDOWN;  // R5: never an acknowledgement afterwards
    active_at_ = now_;
    // E1's other half: a change that no replica has answered must never be acknowledged.
    if (error == 0 && it.answered == 0) error = EIO;
    if (error == 0 && it.kind == op_kind::read) {
        ++reads_;
        read_bytes_ += it.length;
        for (slot_index i = 0; i < max_slots; ++i)
            if ((it.tried & bit(i)) != 0 && serving()) repairs_.push_back({i, it.offset, it.length});
    } else if (error == 0 && is_change(it.kind)) {
        ++writes_;
        written_bytes_ += it.length;
    }
    out.complete.push_back({it.cookie, error});
}

}  // namespace weft::core
