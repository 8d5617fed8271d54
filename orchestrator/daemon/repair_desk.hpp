// SPDX-License-Identifier: Apache-2.0
// What an operator decides about replicas: repair at once, forget a dead node, go on from a replica that is behind
// (R12).
//
// Each is a series of compare-and-swaps that may be cut off anywhere: the same command, given again, goes on where it
// stood. Nothing is assumed of other nodes but what the store says. Blocks (seconds); any thread; holds no lock.
#pragma once

#include <functional>
#include <string>

#include "orchestrator/api/service.hpp"
#include "orchestrator/daemon/healer.hpp"

namespace weft {

class repair_desk {
public:
    struct environment {
        const daemon_options& options;
        store& cluster;
        cluster_cache& cache;
        volume_records& records;
        event_log& events;
        volume_maintenance& maintenance;
        healer& healing;
        std::function<void()> wake_reconciler;
    };
    explicit repair_desk(environment around) : env_(std::move(around)) {}

    // As service.hpp says.
    result<repair_view> repair(const std::string& name);
    result<repair_view> recover(const std::string& name, const std::string& from, bool accept_data_loss);
    result<repair_view> forget(const std::string& node, bool force);

private:
    result<healing_plan> plan(const std::string& name);
    status have_demoted(const demotion_wish& wish);
    status may_forget(const cluster_view& view, const node_name& node, bool force);
    status strip(const cluster_view& view, const node_name& node, bool force, repair_view& told);
    status erase_node(const node_name& node, repair_view& told);

    const environment env_;
};

}  // namespace weft
