// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/core/members.hpp"

#include <fmt/format.h>

namespace weft {

core::engine_policy policy_of(const volume_record& record) {
    return {record.resync_rate, record.on_full, record.scrub_wanted > record.scrub_finished ? record.scrub_wanted : 0,
            record.min_replicas};
}

result<core::members_message> members_of(const volume_record& record, const cluster_view& view, const node_name& me) {
    core::members_message all{{}, policy_of(record), record.layout};
    for (const auto& extent : record.extents) {
        core::extent_members members{extent.size_bytes, {}};
        for (const auto& replica : extent.replicas) {
            const auto drive = view.drives.find(replica.drive);
            if (drive == view.drives.end())
                return error{errc::unavailable,
                             fmt::format("the record of drive {} on node {}, which holds replica {} of volume {}, is "
                                         "not readable",
                                         replica.drive.str(), replica.node.str(), replica.id.str(), record.name)};
            members.replicas.push_back({{replica.id, replica.state, replica.node == me, replica.recovering},
                                        drive->second.record.host,
                                        drive->second.record.port});
        }
        all.extents.push_back(std::move(members));
    }
    return all;
}

}  // namespace weft
