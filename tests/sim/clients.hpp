// SPDX-License-Identifier: Apache-2.0
// The applications: one per writer, with a few requests open at a time, and the history of every block that says what
// their answers promise (laws 1 and 2).
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "nbd-backend/core/engine_types.hpp"
#include "tests/sim/disk.hpp"
#include "tests/sim/history.hpp"
#include "tests/sim/trace.hpp"

namespace weft::sim {

class clients {
public:
    clients(schedule& time, const trace& log) : time_(time), log_(log) {}

    /// Something to ask, drawn; its buffer lives until it is completed (E5: a later use is the sanitizer's to see).
    /// `deposed`: another epoch has served already.
    core::request draw(std::uint64_t epoch, bool deposed);
    /// How many requests of that epoch are open.
    [[nodiscard]] std::size_t open(std::uint64_t epoch) const;

    struct answer {
        core::completion what;
        bool may_fail_io = false;     // EIO is allowed: the engine is lost, or a block has rotted
        bool may_fail_space = false;  // ENOSPC is allowed: the policy says so and a drive is full
        bool may_end = false;         // ESHUTDOWN is allowed: the engine serves no more
    };
    void completed(const answer& what);
    /// Its requests are answered by nobody any more.
    void writer_died(std::uint64_t epoch);
    /// A detach that began then has succeeded: everything that was acknowledged before it is on stable storage.
    void flushed(std::uint64_t began);
    /// See block_history::lose.
    void lose(std::uint64_t floor);

    [[nodiscard]] std::uint64_t acknowledged() const { return acknowledged_; }

    /// A read by the laws themselves, outside of every writer: false if the history does not explain it.
    bool explains(std::uint64_t block, value v);
    [[nodiscard]] std::string explain(std::uint64_t block) const { return history_[block].explain(); }
    /// At the end: throws if some block's values cannot be put into an order.
    void check_order() const;

private:
    struct op {
        core::request request;
        std::vector<std::byte> buffer;
        std::uint64_t epoch = 0;
        std::uint64_t first = 0;
        std::uint64_t count = 0;
        std::uint64_t begin = 0;
        std::vector<std::uint64_t> reads;
        value v = 0;
        bool deposed = false;
    };
    void begin(op& it, std::uint64_t id);
    void end(op& it, std::uint64_t id, bool acknowledged);
    void check_read(op& it);
    void check_error(const op& it, const answer& what) const;

    schedule& time_;
    const trace& log_;
    std::array<block_history, blocks> history_;
    std::map<std::uint64_t, std::unique_ptr<op>> ops_;
    std::uint64_t next_op_ = 1;
    std::uint64_t next_value_ = 1;
    std::uint64_t acknowledged_ = 0;
};

}  // namespace weft::sim
