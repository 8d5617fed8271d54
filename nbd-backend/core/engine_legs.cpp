// SPDX-License-Identifier: Apache-2.0
// The mirrored layout: device-mapper's raid1 replicates, and an extent's replicas are its legs. See engine_impl.hpp.
//
// design.md makes every leg an extent with one replica. Here the legs of one set are the replicas of *one* extent,
// because all that is said about replicas is said about them together: who may be demoted (R4, E6), who is trusted
// after a crash of hosts, on which nodes they lie. What differs from the striped layout:
//
//   - a request is for one leg (request::only), and its answer is that leg's alone. The legs have separate range locks:
//     the two writes of one block that raid1 makes are no overlap (R9 is raid1's);
//   - R4 as everywhere: what a lost leg owes is held, the record says `outdated`, and only then do its requests fail,
//     which is how raid1 hears of it. So nobody outside knows less than raid1 does;
//   - an outdated leg fails every request for good. The kernel's device over it may be one that raid1 still takes for
//     equal, so it never comes back under the same id: another replica takes its place (weftd), with a device of its
//     own, and is filled by raid1;
//   - such a leg is `inconsistent`. What is sent to it is held like everything else, but it can be given up without
//     asking who is left, and serving does not wait for it (R2: nobody reads from it, nothing of it counts). When raid1
//     has it in sync, weftd says so (on_leg); it is flushed, and the record calls it up_to_date. A request of its that
//     failed meanwhile has been recorded first, so a late word of "in sync" finds it outdated;
//   - no recovery (R7), resync (R8) or scrub by the engine: raid1 has a bitmap of its own on the legs. Its bits are
//     cleared after a flush of the leg, because the bitmap is on the same nbd device (md_super_write's PREFLUSH), and a
//     set that is *assembled anew* makes equal what is marked there (dm-tables/core/raid_superblock.hpp): what was
//     under way when the writer died, and what hosts forgot. Not covered is a cut of all hosts' power between two legs'
//     flushes for one and the same clearing: milliseconds every few seconds, and a write that nobody has flushed since.
//     A set that is in use does not look: when all hosts of its legs have restarted under it (device_lives), one leg
//     stays and the others are filled anew;
//   - the replicas' bitmaps (R6) are cleared at a detach only. They tell checksums what to be sure of, and nothing
//   else.
#include <algorithm>

#include "nbd-backend/core/engine_impl.hpp"

namespace weft::core {

/// A leg that is being rebuilt. (An up_to_date one is any required replica.)
bool engine::impl::is_leg(const slot& it) const {
    return config_.legs && it.used && !it.removed && it.member.state == replica_state::inconsistent;
}

/// The leg of this job is outdated, or another replica has its slot by now.
bool engine::impl::leg_is_gone(const job& it) const {
    for (std::size_t i = 0; i < max_slots; ++i) {
        const slot& one = slots_[i];
        if ((it.only & bit(i)) == 0) continue;
        return !one.used || one.removed || one.tenant != it.tenant || !required(one);
    }
    return true;
}

slot_mask engine::impl::leg(const replica_id& replica) const {
    for (std::size_t i = 0; i < max_slots; ++i)
        if (config_.legs && slots_[i].used && !slots_[i].removed && slots_[i].member.id == replica) return bit(i);
    return 0;
}

void engine::impl::on_leg(const replica_id& replica, leg_event what, actions& out) {
    if (!config_.legs || state_ != engine_state::serving) return;
    for (slot_index i = 0; i < max_slots; ++i) {
        slot& it = slots_[i];
        if (!it.used || it.removed || it.member.id != replica || !required(it)) continue;
        if (what == leg_event::in_sync) {
            promote_leg(i, out);
            return;
        }
        if (it.given_up_at != never) return;
        it.given_up_at = now_;
        it.trouble = "device-mapper has given the leg up";
        note(out, notice::level::warning, describe(i) + ": " + it.trouble);
        consider_demotions(out);
        return;
    }
}

/// Flushed first, as in R8: the record must not trust what its host could still forget.
void engine::impl::promote_leg(slot_index index, actions& out) {
    slot& it = slots_[index];
    if (!is_leg(it) || it.link != link_state::up || it.promoting || it.proposal != 0 || it.given_up_at != never ||
        it.owed.head != nobody)
        return;
    it.promoting = true;
    const std::uint32_t flush = new_job(op_kind::flush, job_owner::trust, 0, 0, nullptr);
    jobs_[flush].copy = index;
    run(flush, out);
}

/// Nobody relies on a leg that is being rebuilt.
bool engine::impl::outdate_if_rebuilding(slot_index index, const std::string& why, actions& out) {
    slot& it = slots_[index];
    if (!is_leg(it)) return false;
    if (it.proposal == 0) propose(index, replica_state::outdated, why, out);
    return true;
}

/// After an unclean end, before anything is served: whose content is not to be relied on. True: proposals are under
/// way, serving waits for them.
bool engine::impl::distrust_legs(actions& out) {
    bool asked = false;
    bool kept = false;
    bool trusted = false;
    for (const slot& it : slots_)
        if (it.used && it.member.state == replica_state::up_to_date && !it.suspect) trusted = true;
    for (slot_index i = 0; i < max_slots; ++i) {
        slot& it = slots_[i];
        if (!it.used || !required(it) || !it.suspect) continue;
        if (outdate_if_rebuilding(i, "its host restarted during its rebuild", out)) {
            asked = true;
        } else if (!trusted && config_.device_lives && std::exchange(kept, true)) {
            propose(i, replica_state::outdated, "all hosts of the legs restarted while the volume was in use", out);
            asked = true;
        }
    }
    return asked;
}

}  // namespace weft::core
