// SPDX-License-Identifier: Apache-2.0
// One extent's engine with its mutex and its links: carries events in and actions out.
//
//   any thread ── event ──▶ [ mutex: engine call; completions, orders to links, proposals in the engine's order ]
//                           then without the mutex: ops to links, wake-ups, timer
//
// The engine's mutex is held for pure work only: never across a system call that can block, libnbd, or a socket. What
// must keep the engine's order (orders to links, proposals, notices) is queued under the mutex, behind leaf locks; ops
// need no order, because the engine never has two overlapping changes in flight (E3).
//
// E5 on this side: an op taken out of the engine may be sent late, when its request is completed already; the link then
// drops it, because its session is over (an op in flight ends only with its answer or its session).
#pragma once

#include <array>
#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "nbd-backend/core/control_message.hpp"
#include "nbd-backend/core/engine.hpp"
#include "nbd-backend/io/link_poller.hpp"
#include "nbd-backend/io/replica_link.hpp"
#include "nbd-backend/io/request_waiter.hpp"
#include "nbd-backend/io/tick_timer.hpp"

namespace weft::io {

/// Where an engine's words to weftd go. Called under the engine's mutex: the implementation only queues.
class outbox {
public:
    virtual void propose(std::uint32_t extent, const replica_id& replica, const core::proposal& what) = 0;
    virtual void notify(std::uint32_t extent, const core::notice& what) = 0;
    /// Something that status messages tell may have changed.
    virtual void changed() = 0;
    /// No lock is held now: wake whoever sends.
    virtual void flush() = 0;

protected:
    ~outbox() = default;
};

/// What the engines of one volume share: the policy's rate for copies in the background is the volume's. Any thread;
/// the values are read without a common lock, because a share that is late by one copied piece does no harm.
struct copy_budget {
    std::atomic<std::uint32_t> copying{0};                                            // engines
    std::atomic<core::instant::rep> active_at{core::copy_share{}.active_at.count()};  // core::copy_share
};

class engine_host final : public link_owner {
public:
    engine_host(std::uint32_t extent, const core::attach_config& config, outbox& to_weftd, tick_timer& timer,
                copy_budget& budget);
    ~engine_host();
    engine_host(const engine_host&) = delete;
    engine_host& operator=(const engine_host&) = delete;

    /// Starts the engine: connects to every replica. Errors: io_failed.
    weft::status start();
    /// Stops the links, then ends every outstanding request with ESHUTDOWN; later ones end so at once. Idempotent.
    void stop();

    /// One part of a request; its waiter learns the end. `what.cookie` is ignored. `leg`: of a mirrored volume, the
    /// replica that it is for; EIO when that is not (any more) one of this extent.
    void submit(request_part& part, core::request what, const replica_id& leg = {});
    /// Its thread, next: helps to get the answers of this extent while nobody else does. `waiter` must have no part on
    /// another extent. May return before it is done.
    void attend(const request_waiter& waiter) { poller_.attend(waiter); }
    /// Instead of attend(), when the thread waits for more than this extent's answers.
    void see_to_answers() noexcept { poller_.look(); }

    void on_proposal_result(std::uint64_t id, core::proposal_outcome outcome);
    /// Precondition: the size is the extent's.
    void on_members(const core::extent_members& members, const core::engine_policy& policy);
    void on_leg(const replica_id& replica, core::leg_event what);
    [[nodiscard]] bool has_leg(const replica_id& replica);
    [[nodiscard]] std::vector<replica_id> legs();
    void on_lease(core::instant until);
    void detach();
    void tick();

    [[nodiscard]] core::engine_status status();
    [[nodiscard]] std::uint64_t size_bytes() const noexcept { return size_bytes_; }

    void on_link_events(core::slot_index slot, link_events& events) override;

private:
    struct address {
        std::string host;
        std::uint16_t port = 0;
    };
    struct scratch;
    static scratch& thread_scratch();

    enum class driver : std::uint8_t { submitter, poller, other };
    template <typename Event>
    void drive(driver who, Event event);
    void take_out(scratch& work);
    void carry_out(driver who, scratch& work);
    void finish(request_part& part, int error, scratch& work);
    replica_link& link_for(core::slot_index slot);
    void report_loss(core::slot_index slot, const link_events& events);

    const std::uint32_t extent_;
    const std::uint64_t epoch_;
    const std::uint64_t size_bytes_;
    const std::uint32_t connections_;
    const std::chrono::milliseconds request_timeout_;
    outbox& outbox_;
    tick_timer& timer_;
    copy_budget& budget_;
    link_poller poller_;

    std::mutex mutex_;
    core::engine engine_;
    core::engine_state state_ = core::engine_state::fencing;  // as last seen by changed()
    std::map<replica_id, address> addresses_;
    // A link is made under the mutex before the engine can name its slot in an op, and lives until stop().
    std::array<std::unique_ptr<replica_link>, core::max_slots> links_;
    std::array<std::string, core::max_slots> last_loss_;  // told already
    request_part* outstanding_ = nullptr;
    bool stopped_ = false;
    bool copying_ = false;  // counted in budget_
};

}  // namespace weft::io
