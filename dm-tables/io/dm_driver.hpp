// SPDX-License-Identifier: Apache-2.0
// The driver: carries out the steps of a plan with libdevmapper, and tells what the kernel has. dm_driver.cpp is the
// only file with dm_task_*.
//
// Threads. libdevmapper keeps its state in globals (control descriptor, log function, pending nodes), so every call
// here holds one mutex of the process, `library_mutex`. Whoever else in the process comes to libdevmapper
// (libcryptsetup does) holds it too. `apply` waits for the I/O of what it works on, which may wait for a replica (R4):
// a suspend for what is under way, the table of a raid set for its superblocks. So a daemon applies in a process of its
// own (orchestrator/io/dm_process.hpp). The other calls ask for what the kernel knows. The event watch (dm_events.hpp)
// does not hold the mutex. While a call runs, libdevmapper's log function is ours; then it is the default again.
//
// Suspend is with "noflush" and without "lockfs": I/O that comes in waits and none is failed, which is what a swap of
// tables needs; freezing the file system is for snapshots, and could wait for a writer who waits for us.
//
// Idempotent: a step that is done already succeeds, so a plan may be carried out again after a kill. Every step looks
// first whether the name still belongs to the UUID that the plan saw.
//
// A kernel without device-mapper: every call gives `unavailable`.
#pragma once

#include <chrono>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "dm-tables/core/plan.hpp"
#include "dm-tables/core/status.hpp"
#include "dm-tables/core/step_text.hpp"
#include "nbd-backend/base/result.hpp"

namespace weft::dm {

/// Held by whoever is inside libdevmapper.
std::timed_mutex& library_mutex();

struct device_info {
    std::string name;
    std::string uuid;
    std::string number;  // "major:minor"
    bool suspended = false;
    bool has_active = false;
    bool has_inactive = false;
    std::uint64_t open_count = 0;
    std::uint32_t event_number = 0;  // counts what happened to the device: a leg failed, a resync ended
};

class driver {
public:
    /// Whether the kernel has device-mapper. Errors: unavailable with what to do.
    static status check_available();
    /// The kernel's device-mapper version, such as "4.47.0". Errors: as above.
    static result<std::string> version();

    /// Every device whose UUID begins with WEFT-, the clear devices of encrypted volumes (crypt_device.hpp), and beside
    /// them those that bear a wanted name; and the numbers of the block devices that the stacks map. A device that goes
    /// away meanwhile is left out.
    /// `patience` is for whoever must not wait (R4): nothing here waits for I/O, but another call that is inside of the
    /// library may. Errors: busy after that time.
    static result<observation> observe(const std::vector<volume_stack>& wanted,
                                       std::optional<std::chrono::milliseconds> patience = {});

    /// Carries out the steps in order and waits for udev. Errors name the step; those before it are done:
    ///   conflict          the name belongs to another UUID now
    ///   not_found         a device that a table maps is not there
    ///   busy              a device to be removed is open; udev was waited for
    ///   timed_out         all is done, but udev did not answer
    ///   invalid_argument, io_failed   the kernel refused; its log's words are in the text
    static status apply(const std::vector<raw_step>& steps);

    /// Where udevd does not run: makes /dev/mapper nodes that a killed daemon did not come to make. Otherwise does
    /// nothing.
    static status make_nodes();

    /// Nothing when there is no such device.
    static result<std::optional<device_info>> info(const std::string& name);
    /// Errors: not_found.
    static result<raw_table> active_table(const std::string& name);
    /// What the targets of a device say, `params` for parse_status. Errors: not_found.
    static result<raw_table> status_rows(const std::string& name);
    /// The numbers of the devices that the active table maps. Errors: not_found.
    static result<std::vector<std::string>> dependencies(const std::string& name);
    /// Speaks to the target at that sector, such as "check" to a raid set (dm-raid.rst, "Message Interface").
    static status message(const std::string& name, std::uint64_t sector, const std::string& text);
};

}  // namespace weft::dm
