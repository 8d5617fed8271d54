// SPDX-License-Identifier: Apache-2.0
// Who reaches whom. Between a writer's node and a server each direction is cut by itself (asymmetric partitions); the
// store is reached from a node or not. A cut loses nothing: what is sent waits until the way is open again or its
// connection is given up (a transport that retransmits); messages of one link overtake each other, because it is a
// bundle of connections.
#pragma once

#include <cstdint>
#include <set>
#include <tuple>

#include "tests/sim/schedule.hpp"

namespace weft::sim {

inline constexpr std::uint32_t nodes = 3;  // that can be writers

enum class direction : std::uint8_t { to_server, from_server };

class network {
public:
    [[nodiscard]] bool open(std::uint32_t node, std::uint32_t server, direction way) const {
        return cut_.count({node, server, way}) == 0;
    }
    [[nodiscard]] bool store_open(std::uint32_t node) const { return store_cut_.count(node) == 0; }

    void cut(std::uint32_t node, std::uint32_t server, direction way) { cut_.insert({node, server, way}); }
    void cut_store(std::uint32_t node) { store_cut_.insert(node); }
    void heal(std::uint32_t node) {
        std::erase_if(cut_, [node](const auto& one) { return std::get<0>(one) == node; });
        store_cut_.erase(node);
    }
    void heal() {
        cut_.clear();
        store_cut_.clear();
    }

private:
    std::set<std::tuple<std::uint32_t, std::uint32_t, direction>> cut_;
    std::set<std::uint32_t> store_cut_;
};

}  // namespace weft::sim
