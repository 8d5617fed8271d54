// SPDX-License-Identifier: Apache-2.0
// Who has been away for how long, as this weftd saw it: the grace period of self-healing. Pure: time is an argument.
//
// A stretch of absence begins with the first look that finds somebody away and ends with the first one that does not.
// It is counted by the process that looks, on its monotonic clock, and not kept anywhere: a weftd that is started
// again, or another node that takes the job over, begins at zero. That can only make a repair later than it might have
// been, never earlier; a time in the store would have to be compared between clocks, and believed after an outage of
// the store in which nobody could have said "I am here". For the same reason the looks during which the store did not
// answer do not count: `forget_all` is called then.
//
// Away can be: a node (its lease has expired), a drive (its node cannot keep its server running, or it was removed from
// the pool), a replica (the engine on this node cannot reach it, or the record calls it failed).
#pragma once

#include <chrono>
#include <map>
#include <set>
#include <vector>

#include "orchestrator/core/cluster_view.hpp"

namespace weft {

/// What has been away for at least the grace period.
struct absences {
    std::set<node_name> nodes;
    std::set<drive_id> drives;
    std::set<replica_id> replicas;
    /// An engine reached them within the last grace period although their node seems gone: its weftd is, it is not.
    std::set<replica_id> reached;
};

/// What one engine of this node knows of a volume's replicas.
struct engine_report {
    volume_id id;
    std::vector<core::engine_status> extents;
};

class absence_book {
public:
    /// One look at the cluster at `now` (monotonic, not before the last look's). `reports`: of the volumes that this
    /// node writes.
    void look(const cluster_view& view, const std::set<node_name>& alive, const std::vector<engine_report>& reports,
              std::chrono::nanoseconds now);
    void forget_all();
    [[nodiscard]] absences overdue(std::chrono::nanoseconds now, std::chrono::milliseconds grace) const;

private:
    template <typename Id>
    using since = std::map<Id, std::chrono::nanoseconds>;

    since<node_name> nodes_;
    since<drive_id> drives_;
    since<replica_id> replicas_;
    since<replica_id> reached_;  // the latest look at which an engine had a link
};

/// It can be served: its node's lease is valid and its drive's server runs, as far as the records tell.
bool is_present(const replica_record& replica, const cluster_view& view, const std::set<node_name>& alive);

}  // namespace weft
