// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/core/transitions.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "nbd-backend/base/canary.hpp"
#include "orchestrator/core/names.hpp"

namespace weft {

namespace {

/// A source to go on from. A recovering replica is behind until it was made equal.
bool has_everything(const replica_record& replica) {
    return is_up_to_date(replica) && !replica.recovering;
}

/// R5: only the writer of this very epoch may go on.
status check_writer(const volume_record& record, const node_name& me, std::uint64_t epoch) {
    if (record.writer == me && record.epoch == epoch) return ok();
    const std::string now = record.writer.empty()
                                ? std::string("has no writer")
                                : fmt::format("is written by node {}", printable(record.writer.str()));
    return error{errc::stale_epoch,
                 fmt::format("volume '{}' {} at epoch {}; node {} at epoch {} may change nothing any more",
                             printable(record.name), now, record.epoch, printable(me.str()), epoch)};
}

error unknown_replica(const volume_record& record, const replica_id& replica) {
    return error{errc::not_found,
                 fmt::format("volume '{}' has no replica {}", printable(record.name), printable(replica.str()))};
}

/// The extent and the replica in it, or nullptr.
struct located {
    extent_record* extent = nullptr;
    replica_record* replica = nullptr;
};

located find_replica(volume_record& record, const replica_id& id) {
    for (auto& extent : record.extents)
        for (auto& replica : extent.replicas)
            if (replica.id == id) return {&extent, &replica};
    return {};
}

/// What the volume grows by is there: it is the volume's from now on.
void take_growth(volume_record& record) {
    for (auto& extent : record.growth.extents) record.extents.push_back(std::move(extent));
    auto& stripes = record.layout.stripes;
    std::vector<std::uint64_t> sizes;
    stripes.insert(stripes.end(), record.growth.stripes.begin(), record.growth.stripes.end());
    for (const auto& extent : record.extents) sizes.push_back(extent.size_bytes);
    record.size_bytes = core::volume_map::make(record.layout, sizes)->size_bytes();
    record.growth = {};
}

/// R12: every extent needs data to go on from, and (R6) replicas that are born equal must exist before the first write.
status check_extents_usable(const volume_record& record) {
    for (std::size_t i = 0; i < record.extents.size(); ++i) {
        const auto& replicas = record.extents[i].replicas;
        if (std::none_of(replicas.begin(), replicas.end(), has_everything))
            return error{errc::no_quorum,
                         fmt::format("volume '{}': extent {} has no up-to-date replica; an operator must decide which "
                                     "replica to go on from",
                                     printable(record.name), i)};
        for (const auto& replica : replicas)
            if (is_up_to_date(replica) && !replica.created)
                return error{errc::unavailable,
                             fmt::format("volume '{}' is still being created: waiting for node {} to make its replica",
                                         printable(record.name), printable(replica.node.str()))};
    }
    return ok();
}

}  // namespace

result<volume_record> attach(volume_record record, const node_name& me, writer_liveness liveness, bool force) {
    const bool taken =
        !record.writer.empty() && record.writer != me && !record.maintenance && liveness == writer_liveness::alive;
    if (taken && !force)
        return error{errc::busy, fmt::format("volume '{}' is in use on node {}; stop what uses it there first",
                                             printable(record.name), printable(record.writer.str()))};
    TRY(check_extents_usable(record));
    // Only a damaged record is there; one more would be 0, which every replica refuses and no decoder accepts.
    if (record.epoch == std::numeric_limits<std::uint64_t>::max())
        return error{errc::corrupt, fmt::format("volume '{}' has used up its epochs", printable(record.name))};
    record.writer = me;
    record.epoch += 1;
    record.maintenance = false;
    record.clean = false;
    return record;
}

result<volume_record> attach_for_maintenance(volume_record record, const node_name& me) {
    if (!record.writer.empty())
        return error{errc::busy, fmt::format("volume '{}' is in use on node {}: its own engine repairs it",
                                             printable(record.name), printable(record.writer.str()))};
    TRY_ASSIGN(auto changed, attach(std::move(record), me, writer_liveness::expired, false));
    changed.maintenance = true;
    return changed;
}

result<volume_record> claim(volume_record record, const node_name& me, std::uint64_t epoch) {
    TRY(check_writer(record, me, epoch));
    record.maintenance = false;
    return record;
}

result<volume_record> release(volume_record record, const node_name& me, std::uint64_t epoch) {
    TRY_ASSIGN(auto changed, abandon(std::move(record), me, epoch));
    changed.clean = true;
    return changed;
}

result<volume_record> reaffirm(volume_record record, const node_name& me, std::uint64_t epoch) {
    TRY(check_writer(record, me, epoch));
    return record;
}

result<volume_record> abandon(volume_record record, const node_name& me, std::uint64_t epoch) {
    TRY(check_writer(record, me, epoch));
    record.writer = node_name{};
    record.maintenance = false;
    record.clean = false;
    return record;
}

result<volume_record> set_replica_state(volume_record record, const node_name& me, std::uint64_t epoch,
                                        const replica_id& replica, replica_state to, bool recovering) {
    TRY(check_writer(record, me, epoch));
    const auto found = find_replica(record, replica);
    if (found.replica == nullptr) return unknown_replica(record, replica);
    const replica_state before = found.replica->state;
    if (is_up_to_date(*found.replica) && to < replica_state::up_to_date) {
        const auto& replicas = found.extent->replicas;
        const auto good = static_cast<std::uint64_t>(std::count_if(replicas.begin(), replicas.end(), is_up_to_date));
        const std::uint64_t needed = std::max<std::uint32_t>(record.min_replicas, 1);
        if (good <= needed && !canary::broken(canary::rule::demote_last))
            return error{errc::no_quorum,
                         fmt::format("volume '{}': replica {} on node {} is one of the last {} up-to-date ones and at "
                                     "least {} must stay; I/O waits for it to come back",
                                     printable(record.name), printable(replica.str()),
                                     printable(found.replica->node.str()), good, needed)};
    }
    found.replica->state = to;
    found.replica->recovering = recovering && is_up_to_date(*found.replica);
    const auto& replicas = found.extent->replicas;
    if ((before == replica_state::up_to_date || found.replica->recovering) &&
        std::none_of(replicas.begin(), replicas.end(), has_everything))
        return error{
            errc::no_quorum,
            fmt::format("volume '{}': replica {} on node {} is the last one that has everything; I/O waits for "
                        "another to come back",
                        printable(record.name), printable(replica.str()), printable(found.replica->node.str()))};
    return record;
}

result<volume_record> mark_created(volume_record record, const replica_id& replica) {
    const auto found = find_replica(record, replica);
    if (found.replica != nullptr) {
        found.replica->created = true;
        return record;
    }
    bool known = false;
    bool whole = true;
    for (auto& extent : record.growth.extents)
        for (auto& one : extent.replicas) {
            if (one.id == replica) known = one.created = true;
            whole = whole && one.created;
        }
    if (!known) return unknown_replica(record, replica);
    if (whole) take_growth(record);
    return record;
}

result<volume_record> mark_formatted(volume_record record, const node_name& me, std::uint64_t epoch) {
    TRY(check_writer(record, me, epoch));
    record.formatted = true;
    return record;
}

status may_restart(const volume_record& record, const node_name& me) {
    const std::string name = printable(record.name);
    if (record.writer.empty())
        return error{errc::invalid_argument,
                     fmt::format("volume '{}' is not attached: there is no volume server to restart, and the next "
                                 "attach starts one of its own",
                                 name)};
    if (record.maintenance)
        return error{errc::invalid_argument,
                     fmt::format("volume '{}' is not used by anybody, node {} only repairs it; the next attach starts "
                                 "a volume server of its own",
                                 name, printable(record.writer.str()))};
    if (record.writer == me) return ok();
    return error{errc::busy, fmt::format("volume '{}' is attached on node {}: run `weft volume restart {}` there", name,
                                         printable(record.writer.str()), name)};
}

status may_remove(const volume_record& record, writer_liveness liveness) {
    if (record.writer.empty() || record.maintenance || liveness == writer_liveness::expired) return ok();
    return error{errc::busy, fmt::format("volume '{}' is in use on node {}; stop what uses it there first",
                                         printable(record.name), printable(record.writer.str()))};
}

}  // namespace weft
