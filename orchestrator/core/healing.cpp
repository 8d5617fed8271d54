// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/core/healing.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "orchestrator/core/maintenance.hpp"
#include "orchestrator/core/mirror.hpp"

namespace weft {

namespace {

// In one plan; the rest is planned again when these are committed. Bounds the work of a pass after a large node's
// death.
constexpr std::size_t replacements_max = 8;

/// Why it counts as missing, for people; empty: it does not.
std::string missing(const replica_record& replica, const absences& overdue) {
    if (overdue.reached.contains(replica.id) && replica.state != replica_state::failed) return {};
    if (overdue.nodes.contains(replica.node)) return fmt::format("node {} is gone", replica.node.str());
    if (overdue.drives.contains(replica.drive))
        return fmt::format("drive {} on node {} is down", replica.drive.str(), replica.node.str());
    if (!overdue.replicas.contains(replica.id)) return {};
    return replica.state == replica_state::failed ? std::string("it failed")
                                                  : fmt::format("it cannot be reached on node {}", replica.node.str());
}

std::string names(const std::set<node_name>& nodes) {
    std::string text;
    for (const auto& node : nodes) text += (text.empty() ? "" : ", ") + node.str();
    return text;
}

class planner {
public:
    planner(const healing_look& look, healing_plan& plan) : look_(look), plan_(plan) {
        std::vector<drive_record> drives;
        for (const auto& [id, drive] : look.view.drives) drives.push_back(drive.record);
        std::vector<volume_record> volumes;
        for (const auto& [name, volume] : look.view.volumes) volumes.push_back(volume.record);
        pool_ = make_pool(drives, volumes);
    }

    void plan_volume(const volume_record& record) {
        for (std::size_t i = 0; i < record.extents.size(); ++i) plan_extent(record, i);
    }

private:
    void plan_extent(const volume_record& record, std::size_t number) {
        const extent_record& extent = record.extents[number];
        const auto good = static_cast<std::size_t>(
            std::count_if(extent.replicas.begin(), extent.replicas.end(), [&](const replica_record& one) {
                return is_up_to_date(one) && one.created && !one.recovering && is_present(one, look_.view, look_.alive);
            }));
        if (good == 0) {
            report_no_source(record, number);
            return;
        }
        for (const auto& one : extent.replicas) {
            const std::string why = missing(one, look_.overdue);
            if (why.empty()) {
                if (is_renewable(record, one) && is_present(one, look_.view, look_.alive)) renew(record, number, one);
                continue;
            }
            if (is_up_to_date(one))
                consider_demotion(record, number, one, why, good);
            else
                place(record, number, one, why);
        }
        if (extent.replicas.size() < record.replicas_wanted)
            place(record, number, std::nullopt,
                  fmt::format("it has {} of {} replicas", extent.replicas.size(), record.replicas_wanted));
    }

    void place(const volume_record& record, std::size_t number, const std::optional<replica_record>& old,
               const std::string& why) {
        if (plan_.replacements.size() >= replacements_max) return;
        extent_record rest = record.extents[number];
        std::set<drive_id> avoid;
        if (old) {
            std::erase_if(rest.replicas, [&](const replica_record& one) { return one.id == old->id; });
            avoid.insert(old->drive);
        }
        auto found = place_replacement(pool_, look_.alive, rest, avoid, record.thick);
        if (found.has_error()) {
            plan_.troubles.push_back(
                {"volume " + record.name,
                 fmt::format("no place {} {} {} {}", number, why, to_string(found.error().code), names(look_.alive)),
                 fmt::format("extent {} is not repaired although {}: {}", number, why, found.error().text),
                 found.error().code});
            return;
        }
        for (auto& drive : pool_)
            if (drive.record.id == found->drive) {
                drive.promised_bytes += rest.size_bytes;
                if (record.thick) drive.reserved_bytes += rest.size_bytes;
                drive.replicas += 1;
            }
        plan_.replacements.push_back({record.name, record.id, number, old, std::move(*found), why});
    }

    /// In the same place, which holds already what it takes.
    void renew(const volume_record& record, std::size_t number, const replica_record& one) {
        if (plan_.replacements.size() >= replacements_max) return;
        plan_.replacements.push_back(
            {record.name, record.id, number, one, {one.drive, one.node}, "it missed writes, and a leg is filled anew"});
    }

    void report_no_source(const volume_record& record, std::size_t number) {
        const auto& replicas = record.extents[number].replicas;
        const bool lost = std::none_of(replicas.begin(), replicas.end(), is_up_to_date);
        const bool any_missing = std::any_of(replicas.begin(), replicas.end(), [&](const replica_record& one) {
            return !missing(one, look_.overdue).empty();
        });
        if (!lost && !any_missing) return;
        plan_.troubles.push_back(
            {"volume " + record.name, fmt::format("no source {} {}", number, lost),
             lost
                 ? fmt::format(
                       "extent {} has no up-to-date replica left: choose the one to go on from with `weft volume "
                       "recover`",
                       number)
                 : fmt::format("extent {} is not repaired: none of its up-to-date replicas can be reached; bring their "
                               "nodes back, or see `weft node forget` and `weft volume recover`",
                               number)});
    }

    /// The record trusts it. An engine demotes it: the writer's, which does so by itself, or one that is attached for
    /// it, if there is a place for another.
    void consider_demotion(const volume_record& record, std::size_t number, const replica_record& one,
                           const std::string& why, std::size_t good) {
        if (good < std::max<std::size_t>(record.min_replicas, 1)) {
            plan_.troubles.push_back(
                {"volume " + record.name, "needed " + one.id.str(),
                 fmt::format("replica {} is not replaced although {}: {} up-to-date replica{} can be reached and "
                             "min-replicas is {}, so writes wait for it; bring it back or lower min-replicas",
                             one.id.str(), why, good, good == 1 ? "" : "s", record.min_replicas)});
            return;
        }
        if (!may_be_maintained(record, {look_.view, look_.alive})) return;
        const std::size_t before = plan_.replacements.size();
        place(record, number, one, why);  // only to see, and to say, whether that is possible
        if (plan_.replacements.size() == before) return;
        plan_.replacements.pop_back();
        plan_.demotions.push_back({record.name, record.id, one.id,
                                   fmt::format("replica {} must be demoted to be replaced: {}", one.id.str(), why)});
    }

    const healing_look& look_;
    healing_plan& plan_;
    std::vector<pool_drive> pool_;
};

}  // namespace

node_name caretaker(const volume_record& record, const cluster_view& view, const std::set<node_name>& alive) {
    if (!record.writer.empty()) return alive.contains(record.writer) ? record.writer : node_name{};
    const auto node = maintenance_node(record, view, alive);
    return node.empty() && !alive.empty() ? *alive.begin() : node;
}

std::set<node_name> partitioned(const healing_look& look) {
    std::set<node_name> unreached;
    std::set<node_name> reached;
    for (const auto& [name, volume] : look.view.volumes)
        for (const auto& extent : volume.record.extents)
            for (const auto& one : extent.replicas) {
                if (look.overdue.reached.contains(one.id)) reached.insert(one.node);
                if (look.overdue.replicas.contains(one.id) && one.state != replica_state::failed)
                    unreached.insert(one.node);
            }
    std::set<node_name> all;
    std::set<node_name> away;
    for (const auto& [id, drive] : look.view.drives) {
        const node_name& node = drive.record.node;
        all.insert(node);
        if (!look.alive.contains(node) || (unreached.contains(node) && !reached.contains(node))) away.insert(node);
    }
    if (2 * away.size() < all.size()) away.clear();
    return away;
}

healing_plan plan_healing(const healing_look& look, const volume_record* only) {
    healing_plan plan;
    planner work(look, plan);
    if (only != nullptr) {
        work.plan_volume(*only);
        return plan;
    }
    const auto away = partitioned(look);
    const bool any_due = !look.overdue.nodes.empty() || !look.overdue.drives.empty() || !look.overdue.replicas.empty();
    if (!away.empty()) {
        // Said by one node only: the first of those that live.
        if (any_due && !look.alive.empty() && *look.alive.begin() == look.me)
            plan.troubles.push_back(
                {"cluster", fmt::format("partition {}", names(away)),
                 fmt::format("nothing is replaced: the nodes {} do not answer, which is half or more of those with "
                             "drives and so rather a partition than a failure; bring them back, or use `weft volume "
                             "repair` or `weft node forget`",
                             names(away))});
        return plan;
    }
    for (const auto& [name, volume] : look.view.volumes)
        if (caretaker(volume.record, look.view, look.alive) == look.me) work.plan_volume(volume.record);
    return plan;
}

}  // namespace weft
