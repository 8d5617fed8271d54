// SPDX-License-Identifier: Apache-2.0
// The legal changes of a volume record, as pure functions from record to record. Everything that commits a volume
// record goes through one of these or, for changes of which replicas there are, through repairs.hpp, so that R1, R4,
// R5, R8 and R11 are in one file.
#pragma once

#include <chrono>

#include "orchestrator/core/records.hpp"

namespace weft {

/// What R1 needs to know of the present writer.
enum class writer_liveness : std::uint8_t { alive, expired };

/// R1: writer = me, epoch + 1, clean = false. Allowed when there is no writer, when the writer is `me` (a volume server
/// that starts again is a new writer) or only repairs (`maintenance`), when the writer's lease has expired, or with
/// `force`. Errors: busy, naming the writer's node; no_quorum when an extent has no up_to_date replica (R12);
/// unavailable when replicas are not yet created.
result<volume_record> attach(volume_record record, const node_name& me, writer_liveness liveness, bool force);

/// As attach, to repair only: maintenance = true. Allowed when there is no writer, so that it never takes a volume from
/// anybody. Errors: busy, naming the writer's node; no_quorum, unavailable as attach.
result<volume_record> attach_for_maintenance(volume_record record, const node_name& me);

/// The writer that only repairs becomes one that is used, in the same epoch: its engine knows no difference. Errors:
/// stale_epoch unless writer == me and epoch matches.
result<volume_record> claim(volume_record record, const node_name& me, std::uint64_t epoch);

/// R11: writer = "", clean = true. Errors: stale_epoch unless writer == me and epoch matches.
result<volume_record> release(volume_record record, const node_name& me, std::uint64_t epoch);

/// Changes nothing, for a commit of its own: the new revision makes every older compare-and-swap fail, also one that
/// took us for dead. Errors: stale_epoch unless writer == me and epoch matches.
result<volume_record> reaffirm(volume_record record, const node_name& me, std::uint64_t epoch);

/// As release for a writer that cannot say that the replicas are equal (its server died): clean stays false.
result<volume_record> abandon(volume_record record, const node_name& me, std::uint64_t epoch);

/// R4/R8: sets a replica's state on behalf of the writer's engine; `recovering` only with up_to_date (core::proposal).
/// Errors: stale_epoch unless writer == me and epoch matches (R5); not_found for an unknown replica; no_quorum when it
/// would leave fewer than min_replicas (at least one) up_to_date, or none that is not recovering. Asking for the state
/// that it already has is not an error and still returns the record: the caller commits it all the same, because the
/// new revision is what makes an older compare-and-swap that is still on its way fail.
result<volume_record> set_replica_state(volume_record record, const node_name& me, std::uint64_t epoch,
                                        const replica_id& replica, replica_state to, bool recovering = false);

/// The files of a replica exist. With the last one of a growth the volume has grown. Errors: not_found.
result<volume_record> mark_created(volume_record record, const replica_id& replica);

/// The file system was made. Errors: stale_epoch unless writer == me and epoch matches.
result<volume_record> mark_formatted(volume_record record, const node_name& me, std::uint64_t epoch);

/// May `me` put another volume server in the place of the one that serves it? Only the node that uses it may. Errors:
/// busy, naming the writer's node; invalid_argument when nobody uses it.
status may_restart(const volume_record& record, const node_name& me);

/// May it be removed now? Errors: busy, naming the writer's node.
status may_remove(const volume_record& record, writer_liveness liveness);

}  // namespace weft
