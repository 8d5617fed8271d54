// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/daemon/volume_watch.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "orchestrator/core/maintenance.hpp"
#include "orchestrator/core/scrub.hpp"
#include "orchestrator/core/space.hpp"
#include "orchestrator/daemon/clock.hpp"

namespace weft {

void volume_watch::look_at_space(const cluster_view& view, const volume_record& record,
                                 const std::vector<core::engine_status>& extents) {
    const std::string why = describe_space_wait(record, extents, view);
    const auto known = waiting_.find(record.id);
    if (!why.empty() && known == waiting_.end()) {
        waiting_[record.id] = monotonic_now();
        env_.events.emit(severity::warning, "volume " + record.name, why);
    } else if (why.empty() && known != waiting_.end()) {
        const auto waited = std::chrono::duration_cast<std::chrono::milliseconds>(monotonic_now() - known->second);
        env_.events.emit(severity::info, "volume " + record.name,
                         fmt::format("writes go on, there is space again (they waited {:.1f} s)",
                                     static_cast<double>(waited.count()) / 1000));
        waiting_.erase(known);
    }
}

void volume_watch::look_at_scrub(const volume_record& record, const std::vector<core::engine_status>& extents,
                                 const submit& hand_over) {
    const auto outcome = scrub_result_of(record, extents);
    if (!outcome) return;
    const std::string subject = "volume " + record.name;
    hand_over("scrub " + record.id.str(), subject,
              [this, name = record.name, id = record.id, epoch = record.epoch, outcome = *outcome, subject] {
                  const auto noted = env_.records.change(name, id, [&](volume_record now) {
                      return finish_scrub(std::move(now), env_.options.node, epoch, outcome,
                                          render_time(unix_now_ms()));
                  });
                  if (noted.has_value()) {
                      env_.events.emit(severity_of(outcome), subject,
                                       fmt::format("scrub {} has ended: {}", outcome.serial, describe(outcome)));
                      return ok();
                  }
                  const errc code = noted.error().code;
                  // Noted already, by an attempt whose answer was lost, or not ours to note any more.
                  if (code == errc::conflict || code == errc::stale_epoch || code == errc::not_found) return ok();
                  return status(noted.error());
              });
}

bool volume_watch::asks_for_scrubs(const volume_record& record, const cluster_view& view) const {
    if (!record.writer.empty()) return record.writer == env_.options.node;
    return maintenance_node(record, view, living_nodes(view, monotonic_now())) == env_.options.node;
}

void volume_watch::look(const cluster_view& view, const submit& hand_over) {
    for (const auto& [name, volume] : view.volumes) {
        const volume_record& record = volume.record;
        if (record.epoch > 0 && is_scrub_due(record, unix_now_ms()) && asks_for_scrubs(record, view))
            hand_over("scrub " + record.id.str(), "volume " + name, [this, name = name, id = record.id] {
                const auto asked = env_.records.change(name, id, [](volume_record now) -> result<volume_record> {
                    if (!is_scrub_due(now, unix_now_ms()))
                        return error{errc::conflict, "it was asked for by somebody else"};
                    return want_scrub(std::move(now));
                });
                if (asked.has_error()) return asked.error().code == errc::not_found ? ok() : status(asked.error());
                env_.events.emit(severity::info, "volume " + name,
                                 fmt::format("scrub {} is asked for by the schedule", asked->record.scrub_wanted));
                return ok();
            });
        const auto of = record.writer == env_.options.node ? env_.table.find(record.id) : nullptr;
        const auto link = of ? of->current_link() : nullptr;
        if (!link || link->exited() || link->failed() || link->epoch() != record.epoch) continue;
        const auto extents = link->latest();
        look_at_space(view, record, extents);
        look_at_scrub(record, extents, hand_over);
    }
    // Not attached here any more: whoever waits now waits elsewhere.
    std::erase_if(waiting_, [&](const auto& one) {
        const auto* volume = find_volume(view, one.first);
        return volume == nullptr || volume->record.writer != env_.options.node;
    });
}

}  // namespace weft
