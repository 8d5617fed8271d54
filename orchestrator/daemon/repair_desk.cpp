// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/daemon/repair_desk.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "orchestrator/core/maintenance.hpp"
#include "orchestrator/core/names.hpp"
#include "orchestrator/core/repairs.hpp"
#include "orchestrator/daemon/clock.hpp"

namespace weft {

namespace {

constexpr int rounds_max = 16;                     // replacements and demotions of one command
constexpr std::chrono::seconds demotion_wait{30};  // an engine that starts, fences and demotes (attach-timeout-ms)
constexpr int races_max = 32;

error no_such_volume(const std::string& name) {
    return error{errc::not_found, fmt::format("no such volume: '{}'", printable(name))};
}

bool mentions(const volume_record& record, const node_name& node) {
    const auto extents = all_extents(record);
    return record.writer == node || std::any_of(extents.begin(), extents.end(), [&](const auto* extent) {
               return std::any_of(extent->replicas.begin(), extent->replicas.end(),
                                  [&](const replica_record& one) { return one.node == node; });
           });
}

}  // namespace

result<healing_plan> repair_desk::plan(const std::string& name) {
    TRY(env_.cache.refresh());
    const auto view = env_.cache.view();
    const auto found = view->volumes.find(name);
    if (found == view->volumes.end()) return no_such_volume(name);
    const volume_record& record = found->second.record;
    const auto now = monotonic_now();
    const auto alive = living_nodes(*view, now);
    absence_book book;  // of one look, without a grace period: whatever is away now
    book.look(*view, alive, env_.maintenance.reports(), now);
    const auto overdue = book.overdue(now, std::chrono::milliseconds{0});
    if (!record.writer.empty() && !alive.contains(record.writer))
        return error{errc::busy,
                     fmt::format("volume '{}' is still attached on node {}, which does not answer: use the volume on "
                                 "another node, or take that node away with `weft node forget {}`",
                                 printable(name), printable(record.writer.str()), printable(record.writer.str()))};
    return plan_healing({*view, env_.options.node, alive, overdue}, &record);
}

status repair_desk::have_demoted(const demotion_wish& wish) {
    TRY(env_.maintenance.begin(wish.volume, wish.id, [&](const volume_record& record) {
        const auto view = env_.cache.view();
        const auto alive = living_nodes(*view, monotonic_now());
        return may_be_maintained(record, {*view, alive}) ? wish.why : std::string();
    }));
    const bool demoted = env_.cache.wait_until(
        [&](const cluster_view& view) {
            const auto* volume = find_volume(view, wish.id);
            if (volume == nullptr) return true;
            for (const auto& extent : volume->record.extents)
                for (const auto& one : extent.replicas)
                    if (one.id == wish.replica) return one.state != replica_state::up_to_date;
            return true;
        },
        std::chrono::steady_clock::now() + demotion_wait);
    if (demoted) return ok();
    return error{errc::timed_out, fmt::format("the engine did not demote replica {} within {} s: if it can be reached, "
                                              "it is not missing; see `weft events`",
                                              wish.replica.str(), demotion_wait.count())};
}

result<repair_view> repair_desk::repair(const std::string& name) {
    TRY(check_volume_name(name));
    repair_view told{name, {}};
    for (int round = 0; round < rounds_max; ++round) {
        TRY_ASSIGN(const auto todo, plan(name));
        if (todo.replacements.empty() && todo.demotions.empty()) {
            if (told.done.empty() && !todo.troubles.empty())
                return error{todo.troubles.front().code,
                             fmt::format("volume '{}': {}", name, todo.troubles.front().text)};
            break;
        }
        for (const auto& what : todo.replacements) {
            auto done = env_.healing.replace(what);
            if (done.has_value())
                told.done.push_back(std::move(*done));
            else if (done.error().code != errc::conflict && done.error().code != errc::not_found)
                return std::move(done).error();
        }
        if (todo.replacements.empty()) TRY(have_demoted(todo.demotions.front()));
    }
    env_.wake_reconciler();
    return told;
}

result<repair_view> repair_desk::recover(const std::string& name, const std::string& from, bool accept_data_loss) {
    TRY(check_volume_name(name));
    TRY(env_.cache.refresh());
    TRY_ASSIGN(const auto held, env_.records.read(name));
    if (!held) return no_such_volume(name);
    TRY_ASSIGN(const auto chosen, find_replica_by_text(held->record, from));
    const auto changed = env_.records.change(name, held->record.id, [&](volume_record record) -> result<volume_record> {
        const auto view = env_.cache.view();
        const auto alive = living_nodes(*view, monotonic_now());
        std::set<replica_id> reachable;
        for (const auto& extent : record.extents)
            for (const auto& one : extent.replicas)
                if (is_present(one, *view, alive)) reachable.insert(one.id);
        bool writer_alive = false;
        if (!record.writer.empty()) {
            TRY_ASSIGN(const auto left, lease_remaining(env_.cluster, record.writer));
            writer_alive = left.count() > 0;
        }
        return recover_from(std::move(record), chosen, reachable, writer_alive, accept_data_loss);
    });
    if (changed.has_error()) return changed.error();
    std::string text =
        fmt::format("goes on from replica {} as an operator decided; what it lacked is lost", chosen.str());
    env_.events.emit(severity::warning, "volume " + name, text);
    env_.wake_reconciler();
    return repair_view{name, {std::move(text)}};
}

status repair_desk::may_forget(const cluster_view& view, const node_name& node, bool force) {
    const std::string name = printable(node.str());
    const bool known = view.nodes.contains(node) ||
                       std::any_of(view.drives.begin(), view.drives.end(),
                                   [&](const auto& drive) { return drive.second.record.node == node; }) ||
                       std::any_of(view.volumes.begin(), view.volumes.end(),
                                   [&](const auto& volume) { return mentions(volume.second.record, node); });
    if (!known) return error{errc::not_found, fmt::format("there is no node '{}'; see `weft node ls`", name)};
    if (node == env_.options.node)
        return error{errc::busy, fmt::format("node '{}' is the one that is asked: it is alive", name)};
    TRY_ASSIGN(const auto left, lease_remaining(env_.cluster, node));
    if (left.count() > 0)
        return error{errc::busy,
                     fmt::format("node '{}' is alive, or was {:.1f} s before its lease runs out; only a dead "
                                 "node is forgotten: stop it first",
                                 name, static_cast<double>(left.count()) / 1000)};
    for (const auto& [key, problem] : view.bad)
        if (key.starts_with("volumes/") || key.starts_with("drives/"))
            return error{errc::corrupt, fmt::format("the record {} is not readable ({}), so nobody knows what would be "
                                                    "lost with node '{}'",
                                                    key, problem, name)};
    if (force) return ok();
    std::string losses;
    for (const auto& [volume, held] : view.volumes)
        if (auto loss = loss_by_forgetting(held.record, node); !loss.empty())
            losses += (losses.empty() ? "" : "; ") + loss;
    if (losses.empty()) return ok();
    return error{errc::no_quorum,
                 fmt::format("with node '{}' these volumes would lose data or protection: {}. Bring the "
                             "node back, or repeat with --force",
                             name, losses)};
}

status repair_desk::strip(const cluster_view& view, const node_name& node, bool force, repair_view& told) {
    for (const auto& [name, volume] : view.volumes) {
        if (!mentions(volume.record, node)) continue;
        std::string loss;
        std::vector<replica_record> removed;
        const auto changed = env_.records.change(
            name, volume.record.id,
            [&](volume_record record) -> result<volume_record> {
                loss = loss_by_forgetting(record, node);
                TRY_ASSIGN(auto done, forget_node(std::move(record), node, force));
                removed = std::move(done.removed);
                return std::move(done.record);
            },
            [&, volume_name = name](store_commit& change) { bury(removed, volume_name, change); });
        if (changed.has_error()) {
            if (changed.error().code == errc::not_found) continue;  // removed meanwhile
            return changed.error();
        }
        std::string text = fmt::format("node {} was forgotten: {}", node.str(),
                                       loss.empty() ? fmt::format("{} of its replicas leave the volume", removed.size())
                                                    : "by force, losing " + loss);
        env_.events.emit(loss.empty() ? severity::warning : severity::error, "volume " + name, text);
        told.done.push_back(fmt::format("volume {}: {}", name, text));
    }
    return ok();
}

status repair_desk::erase_node(const node_name& node, repair_view& told) {
    for (int race = 0; race < races_max; ++race) {
        TRY(env_.cache.refresh());
        const auto view = env_.cache.view();
        TRY_ASSIGN(const auto left, lease_remaining(env_.cluster, node));
        if (left.count() > 0)
            return error{errc::busy,
                         fmt::format("node '{}' came back meanwhile; what had left its volumes is made anew",
                                     printable(node.str()))};
        store_commit change;
        const auto take = [&](const std::string& key, std::uint64_t revision) {
            change.expect.push_back({key, revision});
            change.erases.push_back(key);
        };
        std::size_t drives = 0;
        if (const auto found = view->nodes.find(node); found != view->nodes.end())
            take(node_key(node), found->second.revision);
        for (const auto& [id, drive] : view->drives)
            if (drive.record.node == node) {
                take(drive_key(id), drive.revision);
                ++drives;
            }
        for (const auto& [id, trash] : view->trash)
            if (trash.record.node == node) take(trash_key(id), trash.revision);
        if (change.erases.empty()) return ok();  // by an earlier turn whose outcome was not known
        const auto committed = env_.cluster.commit(change);
        if (committed.has_value()) {
            for (const auto& key : change.erases) env_.cache.erase(key, *committed);
            const std::string text = fmt::format("forgotten, {} of its drives left the pool", drives);
            env_.events.emit(severity::warning, "node " + node.str(), text);
            told.done.push_back(text);
            return ok();
        }
        if (committed.error().code != errc::conflict && committed.error().code != errc::outcome_unknown)
            return committed.error();
    }
    return error{errc::conflict, fmt::format("the records of node '{}' change faster than they can be followed",
                                             printable(node.str()))};
}

result<repair_view> repair_desk::forget(const std::string& name, bool force) {
    TRY(check_node_name(name));
    const node_name node(name);
    TRY(env_.cache.refresh());
    const auto view = env_.cache.view();
    TRY(may_forget(*view, node, force));
    repair_view told{name, {}};
    TRY(strip(*view, node, force, told));
    TRY(erase_node(node, told));
    env_.wake_reconciler();
    return told;
}

}  // namespace weft
