// SPDX-License-Identifier: Apache-2.0
// attach_steps for mirrored volumes: device-mapper's sets get the legs that the record says, and the engine hears what
// the sets say of them. A set is never told to use a leg before the record says so, and is told to drop one only after
// (R4).
#include <fmt/format.h>

#include <algorithm>

#include "nbd-backend/base/crash_point.hpp"
#include "orchestrator/core/members.hpp"
#include "orchestrator/daemon/attach_steps.hpp"
#include "orchestrator/daemon/log.hpp"

namespace weft {

status attach_steps::follow_legs(attachment& of, const volume_record& record) {
    const auto link = of.current_link();
    if (!record.layout.mirrored || !link || link->epoch() != record.epoch || link->exited() || link->failed() ||
        link->detaching() || link->latest().size() != record.extents.size())
        return ok();
    const auto shape = shape_of(record, of);
    TRY_ASSIGN(const auto server, watch_server(of));
    TRY(stitch(of, shape, server));
    WEFT_CRASH_POINT("legs.followed");
    note_device(of);
    {
        const std::lock_guard lock(of.state);
        of.legs = shape.legs;
        of.legs_rate = shape.resync_rate;
    }
    return tell_legs(of, shape);
}

void attach_steps::look_at_legs(attachment& of) {
    volume_shape shape;
    {
        const std::lock_guard lock(of.state);
        if (!of.legs) return;
        shape = {of.name, of.id, {}, {}, *of.legs};
    }
    auto looked = scrub_sets(of, shape);
    if (looked.has_value()) looked = look_for_equality(of, shape);
    if (looked.has_value() && any_rebuilding(shape.legs)) looked = tell_legs(of, shape);
    if (looked.has_error())
        log(log_level::warning, "legs", "cannot be looked at",
            {{"volume", shape.name}, {"error", looked.error().text}});
}

/// With `operation` held, so nobody else steps.
status attach_steps::scrub_sets(attachment& of, const volume_shape& shape) {
    const auto view = env_.cache.view();
    const auto* volume = find_volume(*view, of.id);
    const auto link = of.current_link();
    if (volume == nullptr || !link || link->epoch() != volume->record.epoch) return ok();
    const std::uint64_t wanted = policy_of(volume->record).scrub;
    std::vector<set_scrub> scrubs;
    {
        const std::lock_guard lock(of.state);
        of.scrubs.resize(shape.legs.size());
        scrubs = of.scrubs;
    }
    const bool any = std::any_of(scrubs.begin(), scrubs.end(), [&](const set_scrub& one) {
        return one.status().running || wanted > one.status().serial;
    });
    if (!any) return ok();
    TRY_ASSIGN(const auto sets, devices_.sets(shape));
    std::vector<core::scrub_status> told;
    for (std::size_t i = 0; i < std::min(sets.size(), scrubs.size()); ++i) {
        TRY(devices_.order_set(shape, i, scrubs[i].step(sets[i], wanted)));
        told.push_back(scrubs[i].status());
    }
    link->set_leg_scrubs(std::move(told));
    const std::lock_guard lock(of.state);
    of.scrubs = std::move(scrubs);
    return ok();
}

/// After an end that was not in order (R7).
status attach_steps::look_for_equality(attachment& of, const volume_shape& shape) {
    const auto link = of.current_link();
    if (!link || !link->legs_unequal()) return ok();
    TRY_ASSIGN(const auto sets, devices_.sets(shape));
    std::vector<std::uint64_t> left;
    for (const auto& set : sets) left.push_back(set.unequal_bytes);
    link->set_legs_unequal(std::move(left));
    return ok();
}

/// Of what is attached now, whose server lives. Of a striped volume the engine knows it.
bool attach_steps::legs_are_equal(const attachment& of) const {
    if (left_clean(of)) return true;
    const auto view = env_.cache.view();
    const auto* volume = find_volume(*view, of.id);
    if (volume == nullptr) return false;
    const auto sets = devices_.sets({volume->record.name, of.id, {}, {}, legs_of(volume->record, {})});
    return sets.has_value() &&
           std::all_of(sets->begin(), sets->end(), [](const set_state& set) { return set.unequal_bytes == 0; });
}

/// No set has run that did not end in order (note_clean).
bool attach_steps::left_clean(const attachment& of) const {
    const auto config = read_attach_config(env_.options.runtime_dir, of.id);
    return config.has_value() && *config && (!(*config)->layout.mirrored || (*config)->clean);
}

/// What the engine must know it is told until the record shows it: it may have a reason not to act on it now.
status attach_steps::tell_legs(attachment& of, const volume_shape& shape) {
    const auto link = of.current_link();
    if (!link) return ok();
    TRY_ASSIGN(const auto reports, devices_.legs(shape));
    std::map<replica_id, std::uint64_t> progress;
    bool told = false;
    for (const auto& one : reports) {
        progress[one.replica] = one.done_bytes;
        // By the set's state, not by its event, which may have come before we began to listen.
        told = told || one.left_out || one.event;
        if (one.event) link->tell_leg({one.extent, one.replica, *one.event});
    }
    link->set_leg_progress(std::move(progress));
    if (told) of.look_at_legs_again();
    return ok();
}

/// Fencing may have found that a leg is outdated (R2), and only the record says so.
result<volume_record> attach_steps::with_legs_of_today(volume_record record) {
    if (!record.layout.mirrored) return record;
    TRY_ASSIGN(auto held, env_.records.read(record.name));
    if (!held || held->record.id != record.id)
        return error{errc::not_found, fmt::format("no such volume: '{}' (any more)", record.name)};
    if (held->record.epoch != record.epoch)
        return error{errc::stale_epoch, fmt::format("volume '{}' has another writer by now", record.name)};
    return std::move(held->record);
}

}  // namespace weft
