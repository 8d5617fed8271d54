// SPDX-License-Identifier: Apache-2.0
// What weftd knows of one running volume server: its control connection, its latest status, and ways to wait for it.
//
// The connection comes and goes (weftd restarts, the newest weftd wins); members and an unanswered detach are sent
// again on every new connection, proposals are repeated by the server. A hello of another volume or epoch marks the
// link as failed: then this is not the server that we started. Callbacks run on the connection's thread and must not
// block: proposals go to a desk of their own. Thread-safe. Must not be destroyed from a callback.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "orchestrator/io/control_client.hpp"
#include "orchestrator/io/volume_process.hpp"

namespace weft {

class control_link {
public:
    struct hooks {
        std::function<void(core::propose_message)> on_proposal;
        std::function<void(core::notice)> on_notice;
        std::function<void()> on_change;  // the engine's state changed, or what weftd acts on (space, scrub)
    };

    control_link(const volume_paths& paths, volume_id id, std::uint64_t epoch, hooks handlers);

    [[nodiscard]] std::uint64_t epoch() const noexcept { return epoch_; }
    /// The latest status; empty before the first one.
    [[nodiscard]] std::vector<core::engine_status> latest() const;
    /// The engine serves nothing any more: fenced (R5), lost, or not the server that it should be.
    [[nodiscard]] bool failed() const;
    /// A detach was asked for: the server takes no new requests.
    [[nodiscard]] bool detaching() const;

    /// Mirrored: what device-mapper says of a leg. Lost when not connected: the caller repeats it.
    void tell_leg(const core::leg_message& leg);
    /// Mirrored: how much of each leg was rebuilt, by device-mapper's count: the engine does not know it. `latest` says
    /// it.
    void set_leg_progress(std::map<replica_id, std::uint64_t> done_bytes);

    /// Mirrored: the scrub of each extent, which is device-mapper's too.
    void set_leg_scrubs(std::vector<core::scrub_status> scrubs);
    /// Mirrored, after an end that was not in order: how much of each extent's legs is not known to be equal yet (R7).
    /// `latest` counts it as left to recover.
    void set_legs_unequal(std::vector<std::uint64_t> bytes);
    [[nodiscard]] bool legs_unequal() const;

    /// Tells the server about replicas, states, addresses and policy if they differ from what it was told last.
    /// `revision` is the record's: members older than an answer that was already given are dropped, never sent after
    /// it.
    void set_members(core::members_message members, std::uint64_t revision);
    /// Until when (CLOCK_BOOTTIME) this node's lease holds. Told to the server only in the tenure (lease_keeper.hpp) in
    /// which the record was reaffirmed: after a gap somebody may have taken the volume over. Never blocks.
    void set_lease(std::uint64_t tenure, std::chrono::nanoseconds until);
    /// The record was committed under our epoch, unchanged, by a compare-and-swap that began in this tenure.
    void reaffirmed(std::uint64_t tenure);
    [[nodiscard]] std::uint64_t reaffirmed_in() const;
    /// The answer to a proposal, with the revision that it was committed at (0: nothing was). Dropped when not
    /// connected: the server will propose again.
    void answer(const core::result_message& message, std::uint64_t revision);

    /// Until every extent is serving. Errors: timed_out (the text says what it waits for), stale_epoch (fenced),
    /// unavailable (the server is gone or lost), shutting_down.
    status wait_serving(std::chrono::milliseconds time);
    /// R11: asks for a detach and waits until everything is flushed. May be called again. True: every up_to_date
    /// replica is equal, so the record may say clean; false: a recovery (R7) had not come to its end. Errors: as above.
    result<bool> detach(std::chrono::milliseconds time);

    /// The process exited: waits end.
    void server_exited();
    [[nodiscard]] bool exited() const;
    /// weftd stops: waits end.
    void give_up();

private:
    enum class stage : std::uint8_t { fencing, serving, detached, fenced, lost };

    void on_connected(bool connected);
    void on_message(core::control_message message);
    void on_hello(const core::hello_message& hello);
    void on_status(const core::status_message& message);
    [[nodiscard]] stage stage_now() const;             // with mutex_ held
    [[nodiscard]] bool waiting_for_space() const;      // as above
    [[nodiscard]] std::size_t scrubs_running() const;  // as above: extents whose scrub is on
    [[nodiscard]] std::size_t rebuilding() const;      // as above: slots that are reached and not up to date
    [[nodiscard]] std::string waiting_for() const;
    status wait_for_stage(std::chrono::milliseconds time, const std::function<bool(stage)>& reached);

    const volume_id id_;
    const std::uint64_t epoch_;
    const hooks hooks_;
    std::mutex order_mutex_;           // taken before mutex_: keeps the order of what is sent equal to the records'
    std::uint64_t told_revision_ = 0;  // newest revision that the server has heard of; guarded by order_mutex_
    mutable std::mutex mutex_;
    std::condition_variable changed_;
    std::vector<core::engine_status> status_;
    std::map<replica_id, std::uint64_t> leg_progress_;
    std::vector<core::scrub_status> leg_scrubs_;
    std::vector<std::uint64_t> legs_unequal_;
    core::members_message members_;  // no extents: nothing is known yet
    std::string members_sent_;       // encoded, to tell whether they differ
    std::uint64_t reaffirmed_in_ = 0;
    std::chrono::nanoseconds lease_until_{0};
    bool detach_asked_ = false;
    bool detached_ = false;
    bool left_equal_ = false;  // said with `detached`
    bool wrong_server_ = false;
    bool exited_ = false;
    bool giving_up_ = false;
    std::unique_ptr<control_client> client_;  // last: its callbacks use the rest
};

}  // namespace weft
