// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/daemon/healer.hpp"

#include <fmt/format.h>

#include "nbd-backend/base/crash_point.hpp"
#include "orchestrator/core/repairs.hpp"
#include "orchestrator/daemon/clock.hpp"

namespace weft {

void healer::look(const cluster_view& view, bool current, const volume_maintenance::submit& hand_over) {
    if (!current || !env_.lease.held()) {
        book_.forget_all();
        return;
    }
    const auto now = monotonic_now();
    const auto alive = living_nodes(view, now);
    book_.look(view, alive, env_.maintenance.reports(), now);
    const auto overdue = book_.overdue(now, env_.options.repair_after);
    const auto plan = plan_healing({view, env_.options.node, alive, overdue});
    std::set<volume_id> kept;
    for (const auto& what : plan.replacements) {
        kept.insert(what.id);
        hand_over(fmt::format("heal {} {}", what.id.str(), what.extent), "volume " + what.volume,
                  [this, what]() -> status {
                      const auto done = replace(what);
                      // Somebody was faster, or the replica is up to date again: the next look tells.
                      if (done.has_error() && done.error().code != errc::not_found) return done.error();
                      return ok();
                  });
    }
    tell(plan.troubles);
    env_.maintenance.look(view, alive, plan.demotions, kept, hand_over);
}

result<std::string> healer::replace(const replacement& what) {
    replica_record place;
    place.node = what.place.node;
    place.drive = what.place.drive;
    replacement_attempts attempts(what.extent, what.old ? std::optional(what.old->id) : std::nullopt, std::move(place),
                                  [] { return replica_id(make_uuid()); });
    const auto done = env_.records.change(
        what.volume, what.id, [&](volume_record record) { return attempts.decide(std::move(record)); },
        [&](store_commit& change) {
            if (what.old) bury({*what.old}, what.volume, change);
        });
    if (done.has_error()) return done.error();
    WEFT_CRASH_POINT("repair.replaced");
    std::string text =
        fmt::format("{} is replaced by replica {} on node {}: {}",
                    what.old ? fmt::format("replica {} on node {}", what.old->id.str(), what.old->node.str())
                             : fmt::format("what extent {} lacks", what.extent),
                    attempts.fresh().id.str(), attempts.fresh().node.str(), what.why);
    env_.events.emit(severity::warning, "volume " + what.volume, text);
    return text;
}

void healer::tell(const std::vector<healing_trouble>& troubles) {
    std::set<std::string> present;
    for (const auto& one : troubles) {
        const std::string key = one.subject + "\n" + one.mark;
        present.insert(key);
        if (!told_.contains(key)) env_.events.emit(severity::warning, one.subject, one.text);
    }
    told_ = std::move(present);
}

}  // namespace weft
