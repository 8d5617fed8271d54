// SPDX-License-Identifier: Apache-2.0
// Views of a cluster for the tests of repair: nodes n1, n2, … with a drive of 100 GiB each.
#pragma once

#include <set>
#include <vector>

#include "orchestrator/core/absence.hpp"
#include "sample_records.hpp"

namespace weft::test {

inline std::set<node_name> all_nodes(unsigned count) {
    std::set<node_name> nodes;
    for (unsigned i = 1; i <= count; ++i) nodes.insert(node(i));
    return nodes;
}

inline cluster_view view_of(const std::vector<volume_record>& volumes, unsigned nodes) {
    cluster_view view;
    view.revision = 10;
    for (const auto& volume : volumes) view.volumes[volume.name] = {volume, 9};
    for (unsigned i = 1; i <= nodes; ++i) {
        view.nodes[node(i)] = {node_record{node(i), "127.0.0.1", "test"}, 2};
        drive_record record;
        record.id = drive(i);
        record.node = node(i);
        record.path = "/srv/weft";
        record.host = "127.0.0.1";
        record.port = 7480;
        record.size_bytes = record.free_bytes = 100 * gib;
        view.drives[record.id] = {record, 3};
    }
    return view;
}

/// What the engine of volume "db" says: its first replica is linked, the others as told.
inline engine_report report(const cluster_view& view, const std::vector<bool>& others) {
    const auto& record = view.volumes.at("db").record;
    core::engine_status engine;
    engine.state = core::engine_state::serving;
    for (std::size_t i = 0; i < record.extents[0].replicas.size(); ++i) {
        core::slot_status slot;
        slot.id = record.extents[0].replicas[i].id;
        slot.state = record.extents[0].replicas[i].state;
        slot.link_up = i == 0 || (i - 1 < others.size() && others[i - 1]);
        engine.slots.push_back(slot);
    }
    return {record.id, {engine}};
}

}  // namespace weft::test
