// SPDX-License-Identifier: Apache-2.0
// File systems on a volume's device: look, decide, make.
//
// The law: format if and only if the record says "never formatted" AND blkid finds nothing at all - or finds exactly
// the file system whose UUID the record minted for this volume, which can only be our own mkfs that was killed before
// the record learned of it and that no container has seen (the record says "formatted" before the first mount is handed
// out). Everything else is refused in words that name what was found.
// The probe, the decision and mkfs happen under one exclusive flock of the device (the rule by which systemd-udevd
// keeps away: systemd.io/BLOCK_DEVICE_LOCKING), so that nobody formats between look and act. mkfs dies with its caller.
// plan_format is pure; the rest blocks (mkfs: seconds) and needs root.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <string>

#include "nbd-backend/base/result.hpp"
#include "orchestrator/core/records.hpp"
#include "orchestrator/io/device_probe.hpp"
#include "orchestrator/io/mountinfo.hpp"

namespace weft {

/// How long somebody else (udev's probe, an administrator's mkfs) may hold a device's lock before it is called busy.
inline constexpr std::chrono::milliseconds lock_patience{5000};
/// In a helper (helper_process.hpp), which is killed when there is no point in waiting: who holds the lock may be the
/// helper before it, which waits in the kernel until nbd sends its requests again over the next server's sockets.
inline constexpr std::chrono::milliseconds helper_lock_patience{30000};

/// Takes the exclusive flock of an open device; it goes with the descriptor. Errors: busy (held by somebody for longer
/// than that), io_failed.
status lock_device(int fd, const std::string& device, std::chrono::milliseconds patience = lock_patience);

enum class format_action : std::uint8_t { mount_it, format, refuse };
struct format_plan {
    format_action action = format_action::refuse;
    std::string reason;  // for refuse: a text for the user that says what was found and that nothing was touched
};

/// What a record expects on a device: blkid's name of it, the UUID that the record minted, and a word for people.
struct wanted_signature {
    std::string type;  // "ext4", "crypto_LUKS"
    std::string uuid;  // must be a UUID (INVARIANT): an empty one would make what is foreign look like ours
    std::string name;  // "ext4 file system"
};

/// The law above, for a file system and for the LUKS header of an encrypted volume alike.
format_plan plan_format(bool record_formatted, const wanted_signature& wanted, const probe_result& found);
format_plan plan_format(bool record_formatted, fs_type fs, const std::string& fs_uuid, const probe_result& found);

enum class format_outcome : std::uint8_t { made, already };

/// Locks the device, probes, decides by plan_format, runs mkfs if so decided, probes again. Returns `already` when the
/// record says formatted and the file system is there. Errors: busy (locked by somebody for longer than `patience`),
/// corrupt (refused; the text says why), timed_out, io_failed.
result<format_outcome> ensure_filesystem(const std::filesystem::path& device, bool record_formatted, fs_type fs,
                                         const std::string& fs_uuid,
                                         std::chrono::milliseconds timeout = std::chrono::minutes(5),
                                         std::chrono::milliseconds patience = lock_patience);

/// The same by a helper (helper_process.hpp), since a volume's device waits for its replicas, even when it is opened or
/// closed. Errors: also unavailable when `server` (a pidfd, or -1) ended meanwhile: only when somebody has replaced
/// that will the device answer, and that may be who waits here.
result<format_outcome> ensure_filesystem_on_volume(const std::filesystem::path& device, bool record_formatted,
                                                   fs_type fs, const std::string& fs_uuid,
                                                   std::chrono::milliseconds timeout, int server);

/// The helper "format".
result<std::string> format_helper(const std::vector<std::string>& words);

/// Mounts `device` at `target` (made if absent, mode 0700) and makes `<target>/data` (0755, root: Docker's copy-up sets
/// the owner). Idempotent: success when this very device is mounted there already. The mount is nothing special
/// (exec, suid, dev as the file system says: it is a container's data); ext4 gets errors=remount-ro, so that a damaged
/// file system stops instead of damaging itself further. Returns the path of `data`. Errors: busy when something else
/// is mounted at target; io_failed, with the last words of the kernel where it tells; unavailable as
/// ensure_filesystem_on_volume.
result<std::string> mount_filesystem(const std::filesystem::path& device, fs_type fs,
                                     const std::filesystem::path& target, int server = -1);

/// Lets the mounted file system have all of its device: ext4 by resize2fs(8), xfs by xfs_growfs(8), both online.
/// Nothing happens when it has it already, so it may be repeated after a kill. Errors: timed_out, io_failed with the
/// tool's last words; unavailable as ensure_filesystem_on_volume.
status grow_filesystem(const std::filesystem::path& device, fs_type fs, const std::filesystem::path& target,
                       std::chrono::milliseconds timeout = std::chrono::minutes(5), int server = -1);

/// Unmounts whatever of `device` is mounted at `target`; never lazily. Success when nothing is mounted there. The
/// umount(2) runs in a child process because it can hang for as long as the volume holds (R4): after `timeout` it is
/// left to finish on its own and timed_out is returned; calling again is right. Errors: busy (somebody in our own
/// namespace has files open, or another mount namespace holds it: the text names who), timed_out, io_failed.
/// `force_foreign`: unmount here although other namespaces hold it.
status unmount_filesystem(const std::filesystem::path& target, std::chrono::milliseconds timeout,
                          bool force_foreign = false);

}  // namespace weft
