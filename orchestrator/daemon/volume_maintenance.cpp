// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/daemon/volume_maintenance.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "orchestrator/core/maintenance.hpp"
#include "orchestrator/core/transitions.hpp"
#include "orchestrator/daemon/clock.hpp"

namespace weft {

namespace {

// A volume that somebody is about to mount again, after a reboot or a restart of dockerd, needs no help.
constexpr std::chrono::seconds settle_wait{3};
constexpr std::chrono::seconds attempt_pause_min{10};
constexpr std::chrono::minutes attempt_pause_max{10};
constexpr std::chrono::seconds stall_wait{30};  // nothing moved for so long: given up. More than every engine time-out
// Everything is equal, some regions are still dirty: lazy clearing's chance. Detaching does the rest.
constexpr std::chrono::seconds clear_wait{2};
constexpr std::size_t at_a_time = 4;  // maintenance attachments of one node

}  // namespace

void volume_maintenance::look(const cluster_view& view, const std::set<node_name>& alive,
                              const std::vector<demotion_wish>& wishes, const std::set<volume_id>& kept,
                              const submit& hand_over) {
    end_done(view, alive, kept, hand_over);
    begin_due(view, alive, wishes, hand_over);
}

void volume_maintenance::begin_due(const cluster_view& view, const std::set<node_name>& alive,
                                   const std::vector<demotion_wish>& wishes, const submit& hand_over) {
    const auto now = monotonic_now();
    std::map<volume_id, std::string> due;
    std::size_t running = 0;
    for (const auto& [name, volume] : view.volumes) {
        const volume_record& record = volume.record;
        if (record.maintenance && record.writer == env_.options.node) ++running;
        if (maintenance_node(record, view, alive) != env_.options.node) continue;
        if (auto why = needs_maintenance(record, {view, alive}); !why.empty()) due[record.id] = std::move(why);
    }
    for (const auto& wish : wishes) due.emplace(wish.id, wish.why);
    std::erase_if(attempts_, [&](const auto& one) {
        const auto* volume = find_volume(view, one.first);
        return !due.contains(one.first) && !(volume != nullptr && volume->record.maintenance);
    });
    for (const auto& [id, why] : due) {
        const volume_record& record = find_volume(view, id)->record;
        const auto signature = repair_signature(record, view, alive);
        auto& known =
            attempts_.try_emplace(id, attempt{signature, now, now + settle_wait, attempt_pause_min}).first->second;
        if (known.signature != signature)
            known = {signature, known.seen_at, known.seen_at + settle_wait, attempt_pause_min};
        if (now < known.not_before || running >= at_a_time) continue;
        ++running;
        known.not_before = now + known.pause;
        known.pause = std::min<std::chrono::milliseconds>(known.pause * 2, attempt_pause_max);
        const std::string name = record.name;
        const bool wished = std::any_of(wishes.begin(), wishes.end(), [&id = id](const auto& w) { return w.id == id; });
        hand_over("volume " + id.str(), "volume " + name, [this, name, id = id, why = why, wished] {
            return begin(name, id, [this, &why, wished](const volume_record& seen_now) {
                const auto seen = env_.cache.view();
                const auto living = living_nodes(*seen, monotonic_now());
                const maintenance_look by{*seen, living};
                if (wished) return may_be_maintained(seen_now, by) ? why : std::string();
                return needs_maintenance(seen_now, by);
            });
        });
    }
}

status volume_maintenance::begin(const std::string& name, const volume_id& id,
                                 const std::function<std::string(const volume_record&)>& judge) {
    const auto of = env_.table.entry(id);
    const std::unique_lock operation(of->operation, std::try_to_lock);
    if (!operation.owns_lock() || of->used()) return ok();  // somebody wants it: nothing to do for us
    TRY_ASSIGN(const auto here, list_volume_directories(env_.options.runtime_dir));
    if (std::find(here.begin(), here.end(), id) != here.end())
        return ok();  // remains, which the plan takes apart first
    {
        const std::lock_guard lock(of->state);
        of->name = name;
    }
    std::string why;
    const auto begun = steps_.begin_maintenance(*of, name, [&](volume_record record) -> result<volume_record> {
        why = judge(record);
        if (why.empty()) return error{errc::conflict, fmt::format("volume '{}' needs no repair any more", name)};
        return attach_for_maintenance(std::move(record), env_.options.node);
    });
    if (begun.has_value()) {
        env_.events.emit(severity::info, "volume " + name,
                         fmt::format("attached for repair, epoch {}: {}", begun->epoch, why));
        return ok();
    }
    const errc code = begun.error().code;
    if (code == errc::conflict || code == errc::busy || code == errc::not_found) return ok();
    return begun.error().within("attach for repair");
}

void volume_maintenance::end_done(const cluster_view& view, const std::set<node_name>& alive,
                                  const std::set<volume_id>& kept, const submit& hand_over) {
    const auto now = monotonic_now();
    std::erase_if(progress_, [&](const auto& one) {
        const auto* volume = find_volume(view, one.first);
        return volume == nullptr || !volume->record.maintenance || volume->record.writer != env_.options.node;
    });
    for (const auto& [name, volume] : view.volumes) {
        const volume_record& record = volume.record;
        if (!record.maintenance || record.writer != env_.options.node) continue;
        const auto of = env_.table.find(record.id);
        const auto link = of ? of->current_link() : nullptr;
        if (!link || link->epoch() != record.epoch) continue;  // the plan gives it up
        const auto state = repair_state_of(record, link->latest(), view, alive);
        auto& known = progress_.try_emplace(record.id, progress{record.epoch, state.mark, now}).first->second;
        if (known.epoch != record.epoch || known.mark != state.mark || kept.contains(record.id))
            known = {record.epoch, state.mark, now};
        const auto still = now - known.moved_at;
        std::string why;
        if (state.stage == repair_stage::finished && !kept.contains(record.id)) why = "repair finished, detached";
        if (state.stage == repair_stage::settling && still > clear_wait) why = "repair finished, detached";
        if (state.stage == repair_stage::working && still > stall_wait)
            why = "repair makes no progress, tried again later";
        if (why.empty()) continue;
        hand_over("volume " + record.id.str(), "volume " + name,
                  [this, id = record.id, epoch = record.epoch, serving = state.serving, why] {
                      return end(id, epoch, serving, why);
                  });
    }
}

status volume_maintenance::end(const volume_id& id, std::uint64_t epoch, bool in_order, const std::string& why) {
    const auto of = env_.table.entry(id);
    const std::unique_lock operation(of->operation, std::try_to_lock);
    if (!operation.owns_lock() || of->used()) return ok();
    const auto link = of->current_link();
    if (!link || link->epoch() != epoch) return ok();
    if (in_order) return steps_.end_maintenance(*of, why);
    const std::string name = of->volume_name();
    TRY(steps_.take_apart(*of));
    env_.events.emit(severity::warning, "volume " + name, why);
    return steps_.abandon(name, id, epoch);
}

std::vector<engine_report> volume_maintenance::reports() const {
    std::vector<engine_report> all;
    for (const auto& of : env_.table.all())
        if (const auto link = of->current_link(); link && !link->exited() && !link->failed())
            all.push_back({of->id, link->latest()});
    return all;
}

}  // namespace weft
