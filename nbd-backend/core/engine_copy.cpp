// SPDX-License-Identifier: Apache-2.0
// Copying under the range lock: recovery (R7), resync (R8) and repair in place (R10). See engine_impl.hpp.
//
// One copy makes one range equal on its targets: claim the range ─▶ block status of a source ─▶ for each stretch: a
// hole is zeroed on the targets (holes stay holes), data is read from a source and written ─▶ give the claim back. A
// source that goes away is replaced; its target, a resyncing replica, ends the copy when it goes away. A piece that no
// source can read as a whole is copied block by block, each from who has it; only a block that nobody has is left out.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>

#include "nbd-backend/base/canary.hpp"
#include "nbd-backend/base/invariant.hpp"
#include "nbd-backend/core/engine_impl.hpp"

namespace weft::core {

using canary::broken;
using canary::rule;

std::uint64_t engine::impl::chunk_length(std::uint64_t chunk) const {
    return std::min<std::uint64_t>(config_.chunk_bytes, config_.size_bytes - chunk * config_.chunk_bytes);
}

/// R7: the up_to_date replicas may differ where one of them is dirty; nothing is read or written before it was made
/// equal there. Copies that are under way have written to a replica that may have forgotten it: they begin anew.
void engine::impl::begin_recovery(const std::string& why, actions& out) {
    const slot_mask all = required_slots();
    if (maps_known(all))
        unrecovered_.add(dirty_on(all));
    else
        unrecovered_.set_all();
    resync_unrecovered();
    recovery_cursor_ = 0;
    damaged_.clear_all();
    for (copy& it : copies_)
        if (it.used && it.purpose != copy_purpose::resync) it.cancelled = true;
    retry_reads(out);  // a cancelled copy that waits for a source gives its range back: recovery needs it
    if (unrecovered_.empty()) return;
    note(out, notice::level::info,
         fmt::format("recovering {} bytes: {}",
                     std::min(unrecovered_.count() * config_.chunk_bytes, config_.size_bytes), why));
}

bool engine::impl::recovered(std::uint64_t offset, std::uint64_t length) const {
    if (unrecovered_.empty() || broken(rule::recover_before_use)) return true;
    return !unrecovered_.any(offset / config_.chunk_bytes, (offset + length - 1) / config_.chunk_bytes);
}

/// The job waits until its chunks are recovered; they go first.
void engine::impl::want_recovered(std::uint32_t index) {
    job& it = jobs_[index];
    it.phase = job_phase::recovering;
    recovery_waiters_.push_back(index);
    const std::uint64_t last = (it.offset + it.length - 1) / config_.chunk_bytes;
    std::uint64_t wanted = 0;
    for (std::uint64_t chunk = unrecovered_.next(it.offset / config_.chunk_bytes);
         chunk <= last && chunk != region_set::none && wanted < 64; chunk = unrecovered_.next(chunk + 1), ++wanted)
        wanted_chunks_.push_back(chunk);
}

/// The replicas may differ there from now on.
void engine::impl::mark_unequal(std::uint64_t first, std::uint64_t last) {
    unrecovered_.set(first, last);
    resync_unrecovered();
}

/// Whoever is being resynced needs (again) what is to be recovered: a recovery makes equal what is required, from
/// whichever source it chooses, and that need not be what this one has.
void engine::impl::resync_unrecovered() {
    for (slot& it : slots_)
        if (it.used && it.syncing) it.todo.add(unrecovered_);
}

void engine::impl::on_chunk_recovered(std::uint64_t chunk) {
    unrecovered_.clear(chunk);
    recovery_waiters_due_ = !recovery_waiters_.empty();
}

/// A replica that is not up_to_date and whose link is up: first the record must call it inconsistent, because from its
/// first copied byte on it is not even old data.
void engine::impl::consider_resync(slot_index index, actions& out) {
    slot& it = slots_[index];
    if (state_ != engine_state::serving || !it.used || it.removed || required(it) || it.syncing || it.proposal != 0)
        return;
    if (config_.legs) return;  // an outdated leg is never taken in again: another replica takes its place
    if (it.link != link_state::up || it.member.state == replica_state::failed || stranded()) return;
    if (it.resync_at != never && it.resync_at > now_) return;
    if (!it.map_known || !maps_known(required_slots())) return;  // on_map_job() comes here again
    it.resync_at = never;
    if (it.member.state == replica_state::inconsistent)
        begin_resync(index, out);
    else
        propose(index, replica_state::inconsistent, "resync begins", out);
}

void engine::impl::begin_resync(slot_index index, actions& out) {
    slot& it = slots_[index];
    if (state_ != engine_state::serving || it.link != link_state::up || it.syncing || stranded()) return;
    it.syncing = true;
    it.promoting = false;
    it.lost_changes = false;
    it.changes_done = it.changes_flushed = 0;
    // R8: what it may lack is dirty on every replica that the record trusts; what it alone has is dirty on itself.
    it.todo = dirty_on(required_slots() | bit(index));
    if (broken(rule::resync_own_bits)) it.todo = dirty_on(required_slots());
    if (broken(rule::resync_sources_bits)) it.todo = dirty_on(bit(index));
    it.todo.add(unrecovered_);
    it.cursor = 0;
    it.gap = false;
    it.copied_bytes = 0;
    note(out, notice::level::info,
         fmt::format("{}: resync begins, {} of {} bytes may differ", describe(index),
                     std::min(it.todo.count() * config_.chunk_bytes, config_.size_bytes), config_.size_bytes));
}

void engine::impl::stop_resync(slot_index index) {
    slot& it = slots_[index];
    it.syncing = false;
    for (copy& one : copies_)
        if (one.used && one.purpose == copy_purpose::resync && one.target == index) one.cancelled = true;
}

bool engine::impl::copying_to(slot_index index) const {
    return std::any_of(copies_.begin(), copies_.end(), [&](const copy& it) {
        return it.used && it.purpose == copy_purpose::resync && it.target == index &&
               it.session == slots_[index].session;
    });
}

/// Is an application active, on whichever extent?
bool engine::impl::busy() const {
    return application_jobs_ > 0 || now_ - std::max(active_at_, share_.active_at) < config_.busy_window;
}

/// Copies in the background yield: to the policy's rate always, to an application that is active by another rate and by
/// having only one chunk locked at a time. Both rates are the volume's: an engine takes its share of them.
bool engine::impl::may_copy_now() const {
    if (now_ < pace_at_) return false;
    if (!busy()) return true;
    return std::none_of(copies_.begin(), copies_.end(), [](const copy& it) { return it.used; });
}

void engine::impl::pace(std::uint64_t bytes) {
    std::uint64_t rate = config_.policy.resync_rate;
    if (busy() && config_.busy_rate != 0 && (rate == 0 || rate > config_.busy_rate)) rate = config_.busy_rate;
    if (rate == 0) return;
    const auto pause = static_cast<double>(bytes) * std::max(share_.extents, 1U) / static_cast<double>(rate);
    pace_at_ = std::max(pace_at_, now_) + std::chrono::duration_cast<instant>(std::chrono::duration<double>(pause));
}

/// Is there a copy that only waits for its time?
bool engine::impl::background_waits() const {
    return pace_at_ > now_ && copying();
}

bool engine::impl::copying() const {
    if (!serving()) return false;
    return !unrecovered_.empty() || scrub_.running || std::any_of(slots_.begin(), slots_.end(), [](const slot& it) {
        return it.used && it.syncing && !it.todo.empty();
    });
}

void engine::impl::schedule_copies(actions& out) {
    if (over()) return;
    while (next_recovery(out)) {
    }
    if (state_ != engine_state::serving || !unrecovered_.empty()) return;
    while (!repairs_.empty()) {
        const repair_wish wish = repairs_.back();
        if (!required(slots_[wish.slot]) || slots_[wish.slot].link != link_state::up) {
            repairs_.pop_back();
            continue;
        }
        if (!start_copy(copy_purpose::repair, wish.slot, wish.offset, wish.length, 0, out)) return;
        repairs_.pop_back();
    }
    bool started = true;
    while (started) {
        started = false;
        for (slot_index i = 0; i < max_slots; ++i)
            if (slots_[i].used && slots_[i].syncing && !slots_[i].promoting && next_resync(i, out)) started = true;
    }
    while (next_scrub(out)) {
    }
    for (slot_index i = 0; i < max_slots; ++i) consider_promotion(i, out);
}

bool engine::impl::next_recovery(actions& out) {
    if (unrecovered_.empty()) return false;
    std::uint64_t chunk = region_set::none;
    while (!wanted_chunks_.empty() && chunk == region_set::none) {
        const std::uint64_t wanted = wanted_chunks_.front();
        if (unrecovered_.test(wanted) && !recovering_.test(wanted)) chunk = wanted;
        if (chunk == region_set::none) wanted_chunks_.pop_front();
    }
    // The background goes on when nobody waits, and not while detaching: what is left stays unclean in the record.
    if (chunk == region_set::none) {
        if (state_ == engine_state::detaching && recovery_waiters_.empty()) return false;
        if (state_ != engine_state::detaching && !may_copy_now()) return false;
        chunk = unrecovered_.next(recovery_cursor_);
        while (chunk != region_set::none && recovering_.test(chunk)) chunk = unrecovered_.next(chunk + 1);
        if (chunk == region_set::none) {
            recovery_cursor_ = 0;
            return false;
        }
    }
    if (!start_copy(copy_purpose::recovery, 0, chunk * config_.chunk_bytes, chunk_length(chunk), chunk, out))
        return false;
    recovering_.set(chunk);
    if (chunk >= recovery_cursor_) recovery_cursor_ = chunk;
    return true;
}

bool engine::impl::next_resync(slot_index index, actions& out) {
    slot& it = slots_[index];
    if (it.link != link_state::up || !may_copy_now()) return false;
    if (it.resync_at != never && now_ < it.resync_at) return false;
    std::uint64_t chunk = it.todo.next(it.cursor);
    if (chunk == region_set::none && !copying_to(index)) {
        it.cursor = 0;  // what is left came to nothing
        if (it.gap) {
            it.gap = false;
            it.resync_at = now_ + it.resync_backoff;
            it.resync_backoff = std::min(it.resync_backoff * 2, resync_backoff_max);
            return false;
        }
        chunk = it.todo.next(0);
    }
    if (chunk == region_set::none) return false;
    if (!start_copy(copy_purpose::resync, index, chunk * config_.chunk_bytes, chunk_length(chunk), chunk, out))
        return false;
    it.cursor = chunk + 1;
    return true;
}

bool engine::impl::start_copy(copy_purpose purpose, slot_index target, std::uint64_t offset, std::uint64_t length,
                              std::uint64_t chunk, actions& /*out*/) {
    const auto last = copies_.begin() + config_.copies_max;
    const auto free = std::find_if(copies_.begin(), last, [](const copy& it) { return !it.used; });
    if (free == last) return false;
    copy& it = *free;
    it.used = true;
    it.cancelled = false;
    it.purpose = purpose;
    it.target = target;
    it.session = slots_[target].session;
    it.offset = offset;
    it.length = length;
    it.chunk = chunk;
    it.position = 0;
    it.stretches.clear();
    it.at = 0;
    it.told_by = 0;
    it.buffer.resize(config_.piece_bytes);
    it.damaged = it.skipped = false;
    it.fine_until = 0;
    it.scrub.asked = 0;
    it.scrub.fine_until = 0;
    const auto index = static_cast<std::uint32_t>(free - copies_.begin());
    const auto claim = locks_.claim(offset, length, range_lock::mode::exclusive, index | copy_owner);
    it.claim = claim.id;
    // Granted at once or later, settle() goes on from `granted_`: a copy is never continued inside the scheduler.
    if (claim.granted) granted_.push_back(index | copy_owner);
    return true;
}

/// Is the copy's reason gone?
bool engine::impl::copy_is_void(const copy& it) const {
    if (it.cancelled || over()) return true;
    const slot& target = slots_[it.target];
    switch (it.purpose) {
        case copy_purpose::recovery: return !unrecovered_.test(it.chunk);
        case copy_purpose::resync:
            // Not while the sources may differ: see mark_unequal().
            return !target.syncing || target.session != it.session || target.link != link_state::up ||
                   unrecovered_.test(it.chunk);
        case copy_purpose::repair: return !required(target) || target.session != it.session;
        case copy_purpose::take_back: return (it.source & required_slots()) == 0;
        case copy_purpose::scrub: return !scrub_.running;
    }
    return true;
}

/// The claim is held and no job of the copy is running: takes the next step.
void engine::impl::continue_copy(std::uint32_t index, actions& out) {
    copy& it = copies_[index];
    if (copy_is_void(it)) {
        end_copy(index, false, out);
        return;
    }
    if (it.purpose == copy_purpose::scrub) {
        continue_scrub(index, out);
        return;
    }
    const slot_mask others = required_slots();
    if (it.purpose == copy_purpose::recovery && (others & (others - 1)) == 0) {
        end_copy(index, true, out);  // one replica is equal to itself
        return;
    }
    if (it.position == it.length) {
        end_copy(index, !it.skipped, out);
        return;
    }
    if (it.at == it.stretches.size() && it.purpose == copy_purpose::repair) {
        it.stretches.assign(1, stretch{it.length - it.position, false});
        it.at = 0;
    }
    if (it.at == it.stretches.size()) {
        const auto left = static_cast<std::uint32_t>(it.length - it.position);
        const std::uint32_t query =
            new_job(op_kind::block_status, job_owner::copy, it.offset + it.position, left, nullptr);
        jobs_[query].copy = index;
        if (it.purpose == copy_purpose::take_back) jobs_[query].tried = static_cast<slot_mask>(~it.source);
        run(query, out);
        return;
    }
    const stretch& piece = it.stretches[it.at];
    if (piece.hole) {
        copy_out(index, op_kind::zero, static_cast<std::uint32_t>(piece.length), it.told_by, out);
        return;
    }
    const std::uint64_t most = it.position < it.fine_until ? block_bytes : config_.piece_bytes;
    const auto length = static_cast<std::uint32_t>(std::min<std::uint64_t>(piece.length, most));
    const std::uint32_t fetch =
        new_job(op_kind::read, job_owner::copy, it.offset + it.position, length, it.buffer.data());
    jobs_[fetch].copy = index;
    if (it.purpose == copy_purpose::repair) jobs_[fetch].tried = bit(it.target);
    if (it.purpose == copy_purpose::take_back) jobs_[fetch].tried = static_cast<slot_mask>(~it.source);
    run(fetch, out);
}

/// Whole blocks only: a file system with smaller blocks than ours may tell holes in between. Data rounds outward.
void engine::impl::take_stretches(copy& it, const std::vector<stretch>& told) {
    it.stretches.clear();
    it.at = 0;
    const std::uint64_t all = it.length - it.position;
    std::uint64_t told_end = 0;
    std::uint64_t end = 0;
    for (const stretch& one : told) {
        told_end = std::min(told_end + one.length, all);
        const std::uint64_t edge =
            one.hole ? told_end / block_bytes * block_bytes : (told_end + block_bytes - 1) / block_bytes * block_bytes;
        if (edge <= end) continue;
        it.stretches.push_back({edge - end, one.hole});
        end = edge;
    }
    if (it.stretches.empty()) it.stretches.push_back({all, false});
}

void engine::impl::advance(copy& it, std::uint64_t bytes) {
    it.position += bytes;
    stretch& piece = it.stretches[it.at];
    piece.length -= bytes;
    if (piece.length == 0) ++it.at;
}

/// No source has answered the copy's question.
void engine::impl::on_unreadable(std::uint32_t index, const job& done, actions& out) {
    copy& it = copies_[index];
    granted_.push_back(index | copy_owner);
    if (done.kind == op_kind::block_status) {
        it.stretches.assign(1, stretch{it.length - it.position, false});  // holes that nobody tells of are data
        it.at = 0;
        return;
    }
    if (done.length > block_bytes) {
        it.fine_until = it.position + done.length;
        return;
    }
    advance(it, done.length);
    if (it.purpose == copy_purpose::recovery) {
        // Unreadable on every replica that is no older, so nobody can read different bytes there, as long as the older
        // one stays suspect.
        it.damaged = it.damaged || std::any_of(slots_.begin(), slots_.end(), [this](const slot& one) {
                         return one.used && required(one) && one.suspect;
                     });
        return;
    }
    it.skipped = true;
    if (it.purpose != copy_purpose::resync) return;
    slot& target = slots_[it.target];
    if (!target.gap)
        note(out, notice::level::error,
             fmt::format("{}: resync goes on without {} bytes at {}, which can be read from no replica; it is tried "
                         "again later, and writing them anew mends it",
                         describe(it.target), done.length, done.offset));
    target.gap = true;
}

/// A job of the copy has finished.
void engine::impl::on_copy_job(std::uint32_t index, const job& done, std::vector<stretch>& stretches, actions& out) {
    copy& it = copies_[index];
    if (copy_is_void(it)) {
        end_copy(index, false, out);
        return;
    }
    if (it.purpose == copy_purpose::scrub) {
        on_scrub_job(index, done, out);
        return;
    }
    if (done.answered == 0) {
        if (is_question(done))
            on_unreadable(index, done, out);
        else
            end_copy(index, false, out);  // the target is gone
        return;
    }
    switch (done.kind) {
        case op_kind::block_status: {
            it.told_by = done.answered;
            take_stretches(it, stretches);
            granted_.push_back(index | copy_owner);
            break;
        }
        case op_kind::read:
            if (it.purpose != copy_purpose::repair && it.purpose != copy_purpose::take_back) pace(done.length);
            copy_out(index, op_kind::write, done.length, done.answered, out);
            break;
        default: {
            advance(it, done.length);
            if (done.kind == op_kind::write && it.purpose == copy_purpose::resync)
                slots_[it.target].copied_bytes += done.length;
            granted_.push_back(index | copy_owner);
        }
    }
}

/// Writes or zeroes the next bytes of the copy on its targets: for a recovery everybody but the one who has them, for
/// taking a change back those who made it.
void engine::impl::copy_out(std::uint32_t index, op_kind kind, std::uint32_t length, slot_mask source, actions& out) {
    const copy& it = copies_[index];
    slot_mask targets = bit(it.target);
    if (it.purpose == copy_purpose::recovery) targets = required_slots() & static_cast<slot_mask>(~source);
    if (it.purpose == copy_purpose::take_back) targets = it.targets & writable();
    const std::uint32_t change = new_job(kind, job_owner::copy, it.offset + it.position, length,
                                         kind == op_kind::write ? copies_[index].buffer.data() : nullptr);
    jobs_[change].copy = index;
    // The source's bytes count as one answer: it may be the only replica left when the others are demoted meanwhile.
    if (it.purpose != copy_purpose::resync && it.purpose != copy_purpose::repair) jobs_[change].answered = source;
    run_change(change, targets, out);
}

void engine::impl::end_copy(std::uint32_t index, bool done, actions& out) {
    copy& it = copies_[index];
    it.used = false;
    if (it.purpose == copy_purpose::take_back) {
        const std::uint32_t change = std::exchange(it.job, nobody);
        if (change == nobody) return;
        jobs_[change].copy = nobody;
        // Not all was given back: the replicas differ there until a recovery makes them equal, whichever way.
        const bool unequal = !done && !over();
        if (unequal) mark_unequal(first_chunk(jobs_[change]), last_chunk(jobs_[change]));
        finish(change, out);
        if (unequal) retry_reads(out);  // one that waits for a source gives its range back: recovery needs it
        return;
    }
    locks_.release(it.claim, granted_);
    if (it.purpose == copy_purpose::scrub) {
        end_scrub_copy(it, done);
        return;
    }
    if (it.purpose == copy_purpose::recovery) {
        recovering_.clear(it.chunk);
        if (done && it.damaged) damaged_.set(it.chunk);
        if (done && unrecovered_.test(it.chunk)) on_chunk_recovered(it.chunk);
        return;
    }
    slot& target = slots_[it.target];
    if (it.purpose == copy_purpose::resync && done && target.syncing && target.session == it.session)
        target.todo.clear(it.chunk);
}

/// A change that one replica had no space for, and others have made: they get back what was there. The change keeps its
/// claim until then, so nobody sees the difference.
void engine::impl::take_back(std::uint32_t job_index, actions& /*out*/) {
    job& change = jobs_[job_index];
    auto free =
        std::find_if(copies_.begin() + config_.copies_max, copies_.end(), [](const copy& it) { return !it.used; });
    if (free == copies_.end()) free = copies_.insert(copies_.end(), copy{});
    copy& it = *free;
    const auto index = static_cast<std::uint32_t>(free - copies_.begin());
    it.used = true;
    it.cancelled = false;
    it.purpose = copy_purpose::take_back;
    it.offset = change.offset;
    it.length = change.length;
    it.position = 0;
    it.stretches.clear();
    it.at = 0;
    it.told_by = 0;
    it.damaged = it.skipped = false;
    it.fine_until = 0;
    it.buffer.resize(config_.piece_bytes);
    it.source = change.refused & required_slots();
    it.targets = change.answered & static_cast<slot_mask>(~change.refused);
    it.job = job_index;
    change.refused = 0;
    change.copy = index;
    granted_.push_back(index | copy_owner);
}

/// R8: everything copied. From here on the replica's answers are required; it is flushed; then the record may call it
/// up_to_date.
void engine::impl::consider_promotion(slot_index index, actions& out) {
    slot& it = slots_[index];
    if (!it.used || !it.syncing || it.promoting || !it.todo.empty() || copying_to(index) || it.proposal != 0) return;
    if (it.link != link_state::up) return;
    it.promoting = true;
    if (broken(rule::flush_before_trust)) {
        propose(index, replica_state::up_to_date, "resync is complete", out);
        return;
    }
    const std::uint32_t flush = new_job(op_kind::flush, job_owner::trust, 0, 0, nullptr);
    jobs_[flush].copy = index;
    run(flush, out);
}

void engine::impl::on_trust_flushed(slot_index index, int error, actions& out) {
    slot& it = slots_[index];
    if (over()) return;
    if (it.trusting) {
        it.trusting = false;
        if (error == 0 && it.suspect && it.proposal == 0 && it.link == link_state::up && !it.lost_changes &&
            unrecovered_.empty())
            propose(index, replica_state::up_to_date, "it was made equal", out);
        return;
    }
    if (!it.promoting || it.proposal != 0) return;
    if (error != 0 || it.link != link_state::up) {
        it.promoting = false;
        stop_resync(index);
        if (!required(it)) release_owed(index, out);
        return;
    }
    propose(index, replica_state::up_to_date, config_.legs ? "it is in sync" : "resync is complete", out);
}

}  // namespace weft::core
