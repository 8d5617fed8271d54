// SPDX-License-Identifier: Apache-2.0
// Block devices as libudev tells of them: which are there, what they are called, and that something changed.
//
// An event is only a reason to look again, so it carries nothing, and one that was lost does no harm that the next look
// does not mend. Two sources are heard: udevd's, which come when a device's links and properties are there, and the
// kernel's own, which tell of a removal at once and also where no udevd runs. list_block_devices reads sysfs and udev's
// database; no device is opened. Facts: libudev(3), udev_monitor_new_from_netlink(3).
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "nbd-backend/base/result.hpp"
#include "orchestrator/io/mountinfo.hpp"

namespace weft {

struct block_device {
    std::string name;  // "/dev/vdb"
    device_number number;
    std::uint64_t size_bytes = 0;
    bool known_to_udev = false;  // udevd has looked at it: `filesystem` is what it found, empty when nothing
    std::string filesystem;      // UUID, as udev's database has it
    bool held = false;           // a device-mapper or md device is on it: that one counts, not its parts
    bool of_weft = false;  // nbd, or a device-mapper device of a volume: never opened by those who look for drives
    std::string model, serial;
};

/// All block devices of a size. Errors: io_failed.
result<std::vector<block_device>> list_block_devices();

/// One of them. Errors: not_found.
result<block_device> describe_block_device(device_number number);

/// Calls back when block devices came, went or changed.
class block_device_watch {
public:
    using callback = std::function<void()>;

    /// Runs `on_change` on the watch's own thread, one call at a time; it must not destroy the watch. Errors:
    /// io_failed.
    static result<std::unique_ptr<block_device_watch>> start(callback on_change);
    /// No callback runs afterwards.
    ~block_device_watch();
    block_device_watch(const block_device_watch&) = delete;
    block_device_watch& operator=(const block_device_watch&) = delete;

private:
    class impl;
    explicit block_device_watch(std::unique_ptr<impl> made);
    std::unique_ptr<impl> impl_;
};

}  // namespace weft
