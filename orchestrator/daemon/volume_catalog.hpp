// SPDX-License-Identifier: Apache-2.0
// Making and removing volumes: changes of the store that the nodes then carry out (create_replica, trash).
//
// Create is idempotent cluster-wide: of several creators one commit wins, the others find the volume and wait for it
// like the winner. The record is there first, then the files; create answers when all files are. If a node does not
// deliver in time the volume is removed again and the error names that node. Remove takes the name away and hands every
// replica to the trash in one commit, so it needs no node but this one. Blocks (create: up to ready_wait); any thread;
// holds no lock meanwhile.
#pragma once

#include <string>

#include "orchestrator/api/service.hpp"
#include "orchestrator/core/placement.hpp"
#include "orchestrator/daemon/cluster_cache.hpp"
#include "orchestrator/daemon/event_log.hpp"
#include "orchestrator/daemon/volume_keeper.hpp"

namespace weft {

class volume_catalog {
public:
    struct environment {
        const daemon_options& options;
        store& cluster;
        cluster_cache& cache;
        volume_records& records;
        event_log& events;
        volume_keeper& keeper;
        std::function<void()> wake_reconciler;
    };
    explicit volume_catalog(environment around) : env_(std::move(around)) {}

    status create(const std::string& name, const volume_options& options);
    status remove(const std::string& name);
    /// `weft volume set`; returns the new record. Errors: not_found, those of parse_policy_change and change_policy,
    /// the store's.
    result<volume_record> set_policy(const std::string& name, const volume_options& options);
    /// `weft volume grow`: returns the new record when every new replica exists. The device and the file system follow
    /// where the volume is in use. Errors: invalid_argument (smaller, not a size), not_found, busy (it is growing),
    /// no_space, no_quorum (no place), timed_out (a node did not deliver; the volume is as it was), the store's.
    result<volume_record> grow(const std::string& name, const std::string& size);
    /// `weft volume scrub`; the record then asks for one. Errors: not_found, the store's.
    result<volume_record> scrub(const std::string& name);

private:
    /// A new volume's record, and in `change` the commit that makes it.
    result<volume_record> draft(const std::string& name, const volume_options& options, store_commit& change);
    result<volume_record> draft_growth(const volume_record& record, const extent_split& split,
                                       const cluster_view& view);
    result<volume_record> wait_grown(const volume_record& growing, std::uint64_t revision);
    result<volume_record> change_existing(const std::string& name, const volume_records::decision& decide);
    status wait_ready(const versioned<volume_record>& known);
    status to_trash(const volume_record& record, std::uint64_t revision);

    const environment env_;
};

}  // namespace weft
