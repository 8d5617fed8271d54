// SPDX-License-Identifier: Apache-2.0
// From records to what a volume server is told: the replicas of every extent, their states and where they are served.
// Pure.
#pragma once

#include "nbd-backend/core/control_message.hpp"
#include "orchestrator/core/cluster_view.hpp"

namespace weft {

/// One entry per extent, in order; replicas in the record's order (the engine's slots); and the policy. Errors:
/// unavailable when the record of a drive is not there, naming it: without an address the engine could not even wait
/// for the replica.
result<core::members_message> members_of(const volume_record& record, const cluster_view& view, const node_name& me);

/// What the record wants of the engine. A scrub that is finished is not asked for again.
core::engine_policy policy_of(const volume_record& record);

}  // namespace weft
