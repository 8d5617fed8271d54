// SPDX-License-Identifier: Apache-2.0
// The vocabulary between the replication engine (pure) and its shell (threads, sockets): events in, actions out.
//
//   shell ── submit, on_op_done, on_link_*, on_proposal_result, on_membership, on_tick ──▶ engine
//   shell ◀─ send, complete, connect/disconnect, propose, events ────────────────────────── engine
//
// A *slot* is a place for one replica of the extent (at most max_slots). A *link* is the shell's bundle of connections
// to that replica's server. A *session* numbers the links of one epoch: the replica server refuses and drains every
// older (epoch, session) before a newer one is admitted, so that a request that got stuck in an old connection can
// never be applied after its re-sent twin (design.md says this for epochs only; R4's re-sending needs it for sessions).
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "nbd-backend/base/ids.hpp"
#include "nbd-backend/base/replica_state.hpp"
#include "nbd-backend/base/units.hpp"

namespace weft::core {

/// Monotonic time since an arbitrary origin; only differences mean anything.
using instant = std::chrono::nanoseconds;

inline constexpr std::size_t max_slots = 8;
using slot_index = std::uint8_t;
using slot_mask = std::uint8_t;
static_assert(max_slots <= 8 * sizeof(slot_mask));

/// NBD requests carry 32-bit lengths; the plugins advertise this as their maximum block size.
inline constexpr std::uint32_t max_request_bytes = 32 * 1024 * 1024;

/// The first five are for applications. block_status asks for holes; the map ops are about the replica's write-intent
/// bitmap (R6) and go to its map export: map_status asks which regions are dirty, map_clear declares a range clean.
enum class op_kind : std::uint8_t { read, write, zero, trim, flush, block_status, map_status, map_clear };

/// What an application asks of the extent. `data` must stay valid until the completion with this cookie is returned.
struct request {
    op_kind kind = op_kind::read;
    bool fua = false;           // write, zero, trim: durable before it is acknowledged
    std::uint64_t offset = 0;   // bytes, multiple of block_bytes (flush: ignored)
    std::uint32_t length = 0;   // bytes, multiple of block_bytes, > 0 (flush: ignored)
    std::byte* data = nullptr;  // read: destination; write: source (never written to)
    void* cookie = nullptr;     // returned with the completion
    slot_mask only = 0;         // engine_config::legs: the one leg that it is for; otherwise 0
};

struct completion {
    void* cookie = nullptr;
    int error = 0;  // 0 or an errno that NBD can carry: EINVAL, EIO, ENOSPC, ESHUTDOWN
};

/// One command to one replica. The shell sends it over the slot's current link; `id` comes back in on_op_done.
struct io_op {
    slot_index slot = 0;
    std::uint64_t session = 0;  // drop the op silently if the slot's link is of another session
    std::uint64_t id = 0;
    op_kind kind = op_kind::read;
    bool fua = false;
    std::uint64_t offset = 0;
    std::uint32_t length = 0;
    std::byte* data = nullptr;  // owned by the application or the engine until the op is retired
};

/// A stretch of a replica as block_status or map_status tells it.
struct stretch {
    std::uint64_t length = 0;  // bytes
    bool hole = false;         // block_status: reads as zero and occupies no space; map_status: clean
};

struct op_result {
    std::uint64_t id = 0;
    int error = 0;                   // errno from the replica; ESHUTDOWN = fenced, or its server is stopping
    std::vector<stretch> stretches;  // block_status, map_status: at least one, from the op's offset on
};

enum class link_action : std::uint8_t { connect, disconnect };

/// connect: open every connection of the link as (replica, epoch, session) and answer with exactly one on_link_up or
/// on_link_down. disconnect: close them, stop touching every buffer, and answer with exactly one on_link_down (also
/// when the link dies by itself at that moment). After on_link_down no op of that session is reported any more.
struct link_command {
    link_action action = link_action::connect;
    slot_index slot = 0;
    std::uint64_t session = 0;
};

enum class link_loss : std::uint8_t {
    dropped,   // could not connect, or the connection ended
    fenced,    // the server knows a higher epoch than ours (R5)
    unusable,  // the server does not have this replica, or its size is wrong
};

/// What a replica server says of itself when the link is up (from the export's description).
struct link_hello {
    std::string boot_id;  // of the server's kernel: unflushed writes survive a restart of the server while it stays
    /// The boot id under which the replica last admitted a change; empty if it never did. Another one than boot_id
    /// after an unclean detach: acknowledged, unflushed writes may be missing there (R7 must not copy from it). Not the
    /// boot id of the last fencing: a writer that fences, learns of the restart and dies would make the next one trust
    /// it.
    std::string prior_boot_id;
};

/// Ask the orchestrator to commit `to` as the state of a replica (R4, R8), guarded by our epoch. The shell keeps asking
/// until it has a definite answer.
struct proposal {
    std::uint64_t id = 0;
    slot_index slot = 0;
    replica_state to = replica_state::outdated;
    std::string reason;
    /// With `to` up_to_date: its host forgot acknowledged writes and min_replicas forbids to demote it, so it is made
    /// equal in place; until then no writer may use it as a source. False ends that.
    bool recovering = false;
};

enum class proposal_outcome : std::uint8_t {
    committed,
    refused,  // the record's own rules forbid it now (for example: the last up_to_date replica)
    fenced,   // another epoch owns the volume (R5)
};

/// engine_config::legs: what device-mapper says of a leg.
enum class leg_event : std::uint8_t {
    in_sync,   // its rebuild has come to its end
    given_up,  // device-mapper uses it no more
};

/// A fact for people, in the log and in `weft events`.
struct notice {
    enum class level : std::uint8_t { info, warning, error } severity = level::info;
    std::string text;
};

/// The lists that a call fills. Reuse one object: clear() keeps the capacity.
struct actions {
    std::vector<io_op> send;
    std::vector<completion> complete;
    std::vector<link_command> links;
    std::vector<proposal> propose;
    std::vector<notice> notices;

    void clear() {
        send.clear();
        complete.clear();
        links.clear();
        propose.clear();
        notices.clear();
    }
    [[nodiscard]] bool empty() const {
        return send.empty() && complete.empty() && links.empty() && propose.empty() && notices.empty();
    }
};

/// A replica as the record has it.
struct replica_member {
    replica_id id;
    replica_state state = replica_state::inconsistent;
    bool local = false;       // on the writer's own node: preferred for reads (R10)
    bool recovering = false;  // up_to_date, but behind until it was made equal: never a source (see proposal)
};

/// What happens to a write that a replica has no space for.
enum class full_policy : std::uint8_t {
    hold,  // it waits until there is space again; reads and writes that need no space go on
    fail,  // it fails with ENOSPC; the replicas are made equal there
};

std::string_view to_string(full_policy policy) noexcept;

/// What may change while the volume is attached.
struct engine_policy {
    std::uint64_t resync_rate = 0;  // bytes per second of the volume's copies in the background; 0: no limit
    full_policy on_full = full_policy::hold;
    std::uint64_t scrub = 0;  // serial of the scrub that is wanted: one with a higher serial than the last begins
    std::uint32_t min_replicas = 0;  // R4: from now on as engine_config::min_replicas; 0: as it was

    friend bool operator==(const engine_policy&, const engine_policy&) = default;
};

/// What an engine must know of the volume's other extents, so that the policy's rate holds for the volume.
struct copy_share {
    std::uint32_t extents = 1;                   // that have something to copy now, this one included; at least 1
    instant active_at = -std::chrono::hours(1);  // an application's last request to any of them
};

struct engine_config {
    std::uint64_t size_bytes = 0;         // of the extent, multiple of block_bytes
    std::uint32_t min_replicas = 1;       // R4: never demote below this many up_to_date replicas
    bool clean = false;                   // the last writer detached in order (R11): the replicas are equal
    std::vector<replica_member> members;  // becomes slots 0..n-1
    bool legs = false;          // mirrored: device-mapper replicates, over the replicas as its legs (engine_legs.cpp)
    bool device_lives = false;  // legs: device-mapper's set is in use and has outlived the last engine

    // An op older than this fails its replica (R4). An engine whose tick comes more than a quarter of it too late was
    // stopped itself, and gives everybody a new one.
    std::chrono::milliseconds request_timeout{5000};
    std::chrono::milliseconds reconnect_window{2000};  // how long a lost link may come back without a demotion (R4)
    std::chrono::milliseconds attach_timeout{5000};    // how long R2 waits for a replica before it is demoted
    std::chrono::milliseconds retry_min{100};          // pause between attempts to connect, doubling …
    std::chrono::milliseconds retry_max{5000};         // … up to this
    std::uint32_t chunk_bytes = 4 * 1024 * 1024;       // resync and recovery copy and lock this much at a time
    std::uint32_t piece_bytes = 1024 * 1024;           // one read and one write of a copy; divides chunk_bytes
    std::uint32_t copies_max = 4;                      // chunks in flight per extent

    engine_policy policy;
    std::chrono::milliseconds clear_idle{5000};     // R6: a region without a change for this long is cleared (lazily)
    std::chrono::milliseconds space_retry{500};     // full_policy::hold: how often a write without space is tried again
    std::chrono::milliseconds busy_window{200};     // an application that was active within this makes copies yield …
    std::uint64_t busy_rate = 64ULL * 1024 * 1024;  // … to this many bytes per second of the volume, if the policy
                                                    // allows more
};

enum class engine_state : std::uint8_t {
    fencing,  // R2: not one byte is served yet; requests wait
    serving,
    detaching,  // no new requests; draining and flushing (R11)
    detached,   // everything is on stable storage; the writer may be released
    fenced,     // R5: all I/O failed for good
    lost,       // acknowledged, unflushed writes are gone with a kernel and no replica has them: all I/O fails, so that
                // no later flush can claim them durable
};

std::string_view to_string(engine_state state) noexcept;

struct slot_status {
    replica_id id;
    replica_state state = replica_state::inconsistent;
    bool link_up = false;
    bool resyncing = false;
    std::uint64_t resync_done_bytes = 0;    // of size_bytes, holes included
    std::uint64_t resync_copied_bytes = 0;  // data that crossed the network
    bool recovering = false;                // as replica_member
    bool full = false;                      // it has no space for a write that waits
};

/// The scrub of an extent: every replica's bytes compared.
struct scrub_status {
    std::uint64_t serial = 0;  // of the one that runs or ran last; 0: none since attach
    bool running = false;
    std::uint64_t done_bytes = 0;       // of size_bytes
    std::uint64_t differing_bytes = 0;  // found different between up_to_date replicas, or unreadable on one (checksum)
    std::uint64_t repaired_bytes = 0;   // of those: made equal again
    std::uint64_t undecided_bytes = 0;  // of those repaired: no checksum or majority said which replica was right
};

struct engine_status {
    engine_state state = engine_state::fencing;
    std::vector<slot_status> slots;
    std::uint64_t recovery_left_bytes = 0;  // R7: not yet known to be equal
    std::uint64_t dirty_bytes = 0;          // R6: in regions that are dirty on some replica
    bool waiting_for_space = false;         // full_policy::hold: a write waits for a replica's drive
    scrub_status scrub;
    std::uint32_t requests_in_flight = 0;       // application requests
    bool holding = false;                       // R4: some request waits for a demotion or a replica's return
    std::chrono::milliseconds held_for{0};      // the present hold
    std::chrono::milliseconds longest_hold{0};  // since attach, the present one included
    std::uint64_t reads = 0, writes = 0;        // acknowledged requests
    std::uint64_t read_bytes = 0, written_bytes = 0;
};

}  // namespace weft::core
