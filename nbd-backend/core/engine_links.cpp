// SPDX-License-Identifier: Apache-2.0
// Links, fencing (R2), hold-record-release (R4), proposals, membership. See engine_impl.hpp.
//
// A required replica whose link is lost (time runs down):
//
//   lost ──▶ what it had in flight is owed ──▶ back within the reconnect window, same kernel ──▶ they are sent again
//                                          └─▶ window over, refused or hung ──▶ propose `outdated`
//                                                 committed ──▶ owed ops released, later: resync (R8)
//                                                 refused   ──▶ still owed; asked again
//                                                 no answer ──▶ still owed: I/O holds (R4)
#include <fmt/format.h>

#include <algorithm>

#include "nbd-backend/base/canary.hpp"
#include "nbd-backend/base/invariant.hpp"
#include "nbd-backend/core/engine_impl.hpp"

namespace weft::core {

using canary::broken;
using canary::rule;

/// R3's "every replica that the record calls up_to_date", and one that is about to be called so.
bool engine::impl::required(const slot& it) const {
    return it.member.state == replica_state::up_to_date || it.promoting || is_leg(it);
}

void engine::impl::connect(slot_index index, actions& out) {
    slot& it = slots_[index];
    it.retry_at = never;
    if (over() || it.removed || it.member.state == replica_state::failed) return;
    it.link = link_state::connecting;
    it.connect_at = now_;
    if (it.session == 0 || !broken(rule::new_session)) ++it.session;
    out.links.push_back({link_action::connect, index, it.session});
}

void engine::impl::fail_link(slot_index index, std::string why, actions& out) {
    slot& it = slots_[index];
    if (it.link == link_state::down || it.link == link_state::closing) return;
    it.link = link_state::closing;
    it.trouble = std::move(why);
    out.links.push_back({link_action::disconnect, index, it.session});
}

void engine::impl::on_link_up(slot_index index, const link_hello& hello, actions& out) {
    slot& it = slots_[index];
    it.link = link_state::up;
    it.heard = std::max(it.heard, it.connect_at);
    it.trouble.clear();
    const bool known = !it.boot_id.empty();
    bool rebooted = known && it.boot_id != hello.boot_id;
    if (!known && !config_.clean) rebooted = !hello.prior_boot_id.empty() && hello.prior_boot_id != hello.boot_id;
    if (broken(rule::same_kernel)) rebooted = false;
    it.boot_id = hello.boot_id;
    if (rebooted) it.noticed = now_;
    if (rebooted && it.changes_done > it.changes_flushed) it.lost_changes = true;
    if (over()) {
        fail_link(index, "the engine has ended", out);
        return;
    }
    // A kernel's death may bring cleared bits back: harmless, but only what the mirror knows is ever cleared again.
    if ((!it.map_known || rebooted) && !it.map_asked) ask_map(index, 0, out);
    if (required(it)) {
        on_required_link_up(index, rebooted, out);
    } else {
        it.demote_at = never;
        consider_resync(index, out);
    }
    retry_reads(out);
    consider_demotions(out);
}

void engine::impl::on_required_link_up(slot_index index, bool rebooted, actions& out) {
    slot& it = slots_[index];
    if (state_ == engine_state::fencing) {
        it.suspect = it.suspect || rebooted;  // a reconnect does not clear it
        it.demote_at = never;
        consider_serving(out);
        return;
    }
    if (it.proposal == 0) welcome_back(index, out);  // else the proposal's result decides
}

/// A required replica with no proposal pending: gets what it is owed, unless its host forgot what it had acknowledged.
void engine::impl::welcome_back(slot_index index, actions& out) {
    slot& it = slots_[index];
    if (it.lost_changes) {
        on_rebooted(index, out);
        return;
    }
    if (it.link != link_state::up) {
        if (it.demote_at == never) it.demote_at = now_ + config_.reconnect_window;
        return;
    }
    it.demote_at = never;
    resend_owed(index, out);
}

/// A required replica is back under another kernel, and changes that it had acknowledged were not flushed: they may be
/// gone. Demote it as soon as that is allowed; where min_replicas forbids it, make it equal again from a replica that
/// has them; if the record trusts no such replica, they are lost.
void engine::impl::on_rebooted(slot_index index, actions& out) {
    slot& it = slots_[index];
    it.demote_at = never;
    if (outdate_if_rebuilding(index, "its host restarted during its rebuild", out)) return;
    switch (may_demote(index, it.noticed, out)) {
        case verdict::yes:
            propose(index, replica_state::outdated, "its host restarted before acknowledged writes were flushed", out);
            return;
        case verdict::not_yet: return;  // consider_demotions() comes here again
        case verdict::no: break;
    }
    slot_mask sources = 0;
    for (slot_index i = 0; i < max_slots; ++i) {
        const slot& other = slots_[i];
        if (other.used && other.member.state == replica_state::up_to_date && !other.suspect && !other.lost_changes)
            sources |= bit(i);
    }
    if (sources == 0 && !it.member.recovering) {
        fail_everything(engine_state::lost,
                        fmt::format("{}: its host restarted before acknowledged writes were flushed, and no other "
                                    "up_to_date replica has them; attach the volume again",
                                    describe(index)),
                        out);
        return;
    }
    // No source is reachable: nothing is sent to it (the record still trusts it, and so would the next writer if this
    // replica's server saw changes under its new kernel), I/O holds, and consider_demotions() comes here again.
    if ((readable() & sources) == 0) return;
    if (it.member.recovering)
        recover_in_place(index, out);
    else
        propose(index, replica_state::up_to_date, "its host restarted before acknowledged writes were flushed", out,
                true);
}

/// The record says that this replica is behind, so the next writer will know too: from here on it may be sent changes.
void engine::impl::recover_in_place(slot_index index, actions& out) {
    slot& it = slots_[index];
    it.lost_changes = false;
    it.suspect = true;
    it.trusting = false;
    it.changes_done = it.changes_flushed = 0;
    begin_recovery(describe(index) + ": its host restarted before acknowledged writes were flushed", out);
    resend_owed(index, out);
}

/// A replica that was recovered in place is flushed, because a flush may have been acknowledged for writes that it did
/// not have then; after that the record may stop calling it recovering.
void engine::impl::consider_trust(actions& out) {
    if (!unrecovered_.empty() || !damaged_.empty()) return;
    for (slot_index i = 0; i < max_slots; ++i) {
        slot& it = slots_[i];
        if (!it.used || it.removed || !it.suspect || it.trusting || it.proposal != 0 || it.lost_changes) continue;
        if (it.member.state != replica_state::up_to_date || it.link != link_state::up) continue;
        it.trusting = true;
        const std::uint32_t flush = new_job(op_kind::flush, job_owner::trust, 0, 0, nullptr);
        jobs_[flush].copy = i;
        run(flush, out);
    }
}

/// The session goes on counting: the servers would refuse a smaller one under the same epoch.
/// An order to clear that this replica has carried out says nothing about the next one in its place.
void engine::impl::free_slot(slot_index index) {
    slot& it = slots_[index];
    for (job& one : jobs_)
        if (one.owner == job_owner::clear) one.answered &= static_cast<slot_mask>(~bit(index));
    const std::uint64_t session = it.session;
    const std::uint64_t tenant = it.tenant;
    it = slot{};
    it.session = session;
    it.tenant = tenant;
    slot_mask left = 0;
    for (slot_index i = 0; i < max_slots; ++i)
        if (slots_[i].used) left |= bit(i);
    dirty_ = dirty_on(left);  // what was dirty on it alone nobody can clear any more
}

void engine::impl::use_slot(slot& it, const replica_member& member) {
    it.used = true;
    ++it.tenant;
    it.member = member;
    it.suspect = member.recovering && !broken(rule::recovering_no_source);
    it.backoff = config_.retry_min;
    it.dirty = region_set(dirty_.size());
}

void engine::impl::on_link_down(slot_index index, link_loss loss, actions& out) {
    slot& it = slots_[index];
    it.link = link_state::down;
    if (loss == link_loss::fenced && !over())
        fail_everything(engine_state::fenced, describe(index) + ": a higher epoch has fenced us (R5)", out);
    if (it.trouble.empty()) it.trouble = loss == link_loss::unusable ? "does not have the replica" : "connection lost";

    if (it.promoting && it.proposal == 0) it.promoting = false;  // nobody was told yet: simply not required any more
    if (it.syncing && !it.promoting) stop_resync(index);
    retire_flight(index, out);
    if (over()) return;
    if (!required(it)) release_owed(index, out);

    if (it.removed) {
        free_slot(index);
        return;
    }
    it.retry_at = now_ + it.backoff;
    it.backoff = std::min(it.backoff * 2, config_.retry_max);
    // A leg that was never there, and owes nothing, may still be being made.
    const bool awaited = is_leg(it) && it.boot_id.empty() && it.owed.head == nobody;
    if (required(it) && !awaited) {
        if (loss == link_loss::unusable && serving()) it.demote_at = std::min(it.demote_at, now_);
        if (it.demote_at == never) it.demote_at = now_ + config_.reconnect_window;
    }
    consider_demotions(out);
}

/// The link is down: what it had in flight is owed, goes elsewhere, or does not matter any more.
void engine::impl::retire_flight(slot_index index, actions& out) {
    slot& it = slots_[index];
    while (it.flight.head != nobody) {
        const std::uint32_t which = it.flight.head;
        job& work = jobs_[which];
        unlink(it.flight, which, index);
        work.in_flight &= static_cast<slot_mask>(~bit(index));
        if (over() || is_upkeep(work)) {
            finish_if_idle(which, out);
        } else if (work.kind == op_kind::read || work.kind == op_kind::block_status) {
            run_read(which, out);
        } else {
            if (required(it) && !broken(rule::ack_after_all)) owe(which, index);
            finish_if_idle(which, out);
        }
    }
}

void engine::impl::release_owed(slot_index index, actions& out) {
    slot& it = slots_[index];
    while (it.owed.head != nobody) {
        const std::uint32_t which = it.owed.head;
        unlink(it.owed, which, index);
        --owed_total_;
        jobs_[which].owed &= static_cast<slot_mask>(~bit(index));
        if ((jobs_[which].starved & bit(index)) != 0) --it.starved;
        jobs_[which].starved &= static_cast<slot_mask>(~bit(index));
        finish_if_idle(which, out);
    }
}

void engine::impl::resend_owed(slot_index index, actions& out) {
    slot& it = slots_[index];
    if (it.link != link_state::up) return;
    while (it.owed.head != nobody) {
        const std::uint32_t which = it.owed.head;
        unlink(it.owed, which, index);
        --owed_total_;
        jobs_[which].owed &= static_cast<slot_mask>(~bit(index));
        send(which, index, out);
    }
}

/// E6. `not_yet`: enough others seem to be there; they were asked for a sign of life.
engine::impl::verdict engine::impl::may_demote(slot_index index, instant since, actions& out) {
    const std::uint32_t needed = std::max(config_.min_replicas, 1U);
    std::uint32_t there = 0;
    std::uint32_t sure = 0;
    for (slot_index i = 0; i < max_slots; ++i) {
        const slot& it = slots_[i];
        if (i == index || !it.used || it.removed || it.member.state != replica_state::up_to_date || it.proposal != 0 ||
            it.link != link_state::up || it.suspect || it.lost_changes)
            continue;
        ++there;
        if (heard_since(i, since, out)) ++sure;
    }
    if (broken(rule::demote_last)) return verdict::yes;
    if (there < needed) return verdict::no;
    return sure >= needed ? verdict::yes : verdict::not_yet;
}

/// Has the replica answered something that was sent at that instant or later? If not, it is asked to.
bool engine::impl::heard_since(slot_index index, instant since, actions& out) {
    slot& it = slots_[index];
    if (it.heard >= since) return true;
    if (it.link != link_state::up || it.pinged) return false;
    it.pinged = true;
    const std::uint32_t ping = new_job(op_kind::block_status, job_owner::ping, 0, block_bytes, nullptr);
    jobs_[ping].copy = index;
    send(ping, index, out);
    return false;
}

void engine::impl::consider_demotions(actions& out) {
    if (over() || state_ == engine_state::detached) return;
    for (slot_index i = 0; i < max_slots; ++i) {
        slot& it = slots_[i];
        if (!it.used || it.removed || it.proposal != 0 || !required(it)) continue;
        // After an orderly end nothing can be missing on any of them.
        const bool restarted =
            state_ == engine_state::fencing && !config_.clean && it.suspect && it.link == link_state::up;
        const bool due = it.given_up_at != never || (it.link != link_state::up && it.demote_at <= now_);
        const bool forgot = it.link == link_state::up && it.lost_changes;
        if (due || restarted || forgot) outdate_if_rebuilding(i, forgot ? "its host restarted" : it.trouble, out);
        if (it.member.state != replica_state::up_to_date) continue;  // promoting: the record does not trust it yet
        if (serving() && it.lost_changes && it.link == link_state::up) {
            on_rebooted(i, out);
            if (over()) return;
            continue;
        }
        const instant since = restarted ? it.noticed : it.given_up_at != never ? it.given_up_at : it.demote_at;
        if ((due || restarted) && may_demote(i, since, out) == verdict::yes)
            propose(i, replica_state::outdated,
                    restarted ? "its host restarted while the volume was in use" : it.trouble, out);
    }
}

void engine::impl::propose(slot_index index, replica_state to, std::string reason, actions& out, bool recovering) {
    slot& it = slots_[index];
    INVARIANT(it.proposal == 0, "{}: two proposals at a time", describe(index));
    if (reason.empty()) reason = "cannot be reached";
    it.proposal = next_proposal_++;
    it.proposed = to;
    it.proposed_recovering = recovering;
    if (broken(rule::record_before_release) && to == replica_state::outdated) release_owed(index, out);
    out.propose.push_back({it.proposal, index, to, std::move(reason), recovering});
}

void engine::impl::on_proposal_result(std::uint64_t id, proposal_outcome outcome, actions& out) {
    for (slot_index i = 0; i < max_slots; ++i) {
        slot& it = slots_[i];
        if (!it.used || it.proposal != id || id == 0) continue;
        it.proposal = 0;
        switch (outcome) {
            case proposal_outcome::fenced:
                fail_everything(engine_state::fenced, "the record names another epoch (R5)", out);
                return;
            case proposal_outcome::committed: on_committed(i, it.proposed, out); break;
            case proposal_outcome::refused: on_refused(i, out); break;
        }
        retry_reads(out);
        consider_demotions(out);
        return;
    }
}

void engine::impl::on_committed(slot_index index, replica_state to, actions& out) {
    slot& it = slots_[index];
    if (to == replica_state::up_to_date && it.member.state == replica_state::up_to_date) {
        on_recovering_committed(index, it.proposed_recovering, out);
        return;
    }
    it.member.state = to;
    if (to == replica_state::up_to_date) {
        it.promoting = false;
        it.resync_backoff = resync_backoff_min;
        stop_resync(index);
        note(out, notice::level::info, describe(index) + " is up_to_date");
        // It may have been lost while the proposal was on its way: from here on it is any required replica (R4).
        welcome_back(index, out);
        return;
    }
    if (to == replica_state::inconsistent) {
        begin_resync(index, out);
        return;
    }
    it.promoting = false;
    it.given_up_at = never;
    it.suspect = it.trusting = it.lost_changes = it.member.recovering = false;
    it.demote_at = never;
    stop_resync(index);
    release_owed(index, out);
    note(out, notice::level::warning, describe(index) + " is " + std::string(weft::to_string(to)));
    consider_serving(out);
    for (slot_index i = 0; i < max_slots; ++i) consider_resync(i, out);
}

/// The record calls an up_to_date replica recovering now, or does so no more.
void engine::impl::on_recovering_committed(slot_index index, bool recovering, actions& out) {
    slot& it = slots_[index];
    it.member.recovering = recovering;
    it.suspect = recovering;
    it.trusting = false;
    note(out, recovering ? notice::level::warning : notice::level::info,
         describe(index) + (recovering ? " is recovering: its host restarted, and no replica may be spared meanwhile"
                                       : " has everything again"));
    if (state_ == engine_state::fencing)
        consider_serving(out);
    else
        welcome_back(index, out);
}

void engine::impl::on_refused(slot_index index, actions& out) {
    slot& it = slots_[index];
    if (required(it) && it.member.state == replica_state::up_to_date) {
        it.trusting = false;
        if (state_ == engine_state::fencing) it.demote_at = now_ + config_.retry_max;  // asked again then
        if (state_ == engine_state::fencing) return;
        // Still required. Reachable: it gets what it is owed. Else ask again after another window.
        it.demote_at = never;
        welcome_back(index, out);
        return;
    }
    it.promoting = false;
    stop_resync(index);
    release_owed(index, out);
    fail_link(index, "the record refused its new state", out);
}

/// R2: not one byte before every replica that the record calls up_to_date is fenced.
void engine::impl::consider_serving(actions& out) {
    if (state_ != engine_state::fencing) return;
    std::uint32_t fenced = 0;
    std::uint32_t trusted = 0;
    for (const slot& it : slots_) {
        if (!it.used || !required(it) || is_leg(it)) continue;
        if (it.link != link_state::up && broken(rule::fence_every_replica)) continue;
        if (it.link != link_state::up || it.proposal != 0) return;
        ++fenced;
        if (!it.suspect) ++trusted;
    }
    if (fenced == 0) return;
    if (!config_.clean) {
        if (config_.legs && distrust_legs(out)) return;
        if (fenced > 1 && !config_.legs && !maps_known(required_slots())) return;  // R7: where they may differ
        // All hosts restarted: nothing unflushed is left anywhere, any of them has what was flushed (law 1), but for
        // those of which the record knows that they are behind.
        for (slot& it : slots_) {
            if (trusted > 0 || !it.used || !required(it) || it.member.recovering) continue;
            it.suspect = it.lost_changes = false;
            it.changes_done = it.changes_flushed = 0;
        }
        if (trusted > 0 && trusted < fenced) {
            if (trusted >= std::max(config_.min_replicas, 1U)) return;  // consider_demotions() proposes to demote them
            bool marked = true;
            for (slot_index i = 0; i < max_slots; ++i) {
                if (!slots_[i].used || !required(slots_[i]) || !slots_[i].suspect || slots_[i].member.recovering)
                    continue;
                propose(i, replica_state::up_to_date, "its host restarted while the volume was in use", out, true);
                marked = false;
            }
            if (!marked) return;
        }
    }
    state_ = engine_state::serving;
    if (!config_.clean && fenced > 1 && !config_.legs) begin_recovery("unclean end of the last writer", out);
    note(out, notice::level::info, fmt::format("serving from {} up_to_date replica{}", fenced, fenced == 1 ? "" : "s"));
    for (const std::uint32_t index : std::exchange(parked_, {})) admit(index, out);
    consider_scrub(out);
    for (slot_index i = 0; i < max_slots; ++i)
        if (slots_[i].used && !required(slots_[i])) consider_resync(i, out);
}

void engine::impl::on_membership(const std::vector<replica_member>& members, actions& out) {
    if (over()) return;
    for (slot_index i = 0; i < max_slots; ++i) {
        slot& it = slots_[i];
        if (!it.used || it.removed) continue;
        const bool listed =
            std::any_of(members.begin(), members.end(), [&](const replica_member& m) { return m.id == it.member.id; });
        if (listed) continue;
        it.removed = true;
        it.promoting = false;
        it.member.state = replica_state::failed;
        it.proposal = 0;
        stop_resync(i);
        release_owed(i, out);
        if (it.link == link_state::down)
            free_slot(i);
        else
            fail_link(i, "removed from the record", out);
    }
    for (const replica_member& member : members) {
        const bool known = std::any_of(slots_.begin(), slots_.end(), [&](const slot& it) {
            return it.used && !it.removed && it.member.id == member.id;
        });
        if (known) continue;
        const auto free = std::find_if(slots_.begin(), slots_.end(), [](const slot& it) { return !it.used; });
        if (free == slots_.end()) {
            note(out, notice::level::warning, "no slot is free for replica " + member.id.str());
            continue;
        }
        use_slot(*free, member);
        connect(static_cast<slot_index>(free - slots_.begin()), out);
    }
    if (serving() && stranded()) {
        note(out, notice::level::error,
             "the record trusts no replica any more: I/O holds until the volume is detached, and an operator names the "
             "replica to go on from");
        // What they lack nobody can tell now: they must not become whole by themselves (R12).
        for (slot_index i = 0; i < max_slots; ++i) stop_resync(i);
    }
    // The one that went may have been what another one waited for.
    consider_serving(out);
    for (slot_index i = 0; i < max_slots; ++i) consider_resync(i, out);
    retry_reads(out);
    consider_demotions(out);
}

}  // namespace weft::core
