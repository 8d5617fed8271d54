// SPDX-License-Identifier: Apache-2.0
// Records to test with: a volume with one extent and replicas on nodes n1, n2, …, all created and up_to_date.
#pragma once

#include <fmt/format.h>

#include <string>

#include "nbd-backend/base/units.hpp"
#include "orchestrator/core/records.hpp"

namespace weft::test {

/// "00000000-0000-4000-8000-00000000002a" for 42.
inline std::string uuid(unsigned number) {
    return fmt::format("00000000-0000-4000-8000-{:012x}", number);
}
inline node_name node(unsigned number) {
    return node_name{fmt::format("n{}", number)};
}
inline replica_id replica(unsigned number) {
    return replica_id{uuid(0x100 + number)};
}
inline drive_id drive(unsigned number) {
    return drive_id{uuid(0x200 + number)};
}

inline volume_record sample_volume(unsigned replicas = 2) {
    volume_record record;
    record.name = "db";
    record.id = volume_id{uuid(1)};
    record.size_bytes = 10 * gib;
    record.fs_uuid = uuid(2);
    record.replicas_wanted = replicas;
    record.created_at = "2024-05-01T12:00:00.000Z";
    extent_record extent;
    extent.size_bytes = record.size_bytes;
    for (unsigned i = 1; i <= replicas; ++i)
        extent.replicas.push_back({replica(i), node(i), drive(i), replica_state::up_to_date, true, true});
    record.extents.push_back(extent);
    record.layout = core::concatenation(record.extents.size());
    return record;
}

/// As above, attached on n1 at epoch 5.
inline volume_record attached_volume(unsigned replicas = 2) {
    auto record = sample_volume(replicas);
    record.epoch = 5;
    record.writer = node(1);
    record.clean = false;
    return record;
}

}  // namespace weft::test
