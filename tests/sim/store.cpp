// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/store.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <memory>

namespace weft::sim {

node_name node_of(std::uint32_t node) {
    return node_name(fmt::format("n{}", node));
}

struct store::attempt {
    std::uint32_t node = 0;
    change what;
    answer told;
    std::function<bool()> wanted;
    std::uint64_t round = 0;  // a late answer of an earlier one is nobody's
};

const replica_record* store::find(const replica_id& id) const {
    const auto found =
        std::find_if(replicas().begin(), replicas().end(), [&](const auto& one) { return one.id == id; });
    return found == replicas().end() ? nullptr : &*found;
}

void store::commit(std::uint32_t node, change what, answer told, std::function<bool()> wanted) {
    auto it = std::make_shared<attempt>(attempt{node, std::move(what), std::move(told), std::move(wanted)});
    time_.at(time_.delayed_us(300), [this, it] { read(it); });
}

void store::again(const std::shared_ptr<attempt>& it) {
    ++it->round;
    time_.at(time_.delayed_us(2000), [this, it] { read(it); });
}

void store::read(const std::shared_ptr<attempt>& it) {
    if (it->wanted && !it->wanted()) return;
    if (!reached(it->node)) {
        again(it);
        return;
    }
    result<volume_record> made = it->what(record_);
    if (made.has_error()) {
        time_.at(time_.delayed_us(300), [it, made] { it->told(made); });
        return;
    }
    // Sometimes weftd gives this attempt up before it arrives, and begins another.
    const bool given_up = time_.one_in(10);
    time_.at(given_up ? time_.within_us(20000) : time_.delayed_us(300),
             [this, it, round = it->round, expected = revision_, made = *made] { swap(it, round, expected, made); });
    if (given_up) again(it);
}

void store::swap(const std::shared_ptr<attempt>& it, std::uint64_t round, std::uint64_t expected,
                 const volume_record& made) {
    const bool came = reached(it->node);
    const bool swapped = came && expected == revision_;
    if (swapped) {
        if (const auto sane = check(made); sane.has_error()) log_.blame("the record: {}", sane.error().text);
        const volume_record before = std::exchange(record_, made);
        ++revision_;
        for (const observer& each : observers_) each(before, record_);
    }
    if (!came || !swapped || time_.one_in(6)) {  // it does not hear of it, or hears of a conflict: from the start
        if (round == it->round) again(it);
        return;
    }
    // An answer to an attempt that was given up is not listened to.
    time_.at(time_.delayed_us(300), [it, round, made] {
        if (round == it->round) it->told(result<volume_record>(made));
    });
}

}  // namespace weft::sim
