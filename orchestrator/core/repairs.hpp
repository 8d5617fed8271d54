// SPDX-License-Identifier: Apache-2.0
// The legal changes of which replicas a volume has, and R12: pure functions from record to record.
//
// Laws:
//   - a replica that the record calls up_to_date leaves it only when its node is forgotten by an operator's decision;
//     everybody else must have it demoted first, by the engine that knows (R2, R4);
//   - a replica is removed or added only while its extent has an up_to_date one to fill the new one from: without one,
//     an outdated replica may be what an operator goes on from (R12);
//   - the writer and the epoch stay: a running engine learns of the change by its members message (and R8 fills the new
//     replica). Only what an operator decides about a dead writer ends its attachment.
#pragma once

#include <functional>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "orchestrator/core/records.hpp"

namespace weft {

/// Puts `fresh` (inconsistent, not created, not born equal) into an extent, in the place of `old` if there is one.
/// Errors: not_found (no such extent; `old` is not in it any more); conflict (`old` is up_to_date by now, or there are
/// enough replicas already, or one is on that node or drive): look again; no_quorum (no up_to_date replica to fill it).
result<volume_record> replace_replica(volume_record record, std::size_t extent, const std::optional<replica_id>& old,
                                      const replica_record& fresh);

/// One replacement, decided again as often as its commit has to be tried. A commit whose outcome was unknown finds its
/// replica in the record. If it does not, the next attempt has another id: the first one may have been there and been
/// removed since, and a proposal about it that is still on its way must not fit another replica (I3 in the README of
/// nbd-backend).
class replacement_attempts {
public:
    /// `fresh`: node and drive of the new replica. `draw`: a new id with each call.
    replacement_attempts(std::size_t extent, std::optional<replica_id> old, replica_record fresh,
                         std::function<replica_id()> draw)
        : extent_(extent), old_(std::move(old)), fresh_(std::move(fresh)), draw_(std::move(draw)) {}

    /// Errors: as replace_replica.
    result<volume_record> decide(volume_record record);
    /// As the latest decision has it.
    [[nodiscard]] const replica_record& fresh() const noexcept { return fresh_; }

private:
    const std::size_t extent_;
    const std::optional<replica_id> old_;
    replica_record fresh_;
    const std::function<replica_id()> draw_;
    std::vector<replica_id> drawn_;
};

/// What forgetting a node does to one volume.
struct forgotten_node {
    volume_record record;
    std::vector<replica_record> removed;  // become trash
};

/// What would be lost if `node` were forgotten; empty: nothing. One sentence for people, naming the volume.
std::string loss_by_forgetting(const volume_record& record, const node_name& node);

/// Takes the replicas on `node` out, and the writer if it was there (clean = false). An extent that has no other
/// replica keeps them as `failed`: its data is gone, the volume stays unavailable until it is removed. Errors:
/// no_quorum when loss_by_forgetting has something to say, unless `force`.
result<forgotten_node> forget_node(volume_record record, const node_name& node, bool force);

/// The replica that `text` names in a volume: its id, or the first characters of it (at least 4). Errors:
/// invalid_argument (too short, several), not_found.
result<replica_id> find_replica_by_text(const volume_record& record, const std::string& text);

/// R12: `from` becomes up_to_date although it is not; replicas of its extent that were called so and cannot be reached
/// become outdated, and are overwritten where they differ when they come back. The writer ends, clean = false.
/// `reachable`: the replicas on living nodes and drives. Errors: not_found; busy (a live writer; `writer_alive`);
/// invalid_argument (an up_to_date replica is reachable: nothing needs recovering; `from` is not reachable; `accepted`
/// is false: the text says what may be lost).
result<volume_record> recover_from(volume_record record, const replica_id& from, const std::set<replica_id>& reachable,
                                   bool writer_alive, bool accepted);

}  // namespace weft
