// SPDX-License-Identifier: Apache-2.0
// One slot's link to its replica server: a bundle of NBD connections of one session, the last one to the replica's
// bitmap (R6).
//
//   idle ──connect──▶ connecting ──all ready, size and description right──▶ up
//     ▲                   │                                                 │
//     └───────────────────┴── disconnect, deadline, any connection ends ────┘   exactly one `down` per connect
//
// Events of one poll round are delivered together, so that thousands of ops in flight cost one call of the engine's
// owner per round and not one each. Answers are delivered before the `down` of their session; after it none is.
//
// Thread rule: post(), send() and in_flight() from any thread; post() takes only a leaf lock, so the caller may hold
// the engine's. The rest from the one who polls (link_poller.hpp). Nothing here is held while the owner is called.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "nbd-backend/core/engine_types.hpp"
#include "nbd-backend/io/completion_box.hpp"
#include "nbd-backend/io/link_poller.hpp"
#include "nbd-backend/io/nbd_connection.hpp"
#include "nbd-backend/io/parting_sockets.hpp"

namespace weft::io {

/// A link command of the engine, with what the engine does not know.
struct link_order {
    core::link_action action = core::link_action::connect;
    std::uint64_t session = 0;
    replica_id replica;
    std::string host;
    std::uint16_t port = 0;  // 0: nobody knows where the replica is
};

/// What one poll round brought: first the answers, then at most one change of the link.
struct link_events {
    enum class change : std::uint8_t { none, up, down };

    std::vector<core::op_result> answers;
    change what = change::none;
    std::uint64_t session = 0;
    core::link_hello hello;                           // up
    core::link_loss loss = core::link_loss::dropped;  // down
    std::string detail;                               // down: why, for people

    [[nodiscard]] bool empty() const { return answers.empty() && what == change::none; }
    void clear() {
        answers.clear();
        what = change::none;
        detail.clear();
    }
};

class link_owner {
public:
    /// From the one who polls. May move the answers out.
    virtual void on_link_events(core::slot_index slot, link_events& events) = 0;

protected:
    ~link_owner() = default;
};

struct link_settings {
    core::slot_index slot = 0;
    std::uint64_t epoch = 0;
    std::uint64_t size_bytes = 0;   // what the export must have
    std::uint32_t connections = 2;  // for data; one for the bitmap comes on top
    std::chrono::milliseconds connect_timeout{5000};
};

class replica_link final : public polled_link {
public:
    replica_link(link_settings settings, link_owner& owner, wakeup& bell);
    ~replica_link();
    replica_link(const replica_link&) = delete;
    replica_link& operator=(const replica_link&) = delete;

    /// Orders are carried out in the order of these calls. Ring the bell when no lock is held.
    void post(link_order order);

    /// Sends an op over a connection that has room for it (a map op: over the one for maps), or drops it when its
    /// session is not the link's.
    void send(const core::io_op& op);

    core::instant append(std::vector<pollfd>& polled) override;
    void progress(const pollfd* polled) override;
    [[nodiscard]] bool calm() const override { return state_ != state::connecting; }
    void close_for_good() override { close_all(); }
    [[nodiscard]] std::uint32_t in_flight() const noexcept override;

private:
    enum class state : std::uint8_t { idle, connecting, up };

    nbd_connection& choose(const core::io_op& op);
    void carry_out_orders();
    void connect(const link_order& order);
    void check_connections();
    void become_up();
    void become_down(core::link_loss loss, std::string detail);
    void close_all();
    void deliver();

    const link_settings settings_;
    link_owner& owner_;
    wakeup& bell_;
    completion_box box_;
    std::vector<std::unique_ptr<nbd_connection>> connections_;
    parting_sockets parting_;

    std::mutex orders_mutex_;
    std::vector<link_order> orders_;

    // Of the one who polls.
    std::vector<link_order> taken_orders_;
    state state_ = state::idle;
    std::uint64_t session_ = 0;
    core::instant deadline_ = core::instant::max();
    link_events events_;
};

}  // namespace weft::io
