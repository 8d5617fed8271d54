// SPDX-License-Identifier: Apache-2.0
// The replication engine of one extent: design.md's R2-R5 and R7-R11 as a pure state machine.
//
// Pure: an event and the time go in, actions come out. No clock, lock, socket, file or thread; the owner serialises the
// calls. The same object runs inside the weft-volume plugin and under the simulator.
//
// Invariants (each is checked where it could break):
//   E1  A change is acknowledged only when every slot that the record calls up_to_date has acknowledged it, or the
//       record stopped calling it so (R3, R4).
//   E2  Nothing is sent to a replica under another session than the slot's current one.
//   E3  Two changes that overlap are never in flight together; a read never is in flight with an overlapping change
//       (R9, R10).
//   E4  A read is sent only to a slot that the record calls up_to_date, whose link is up, and that no failure has
//       touched since.
//   E5  An application's buffer is not referenced by any op after its completion was returned.
//   E6  A demotion is proposed only when min_replicas other up_to_date slots (at least one) have answered something
//       that was sent after the demotion became due (R4): a link that merely has not failed yet proves nothing, for
//       example when a whole rack lost its power.
//   E7  A read is answered only if it was sent while our lease was known to hold, or if every slot that the record
//       calls up_to_date has answered something that was sent after the read. Else another writer, who could not reach
//       the replica that we read from, may have written meanwhile (law 2).
#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "nbd-backend/core/engine_types.hpp"

namespace weft::core {

class engine {
public:
    explicit engine(engine_config config);
    ~engine();
    engine(const engine&) = delete;
    engine& operator=(const engine&) = delete;

    /// engine_config::legs, what device-mapper says of a replica. Repeated by the caller until the record shows it: an
    /// engine may have a reason not to act on it now. Unknown replicas are ignored.
    void on_leg(const replica_id& replica, leg_event what, instant now, actions& out);
    /// Where requests for this leg go (request::only); 0 if it is not a member (any more).
    [[nodiscard]] slot_mask leg(const replica_id& replica) const;

    /// Begin: connects to every replica, R2 first. Call once.
    void start(instant now, actions& out);

    /// An application's request. Always answered by exactly one completion, possibly in this very call. Misaligned,
    /// empty or out-of-range requests complete with EINVAL.
    void submit(const request& what, instant now, actions& out);

    /// A replica answered an op. Ops of a session that ended are ignored.
    void on_op_done(op_result what, instant now, actions& out);

    void on_link_up(slot_index slot, std::uint64_t session, const link_hello& hello, instant now, actions& out);
    void on_link_down(slot_index slot, std::uint64_t session, link_loss loss, instant now, actions& out);

    void on_proposal_result(std::uint64_t id, proposal_outcome outcome, instant now, actions& out);

    /// The record's replicas changed (one was added or removed by the orchestrator). States of known replicas are not
    /// taken from here: they change only by this engine's own proposals, or by losing the epoch.
    void on_membership(const std::vector<replica_member>& members, instant now, actions& out);

    /// The volume's other extents, as of now: what this engine copies in the background counts against one limit.
    void on_share(const copy_share& share);
    /// Has this engine something to copy in the background?
    [[nodiscard]] bool copying() const;

    /// Nobody else can become the writer before this instant (R1: our node's lease); reads need no E7 round until then.
    void on_lease(instant until);

    /// May be called at any time; a scrub with a new serial begins at once.
    void on_policy(const engine_policy& policy, instant now, actions& out);

    /// R5, told from outside (the record names another epoch): fails all I/O for good.
    void on_fenced(instant now, actions& out);

    /// R11: take no new requests, finish those in flight, flush every replica, become `detached`.
    void detach(instant now, actions& out);

    /// Let time pass: time-outs, reconnect attempts, proposals that became due.
    void on_tick(instant now, actions& out);
    /// When on_tick should be called next; instant::max() if nothing is waiting for time.
    [[nodiscard]] instant next_tick() const;

    [[nodiscard]] engine_state state() const;
    [[nodiscard]] engine_status status(instant now) const;
    /// The replica in a slot; slots keep their index for the life of the engine.
    [[nodiscard]] const replica_id& replica_in(slot_index slot) const;

private:
    class impl;
    std::unique_ptr<impl> impl_;
};

}  // namespace weft::core
