// SPDX-License-Identifier: Apache-2.0
// What one block may read as, given what clients were told: linearizability per block (law 2), and what a loss that
// law 1 allows may bring back.
//
// Two checks, both sound (neither ever blames a correct engine):
//   - online, at each read: `possible_` holds the values that the block may have now if no operation is open. A read
//   may
//     return one of those that were possible when it began, or of a write that was open beside it; once a value was
//     returned nobody sees an older one; a write whose value was read before another write began is older than that
//     one;
//   - at the end, `zones_overlap`: the values of a register whose writes are unique can be put into an order if and
//   only
//     if their zones do not contradict each other (Gibbons and Korach, "Testing shared memories", 1997). Zeros are not
//     unique and stand outside of it; a history without the operations of one value stays linearizable.
//
// Time is schedule::tick. A value is unique per write; 0 = never written, zeroed or trimmed.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

namespace weft::sim {

using value = std::uint64_t;

class block_history {
public:
    using ticks = std::uint64_t;

    void write_begins(std::uint64_t op, value v, ticks now);
    /// `acknowledged`: it happened. Else it may or may not have happened; it does not happen any more. `durable`: it
    /// was acknowledged with FUA.
    void write_ends(std::uint64_t op, bool acknowledged, bool durable, ticks now);

    std::uint64_t read_begins(ticks now);
    /// False if no order of the operations explains that the read returned v.
    bool read_ends(std::uint64_t read, value v, ticks now);
    void read_failed(std::uint64_t read) { reads_.erase(read); }

    /// A flush that began then was acknowledged: what had been acknowledged before it is on stable storage.
    void flushed(ticks began);
    /// Law 1 promises nothing any more for what was not flushed and was written before `floor`: the block may now hold
    /// anything that no durable and no promised write has replaced.
    void lose(ticks floor, ticks now);

    /// At the end: empty if all reads can be explained together, else which values cannot.
    [[nodiscard]] std::string zones_overlap() const;
    [[nodiscard]] std::string explain() const;

private:
    static constexpr ticks open_end = ~ticks{0};
    struct open_write {
        value v = 0;
        ticks begin = 0;
        ticks seen = open_end;  // when the first read that returned it ended
        bool spent = false;     // some acknowledged write is known to be newer
        bool crossed = false;   // a permitted loss happened beside it
    };
    struct ended_write {
        value v = 0;
        ticks begin = 0;
        ticks end = 0;
        bool acknowledged = false;
        bool durable = false;
    };
    struct open_read {
        ticks begin = 0;
        std::set<value> may;    // return
        std::set<value> ended;  // writes that ended beside it: may stand in the order after it
    };
    struct zone {
        ticks first_end = open_end;
        ticks last_begin = 0;
        ticks written = 0;  // when the write began
    };

    void forget_superseded();

    std::set<value> possible_{0};
    std::map<std::uint64_t, open_write> pending_;
    std::vector<ended_write> ended_{{0, 0, 0, true, true}};
    std::map<std::uint64_t, open_read> reads_;
    std::map<value, zone> zones_;
    ticks durable_from_ = 0;  // a write that ended before this was replaced by a durable one
    std::uint64_t next_read_ = 1;
    bool lost_ = false;
};

}  // namespace weft::sim
