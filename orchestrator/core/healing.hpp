// SPDX-License-Identifier: Apache-2.0
// Self-healing: which replicas are replaced, where by, and why not. Pure; every node computes it, the caretaker of a
// volume carries it out (one compare-and-swap of the record, repairs.hpp).
//
// A replica is replaced when it is *missing* and *not up_to_date*. Missing: its node, its drive or the replica itself
// has been away for the grace period (absence.hpp), or the record calls it failed for so long. What the record calls
// up_to_date is not touched: the engine demotes it as soon as R4 allows that, and for a volume that nobody uses a
// maintenance attachment is made for it. So the last up_to_date replica, and one that min_replicas needs, always stay.
//
// A partition is not a failure. Nobody is replaced while half or more of the nodes with drives are away: a node that
// sees so many vanish is more likely on the wrong side of a cut, or the store or the power has failed, than that so
// many machines died at once; and copying everything onto the few that are left would fill and slow down just those, on
// which everything depends now. With fewer than half away the rest is a majority, to which a store with a quorum
// answers; whoever is cut off from it cannot change records, so only one side can ever replace anything. In a cluster
// of two every absence is half of it; there would be no third node to go to either. An operator may know better:
// `weft volume repair` and `weft node forget` do not ask this rule. A node whose lease is valid, but none of whose
// replicas this node's engines can reach, counts as away too: it may be this node that is cut off.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "orchestrator/core/absence.hpp"
#include "orchestrator/core/placement.hpp"

namespace weft {

struct replacement {
    std::string volume;
    volume_id id;
    std::size_t extent = 0;
    std::optional<replica_record> old;  // none: the extent has fewer replicas than wanted
    placed_replica place;
    std::string why;  // for people: "node n2 is gone"
};

/// Why something is not repaired. `mark` changes when the reason does; figures in the text change all the time.
struct healing_trouble {
    std::string subject;  // "volume db", "cluster"
    std::string mark;
    std::string text;
    errc code = errc::no_quorum;  // for an operator who asked for the repair
};

/// A maintenance attachment is wanted, because an engine must demote a replica before it can be replaced.
struct demotion_wish {
    std::string volume;
    volume_id id;
    replica_id replica;
    std::string why;
};

struct healing_plan {
    std::vector<replacement> replacements;
    std::vector<demotion_wish> demotions;
    std::vector<healing_trouble> troubles;
};

struct healing_look {
    const cluster_view& view;
    node_name me;
    const std::set<node_name>& alive;  // lease not expired
    const absences& overdue;
};

/// Who looks after a volume: its writer while that lives; nobody while the writer's lease has expired (whoever wants
/// the volume takes it over); without a writer the node that would attach it for maintenance, or, to report that none
/// can, the first that lives.
node_name caretaker(const volume_record& record, const cluster_view& view, const std::set<node_name>& alive);

/// The nodes with drives that are away; not empty only when they are too many for anything to be replaced.
std::set<node_name> partitioned(const healing_look& look);

/// What is to be done by `look.me` now. `only`: this volume alone, whoever its caretaker is, and whatever is away (an
/// operator asks); else every volume that `me` looks after.
healing_plan plan_healing(const healing_look& look, const volume_record* only = nullptr);

}  // namespace weft
