// SPDX-License-Identifier: Apache-2.0
// Copying under the range lock: recovery (R7), resync (R8) and repair in place (R10). See engine_impl.hpp.
//
// One copy makes one range equal on its targets: claim the range ─▶ block status of a source ─▶ for each stretch: a
// hole is zeroed on the targets (holes stay holes), data is read from a source and written ─▶ give the claim back. A
// source that goes away is replaced; its target, a resyncing replica, ends the copy when it goes away.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>

#include "nbd-backend/base/invariant.hpp"
#include "nbd-backend/core/engine_impl.hpp"

namespace weft::core {

std::uint64_t engine::impl::chunk_length(std::uint64_t chunk) const {
    return std::min<std::uint64_t>(config_.chunk_bytes, config_.size_bytes - chunk * config_.chunk_bytes);
}

/// R7: the up_to_date replicas may differ anywhere; nothing is read or written before it was made equal there.
void engine::impl::begin_recovery(actions& out) {
    unrecovered_.set_all();
    recovery_cursor_ = 0;
    note(out, notice::level::info,
         fmt::format("recovering {} bytes after an unclean end of the last writer", config_.size_bytes));
}

bool engine::impl::recovered(std::uint64_t offset, std::uint64_t length) const {
    if (unrecovered_.empty()) return true;
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

void engine::impl::on_chunk_recovered(std::uint64_t chunk) {
    unrecovered_.clear(chunk);
    recovery_waiters_due_ = !recovery_waiters_.empty();
    if (!unrecovered_.empty()) return;
    for (slot& it : slots_) it.suspect = false;
}

/// A replica that is not up_to_date and whose link is up: first the record must call it inconsistent, because from its
/// first copied byte on it is not even old data.
void engine::impl::consider_resync(slot_index index, actions& out) {
    slot& it = slots_[index];
    if (state_ != engine_state::serving || !it.used || it.removed || required(it) || it.syncing || it.proposal != 0)
        return;
    if (it.link != link_state::up || it.member.state == replica_state::failed) return;
    if (it.resync_at != never && it.resync_at > now_) return;
    it.resync_at = never;
    if (it.member.state == replica_state::inconsistent)
        begin_resync(index, out);
    else
        propose(index, replica_state::inconsistent, "resync begins", out);
}

void engine::impl::begin_resync(slot_index index, actions& out) {
    slot& it = slots_[index];
    if (state_ != engine_state::serving || it.link != link_state::up || it.syncing) return;
    it.syncing = true;
    it.promoting = false;
    it.lost_changes = false;
    it.changes_done = it.changes_flushed = 0;
    it.todo = region_set(unrecovered_.size());
    it.todo.set_all();
    it.cursor = 0;
    it.copied_bytes = 0;
    note(out, notice::level::info, describe(index) + ": resync begins");
}

void engine::impl::stop_resync(slot_index index) {
    slot& it = slots_[index];
    it.syncing = false;
    for (copy& one : copies_)
        if (one.used && one.purpose != copy_purpose::recovery && one.target == index) one.cancelled = true;
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
        if (state_ == engine_state::detaching) return false;
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
    const std::uint64_t chunk = it.todo.next(it.cursor);
    if (chunk == region_set::none) return false;
    if (!start_copy(copy_purpose::resync, index, chunk * config_.chunk_bytes, chunk_length(chunk), chunk, out))
        return false;
    it.cursor = chunk + 1;
    return true;
}

bool engine::impl::start_copy(copy_purpose purpose, slot_index target, std::uint64_t offset, std::uint64_t length,
                              std::uint64_t chunk, actions& /*out*/) {
    const auto free = std::find_if(copies_.begin(), copies_.end(), [](const copy& it) { return !it.used; });
    if (free == copies_.end()) return false;
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
    if (purpose != copy_purpose::recovery) ++slots_[target].copies;
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
            return !target.syncing || target.session != it.session || target.link != link_state::up;
        case copy_purpose::repair: return !required(target) || target.session != it.session;
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
    const slot_mask others = required_slots();
    if (it.purpose == copy_purpose::recovery && (others & (others - 1)) == 0) {
        end_copy(index, true, out);  // one replica is equal to itself
        return;
    }
    if (it.position == it.length) {
        end_copy(index, true, out);
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
        run(query, out);
        return;
    }
    const stretch& piece = it.stretches[it.at];
    if (piece.hole) {
        copy_out(index, op_kind::zero, static_cast<std::uint32_t>(piece.length), it.told_by, out);
        return;
    }
    const auto length = static_cast<std::uint32_t>(std::min<std::uint64_t>(piece.length, config_.piece_bytes));
    const std::uint32_t fetch =
        new_job(op_kind::read, job_owner::copy, it.offset + it.position, length, it.buffer.data());
    jobs_[fetch].copy = index;
    if (it.purpose == copy_purpose::repair) jobs_[fetch].tried = bit(it.target);
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

/// A job of the copy has finished.
void engine::impl::on_copy_job(std::uint32_t index, const job& done, std::vector<stretch>& stretches, actions& out) {
    copy& it = copies_[index];
    if (copy_is_void(it)) {
        end_copy(index, false, out);
        return;
    }
    if (done.answered == 0) {
        // A source that nobody can read, or a target that is gone. For a recovery an unreadable piece is as unreadable
        // on every replica, so nobody can read different bytes there.
        if (it.purpose != copy_purpose::recovery) {
            if (it.purpose == copy_purpose::resync)
                fail_link(it.target,
                          fmt::format("{} bytes at {} can be read from no replica", done.length, done.offset), out);
            end_copy(index, false, out);
            return;
        }
        end_copy(index, true, out);
        return;
    }
    switch (done.kind) {
        case op_kind::block_status: {
            it.told_by = done.answered;
            take_stretches(it, stretches);
            granted_.push_back(index | copy_owner);
            break;
        }
        case op_kind::read: copy_out(index, op_kind::write, done.length, done.answered, out); break;
        default: {
            it.position += done.length;
            stretch& piece = it.stretches[it.at];
            piece.length -= done.length;
            if (piece.length == 0) ++it.at;
            if (done.kind == op_kind::write && it.purpose != copy_purpose::recovery)
                slots_[it.target].copied_bytes += done.length;
            granted_.push_back(index | copy_owner);
        }
    }
}

/// Writes or zeroes the next bytes of the copy on its targets: for a recovery everybody but the one who has them.
void engine::impl::copy_out(std::uint32_t index, op_kind kind, std::uint32_t length, slot_mask source, actions& out) {
    const copy& it = copies_[index];
    slot_mask targets = bit(it.target);
    if (it.purpose == copy_purpose::recovery) targets = required_slots() & static_cast<slot_mask>(~source);
    const std::uint32_t change = new_job(kind, job_owner::copy, it.offset + it.position, length,
                                         kind == op_kind::write ? copies_[index].buffer.data() : nullptr);
    jobs_[change].copy = index;
    // The source's bytes count as one answer: it may be the only replica left when the others are demoted meanwhile.
    if (it.purpose == copy_purpose::recovery) jobs_[change].answered = source;
    run_change(change, targets, out);
}

void engine::impl::end_copy(std::uint32_t index, bool done, actions& out) {
    copy& it = copies_[index];
    locks_.release(it.claim, granted_);
    it.used = false;
    if (it.purpose == copy_purpose::recovery) {
        recovering_.clear(it.chunk);
        if (done && unrecovered_.test(it.chunk)) on_chunk_recovered(it.chunk);
        return;
    }
    slot& target = slots_[it.target];
    --target.copies;
    if (it.purpose == copy_purpose::resync && done && target.syncing && target.session == it.session)
        target.todo.clear(it.chunk);
    (void)out;
}

/// R8: everything copied. From here on the replica's answers are required; it is flushed; then the record may call it
/// up_to_date.
void engine::impl::consider_promotion(slot_index index, actions& out) {
    slot& it = slots_[index];
    if (!it.used || !it.syncing || it.promoting || !it.todo.empty() || it.copies > 0 || it.proposal != 0) return;
    if (it.link != link_state::up) return;
    it.promoting = true;
    const std::uint32_t flush = new_job(op_kind::flush, job_owner::promotion, 0, 0, nullptr);
    jobs_[flush].copy = index;
    run(flush, out);
}

void engine::impl::on_promotion_flushed(slot_index index, int error, actions& out) {
    slot& it = slots_[index];
    if (over() || !it.promoting || it.proposal != 0) return;
    if (error != 0 || it.link != link_state::up) {
        it.promoting = false;
        stop_resync(index);
        release_owed(index, out);
        return;
    }
    propose(index, replica_state::up_to_date, "resync is complete", out);
}

}  // namespace weft::core
