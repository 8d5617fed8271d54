// SPDX-License-Identifier: Apache-2.0
// What goes wrong, drawn: every seed switches each kind on or off by itself, so that runs with few kinds go deep.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "tests/sim/cluster.hpp"
#include "tests/sim/writer.hpp"

namespace weft::sim {

enum class fault : std::uint8_t {
    process_dies,
    kernel_dies,
    server_hangs,
    links_cut,     // the connections between one writer and one server, on the writer's side
    partition,     // one direction or both between a node and a server
    node_cut_off,  // a node from all servers, perhaps from the store
    store_away,    // from everybody, or from one node
    writer_hangs,
    writer_dies,
    takeover,  // another writer while the old one runs
    detach,    // in order; somebody attaches later
    replica_added,
    replica_removed,
    drive_destroyed,
    drive_full,
    block_rots,
    policy,
    count,
};
std::string_view to_string(fault kind);

class world;

class faults {
public:
    faults(cluster& in, world& around);
    void step();
    /// Everything that was broken is repaired, but for what only an operator decides.
    void repair_all();

private:
    void happen(fault kind);
    void repair_something();
    [[nodiscard]] std::size_t any_member();
    void kernel_dies(std::size_t server);
    void partition();
    void cut_node_off();
    void add_replica();
    void remove_replica();
    void destroy_drive();
    void rot();
    void change_policy();

    cluster& in_;
    world& around_;
    std::vector<fault> enabled_;
    std::uint64_t rate_;  // one fault in so many steps
};

}  // namespace weft::sim
