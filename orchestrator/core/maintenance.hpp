// SPDX-License-Identifier: Apache-2.0
// Maintenance attachments: which volumes that nobody uses want an engine for a while, on which node, and when it has
// done its work. Pure; the same records give the same answer on every node, and the store's compare-and-swap decides
// between two nodes whose records differ for a moment.
//
// Laws:
//   - only a volume without a writer is attached for maintenance: repair never takes a volume from anybody;
//   - only one that an engine can serve now (every extent has an up_to_date replica on a living node and drive, and
//   those
//     that are away may be demoted): an attempt that must fail helps nobody and makes an epoch;
//   - it ends as soon as nothing is left that it could do, and waits for lazy clearing only if everything is equal.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "orchestrator/core/absence.hpp"

namespace weft {

/// What is looked at besides the record.
struct maintenance_look {
    const cluster_view& view;
    const std::set<node_name>& alive;  // lease not expired
};

/// Nobody uses it, and an engine could serve it now.
bool may_be_maintained(const volume_record& record, const maintenance_look& look);

/// Why an engine should run although nobody uses the volume; empty: it should not. One line for people.
/// (That a replica must be demoted so that it can be replaced is healing.hpp's to say.)
std::string needs_maintenance(const volume_record& record, const maintenance_look& look);

/// The node that does it: the first by name that lives and has an up_to_date replica on a drive that is served; empty
/// when there is none.
node_name maintenance_node(const volume_record& record, const cluster_view& view, const std::set<node_name>& alive);

/// What decides whether an attempt could end in another way than the last: the replicas' states, who is there, and the
/// scrub that is asked for.
std::string repair_signature(const volume_record& record, const cluster_view& view, const std::set<node_name>& alive);

enum class repair_stage : std::uint8_t {
    working,   // something is being repaired, or could be as soon as a replica that should be there is reached
    settling,  // everything is equal, regions wait to be cleared (R6)
    finished,  // nothing left that this attachment could do
};

struct repair_state {
    repair_stage stage = repair_stage::working;
    bool serving = false;    // every extent's engine serves: it can be detached in order
    std::uint64_t mark = 0;  // differs when something moved since
};

/// `extents`: the engines' status, empty before the first.
repair_state repair_state_of(const volume_record& record, const std::vector<core::engine_status>& extents,
                             const cluster_view& view, const std::set<node_name>& alive);

}  // namespace weft
