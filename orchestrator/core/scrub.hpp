// SPDX-License-Identifier: Apache-2.0
// Scrubs as the record sees them: one is asked for by a serial, carried out by the writer's engines, and finished when
// every extent's engine has compared everything under that serial. Pure.
//
//   scrub_wanted == scrub_finished   nothing is asked for
//   scrub_wanted >  scrub_finished   one is: the engines begin it, or begin it again after a change of writer
// A scrub that is asked for twice before it has finished is one scrub.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "orchestrator/core/event_record.hpp"
#include "orchestrator/core/records.hpp"

namespace weft {

struct scrub_result {
    std::uint64_t serial = 0;
    std::uint64_t compared_bytes = 0;   // of the volume
    std::uint64_t differing_bytes = 0;  // as core::scrub_status has them, all extents together
    std::uint64_t repaired_bytes = 0;
    std::uint64_t undecided_bytes = 0;
};

/// Asks for a scrub; the record unchanged if one is asked for already.
volume_record want_scrub(volume_record record);

/// The scrub that is asked for has come to its end on every extent; nullopt: not yet. `extents`: the engines' status.
std::optional<scrub_result> scrub_result_of(const volume_record& record,
                                            const std::vector<core::engine_status>& extents);

/// Notes the end. `time`: RFC 3339. Errors: stale_epoch unless writer == me and epoch matches (R5); conflict when
/// another scrub is asked for by now, or this one was noted already.
result<volume_record> finish_scrub(volume_record record, const node_name& me, std::uint64_t epoch,
                                   const scrub_result& outcome, std::string time);

/// The schedule (scrub_every_s) asks for one now: since the last one's end, or the volume's birth, so much time has
/// passed, and none is asked for. `unix_ms`: wall clock.
bool is_scrub_due(const volume_record& record, std::int64_t unix_ms);

/// "10 GiB compared, no difference", or what differed and what became of it.
std::string describe(const scrub_result& outcome);
/// error when something was undecided, warning when something differed, else info.
severity severity_of(const scrub_result& outcome);

}  // namespace weft
