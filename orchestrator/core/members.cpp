// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/core/members.hpp"

#include <fmt/format.h>

namespace weft {

result<std::vector<core::extent_members>> members_of(const volume_record& record, const cluster_view& view,
                                                     const node_name& me) {
    std::vector<core::extent_members> extents;
    for (const auto& extent : record.extents) {
        core::extent_members members{extent.size_bytes, {}};
        for (const auto& replica : extent.replicas) {
            const auto drive = view.drives.find(replica.drive);
            if (drive == view.drives.end())
                return error{errc::unavailable,
                             fmt::format("the record of drive {} on node {}, which holds replica {} of volume {}, is "
                                         "not readable",
                                         replica.drive.str(), replica.node.str(), replica.id.str(), record.name)};
            members.replicas.push_back({{replica.id, replica.state, replica.node == me},
                                        drive->second.record.host,
                                        drive->second.record.port});
        }
        extents.push_back(std::move(members));
    }
    return extents;
}

}  // namespace weft
