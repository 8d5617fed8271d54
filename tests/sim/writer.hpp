// SPDX-License-Identifier: Apache-2.0
// A volume server on a node: the production engine, its links, and weftd beside it that takes its proposals to the
// store. It can hang (everything that comes waits, its timers fire late, what it sent is still on its way) and die.
//
// A link is a bundle of connections: messages overtake each other. When it is given up, what is still on its way
// arrives or does not. weftd lives on when the volume server hangs or dies, and still commits what that had asked for.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>

#include "nbd-backend/core/engine.hpp"
#include "tests/sim/cluster.hpp"

namespace weft::sim {

class writer {
public:
    /// `gaps`: leases::gaps when its attach was begun.
    writer(cluster& world, std::uint32_t node, std::uint64_t epoch, std::uint64_t gaps, core::engine_config config);

    void start();
    void submit_one();
    void detach();
    void hang();
    void go_on();
    void die();
    void change_policy(const core::engine_policy& policy);

    [[nodiscard]] std::uint32_t node() const { return node_; }
    [[nodiscard]] std::uint64_t epoch() const { return epoch_; }
    [[nodiscard]] bool dead() const { return dead_; }
    [[nodiscard]] bool hung() const { return hung_; }
    [[nodiscard]] core::engine_state state() const { return engine_->state(); }
    [[nodiscard]] core::engine_status status() const { return engine_->status(world_.time.now()); }
    /// It will never serve again.
    [[nodiscard]] bool over() const;
    /// Its detach is through, and the record says so.
    [[nodiscard]] bool released() const { return released_; }

    /// The process of a server that it has a link with is gone, or somebody cuts the connections.
    void lose_links(std::size_t server, bool noticed_only_on_open_way);
    /// weftd has read the record: its replicas, or that another epoch owns the volume.
    void hear_of_record();
    /// Its node's lease was renewed. `gaps` as of now; see leases.hpp.
    void hear_of_lease();

private:
    struct link {
        core::slot_index slot = 0;
        std::uint64_t session = 0;
        std::size_t server = 0;
        bool open = true;  // on this side
        bool up = false;
        std::uint64_t incarnation = 0;  // of the server's process, once it was reached
        core::admission_gate::ticket ticket = 0;
        std::uint64_t since = 0;  // when the session began
    };
    using link_ptr = std::shared_ptr<link>;
    using event = std::function<void(core::actions&)>;

    void happen(event what);
    void run(const event& what);
    void perform(core::actions& what);
    void look_at_state();
    void arm();
    void connect(const core::link_command& command);
    void reach(const link_ptr& it);
    void welcome(const link_ptr& it, const opened& said);
    void close(const link_ptr& it, core::link_loss loss, instant when);
    void travel(const link_ptr& it, direction way, instant when, std::function<void()> then, bool orphan = false);
    void send(const core::io_op& op);
    void answered(const link_ptr& it, const core::io_op& op, core::op_result result, std::vector<std::byte> payload);
    void propose(const core::proposal& what);
    void completed(const core::completion& what);
    void commit_release();

    cluster& world_;
    std::uint32_t node_;
    std::uint64_t epoch_;
    bool may_refuse_;  // writes without space, now or before
    std::unique_ptr<core::engine> engine_;
    bool dead_ = false;
    bool hung_ = false;
    bool served_ = false;
    bool detach_asked_ = false;
    bool release_asked_ = false;
    bool released_ = false;
    std::uint64_t entitled_;   // the number of gaps of the lease for which nobody else can have become the writer
    bool confirming_ = false;  // a change of the record that entitles it again is under way
    std::uint64_t detach_began_ = 0;
    instant armed_ = instant::max();
    std::map<core::slot_index, link_ptr> links_;
    std::deque<event> waiting_;  // while it hangs
    core::engine_state last_state_ = core::engine_state::fencing;
};

/// The record's replicas as an engine on that node is told of them.
std::vector<core::replica_member> members_of(const volume_record& record, std::uint32_t node);

}  // namespace weft::sim
