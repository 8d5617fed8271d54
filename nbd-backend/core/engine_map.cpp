// SPDX-License-Identifier: Apache-2.0
// The replicas' write-intent bitmaps (R6) as the writer sees them: reading, mirroring, clearing. See engine_impl.hpp.
//
// What the bits are for: a region that may differ between two replicas of the record is dirty on one that the record
// trusts, or on the one that differs. So R7 copies what is dirty on up_to_date replicas, and R8 what is dirty on them
// or on the returning replica itself. Servers set bits; only this file clears them, and only where every replica *has*
// the region:
//
//   - an up_to_date replica has it when its link is up, nothing is proposed about it, it is not suspect, and it was
//     flushed after the region's last change;
//   - a replica that is being resynced has it when it was copied (or was equal) and flushed after that. This goes
//   beyond
//     R6's words, which ask for up_to_date everywhere: it is what makes a resync's progress durable on both sides, and
//     it is safe, because the region is the same, on stable storage, on every replica that could be asked for it later;
//   - a replica that is away may lack any region that is dirty on an up_to_date replica: that region is not cleared
//     anywhere. A region that is clean on all of them it has, or it will say itself that it is dirty there.
//
// Clearing is lazy: a region must have been left alone for one whole sweep (clear_idle), so that a hot region is not
// cleared and set again, which costs a synced write on every replica. Time is not asked per region: `touched_` collects
// what was changed since the last sweep, and a flush that was sent after the last sweep covers everything untouched.
#include <fmt/format.h>

#include <algorithm>

#include "nbd-backend/base/canary.hpp"
#include "nbd-backend/base/invariant.hpp"
#include "nbd-backend/core/engine_impl.hpp"

namespace weft::core {

using canary::broken;
using canary::rule;

namespace {
// One question about a map: NBD lengths have 32 bits.
constexpr std::uint64_t map_question_bytes = std::uint64_t{1} << 31;
// One order to clear holds its range against changes for a round trip: not too much of it …
constexpr std::uint64_t clear_bytes_max = 256ULL * 1024 * 1024;
}  // namespace

/// Asks a replica which of its regions are dirty, from an offset on.
void engine::impl::ask_map(slot_index index, std::uint64_t from, actions& out) {
    slot& it = slots_[index];
    it.map_asked = true;
    const auto length = static_cast<std::uint32_t>(std::min<std::uint64_t>(
        config_.size_bytes - from, map_question_bytes / config_.chunk_bytes * config_.chunk_bytes));
    const std::uint32_t question = new_job(op_kind::map_status, job_owner::map, from, length, nullptr);
    jobs_[question].copy = index;
    send(question, index, out);
}

/// A map question has its answer, an error, or lost its link.
void engine::impl::on_map_job(const job& asked, const std::vector<stretch>& told, actions& out) {
    const auto index = static_cast<slot_index>(asked.copy);
    slot& it = slots_[index];
    it.map_asked = false;
    if (over() || it.link != link_state::up) return;  // asked again when the link is back
    std::uint64_t at = asked.offset;
    if (asked.error != 0) {
        // Too many dirty bits cost copying, too few cost data.
        note(out, notice::level::warning, describe(index) + ": its bitmap cannot be read; all of it counts as dirty");
        at = config_.size_bytes;
        it.dirty.set_all();
        dirty_.set_all();
    } else if (asked.answered != 0) {
        const std::uint64_t end = asked.offset + asked.length;
        for (const stretch& one : told) {
            const std::uint64_t stop = std::min(at + one.length, end);
            if (!one.hole && stop > at) {
                it.dirty.set(at / config_.chunk_bytes, (stop - 1) / config_.chunk_bytes);
                dirty_.set(at / config_.chunk_bytes, (stop - 1) / config_.chunk_bytes);
            }
            at = stop;
        }
        if (at == asked.offset) {
            fail_link(index, "told nothing about its bitmap", out);
            return;
        }
        // A server may tell of less than it was asked for, and of half a chunk: go on where it stopped.
    }
    if (at < config_.size_bytes) {
        ask_map(index, at / block_bytes * block_bytes, out);
        return;
    }
    it.map_known = true;
    if (sweep_at_ == never && !dirty_.empty()) sweep_at_ = now_ + config_.clear_idle;
    consider_serving(out);
    for (slot_index i = 0; i < max_slots; ++i) consider_resync(i, out);
}

bool engine::impl::maps_known(slot_mask of) const {
    for (slot_index i = 0; i < max_slots; ++i)
        if ((of & bit(i)) != 0 && !slots_[i].map_known) return false;
    return true;
}

region_set engine::impl::dirty_on(slot_mask of) const {
    region_set all(dirty_.size());
    for (slot_index i = 0; i < max_slots; ++i)
        if ((of & bit(i)) != 0) all.add(slots_[i].dirty);
    return all;
}

/// A change goes to a replica now, or will when its link is back: its server will set these bits.
void engine::impl::mark_changed(const job& it, slot_index to) {
    slot& target = slots_[to];
    for (std::uint64_t chunk = first_chunk(it); chunk <= last_chunk(it); ++chunk) {
        target.dirty.set(chunk);
        dirty_.set(chunk);
        touched_.set(chunk);
    }
    if (sweep_at_ == never) sweep_at_ = now_ + config_.clear_idle;
}

/// The slots on which a chunk may be declared clean: see the head of this file. `flushed`: the sweep that a flush must
/// have covered.
slot_mask engine::impl::clearable(std::uint64_t chunk, std::uint64_t flushed) const {
    slot_mask targets = 0;
    bool away = false;
    bool trusted_dirty = false;
    for (slot_index i = 0; i < max_slots; ++i) {
        const slot& it = slots_[i];
        if (!it.used || it.removed) continue;
        const bool dirty = it.dirty.test(chunk);
        if (it.member.state == replica_state::up_to_date) {
            if (it.link != link_state::up || it.proposal != 0 || it.suspect || it.lost_changes || !it.map_known ||
                (it.flush_mark < flushed && !broken(rule::clear_after_flush)))
                return 0;
            if (dirty) trusted_dirty = true;
        } else if (!it.syncing || it.link != link_state::up || it.todo.test(chunk) || it.flush_mark < flushed) {
            away = true;
            continue;
        }
        if (dirty) targets |= bit(i);
    }
    return away && trusted_dirty && !broken(rule::clear_when_all_here) ? slot_mask{0} : targets;
}

/// Looks for chunks that were left alone since the last sweep.
void engine::impl::sweep(actions& out) {
    sweep_at_ = dirty_.empty() ? never : now_ + config_.clear_idle;
    // A sweep forgets what was touched; the orders that wait rely on it.
    if (state_ != engine_state::serving || clearing_ || !clears_.empty()) return;
    if (config_.legs) {  // the range locks of the legs are separate: nothing tells here that a region is idle
        sweep_at_ = never;
        return;
    }
    queue_clears(sweep_, true);
    // A block that nobody could read may have been written anew: what is behind there is made equal now.
    bool again = false;
    for (std::uint64_t chunk = damaged_.next(0); chunk != region_set::none; chunk = damaged_.next(chunk + 1)) {
        if (!rewritten_.test(chunk)) continue;
        again = true;
        damaged_.clear(chunk);
        mark_unequal(chunk, chunk);
    }
    const bool lacks_flush = clears_.empty() && !upkeep_flush_ && any_clearable();
    ++sweep_;
    touched_.clear_all();
    rewritten_.clear_all();
    if (again) retry_reads(out);
    if (!lacks_flush) return;
    // Nobody has flushed since the last sweep. Ours lets the next one clear what is idle then; an application that
    // flushes by itself never makes us do this.
    slot_mask targets = 0;
    for (slot_index i = 0; i < max_slots; ++i) {
        const slot& it = slots_[i];
        if (it.used && it.link == link_state::up && it.proposal == 0 && (required(it) || it.syncing)) targets |= bit(i);
    }
    if (targets == 0) return;
    upkeep_flush_ = true;
    run_change(new_job(op_kind::flush, job_owner::upkeep, 0, 0, nullptr), targets, out);
}

/// Is there a chunk that only waits for a flush?
bool engine::impl::any_clearable() const {
    for (std::uint64_t chunk = dirty_.next(0); chunk != region_set::none; chunk = dirty_.next(chunk + 1))
        if (!touched_.test(chunk) && !unrecovered_.test(chunk) && clearable(chunk, 0) != 0) return true;
    return false;
}

/// Fills clears_ with runs of chunks that may be cleared on the same slots. Not only idle ones when nothing can change
/// any more: after the flush of a detach.
void engine::impl::queue_clears(std::uint64_t flushed, bool idle_only) {
    clear_flushed_ = flushed;
    clears_final_ = !idle_only;
    const std::uint64_t most = std::max<std::uint64_t>(clear_bytes_max / config_.chunk_bytes, 1);
    for (std::uint64_t chunk = dirty_.next(0); chunk != region_set::none; chunk = dirty_.next(chunk + 1)) {
        if ((idle_only && touched_.test(chunk)) || unrecovered_.test(chunk)) continue;
        const slot_mask on = clearable(chunk, flushed);
        if (on == 0) continue;
        chunk_span* last = clears_.empty() ? nullptr : &clears_.back();
        if (last != nullptr && last->first + last->count == chunk && last->count < most && last->on == on)
            ++last->count;
        else
            clears_.push_back({chunk, 1, on});
    }
}

/// One order at a time: it claims its range like a change.
void engine::impl::next_clear(actions& out) {
    if (clearing_ || clears_.empty() || !serving()) return;
    const chunk_span span = clears_.front();
    clears_.pop_front();
    clearing_ = true;
    const std::uint64_t offset = span.first * config_.chunk_bytes;
    const std::uint64_t length = std::min(span.count * config_.chunk_bytes, config_.size_bytes - offset);
    admit(new_job(op_kind::map_clear, job_owner::clear, offset, static_cast<std::uint32_t>(length), nullptr), out);
}

/// The claim is held, so no change is in flight there. What was changed since the sweep is not cleared.
void engine::impl::run_clear(std::uint32_t index, actions& out) {
    job& it = jobs_[index];
    slot_mask targets = clearable(first_chunk(it), clear_flushed_);
    for (std::uint64_t chunk = first_chunk(it); chunk <= last_chunk(it); ++chunk) {
        const bool idle = clears_final_ || !touched_.test(chunk) || broken(rule::clear_idle_only);
        // The same slots for all of the range: what one of them has, it need not have a chunk further on.
        if (!idle || unrecovered_.test(chunk) || clearable(chunk, clear_flushed_) != targets) targets = 0;
    }
    for (slot_index i = 0; i < max_slots; ++i)
        if ((targets & bit(i)) != 0) send(index, i, out);
    finish_if_idle(index, out);
}

void engine::impl::on_clear_done(const job& it) {
    clearing_ = false;
    for (std::uint64_t chunk = first_chunk(it); chunk <= last_chunk(it); ++chunk) {
        bool left = false;
        for (slot_index i = 0; i < max_slots; ++i) {
            if ((it.answered & bit(i)) != 0) slots_[i].dirty.clear(chunk);
            if (slots_[i].used && slots_[i].dirty.test(chunk)) left = true;
        }
        if (!left) dirty_.clear(chunk);
    }
}

}  // namespace weft::core
