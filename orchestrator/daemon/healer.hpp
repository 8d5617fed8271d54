// SPDX-License-Identifier: Apache-2.0
// Self-healing on this node: looks at who is away, replaces what core/healing.hpp says, has volumes attached for
// repair, and tells once why something is not repaired.
//
// It looks only while the store answers and this node's lease is held: a node that is cut off has no opinion about
// others, and what it could not see does not count as their absence. `look` belongs to the planner's thread; `replace`
// to any.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "orchestrator/core/absence.hpp"
#include "orchestrator/core/healing.hpp"
#include "orchestrator/daemon/event_log.hpp"
#include "orchestrator/daemon/lease_keeper.hpp"
#include "orchestrator/daemon/volume_maintenance.hpp"

namespace weft {

class healer {
public:
    struct environment {
        const daemon_options& options;
        volume_records& records;
        event_log& events;
        lease_keeper& lease;
        volume_maintenance& maintenance;
    };
    explicit healer(environment around) : env_(around) {}

    /// `current`: the store answered the latest look.
    void look(const cluster_view& view, bool current, const volume_maintenance::submit& hand_over);

    /// Commits one replacement, and says so to the events and the caller. Errors: those of replace_replica (conflict
    /// and not_found: look again), the store's.
    result<std::string> replace(const replacement& what);

private:
    void tell(const std::vector<healing_trouble>& troubles);

    const environment env_;
    absence_book book_;           // planner's thread only
    std::set<std::string> told_;  // as above: subjects and marks of the troubles that last
};

}  // namespace weft
