// SPDX-License-Identifier: Apache-2.0
// The file system of a block device that is a drive: mounted and unmounted. System calls that may hang run in children.
//
// Mount options: noatime (a read must not write), nodev, nosuid, noexec (replicas are data and nothing else). Not
// nouuid: that XFS refuses a second copy of a UUID is a guard against a clone being served in place of the drive.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "nbd-backend/base/result.hpp"
#include "orchestrator/io/mountinfo.hpp"

namespace weft {

/// The device that is mounted at `target`, topmost; nullopt when nothing is. Errors: io_failed.
result<std::optional<device_number>> mounted_device(const std::filesystem::path& target);

/// Does the kernel still have the device? A disk that was pulled is gone here while it is mounted.
bool device_exists(device_number number);

/// Has the file system at `target` shut down? XFS then answers every open with EIO without asking the device
/// (xfs_file_open in fs/xfs/xfs_file.c). May hang as long as the device does: not for a thread that others wait for.
bool has_shut_down(const std::filesystem::path& target);

/// Mounts at `target`, made if absent (mode 0700). `already` is not looked for: the caller knows that nothing is there.
/// Errors: busy (XFS has the same UUID mounted: somebody still uses the earlier mount), timed_out, io_failed.
status mount_drive(const std::string& device, const std::filesystem::path& target);

/// Unmounts whatever is at `target`, and removes the directory. `lazily`: when it is in use, it is taken out of the
/// tree all the same, and freed with its last user. Only for a device that is gone or does not work any more: nobody
/// can use what is on it, and the name must be free for the drive's return. Else it would hide that somebody uses it.
/// Errors: busy, timed_out (the kernel goes on with it), io_failed.
status unmount_drive(const std::filesystem::path& target, bool lazily);

}  // namespace weft
