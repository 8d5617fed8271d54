// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/cli/progress.hpp"

#include "orchestrator/cli/fields.hpp"

namespace weft::cli {

namespace {
constexpr std::chrono::seconds window{5};
}

progress_map resync_meter::observe(std::chrono::nanoseconds now, const boost::json::value& volume) {
    progress_map found;
    std::map<std::string, std::deque<look>> kept;
    const auto& extents = elements(member(volume, "extents"));
    const auto& engines = elements(member(volume, "live_extents"));
    for (std::size_t i = 0; i < extents.size() && i < engines.size(); ++i) {
        for (const auto& slot : elements(member(engines[i], "slots"))) {
            if (!flag_of(slot, "resyncing")) continue;
            const std::string id = text_of(slot, "id");
            auto& looks = kept[id] = std::move(looks_[id]);
            const look latest{now, number_of(slot, "resync_done_bytes"), number_of(slot, "resync_copied_bytes")};
            // Counters that fell belong to a resync that was begun anew: what was seen before says nothing of it.
            if (!looks.empty() && latest.done_bytes < looks.back().done_bytes) looks.clear();
            looks.push_back(latest);
            while (looks.size() > 2 && looks[1].at + window <= now) looks.pop_front();
            resync_progress progress{latest.done_bytes, number_of(extents[i], "size_bytes"), {}, {}};
            const look& first = looks.front();
            const double seconds = std::chrono::duration<double>(now - first.at).count();
            if (seconds > 0) {
                const auto copied = latest.copied_bytes - std::min(first.copied_bytes, latest.copied_bytes);
                progress.bytes_per_second = static_cast<double>(copied) / seconds;
                const auto dealt_with = static_cast<double>(latest.done_bytes - first.done_bytes) / seconds;
                const auto left = progress.size_bytes - std::min(latest.done_bytes, progress.size_bytes);
                if (dealt_with > 0)
                    progress.time_left = std::chrono::milliseconds(
                        static_cast<std::int64_t>(static_cast<double>(left) / dealt_with * 1000));
            }
            found.emplace(id, progress);
        }
    }
    looks_ = std::move(kept);
    return found;
}

bool is_settled(const boost::json::value& volume) {
    for (const auto& extent : elements(member(volume, "extents")))
        for (const auto& replica : elements(member(extent, "replicas")))
            if (text_of(replica, "state") != "up_to_date") return false;
    for (const auto& engine : elements(member(volume, "live_extents")))
        for (const auto& slot : elements(member(engine, "slots")))
            if (flag_of(slot, "resyncing")) return false;
    return true;
}

}  // namespace weft::cli
