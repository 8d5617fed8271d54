// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/core/space.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>

#include "nbd-backend/base/units.hpp"
#include "orchestrator/core/names.hpp"

namespace weft {

namespace {

constexpr std::array<std::uint32_t, 2> marks = {90, 80};  // percent, the highest first
constexpr std::uint32_t hysteresis = 2;                   // points

const replica_record* find_replica(const extent_record& extent, const replica_id& id) {
    const auto found = std::find_if(extent.replicas.begin(), extent.replicas.end(),
                                    [&](const replica_record& one) { return one.id == id; });
    return found == extent.replicas.end() ? nullptr : &*found;
}

std::string describe_place(const replica_record& replica, const cluster_view& view) {
    const auto drive = view.drives.find(replica.drive);
    if (drive == view.drives.end())
        return fmt::format("drive {} on node {}", replica.drive.str(), printable(replica.node.str()));
    const drive_record& record = drive->second.record;
    return fmt::format("drive {} on node {} ({} of {} free)", printable(record.path, drive_path_max),
                       printable(record.node.str()), render_size(record.free_bytes), render_size(record.size_bytes));
}

}  // namespace

std::uint32_t used_percent(const drive_record& drive) {
    if (drive.size_bytes == 0) return 100;
    const std::uint64_t used = drive.size_bytes - std::min(drive.free_bytes, drive.size_bytes);
    return static_cast<std::uint32_t>(static_cast<unsigned __int128>(used) * 100 / drive.size_bytes);
}

std::uint32_t next_fill_mark(const drive_record& drive, std::uint32_t before) {
    const std::uint32_t used = used_percent(drive);
    for (const std::uint32_t mark : marks)
        if (used >= mark || (before >= mark && used >= mark - hysteresis)) return mark;
    return 0;
}

std::string describe_fill(const drive_record& drive) {
    return fmt::format(
        "{} on node {} is {} % full: {} of {} are free; thin volumes there will wait or fail when it is "
        "full: make it larger, remove what is not needed, or add a drive with `weft drive add PATH`",
        printable(drive.path, drive_path_max), printable(drive.node.str()), used_percent(drive),
        render_size(drive.free_bytes), render_size(drive.size_bytes));
}

std::string describe_space_wait(const volume_record& record, const std::vector<core::engine_status>& extents,
                                const cluster_view& view) {
    bool waits = false;
    std::vector<std::string> places;
    for (std::size_t i = 0; i < extents.size() && i < record.extents.size(); ++i) {
        if (!extents[i].waiting_for_space) continue;
        waits = true;
        for (const auto& slot : extents[i].slots) {
            const auto* replica = slot.full ? find_replica(record.extents[i], slot.id) : nullptr;
            if (replica == nullptr) continue;
            std::string place = describe_place(*replica, view);
            if (std::find(places.begin(), places.end(), place) == places.end()) places.push_back(std::move(place));
        }
    }
    if (!waits) return {};
    if (places.empty()) places.emplace_back("a drive");
    return fmt::format(
        "writes wait for space: {} {} full; free space there or make the file system larger, they go on "
        "by themselves; reads are served",
        fmt::join(places, ", "), places.size() == 1 ? "is" : "are");
}

}  // namespace weft
