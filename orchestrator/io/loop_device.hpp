// SPDX-License-Identifier: Apache-2.0
// Loop devices over a file, by ioctl (loop(4), linux/loop.h): 4096-byte sectors, direct I/O where the file allows it.
//
// Direct I/O matters: otherwise every byte sits in the page cache twice, and dirty pages of the file would be one more
// place where an acknowledged write can wait. A device is configured in one step (LOOP_CONFIGURE, Linux 5.8): there is
// no instant at which it exists half set up, and a kill between "get a free number" and "configure" leaks nothing.
// Not autoclear: between attach and mount the device is opened and closed several times (probe, mkfs), and autoclear
// would tear it down at the first close. Blocking; any thread. Memory-less: everything is read from /sys.
#pragma once

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "nbd-backend/base/result.hpp"
#include "orchestrator/io/mountinfo.hpp"

namespace weft {

struct loop_info {
    int number = -1;
    std::string device;  // "/dev/loop3"; the node is made if /dev lacks it
    device_number numbers;
    std::string backing_file;  // as the kernel shows it; " (deleted)" is cut off
    bool direct_io = false;
};

/// Every configured loop device, by number. Errors: io_failed.
result<std::vector<loop_info>> list_loops();

/// The devices over exactly this path (normally none or one), and those over "/<its file name>": that is what the
/// kernel shows once the file's file system was unmounted lazily, as nbdfuse does when it is told to end. So the file
/// name must be unique on the machine. (A mark of our own in the device would not do: LOOP_GET_STATUS asks the file for
/// its attributes, which fails or hangs when the file's FUSE server is gone or stopped.)
result<std::vector<loop_info>> find_loops(const std::filesystem::path& backing_file);

/// Configures a free loop device. Races with other users of loop devices are retried. Errors: not_found (no such file),
/// no_space (no loop device free), io_failed.
result<loop_info> attach_loop(const std::filesystem::path& backing_file);

/// Detaches and waits until the kernel really let go. Success when it is no longer over that backing file. Errors: busy
/// when somebody still holds the device after `timeout` (the kernel then detaches at the last close: call again).
status detach_loop(const loop_info& loop, std::chrono::milliseconds timeout);

}  // namespace weft
