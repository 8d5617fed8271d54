// SPDX-License-Identifier: Apache-2.0
// A block device that is to become a drive: looked at, marked, wiped, formatted, all under one exclusive flock of the
// device (systemd.io/BLOCK_DEVICE_LOCKING: udevd keeps away, and so does another attempt).
//
//   mark (synced) ── zeros over the first and last MiB ── mkfs.xfs with the claim's UUID ── mark gone
//
// Killed anywhere, the device has what was there before, or our mark, or a file system with the claim's UUID: the same
// command recognises the last two (core/drive_device.hpp). The mark lies where mkfs.xfs writes nothing before its first
// superblock, which has the UUID already. Discarding is left away (-K): on many devices it takes minutes, what it
// leaves is not certain, and it would take the mark; fstrim(8) does it later. Blocking; any thread. Needs root. Where
// blkid's signatures lie, and why wiping these two MiB suffices: none of libblkid's magics is further from either end
// (the furthest are ZFS's labels, 256 KiB each, two at each end); what is left nevertheless is found and reported.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "nbd-backend/base/result.hpp"
#include "orchestrator/core/drive_device.hpp"
#include "orchestrator/io/atomic_file.hpp"
#include "orchestrator/io/mountinfo.hpp"
#include "orchestrator/io/udev.hpp"

namespace weft {

/// Is this path a block device (symlinks followed)? False when there is nothing. Errors: io_failed.
result<bool> is_block_device(const std::filesystem::path& path);

class locked_device {
public:
    /// Opens and locks. Errors: not_found, busy (locked by another program for more than 5 s), io_failed.
    static result<locked_device> open(const std::filesystem::path& path);

    /// What core/drive_device.hpp decides by. `runtime_dir`: loop devices over files in there are of Weft. Reads up to
    /// 2 MiB. Errors: io_failed (also: it cannot be read).
    [[nodiscard]] result<device_facts> inspect(const std::filesystem::path& runtime_dir) const;

    /// Makes the claim's file system, whatever is there. Errors: io_failed, timed_out (mkfs took more than 5 minutes).
    [[nodiscard]] status format(const std::string& filesystem) const;

    [[nodiscard]] const block_device& described() const noexcept { return device_; }

private:
    locked_device(unique_fd fd, block_device device) : fd_(std::move(fd)), device_(std::move(device)) {}

    unique_fd fd_;
    block_device device_;
};

/// UUID of the file system on a device when blkid finds exactly one XFS and nothing else; else empty. Errors:
/// io_failed.
result<std::string> probe_xfs(const std::filesystem::path& device);

}  // namespace weft
