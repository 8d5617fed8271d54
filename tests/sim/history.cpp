// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/history.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace weft::sim {

void block_history::write_begins(std::uint64_t op, value v, ticks now) {
    pending_[op] = {v, now, open_end, false, false};
    if (v != 0) zones_[v].written = zones_[v].last_begin = now;
}

void block_history::write_ends(std::uint64_t op, bool acknowledged, bool durable, ticks now) {
    const open_write it = pending_.at(op);
    pending_.erase(op);
    if (!acknowledged || it.crossed) {
        // Acknowledged beside a permitted loss: its replica may have forgotten it before the client heard.
        if (!it.spent) possible_.insert(it.v);
    } else if (!it.spent) {
        // Those that ended beside it may stand in the order after it.
        std::set<value> now_possible{it.v};
        for (const ended_write& other : ended_)
            if (other.end > it.begin && possible_.count(other.v) != 0) now_possible.insert(other.v);
        possible_ = std::move(now_possible);
        for (auto& [other, theirs] : pending_) {
            theirs.spent = theirs.spent || theirs.seen < it.begin;
            if (!theirs.spent) possible_.insert(theirs.v);
        }
    }
    if (acknowledged && it.v != 0) zones_[it.v].first_end = std::min(zones_[it.v].first_end, now);
    const bool promised = acknowledged && !it.crossed;
    ended_.push_back({it.v, it.begin, now, promised, promised && durable});
    if (promised && durable && it.begin > durable_from_) durable_from_ = it.begin, forget_superseded();
    for (auto& [id, read] : reads_) {
        read.may.insert(it.v);
        read.ended.insert(it.v);
    }
}

std::uint64_t block_history::read_begins(ticks now) {
    open_read& read = reads_[next_read_];
    read.begin = now;
    read.may = possible_;
    for (const auto& [op, it] : pending_)
        if (!it.spent) read.may.insert(it.v);
    return next_read_++;
}

bool block_history::read_ends(std::uint64_t id, value v, ticks now) {
    open_read read = std::move(reads_.at(id));
    reads_.erase(id);
    for (auto& [op, it] : pending_) {
        if (it.begin > read.begin) read.may.insert(it.v);
        if (it.v == v && v != 0) it.seen = std::min(it.seen, now);
    }
    if (read.may.count(v) == 0) return false;
    if (v != 0) {
        zone& of = zones_[v];
        of.first_end = std::min(of.first_end, now);
        of.last_begin = std::max(of.last_begin, read.begin);
    }
    // Who reads from here on sees this value or a write that is still open (added when he begins) or ended beside it.
    possible_ = std::move(read.ended);
    possible_.insert(v);
    return true;
}

void block_history::flushed(ticks began) {
    ticks from = durable_from_;
    for (ended_write& it : ended_) {
        if (!it.acknowledged || it.end >= began) continue;
        it.durable = true;
        from = std::max(from, it.begin);
    }
    if (from == durable_from_) return;
    durable_from_ = from;
    forget_superseded();
}

void block_history::forget_superseded() {
    std::erase_if(ended_, [this](const ended_write& it) { return it.end < durable_from_; });
}

void block_history::lose(ticks floor, ticks now) {
    ticks newest = durable_from_;
    for (const ended_write& it : ended_)
        if (it.acknowledged && (it.durable || it.begin > floor)) newest = std::max(newest, it.begin);
    std::set<value> left;
    for (ended_write& it : ended_) {
        if (it.end >= newest) left.insert(it.v);
        if (!it.durable && it.begin <= floor) it.acknowledged = false;
    }
    for (auto& [op, it] : pending_) {
        left.insert(it.v);
        it.spent = false;
        it.crossed = true;
    }
    for (auto& [id, read] : reads_) {
        read.may.insert(left.begin(), left.end());
        read.ended.insert(left.begin(), left.end());
    }
    lost_ = lost_ || left.size() > 1;
    possible_.merge(left);
    (void)now;
}

std::string block_history::zones_overlap() const {
    if (lost_) return {};
    struct span {
        ticks from, to;
        value v;
    };
    std::vector<span> forward;
    std::vector<span> backward;
    for (const auto& [v, it] : zones_) {
        if (it.first_end == open_end) continue;  // never acknowledged and never read: it need not have happened
        if (it.first_end < it.written) return fmt::format("{} was read before it was written", v);
        if (it.first_end < it.last_begin)
            forward.push_back({it.first_end, it.last_begin, v});
        else
            backward.push_back({it.last_begin, it.first_end, v});
    }
    std::sort(forward.begin(), forward.end(), [](const span& a, const span& b) { return a.from < b.from; });
    for (std::size_t i = 1; i < forward.size(); ++i)
        if (forward[i].from < forward[i - 1].to)
            return fmt::format("{} and {} were each seen before and after the other", forward[i - 1].v, forward[i].v);
    for (const span& one : backward) {
        auto around = std::upper_bound(forward.begin(), forward.end(), one.from,
                                       [](ticks at, const span& it) { return at < it.from; });
        if (around == forward.begin()) continue;
        --around;
        if (around->from < one.from && one.to < around->to)
            return fmt::format("{} began and ended while only {} was there", one.v, around->v);
    }
    return {};
}

std::string block_history::explain() const {
    std::string text = "possible:";
    for (const value v : possible_) text += fmt::format(" {}", v);
    text += " open:";
    for (const auto& [op, it] : pending_) text += fmt::format(" {}{}", it.v, it.spent ? " (older)" : "");
    return text;
}

}  // namespace weft::sim
