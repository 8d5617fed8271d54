// SPDX-License-Identifier: Apache-2.0
// A small world around one extent's engine: replica servers, network, record and clients, single-threaded under a seed.
// The engine is the production object, unchanged.
//
// Faults: a server's process dies and returns, its kernel dies and returns (what was not flushed may be gone), it
// hangs, its connection is cut with ops still on their way, the record does not answer or commits without answering,
// the writer dies and another epoch takes over while the old writer still runs.
//
// Checked after every read and at the end: the four laws of design.md, per block (see block_history). A violation
// throws std::runtime_error with the seed's trace.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <queue>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "nbd-backend/core/engine.hpp"

namespace weft::sim {

using core::instant;
using value = std::uint64_t;  // what a block holds: 0 = never written or zeroed

inline constexpr std::uint32_t blocks = 32;

/// What one block may read as, given what clients were told. Sound, not complete: it never blames a correct engine.
class block_history {
public:
    void write_begins(std::uint64_t op, value v) { pending_[op] = v; }
    void write_ends(std::uint64_t op, bool acknowledged);
    std::uint64_t read_begins();
    /// False if no order of the operations explains that the read returned v.
    bool read_ends(std::uint64_t read, value v);
    [[nodiscard]] std::string explain() const;

private:
    std::set<value> possible_{0};
    std::map<std::uint64_t, value> pending_;
    struct open_read {
        std::set<value> may;    // return
        std::set<value> ended;  // writes that ended beside it: may stand in the order after it
    };
    std::map<std::uint64_t, open_read> reads_;
    std::uint64_t next_read_ = 1;
};

struct server {
    std::vector<value> cache = std::vector<value>(blocks);   // what its kernel has
    std::vector<value> stable = std::vector<value>(blocks);  // what its disk has
    bool alive = true;
    bool hung = false;
    std::uint64_t incarnation = 1;  // process
    std::uint64_t boot = 1;
    std::uint64_t change_boot = 0;  // under which it last admitted a change, durable
    std::uint64_t epoch = 0, session = 0;
};

struct client_op {
    core::request request;
    std::vector<std::byte> buffer;
    std::uint64_t first = 0, count = 0;
    std::vector<std::uint64_t> reads;
    std::uint64_t id = 0;
    value v = 0;
};

struct writer {
    std::unique_ptr<core::engine> engine;
    std::uint64_t epoch = 0;
    bool dead = false;
    std::map<core::slot_index, std::pair<std::uint64_t, bool>> links;  // session, closing
    std::map<core::slot_index, std::uint64_t> peer;                    // the server's process that the link goes to
    std::map<void*, std::unique_ptr<client_op>> ops;
};

class world {
public:
    static constexpr std::uint64_t no_block = ~std::uint64_t{0};
    /// `watched`: a block whose every access is put into the trace.
    world(std::uint64_t seed, std::size_t replicas, std::uint32_t min_replicas, std::uint64_t watched = no_block);
    /// Runs `steps` random steps, then heals everything and checks that all ends well.
    void run(std::uint32_t steps);
    [[nodiscard]] const std::string& trace() const { return trace_; }
    [[nodiscard]] std::uint64_t acknowledged() const { return acknowledged_; }

private:
    using ms = std::chrono::milliseconds;
    void at(instant when, std::function<void()> what);
    std::uint64_t random(std::uint64_t below) { return rng_() % below; }
    instant soon(std::uint64_t below_us) { return now_ + std::chrono::microseconds(1 + random(below_us)); }
    void say(const std::string& what);
    [[noreturn]] void blame(const std::string& what);

    void attach();
    void call(writer& who, const std::function<void(core::actions&)>& tell);
    void perform(writer& who, core::actions& what);
    void arm(writer& who);
    void connect(writer& who, const core::link_command& command);
    void link_lost(writer& who, core::slot_index slot, std::uint64_t session, core::link_loss loss, instant when);
    void deliver(writer& who, const core::io_op& op);
    struct flight;
    void arrive(writer& who, const std::shared_ptr<flight>& what);
    int apply(server& to, const core::io_op& op, std::uint64_t epoch, core::op_result& answer);
    void propose(writer& who, const core::proposal& what);
    void completed(writer& who, const core::completion& what);
    void client_step();
    void fault_step();
    void drop_links_of(std::size_t index);
    void crash_kernel(std::size_t index);
    bool run_until(instant limit, const std::function<bool()>& done);
    bool detach_equal();
    void heal_and_check();
    void check_block(std::uint32_t b);

    std::uint64_t watched_;
    std::mt19937_64 rng_;
    instant now_{0};
    struct event {
        instant when;
        std::uint64_t order;
        std::function<void()> what;
        bool operator<(const event& other) const {
            return when != other.when ? when > other.when : order > other.order;
        }
    };
    std::priority_queue<event> queue_;
    std::uint64_t order_ = 0;
    std::vector<server> servers_;
    std::vector<replica_state> record_;
    std::uint64_t record_epoch_ = 0;
    bool record_clean_ = true;
    bool store_up_ = true;
    std::uint32_t min_replicas_;
    std::vector<std::unique_ptr<writer>> writers_;  // the last one is the record's
    std::vector<block_history> history_{blocks};
    std::uint64_t next_value_ = 1, next_op_ = 1, acknowledged_ = 0;
    std::size_t kernel_faults_ = 0;
    int demotions_asked_ = 0;
    std::string trace_;
};

}  // namespace weft::sim
