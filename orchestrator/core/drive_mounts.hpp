// SPDX-License-Identifier: Apache-2.0
// Which of this node's block devices are to be mounted or let go of now. Pure, level-triggered like reconcile.hpp.
//
// A drive is known by the UUID of its file system, never by a device's name. Laws:
//   - mounted exactly when one device with that UUID is there and nothing is wrong with it; with two of them (a clone)
//   none;
//   - what is mounted from a device that is gone, or has stopped because of errors, is let go of before anything else
//     happens to the drive: its server, its mount, then its record says so;
//   - a drive of which nothing is there is called missing in its record.
#pragma once

#include <string>
#include <vector>

#include "orchestrator/core/cluster_view.hpp"

namespace weft {

enum class mount_state : std::uint8_t {
    unmounted,
    mounted,
    orphaned,  // mounted; its device is gone
    broken,    // mounted; its file system has shut down after errors
};

struct observed_drive {
    drive_id id;
    mount_state state = mount_state::unmounted;
    std::vector<std::string> devices;  // unmounted: all that are there with its UUID; mounted: the one that it is
    bool resting = false;              // after a mount that failed: not to be tried again yet
    bool early = false;                // weftd has only begun to look: at boot a disk may still be on its way
};

enum class drive_step : std::uint8_t { none, mount, release, tell_missing, tell_ambiguous };
struct drive_plan {
    drive_step step = drive_step::none;
    std::string device;    // mount: what; it may be mounted already, when only the record is behind
    bool missing = false;  // release: its device is gone
    std::string why;       // for people
};

/// Can its replicas be worked with now?
inline bool is_usable(const observed_drive& seen) {
    return seen.state == mount_state::mounted;
}

drive_plan plan_drive(const drive_record& drive, const observed_drive& seen);

}  // namespace weft
