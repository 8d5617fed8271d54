// SPDX-License-Identifier: Apache-2.0
// Looks after the policies of volumes on this node: tells when a volume begins and ends to wait for space, notes the
// end of scrubs, and asks for those that the schedule wants.
//
// What it does follows from the records and the engines' latest status, so a restarted weftd goes on; only the tale of
// a wait for space that goes on is then told again. Scrubs of a volume are asked for by its writer's node; while it has
// none, by the node that would attach it for maintenance, which does so because it is asked for. `look` belongs to the
// planner's thread and never blocks; changes of records go to the tasks.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <string>

#include "orchestrator/core/daemon_options.hpp"
#include "orchestrator/daemon/attachment.hpp"
#include "orchestrator/daemon/event_log.hpp"
#include "orchestrator/daemon/volume_records.hpp"

namespace weft {

class volume_watch {
public:
    struct environment {
        const daemon_options& options;
        volume_records& records;
        event_log& events;
        attachment_table& table;
    };
    /// Runs a task under a key: one of a key at a time.
    using submit = std::function<void(std::string key, std::string subject, std::function<status()> task)>;

    explicit volume_watch(environment around) : env_(around) {}

    /// The store answered the latest look: `view` is how things are.
    void look(const cluster_view& view, const submit& hand_over);

private:
    void look_at_space(const cluster_view& view, const volume_record& record,
                       const std::vector<core::engine_status>& extents);
    void look_at_scrub(const volume_record& record, const std::vector<core::engine_status>& extents,
                       const submit& hand_over);
    [[nodiscard]] bool asks_for_scrubs(const volume_record& record, const cluster_view& view) const;

    const environment env_;
    std::map<volume_id, std::chrono::nanoseconds> waiting_;  // planner's thread only: for space, since when
};

}  // namespace weft
