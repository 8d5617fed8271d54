// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/core/drive_mounts.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace weft {

drive_plan plan_drive(const drive_record& drive, const observed_drive& seen) {
    const std::string& name = drive.device.name;
    switch (seen.state) {
        case mount_state::mounted:
            if (seen.devices.size() != 1 || (!drive.device.missing && seen.devices.front() == name)) return {};
            return {drive_step::mount, seen.devices.front(), false, {}};
        case mount_state::orphaned: return {drive_step::release, {}, true, fmt::format("{} is gone", name)};
        case mount_state::broken:
            return {drive_step::release,
                    {},
                    false,
                    fmt::format("{} has errors: its file system has shut down (see the kernel's log)", name)};
        case mount_state::unmounted: break;
    }
    if (seen.devices.empty()) {
        if (drive.device.missing || seen.early) return {};
        return {drive_step::tell_missing, {}, true, fmt::format("{} is not there", name)};
    }
    if (seen.devices.size() > 1)
        return {drive_step::tell_ambiguous,
                {},
                false,
                fmt::format("{} have the same file system (UUID {}), so none of them is used: take the clone away",
                            fmt::join(seen.devices, " and "), drive.device.filesystem)};
    if (seen.resting) return {};
    return {drive_step::mount, seen.devices.front(), false, {}};
}

}  // namespace weft
