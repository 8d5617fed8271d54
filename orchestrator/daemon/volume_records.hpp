// SPDX-License-Identifier: Apache-2.0
// Read, decide, compare-and-swap, read again: the one way in which this node changes a volume's record.
//
// The decision is a pure function of the record (transitions.hpp) and may be called several times: a lost race or a
// commit whose outcome is unknown is answered by reading again and deciding again. Committed records are put into the
// cache before the call returns. Blocks on the store; any thread; holds no lock meanwhile.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "orchestrator/core/records.hpp"
#include "orchestrator/daemon/cluster_cache.hpp"
#include "orchestrator/io/store.hpp"

namespace weft {

class volume_records {
public:
    using decision = std::function<result<volume_record>(volume_record)>;

    volume_records(store& source, cluster_cache& cache) : store_(source), cache_(cache) {}

    /// Straight from the store. Errors: unavailable, corrupt.
    result<std::optional<versioned<volume_record>>> read(const std::string& name);

    /// Commits what `decide` makes of the record; returns it. Errors: not_found when there is no such volume or it has
    /// another id (removed and made again); those of `decide`; the store's; conflict after very many lost races.
    result<versioned<volume_record>> change(const std::string& name, const volume_id& id, const decision& decide);
    /// As above; `also` adds to the commit what must change together with the record (trash).
    using addition = std::function<void(store_commit&)>;
    result<versioned<volume_record>> change(const std::string& name, const volume_id& id, const decision& decide,
                                            const addition& also);

private:
    store& store_;
    cluster_cache& cache_;
};

/// These replicas of the volume become trash with that commit; their nodes delete the files.
void bury(const std::vector<replica_record>& replicas, const std::string& volume, store_commit& change);

/// Is this node's lease alive, seen from the store now? Errors: unavailable.
result<std::chrono::milliseconds> lease_remaining(store& source, const node_name& node);

}  // namespace weft
