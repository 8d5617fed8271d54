// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/core/repairs.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "orchestrator/core/growth.hpp"
#include "orchestrator/core/names.hpp"

namespace weft {

namespace {

constexpr std::size_t id_prefix_min = 4;  // characters

/// The writer of a dead node, or one that an operator ends: as transitions::abandon, without being it.
void end_writer(volume_record& record) {
    record.writer = node_name{};
    record.maintenance = false;
    record.clean = record.epoch == 0;
}

std::string describe(const volume_record& record, const replica_record& replica) {
    return fmt::format("replica {} of volume '{}' on node {}", replica.id.str(), printable(record.name),
                       printable(replica.node.str()));
}

/// The lowest place in the set that none but the last of these has.
std::uint32_t free_leg(const std::vector<replica_record>& replicas) {
    std::uint32_t leg = 0;
    while (std::any_of(replicas.begin(), std::prev(replicas.end()),
                       [&](const replica_record& one) { return one.leg == leg; }))
        ++leg;
    return leg;
}

}  // namespace

result<volume_record> replace_replica(volume_record record, std::size_t extent, const std::optional<replica_id>& old,
                                      const replica_record& fresh) {
    if (extent >= record.extents.size())
        return error{errc::not_found, fmt::format("volume '{}' has no extent {}", printable(record.name), extent)};
    extent_record& where = record.extents[extent];
    auto& replicas = where.replicas;
    if (std::none_of(replicas.begin(), replicas.end(),
                     [](const replica_record& one) { return is_up_to_date(one) && one.created && !one.recovering; }))
        return error{errc::no_quorum,
                     fmt::format("volume '{}': extent {} has no up-to-date replica to fill another from",
                                 printable(record.name), extent)};
    if (old) {
        const auto found =
            std::find_if(replicas.begin(), replicas.end(), [&](const replica_record& one) { return one.id == *old; });
        if (found == replicas.end())
            return error{errc::not_found,
                         fmt::format("volume '{}' has no replica {} (any more)", printable(record.name), old->str())};
        if (is_up_to_date(*found)) return error{errc::conflict, describe(record, *found) + " is up to date and stays"};
        replicas.erase(found);
    } else if (replicas.size() >= record.replicas_wanted) {
        return error{errc::conflict, fmt::format("volume '{}': extent {} has its {} replicas already",
                                                 printable(record.name), extent, replicas.size())};
    }
    for (const auto& one : replicas)
        if (one.node == fresh.node || one.drive == fresh.drive)
            return error{errc::conflict, describe(record, one) + " is there already"};
    replicas.push_back(fresh);
    replicas.back().leg = record.layout.mirrored ? free_leg(replicas) : 0;
    replicas.back().state = replica_state::inconsistent;
    replicas.back().created = false;
    replicas.back().born_equal = false;
    replicas.back().recovering = false;
    return record;
}

result<volume_record> replacement_attempts::decide(volume_record record) {
    if (extent_ < record.extents.size())
        for (const auto& one : record.extents[extent_].replicas) {
            if (std::find(drawn_.begin(), drawn_.end(), one.id) == drawn_.end()) continue;
            fresh_.id = one.id;
            return record;
        }
    fresh_.id = drawn_.emplace_back(draw_());
    return replace_replica(std::move(record), extent_, old_, fresh_);
}

std::string loss_by_forgetting(const volume_record& record, const node_name& node) {
    for (const auto& extent : record.extents) {
        const bool there = std::any_of(extent.replicas.begin(), extent.replicas.end(), [&](const replica_record& one) {
            return one.node == node && is_up_to_date(one);
        });
        if (!there) continue;
        const auto left = static_cast<std::uint64_t>(std::count_if(
            extent.replicas.begin(), extent.replicas.end(),
            [&](const replica_record& one) { return one.node != node && is_up_to_date(one) && !one.recovering; }));
        const bool others = std::any_of(extent.replicas.begin(), extent.replicas.end(),
                                        [&](const replica_record& one) { return one.node != node; });
        if (!others)
            return fmt::format("'{}' (its only replica is there: all of its data is lost)", printable(record.name));
        if (left == 0)
            return fmt::format(
                "'{}' (its last up-to-date replica is there: what was written since the others fell behind "
                "is lost, and `weft volume recover` must name the one to go on from)",
                printable(record.name));
        if (left < record.min_replicas)
            return fmt::format(
                "'{}' ({} up-to-date replica{} would be left of at least {}: acknowledged writes would be "
                "in fewer places than its min-replicas promises)",
                printable(record.name), left, left == 1 ? "" : "s", record.min_replicas);
    }
    return {};
}

result<forgotten_node> forget_node(volume_record record, const node_name& node, bool force) {
    if (const auto loss = loss_by_forgetting(record, node); !loss.empty() && !force)
        return error{errc::no_quorum, "volume " + loss};
    forgotten_node done;
    for (auto& extent : record.extents) {
        const auto away = [&](const replica_record& one) { return one.node == node; };
        if (std::all_of(extent.replicas.begin(), extent.replicas.end(), away)) {
            for (auto& one : extent.replicas) {
                one.state = replica_state::failed;
                one.recovering = false;
            }
            continue;
        }
        std::copy_if(extent.replicas.begin(), extent.replicas.end(), std::back_inserter(done.removed), away);
        extent.replicas.erase(std::remove_if(extent.replicas.begin(), extent.replicas.end(), away),
                              extent.replicas.end());
    }
    const auto grows_there = nodes_of(record.growth);
    if (grows_there.contains(node)) {
        auto given_up = give_up_growth(std::move(record));
        record = std::move(given_up.record);
        done.removed.insert(done.removed.end(), given_up.removed.begin(), given_up.removed.end());
    }
    if (record.writer == node) end_writer(record);
    done.record = std::move(record);
    return done;
}

result<replica_id> find_replica_by_text(const volume_record& record, const std::string& text) {
    std::vector<replica_id> fitting;
    std::string all;
    for (const auto& extent : record.extents)
        for (const auto& one : extent.replicas) {
            if (one.id.str() == text) return one.id;
            if (text.size() >= id_prefix_min && one.id.str().starts_with(text)) fitting.push_back(one.id);
            all += fmt::format("{}{} on {} ({})", all.empty() ? "" : ", ", one.id.str(), one.node.str(),
                               to_string(one.state));
        }
    if (fitting.size() == 1) return fitting.front();
    if (fitting.size() > 1)
        return error{errc::invalid_argument,
                     fmt::format("'{}' fits {} replicas; give more of the id", printable(text), fitting.size())};
    return error{errc::not_found, fmt::format("volume '{}' has no replica '{}'; give the id, or at least its first {} "
                                              "characters, of one of: {}",
                                              printable(record.name), printable(text), id_prefix_min, all)};
}

result<volume_record> recover_from(volume_record record, const replica_id& from, const std::set<replica_id>& reachable,
                                   bool writer_alive, bool accepted) {
    if (!record.writer.empty() && writer_alive && !record.maintenance)
        return error{errc::busy, fmt::format("volume '{}' is in use on node {}; stop what uses it there first",
                                             printable(record.name), printable(record.writer.str()))};
    for (auto& extent : record.extents) {
        const auto chosen = std::find_if(extent.replicas.begin(), extent.replicas.end(),
                                         [&](const replica_record& one) { return one.id == from; });
        if (chosen == extent.replicas.end()) continue;
        for (const auto& one : extent.replicas)
            if (is_up_to_date(one) && reachable.contains(one.id))
                return error{
                    errc::invalid_argument,
                    describe(record, one) + " is up to date and can be reached: nothing is to be recovered here"};
        if (!reachable.contains(from) || !chosen->created)
            return error{errc::invalid_argument, describe(record, *chosen) +
                                                     " cannot be reached: its node, or the "
                                                     "replica server of its drive, is down"};
        if (!accepted) {
            const bool whole = chosen->state == replica_state::outdated;
            return error{
                errc::invalid_argument,
                fmt::format("{} is {}: {} is lost for good, also where another replica still has it; repeat with "
                            "--accept-data-loss if that is wanted",
                            describe(record, *chosen), to_string(chosen->state),
                            whole ? "everything that was written since it fell behind"
                                  : "it was never filled completely or is half-way through a resync; what it "
                                    "lacks, which may be anything up to the whole file system,")};
        }
        for (auto& one : extent.replicas) {
            if (is_up_to_date(one)) one.state = replica_state::outdated;
            one.recovering = false;
        }
        chosen->state = replica_state::up_to_date;
        end_writer(record);
        return record;
    }
    return error{errc::not_found, fmt::format("volume '{}' has no replica {}", printable(record.name), from.str())};
}

}  // namespace weft
