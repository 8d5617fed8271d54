// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/io/drive_mount.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cerrno>

#include "orchestrator/io/process.hpp"

namespace weft {

namespace fs = std::filesystem;

namespace {

constexpr std::chrono::seconds mount_patience{60};    // a mount replays the log
constexpr std::chrono::seconds unmount_patience{30};  // an unmount writes back; of a dead device it fails at once

struct mount_arguments {
    const char *device, *target;
};

int call_mount(int, const void* argument) {
    const auto& a = *static_cast<const mount_arguments*>(argument);
    return ::mount(a.device, a.target, "xfs", MS_NOATIME | MS_NODEV | MS_NOSUID | MS_NOEXEC, "") == 0 ? 0 : errno;
}

int unmount_with(const void* argument, int flags) {
    const int outcome = ::umount2(static_cast<const char*>(argument), UMOUNT_NOFOLLOW | flags) == 0 ? 0 : errno;
    return outcome == EINVAL ? 0 : outcome;  // nothing is mounted there any more: that is what was wanted
}
int call_unmount(int, const void* argument) {
    return unmount_with(argument, 0);
}
int call_unmount_lazily(int, const void* argument) {
    return unmount_with(argument, MNT_DETACH);
}

}  // namespace

result<std::optional<device_number>> mounted_device(const fs::path& target) {
    TRY_ASSIGN(const auto mounts, read_own_mounts());
    for (auto entry = mounts.rbegin(); entry != mounts.rend(); ++entry)
        if (entry->mount_point == target.string()) return std::optional<device_number>{entry->device};
    return std::optional<device_number>{};
}

bool device_exists(device_number number) {
    return ::access(fmt::format("/sys/dev/block/{}:{}", number.major, number.minor).c_str(), F_OK) == 0;
}

bool has_shut_down(const fs::path& target) {
    const unique_fd file{::open((target / "weft.json").c_str(), O_RDONLY | O_CLOEXEC)};
    return !file && errno == EIO;
}

status mount_drive(const std::string& device, const fs::path& target) {
    TRY(make_directories(target, 0700));
    const std::string where = target.string();
    const mount_arguments arguments{device.c_str(), where.c_str()};
    auto done =
        run_isolated({call_mount, &arguments, {}}, fmt::format("mount {} at {}", device, where), mount_patience);
    if (done.has_error() && done.error().os_errno == EUCLEAN)
        return error{errc::corrupt, EUCLEAN,
                     fmt::format("the file system on {} is damaged: try xfs_repair(8), or take the drive out", device)};
    // What XFS says to a UUID that is mounted already (xfs_uuid_mount in fs/xfs/xfs_mount.c), among other things.
    if (done.has_error() && done.error().os_errno == EINVAL)
        return done.error().within(
            "the kernel's log says why; most likely a program still uses an earlier mount of the same file system");
    return done;
}

status unmount_drive(const fs::path& target, bool lazily) {
    const std::string where = target.string();
    for (;;) {
        TRY_ASSIGN(const auto present, mounted_device(target));
        if (!present) break;
        auto done = run_isolated({call_unmount, where.c_str(), {}}, fmt::format("unmount {}", where), unmount_patience);
        if (done.has_error() && done.error().os_errno == EBUSY && lazily)
            done = run_isolated({call_unmount_lazily, where.c_str(), {}}, fmt::format("detach {}", where),
                                unmount_patience);
        if (done.has_error() && done.error().os_errno == EBUSY) {
            const auto holders = foreign_holders(*present);
            return error{
                errc::busy, EBUSY,
                fmt::format("{} is in use{}: a program has files open in it, or something is mounted below it; "
                            "end that, and it is unmounted",
                            where, holders.has_value() && !holders->empty() ? " (" + describe(*holders) + ")" : "")};
        }
        TRY(done);
    }
    // Only an empty directory goes; whatever somebody put there stays.
    if (::rmdir(where.c_str()) != 0 && errno != ENOENT && errno != ENOTEMPTY && errno != EBUSY)
        return errno_error(errno, fmt::format("remove {}", where));
    return ok();
}

}  // namespace weft
