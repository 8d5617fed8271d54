// SPDX-License-Identifier: Apache-2.0
// The engine's inside, shared by the files that implement it and by nobody else:
//   engine.cpp        the public face: submit, tick, status, and how it ends (detach, fenced, lost)
//   engine_jobs.cpp   jobs: sending to replicas, collecting answers, completing
//   engine_links.cpp  links, fencing (R2), hold-record-release (R4), proposals
//   engine_copy.cpp   copying under the range lock: recovery (R7), resync (R8), repair in place (R10), taking back
//   engine_map.cpp    the replicas' write-intent bitmaps (R6): reading, mirroring and clearing them
//   engine_scrub.cpp  comparing the replicas
//   engine_legs.cpp   what is different when device-mapper replicates and the replicas are its legs
//
// A *job* is one change, read, flush or status query, from an application or from a copy, with at most one op per slot.
// For each slot a job is in one of three places: in flight (in the slot's `flight` list, oldest first), owed (in its
// `owed` list: to be sent when the link is back, or released by a demotion), or neither. A job is finished when it is
// in no list any more. Jobs of the engine's own upkeep (maps, clearing, its flushes) are never owed: what they did not
// get done is done another time.
//
// A *copy* makes one range equal on its targets; it holds the range's exclusive claim meanwhile.
//
// Every slot has a *mirror* of its replica's bitmap, by chunk and rounded outward. It has at least the bits that the
// replica has: read once when the link first is up, set whenever a change is sent or owed, cleared only by an answered
// order to clear.
#pragma once

#include <array>
#include <deque>
#include <string>
#include <vector>

#include "nbd-backend/core/engine.hpp"
#include "nbd-backend/core/range_lock.hpp"
#include "nbd-backend/core/region_set.hpp"

namespace weft::core {

constexpr slot_mask bit(std::size_t slot) {
    return static_cast<slot_mask>(1U << slot);
}

class engine::impl {
public:
    explicit impl(engine_config config);

    static constexpr std::uint32_t nobody = ~std::uint32_t{0};
    static constexpr instant never = instant::max();
    // A replica that refuses what a resync writes (a full or broken drive) is not copied to in a loop.
    static constexpr std::chrono::milliseconds resync_backoff_min{1000};
    static constexpr std::chrono::milliseconds resync_backoff_max{60000};
    // Overwrites go on on a full drive: only after a while without a refusal is it told as one with space. Longer than
    // the pause between two attempts of a resync.
    static constexpr std::chrono::milliseconds full_memory{300000};
    static_assert(full_memory > resync_backoff_max);

    enum class job_owner : std::uint8_t { application, copy, trust, detach, map, clear, upkeep, ping };
    enum class job_phase : std::uint8_t { idle, parked, claiming, recovering, running, reading_later, unconfirmed };

    struct job {
        job_owner owner = job_owner::application;
        job_phase phase = job_phase::idle;
        op_kind kind = op_kind::read;
        bool fua = false;
        bool claimed = false;  // `claim` is registered
        slot_mask in_flight = 0;
        slot_mask owed = 0;
        slot_mask tried = 0;           // reads: slots that answered with an error, or are not to be asked
        slot_mask refused = 0;         // changes: slots without space for it, under full_policy::fail
        slot_mask starved = 0;         // changes: slots that owe it for want of space
        slot_mask answered = 0;        // slots that did it; a read: its source
        std::uint16_t generation = 0;  // tells a late answer to an earlier user of this place
        int error = 0;
        std::uint32_t length = 0;
        std::uint64_t offset = 0;
        std::byte* data = nullptr;
        void* cookie = nullptr;
        std::uint32_t copy = nobody;  // owner copy: which; trust, map: the slot; application: what takes it back
        range_lock::ticket claim = 0;
        std::array<std::uint32_t, max_slots> previous{};
        std::array<std::uint32_t, max_slots> next{};
        std::array<instant, max_slots> sent_at{};
        std::array<std::uint64_t, max_slots> flush_mark{};
        bool leased = false;       // reads: was sent while our lease held (E7)
        instant asked{0};          // reads: when it was sent
        std::uint64_t sweep = 0;   // flushes: the sweep when it was made
        slot_mask only = 0;        // legs: the leg that it is for
        std::uint64_t tenant = 0;  // legs: of that slot, when the job was made
    };

    struct job_list {
        std::uint32_t head = nobody;
        std::uint32_t tail = nobody;
        std::uint32_t size = 0;
    };

    enum class link_state : std::uint8_t { down, connecting, up, closing };

    struct slot {
        bool used = false;
        bool removed = false;      // no longer in the record; freed when its link is down
        std::uint64_t tenant = 0;  // counts the replicas that had this slot
        replica_member member;
        link_state link = link_state::down;
        std::uint64_t session = 0;
        std::string boot_id;         // of the server's kernel, as last seen
        bool suspect = false;        // its kernel restarted with unflushed changes: not a source until recovered
        bool trusting = false;       // the flush after which the record may stop calling it recovering is under way
        bool lost_changes = false;   // its kernel restarted: what it acknowledged and did not flush may be gone
        bool syncing = false;        // R8: receives all new changes
        bool promoting = false;      // R8: everything copied; its answers are required from here on
        std::uint64_t proposal = 0;  // pending proposal's id, 0 = none
        replica_state proposed = replica_state::outdated;
        bool proposed_recovering = false;
        instant heard = instant::min();    // it was alive then, or later: when the last answered op was sent
        bool pinged = false;               // an op that only asks for a sign of life is under way
        instant noticed = instant::min();  // when we learned that its kernel restarted
        instant given_up_at = never;       // legs: when device-mapper dropped it; the record does not say so yet
        instant connect_at = never;        // when the present link was asked for
        instant demote_at = never;         // when the reconnect window ends
        instant retry_at = never;          // when to connect again
        std::chrono::milliseconds backoff{0};
        std::string trouble;  // why the link failed, for the reason of a demotion
        job_list flight;
        job_list owed;
        std::uint64_t changes_done = 0;     // answered changes, without those that were FUA
        std::uint64_t changes_flushed = 0;  // how many of them a later flush covered
        instant resync_at = never;          // a resync that the replica refused is tried again then
        std::chrono::milliseconds resync_backoff{resync_backoff_min};
        region_set todo;  // R8: chunks still to copy
        std::uint64_t cursor = 0;
        bool gap = false;  // some chunk could be read from nobody
        std::uint64_t copied_bytes = 0;
        region_set dirty;              // R6: the mirror of its bitmap
        bool map_known = false;        // the mirror is complete
        bool map_asked = false;        // it is being read
        std::uint64_t flush_mark = 0;  // the sweep before which all changes are known to be on stable storage
        std::uint32_t starved = 0;     // owed for want of space
        instant space_at = never;      // when they are tried again
        bool full = false;             // has refused a change for want of space, not long ago
        instant full_at{0};            // when it did so last
    };

    /// Where a scrub of one chunk stands: the next piece is read from one replica after the other, then compared.
    struct scrub_step {
        std::uint32_t length = 0;      // of the piece; a piece that differs is looked at once more block by block
        std::uint64_t fine_until = 0;  // position up to which that goes on
        slot_mask asked = 0;
        slot_mask read = 0;        // have answered with data
        slot_mask unreadable = 0;  // have answered with an error
        std::array<std::vector<std::byte>, max_slots> data;
    };

    enum class copy_purpose : std::uint8_t { recovery, resync, repair, take_back, scrub };
    struct copy {
        bool used = false;
        bool cancelled = false;
        copy_purpose purpose = copy_purpose::recovery;
        slot_index target = 0;      // resync, repair
        std::uint64_t session = 0;  // of the target, resync and repair: another session ends the copy
        std::uint64_t chunk = 0;    // recovery, resync
        std::uint64_t offset = 0;   // of the range
        std::uint64_t length = 0;
        std::uint64_t position = 0;  // bytes of the range done
        range_lock::ticket claim = 0;
        std::vector<stretch> stretches;  // of what is left, from `position`
        std::size_t at = 0;              // index into stretches
        slot_mask told_by = 0;           // where the stretches came from: a hole there is to be a hole elsewhere
        std::vector<std::byte> buffer;
        std::uint32_t job = nobody;  // take_back: the application's change that is taken back
        slot_mask source = 0;        // take_back: who refused it, and so still has what was there
        slot_mask targets = 0;       // take_back: who has applied it; scrub: who is being made equal
        scrub_step scrub;
        std::uint64_t fine_until = 0;  // position up to which single blocks are copied: a piece could not be read
        bool damaged = false;          // recovery: a block could be read from nobody, and somebody is behind
        bool skipped = false;          // others: a block could be read from nobody
    };
    struct repair_wish {
        slot_index slot = 0;
        std::uint64_t offset = 0;
        std::uint32_t length = 0;
    };

    /// A read or status query that any replica may answer.
    static bool is_question(const job& it) {
        return (it.kind == op_kind::read || it.kind == op_kind::block_status) && !is_upkeep(it);
    }

    // engine.cpp
    void start(actions& out);
    void submit(const request& what, actions& out);
    void admit(std::uint32_t index, actions& out);
    void fail_everything(engine_state how, const std::string& why, actions& out);
    void detach(actions& out);
    void continue_detach(actions& out);
    void on_policy(const engine_policy& policy, actions& out);
    void forgive_own_gap(instant due);
    instant late_at(slot_index index) const;
    void tick(actions& out);
    instant next_tick() const;
    engine_status status(instant now) const;
    void settle(actions& out);  // ends every public call: granted claims, copies, hold accounting

    // engine_jobs.cpp
    std::uint32_t new_job(op_kind kind, job_owner owner, std::uint64_t offset, std::uint32_t length, std::byte* data);
    void run(std::uint32_t index, actions& out);
    void run_change(std::uint32_t index, slot_mask targets, actions& out);
    void run_read(std::uint32_t index, actions& out);
    void send(std::uint32_t index, slot_index to, actions& out);
    void owe(std::uint32_t index, slot_index to);
    void unlink(job_list& list, std::uint32_t index, slot_index of);
    void append(job_list& list, std::uint32_t index, slot_index of);
    void on_op_done(op_result what, actions& out);
    void on_op_failed(std::uint32_t index, slot_index from, int error, actions& out);
    void finish_if_idle(std::uint32_t index, actions& out);
    void finish(std::uint32_t index, actions& out);
    void complete_application(job& it, actions& out);
    slot_mask required_slots() const;
    slot_mask writable() const;
    slot_mask readable() const;
    slot_mask syncing_slots() const;
    bool readable_later(const job& it) const;
    void on_no_space(std::uint32_t index, slot_index from, actions& out);
    bool must_take_back(const job& it) const;
    bool stranded() const;
    void strand(std::uint32_t index);
    static bool is_upkeep(const job& it) {
        return it.owner == job_owner::map || it.owner == job_owner::clear || it.owner == job_owner::upkeep ||
               it.owner == job_owner::trust || it.owner == job_owner::ping;
    }
    void retry_reads(actions& out);
    void confirm_reads(actions& out);

    // engine_links.cpp
    bool required(const slot& it) const;
    bool serving() const { return state_ == engine_state::serving || state_ == engine_state::detaching; }
    bool over() const { return state_ == engine_state::fenced || state_ == engine_state::lost; }
    void connect(slot_index index, actions& out);
    void fail_link(slot_index index, std::string why, actions& out);
    void on_link_up(slot_index index, const link_hello& hello, actions& out);
    void on_required_link_up(slot_index index, bool rebooted, actions& out);
    void welcome_back(slot_index index, actions& out);
    void on_link_down(slot_index index, link_loss loss, actions& out);
    void free_slot(slot_index index);
    void retire_flight(slot_index index, actions& out);
    void release_owed(slot_index index, actions& out);
    void resend_owed(slot_index index, actions& out);
    enum class verdict : std::uint8_t { no, not_yet, yes };
    verdict may_demote(slot_index index, instant since, actions& out);
    bool heard_since(slot_index index, instant since, actions& out);
    void consider_demotions(actions& out);
    void propose(slot_index index, replica_state to, std::string reason, actions& out, bool recovering = false);
    void on_proposal_result(std::uint64_t id, proposal_outcome outcome, actions& out);
    void on_committed(slot_index index, replica_state to, actions& out);
    void on_refused(slot_index index, actions& out);
    void on_recovering_committed(slot_index index, bool recovering, actions& out);
    void recover_in_place(slot_index index, actions& out);
    void consider_trust(actions& out);
    void use_slot(slot& it, const replica_member& member);
    void consider_serving(actions& out);
    void on_membership(const std::vector<replica_member>& members, actions& out);
    void on_rebooted(slot_index index, actions& out);

    // engine_legs.cpp
    bool is_leg(const slot& it) const;
    bool leg_is_gone(const job& it) const;
    void on_leg(const replica_id& replica, leg_event what, actions& out);
    slot_mask leg(const replica_id& replica) const;
    void promote_leg(slot_index index, actions& out);
    bool distrust_legs(actions& out);
    bool outdate_if_rebuilding(slot_index index, const std::string& why, actions& out);

    // engine_copy.cpp
    void begin_recovery(const std::string& why, actions& out);
    bool recovered(std::uint64_t offset, std::uint64_t length) const;
    void want_recovered(std::uint32_t index);
    void consider_resync(slot_index index, actions& out);
    void begin_resync(slot_index index, actions& out);
    void stop_resync(slot_index index);
    void schedule_copies(actions& out);
    bool start_copy(copy_purpose purpose, slot_index target, std::uint64_t offset, std::uint64_t length,
                    std::uint64_t chunk, actions& out);
    bool next_recovery(actions& out);
    bool next_resync(slot_index index, actions& out);
    bool copy_is_void(const copy& it) const;
    void continue_copy(std::uint32_t index, actions& out);
    void on_unreadable(std::uint32_t index, const job& done, actions& out);
    static void advance(copy& it, std::uint64_t bytes);
    void on_copy_job(std::uint32_t index, const job& it, std::vector<stretch>& stretches, actions& out);
    static void take_stretches(copy& it, const std::vector<stretch>& told);
    void copy_out(std::uint32_t index, op_kind kind, std::uint32_t length, slot_mask source, actions& out);
    void end_copy(std::uint32_t index, bool done, actions& out);
    void mark_unequal(std::uint64_t first, std::uint64_t last);
    void resync_unrecovered();
    void on_chunk_recovered(std::uint64_t chunk);
    void consider_promotion(slot_index index, actions& out);
    void on_trust_flushed(slot_index index, int error, actions& out);
    bool copying_to(slot_index index) const;
    bool busy() const;
    bool copying() const;
    bool may_copy_now() const;
    void pace(std::uint64_t bytes);
    bool background_waits() const;
    void take_back(std::uint32_t job_index, actions& out);

    // engine_map.cpp
    void ask_map(slot_index index, std::uint64_t from, actions& out);
    void on_map_job(const job& it, const std::vector<stretch>& told, actions& out);
    void mark_changed(const job& it, slot_index to);
    bool maps_known(slot_mask of) const;
    region_set dirty_on(slot_mask of) const;
    slot_mask clearable(std::uint64_t chunk, std::uint64_t flushed) const;
    void sweep(actions& out);
    bool any_clearable() const;
    void queue_clears(std::uint64_t flushed, bool idle_only);
    void next_clear(actions& out);
    void run_clear(std::uint32_t index, actions& out);
    void on_clear_done(const job& it);
    std::uint64_t first_chunk(const job& it) const { return it.offset / config_.chunk_bytes; }
    std::uint64_t last_chunk(const job& it) const { return (it.offset + it.length - 1) / config_.chunk_bytes; }

    // engine_scrub.cpp
    void consider_scrub(actions& out);
    bool next_scrub(actions& out);
    void continue_scrub(std::uint32_t index, actions& out);
    void on_scrub_job(std::uint32_t index, const job& done, actions& out);
    void compare(std::uint32_t index, actions& out);
    void end_scrub_copy(const copy& it, bool done);
    std::uint64_t chunk_length(std::uint64_t chunk) const;

    void note(actions& out, notice::level level, std::string text) { out.notices.push_back({level, std::move(text)}); }
    std::string describe(slot_index index) const;

    engine_config config_;
    engine_state state_ = engine_state::fencing;
    instant now_{0};
    std::array<slot, max_slots> slots_;
    instant patient_until_ = instant::min();  // nobody is late before this: we were stopped ourselves

    std::deque<job> jobs_;  // a deque: references stay valid while jobs are added
    std::vector<std::uint32_t> free_jobs_;
    std::vector<std::uint32_t> parked_;       // application jobs that came before serving, or hold by R12
    std::vector<std::uint32_t> reads_later_;  // reads that no reachable replica can serve now
    std::vector<std::uint32_t> unconfirmed_;  // reads that have their data and wait for E7
    instant lease_until_ = instant::min();
    std::uint32_t application_jobs_ = 0;
    std::vector<stretch> last_stretches_;  // of the answer that is being handled

    range_lock locks_;
    std::vector<std::uint32_t> granted_;  // owners; copies have copy_owner set
    static constexpr std::uint32_t copy_owner = 0x80000000U;

    std::deque<copy> copies_;                  // copies_max for the background; more only for taking back
    region_set unrecovered_;                   // R7
    std::deque<std::uint64_t> wanted_chunks_;  // R7: an application waits for these
    std::uint64_t recovery_cursor_ = 0;
    region_set damaged_;     // R7: no trusted replica can read all of it, while another one is behind
    region_set rewritten_;   // of those: changed by an application since the last sweep
    region_set recovering_;  // chunks with a recovery copy in flight
    std::vector<std::uint32_t> recovery_waiters_;
    bool recovery_waiters_due_ = false;
    std::vector<repair_wish> repairs_;

    region_set dirty_;    // R6: on any slot
    region_set touched_;  // changed since the last sweep
    std::uint64_t sweep_ = 1;
    instant sweep_at_ = never;
    struct chunk_span {
        std::uint64_t first = 0;
        std::uint64_t count = 0;
        slot_mask on = 0;
    };
    std::deque<chunk_span> clears_;
    std::uint64_t clear_flushed_ = 0;  // the sweep that clears_ was made for
    bool clears_final_ = false;        // made by a detach: nothing can change any more
    bool clearing_ = false;            // an order to clear is under way
    bool upkeep_flush_ = false;        // so is a flush of ours

    instant pace_at_{0};                         // when the background may copy again
    instant active_at_{-std::chrono::hours(1)};  // the application's last sign of life
    copy_share share_;
    scrub_status scrub_;
    std::uint64_t scrub_cursor_ = 0;
    std::uint32_t scrub_notes_ = 0;

    std::uint64_t next_proposal_ = 1;
    bool detach_flush_sent_ = false;
    bool detach_flushed_ = false;

    std::uint32_t owed_total_ = 0;
    instant hold_since_ = never;
    std::chrono::milliseconds longest_hold_{0};
    std::uint64_t reads_ = 0, writes_ = 0, read_bytes_ = 0, written_bytes_ = 0;
};

}  // namespace weft::core
