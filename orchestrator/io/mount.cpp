// SPDX-License-Identifier: Apache-2.0
// mount_filesystem and unmount_filesystem of filesystem.hpp. The system calls run in children (they can hang).
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "orchestrator/io/filesystem.hpp"
#include "orchestrator/io/process.hpp"

namespace weft {

namespace fs_ns = std::filesystem;

namespace {

/// A mount replays a journal: as long as a fresh disk of this size may need.
constexpr std::chrono::milliseconds mount_patience{60000};
constexpr std::chrono::milliseconds data_patience{60000};

struct mount_arguments {
    const char *device, *target, *type, *options;
};

int call_mount(int, const void* argument) {
    const auto& a = *static_cast<const mount_arguments*>(argument);
    return ::mount(a.device, a.target, a.type, MS_RELATIME, a.options) == 0 ? 0 : errno;
}

int call_umount(int, const void* argument) {
    const int outcome = ::umount2(static_cast<const char*>(argument), UMOUNT_NOFOLLOW) == 0 ? 0 : errno;
    return outcome == EINVAL ? 0 : outcome;  // not a mount point any more: that is what was wanted
}

result<device_number> device_number_of(const fs_ns::path& device) {
    struct stat st {};
    if (::stat(device.c_str(), &st) != 0) return errno_error(errno, fmt::format("look at {}", device.string()));
    if (!S_ISBLK(st.st_mode))
        return error{errc::invalid_argument, fmt::format("{} is not a block device", device.string())};
    return device_number{::major(st.st_rdev), ::minor(st.st_rdev)};
}

std::string unmounting(const std::string& target) {
    return fmt::format("unmount {}", target);
}

/// The topmost mount at a path, if any.
result<std::optional<mount_entry>> mounted_at(const fs_ns::path& target) {
    TRY_ASSIGN(auto mounts, read_own_mounts());
    for (auto entry = mounts.rbegin(); entry != mounts.rend(); ++entry)
        if (entry->mount_point == target.string()) return std::optional<mount_entry>{std::move(*entry)};
    return std::optional<mount_entry>{};
}

/// In a child (run_isolated), because the file system waits for its device. Only a fresh directory is touched: later
/// its owner and mode belong to the user.
int call_make_data(int, const void* argument) {
    const auto* data = static_cast<const char*>(argument);
    ::umask(022);
    if (::mkdir(data, 0755) == 0) return 0;
    if (errno != EEXIST) return errno;
    struct stat st {};
    if (::lstat(data, &st) != 0) return errno;
    return S_ISDIR(st.st_mode) ? 0 : ENOTDIR;
}

/// `data` is what the container gets: lost+found stays out of sight, and Docker's copy-up meets an empty directory.
result<std::string> ensure_data_directory(const fs_ns::path& target, int server) {
    const std::string data = (target / "data").string();
    const auto what = fmt::format("create {}", data);
    TRY(await_left_behind(what, data_patience, server));
    const auto made = run_isolated({call_make_data, data.c_str(), {}, server}, what, data_patience);
    if (made.has_value()) return data;
    if (made.error().os_errno == ENOTDIR)
        return error{errc::corrupt, fmt::format("{} is not a directory; move it away to use the volume", data)};
    return made.error();
}

}  // namespace

result<std::string> mount_filesystem(const fs_ns::path& device, fs_type fs, const fs_ns::path& target, int server) {
    TRY_ASSIGN(const auto wanted, device_number_of(device));
    const std::string device_name = device.string(), target_name = target.string(), type{to_string(fs)};
    const auto what = fmt::format("mount {} ({}) at {}", device_name, type, target_name);
    // Neither twice, nor under an unmount that is still to come.
    TRY(await_left_behind(unmounting(target_name), mount_patience, server));
    TRY(await_left_behind(what, mount_patience, server));
    TRY_ASSIGN(const auto present, mounted_at(target));
    if (present && present->device == wanted) return ensure_data_directory(target, server);
    if (present)
        return error{errc::busy, fmt::format("{} is occupied by a mount of {} ({}); unmount it first", target.string(),
                                             present->source, present->type)};
    TRY(make_directories(target, 0700));
    const mount_arguments arguments{device_name.c_str(), target_name.c_str(), type.c_str(),
                                    fs == fs_type::ext4 ? "errors=remount-ro" : ""};
    TRY(run_isolated({call_mount, &arguments, {}, server}, what, mount_patience));
    return ensure_data_directory(target, server);
}

status grow_filesystem(const fs_ns::path& device, fs_type fs, const fs_ns::path& target,
                       std::chrono::milliseconds timeout, int server) {
    run_request tool;
    tool.timeout = timeout;
    tool.give_up_fd = server;
    switch (fs) {
        case fs_type::ext4: tool.argv = {"resize2fs", device.string()}; break;
        case fs_type::xfs: tool.argv = {"xfs_growfs", "-d", target.string()}; break;
    }
    return run_checked(tool);
}

status unmount_filesystem(const fs_ns::path& target, std::chrono::milliseconds timeout, bool force_foreign) {
    const std::string name = target.string();
    for (;;) {
        TRY_ASSIGN(const auto present, mounted_at(target));
        if (!present) return ok();
        if (!force_foreign) {
            TRY_ASSIGN(const auto holders, foreign_holders(present->device));
            if (!holders.empty())
                return error{errc::busy, EBUSY,
                             fmt::format("{} is {}; nothing was unmounted", name, describe(holders))};
        }
        const auto done = run_isolated({call_umount, name.c_str(), {}}, unmounting(name), timeout);
        if (done.has_error()) {
            if (done.error().os_errno == EBUSY)
                return error{errc::busy, EBUSY,
                             fmt::format("{} is in use: a process of this host has files open in it, or "
                                         "something is mounted below it",
                                         name)};
            return done.error();
        }
    }
}

}  // namespace weft
