// SPDX-License-Identifier: Apache-2.0
// The nodes' leases (R1), and when a volume server may be told of one (the engine's E7: it then answers reads from one
// replica alone).
//
// "Until then nobody else becomes the writer" holds only for a lease that was held without a gap since before the
// writer's own attach was begun: each renewal's answer came before the end that was known until then. After a gap
// somebody may have read "expired", and his compare-and-swap may be on its way; so the node first commits a change of
// its own to the volume's record, begun after the renewal: that one fails, or this one.
#pragma once

#include <array>
#include <functional>

#include "tests/sim/store.hpp"

namespace weft::sim {

class leases {
public:
    static constexpr milliseconds ttl{40};

    leases(schedule& time, store& record, const network& net) : time_(time), record_(record), net_(net) {}

    /// Begins to renew the lease of every node; `renewed` is called after each success.
    void start(std::function<void(std::uint32_t node)> renewed) {
        renewed_ = std::move(renewed);
        for (std::uint32_t node = 0; node < nodes; ++node) renew(node);
    }

    /// As the store has it: R1's question.
    [[nodiscard]] bool expired(std::uint32_t node) const { return nodes_[node].stored <= time_.now(); }
    /// As the node knows it.
    [[nodiscard]] bool held(std::uint32_t node) const { return time_.now() < nodes_[node].known; }
    [[nodiscard]] instant until(std::uint32_t node) const { return nodes_[node].known; }
    /// Grows with every gap.
    [[nodiscard]] std::uint64_t gaps(std::uint32_t node) const { return nodes_[node].gaps; }

private:
    struct one {
        instant stored{0};
        instant known{0};
        std::uint64_t gaps = 0;
    };

    void renew(std::uint32_t node) {
        time_.at(time_.now() + ttl / 4, [this, node] { renew(node); });
        const instant asked = time_.now();
        time_.at(time_.delayed_us(300), [this, node, asked] {
            if (!record_.up() || !net_.store_open(node)) return;
            nodes_[node].stored = time_.now() + ttl;
            time_.at(time_.delayed_us(300), [this, node, asked] { answered(node, asked); });
        });
    }
    void answered(std::uint32_t node, instant asked) {
        one& it = nodes_[node];
        if (asked + ttl <= std::max(it.known, time_.now())) return;
        if (!held(node)) ++it.gaps;
        it.known = asked + ttl;
        renewed_(node);
    }

    schedule& time_;
    store& record_;
    const network& net_;
    std::array<one, nodes> nodes_;
    std::function<void(std::uint32_t)> renewed_;
};

}  // namespace weft::sim
