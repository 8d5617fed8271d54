// SPDX-License-Identifier: Apache-2.0
// The engine's inside, shared by the four files that implement it and by nobody else:
//   engine.cpp        the public face: submit, tick, status, and how it ends (detach, fenced, lost)
//   engine_jobs.cpp   jobs: sending to replicas, collecting answers, completing
//   engine_links.cpp  links, fencing (R2), hold-record-release (R4), proposals
//   engine_copy.cpp   copying under the range lock: recovery (R7), resync (R8), repair in place (R10)
//
// A *job* is one change, read, flush or status query, from an application or from a copy, with at most one op per slot.
// For each slot a job is in one of three places: in flight (in the slot's `flight` list, oldest first), owed (in its
// `owed` list: to be sent when the link is back, or released by a demotion), or neither. A job is finished when it is
// in no list any more. A *copy* makes one range equal on its targets; it holds the range's exclusive claim meanwhile.
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

    enum class job_owner : std::uint8_t { application, copy, promotion, detach };
    enum class job_phase : std::uint8_t { idle, parked, claiming, recovering, running, reading_later };

    struct job {
        job_owner owner = job_owner::application;
        job_phase phase = job_phase::idle;
        op_kind kind = op_kind::read;
        bool fua = false;
        bool claimed = false;  // `claim` is registered
        slot_mask in_flight = 0;
        slot_mask owed = 0;
        slot_mask tried = 0;           // reads: slots that answered with an error
        slot_mask answered = 0;        // slots that did it; a read: its source
        std::uint16_t generation = 0;  // tells a late answer to an earlier user of this place
        int error = 0;
        std::uint32_t length = 0;
        std::uint64_t offset = 0;
        std::byte* data = nullptr;
        void* cookie = nullptr;
        std::uint32_t copy = nobody;  // owner copy: which; owner promotion: the slot
        range_lock::ticket claim = 0;
        std::array<std::uint32_t, max_slots> previous{};
        std::array<std::uint32_t, max_slots> next{};
        std::array<instant, max_slots> sent_at{};
        std::array<std::uint64_t, max_slots> flush_mark{};
    };

    struct job_list {
        std::uint32_t head = nobody;
        std::uint32_t tail = nobody;
        std::uint32_t size = 0;
    };

    enum class link_state : std::uint8_t { down, connecting, up, closing };

    struct slot {
        bool used = false;
        bool removed = false;  // no longer in the record; freed when its link is down
        replica_member member;
        link_state link = link_state::down;
        std::uint64_t session = 0;
        std::string boot_id;         // of the server's kernel, as last seen
        bool suspect = false;        // its kernel restarted with unflushed changes: not a source until recovered
        bool lost_changes = false;   // its kernel restarted: what it acknowledged and did not flush may be gone
        bool syncing = false;        // R8: receives all new changes
        bool promoting = false;      // R8: everything copied; its answers are required from here on
        std::uint64_t proposal = 0;  // pending proposal's id, 0 = none
        replica_state proposed = replica_state::outdated;
        instant demote_at = never;  // when the reconnect window ends
        instant retry_at = never;   // when to connect again
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
        std::uint32_t copies = 0;  // in flight for this slot
        std::uint64_t copied_bytes = 0;
    };

    enum class copy_purpose : std::uint8_t { recovery, resync, repair };
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
    };
    struct repair_wish {
        slot_index slot = 0;
        std::uint64_t offset = 0;
        std::uint32_t length = 0;
    };

    // engine.cpp
    void start(actions& out);
    void submit(const request& what, actions& out);
    void admit(std::uint32_t index, actions& out);
    void fail_everything(engine_state how, const std::string& why, actions& out);
    void detach(actions& out);
    void continue_detach(actions& out);
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
    bool readable_later(slot_mask tried) const;
    void retry_reads(actions& out);

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
    static void free_slot(slot& it);
    void retire_flight(slot_index index, actions& out);
    void release_owed(slot_index index, actions& out);
    void resend_owed(slot_index index, actions& out);
    bool may_demote(slot_index index) const;
    void consider_demotions(actions& out);
    void propose(slot_index index, replica_state to, std::string reason, actions& out);
    void on_proposal_result(std::uint64_t id, proposal_outcome outcome, actions& out);
    void on_committed(slot_index index, replica_state to, actions& out);
    void on_refused(slot_index index, replica_state to, actions& out);
    void consider_serving(actions& out);
    void on_membership(const std::vector<replica_member>& members, actions& out);
    void on_rebooted(slot_index index, actions& out);

    // engine_copy.cpp
    void begin_recovery(actions& out);
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
    void on_copy_job(std::uint32_t index, const job& it, std::vector<stretch>& stretches, actions& out);
    static void take_stretches(copy& it, const std::vector<stretch>& told);
    void copy_out(std::uint32_t index, op_kind kind, std::uint32_t length, slot_mask source, actions& out);
    void end_copy(std::uint32_t index, bool done, actions& out);
    void on_chunk_recovered(std::uint64_t chunk);
    void consider_promotion(slot_index index, actions& out);
    void on_promotion_flushed(slot_index index, int error, actions& out);
    std::uint64_t chunk_length(std::uint64_t chunk) const;

    void note(actions& out, notice::level level, std::string text) { out.notices.push_back({level, std::move(text)}); }
    std::string describe(slot_index index) const;

    engine_config config_;
    engine_state state_ = engine_state::fencing;
    instant now_{0};
    std::array<slot, max_slots> slots_;

    std::deque<job> jobs_;  // a deque: references stay valid while jobs are added
    std::vector<std::uint32_t> free_jobs_;
    std::vector<std::uint32_t> parked_;       // application jobs that came before serving
    std::vector<std::uint32_t> reads_later_;  // reads that no reachable replica can serve now
    std::uint32_t application_jobs_ = 0;
    std::vector<stretch> last_stretches_;  // of the answer that is being handled

    range_lock locks_;
    std::vector<std::uint32_t> granted_;  // owners; copies have copy_owner set
    static constexpr std::uint32_t copy_owner = 0x80000000U;

    std::vector<copy> copies_;
    region_set unrecovered_;                   // R7
    std::deque<std::uint64_t> wanted_chunks_;  // R7: an application waits for these
    std::uint64_t recovery_cursor_ = 0;
    region_set recovering_;  // chunks with a recovery copy in flight
    std::vector<std::uint32_t> recovery_waiters_;
    bool recovery_waiters_due_ = false;
    std::vector<repair_wish> repairs_;
    std::vector<std::uint32_t> scratch_;

    std::uint64_t next_proposal_ = 1;
    bool detach_flush_sent_ = false;

    std::uint32_t owed_total_ = 0;
    instant hold_since_ = never;
    std::chrono::milliseconds longest_hold_{0};
    std::uint64_t reads_ = 0, writes_ = 0, read_bytes_ = 0, written_bytes_ = 0;
};

}  // namespace weft::core
