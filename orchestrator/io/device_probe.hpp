// SPDX-License-Identifier: Apache-2.0
// What libblkid sees on a block device. A read error is an error, never "nothing". Blocking, for as long as the device
// does: of a volume's device only in a helper (helper_process.hpp). Any thread.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "nbd-backend/base/result.hpp"
#include "orchestrator/core/drive_device.hpp"

namespace weft {

/// What blkid sees on a device.
struct probe_result {
    bool empty = false;       // really nothing: no file system, RAID, swap, partition table, nor an ambivalent mixture
    bool ambivalent = false;  // several signatures at once
    std::string type;  // "ext4", "xfs", "swap", "LVM2_member", "dos" (partition table) ...; "" if empty/ambivalent
    std::string uuid;  // of a file system; may be empty
    std::string label;
    bool partition_table = false;
};

/// Low-level probe of superblocks and partition tables, no cache. Errors: io_failed (also for read errors), not_found.
result<probe_result> probe_device(const std::filesystem::path& device);

/// The same of one that is open; `device` is its name in errors.
result<probe_result> probe_open_device(int fd, const std::string& device);

/// Every signature, also where several contradict each other, which the probe above sums up as one word. Errors:
/// io_failed.
result<std::vector<device_signature>> find_signatures(int fd, const std::string& name);

/// For people: "'ext4' with UUID …".
std::string describe(const probe_result& found);

}  // namespace weft
