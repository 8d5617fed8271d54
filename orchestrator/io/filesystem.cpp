// SPDX-License-Identifier: Apache-2.0
// Probe, decide, format. Mounting is in mount.cpp.
#include "orchestrator/io/filesystem.hpp"

#include <blkid/blkid.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <memory>

#include "nbd-backend/base/ids.hpp"
#include "nbd-backend/base/invariant.hpp"
#include "orchestrator/io/process.hpp"

namespace weft {

namespace {

/// How long somebody else (udev's probe, an administrator's mkfs) may hold the device's lock before we call it busy.
constexpr std::chrono::milliseconds lock_patience{5000};

struct probe_deleter {
    void operator()(blkid_probe probe) const { ::blkid_free_probe(probe); }
};
using probe_handle = std::unique_ptr<blkid_struct_probe, probe_deleter>;

std::string value_of(blkid_probe probe, const char* name) {
    const char* data = nullptr;
    std::size_t length = 0;
    if (::blkid_probe_lookup_value(probe, name, &data, &length) != 0 || data == nullptr) return {};
    return std::string(data);
}

/// libblkid says "nothing" for what it could not read, too; so the first bytes, where signatures live, are read here.
status check_readable(int fd, const std::string& device) {
    constexpr std::size_t looked_at = 256 * 1024;
    const auto buffer = std::make_unique<char[]>(looked_at);
    std::size_t done = 0;
    while (done < looked_at) {
        const ssize_t n = ::pread(fd, buffer.get() + done, looked_at - done, static_cast<off_t>(done));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return errno_error(errno, fmt::format("read {}", device));
        if (n == 0) break;
        done += static_cast<std::size_t>(n);
    }
    return ok();
}

result<probe_result> probe_fd(int fd, const std::string& device) {
    TRY(check_readable(fd, device));
    const probe_handle probe{::blkid_new_probe()};
    if (!probe || ::blkid_probe_set_device(probe.get(), fd, 0, 0) != 0)
        return errno_error(errno == 0 ? ENOMEM : errno, fmt::format("probe {}", device));
    ::blkid_probe_enable_superblocks(probe.get(), 1);
    ::blkid_probe_set_superblocks_flags(probe.get(), BLKID_SUBLKS_TYPE | BLKID_SUBLKS_UUID | BLKID_SUBLKS_LABEL |
                                                         BLKID_SUBLKS_USAGE | BLKID_SUBLKS_BADCSUM);
    ::blkid_probe_enable_partitions(probe.get(), 1);
    errno = 0;
    const int outcome = ::blkid_do_safeprobe(probe.get());  // 0 found, 1 nothing, -2 ambivalent, -1 error
    const int failure = errno;
    probe_result found;
    if (outcome == 1) {
        TRY(check_readable(fd, device));  // a device that failed in between must not look empty
        found.empty = true;
        return found;
    }
    if (outcome == -2) {
        found.ambivalent = true;
        return found;
    }
    if (outcome != 0) return errno_error(failure == 0 ? EIO : failure, fmt::format("probe {}", device));
    found.type = value_of(probe.get(), "TYPE");
    found.uuid = value_of(probe.get(), "UUID");
    found.label = value_of(probe.get(), "LABEL");
    const std::string table = value_of(probe.get(), "PTTYPE");
    if (!table.empty()) {
        found.partition_table = true;
        found.ambivalent = !found.type.empty();
        if (found.type.empty()) found.type = table;
    }
    return found;
}

std::string name_of(const probe_result& found) {
    if (found.ambivalent && found.type.empty()) return "several signatures at once (blkid calls the device ambivalent)";
    if (found.partition_table)
        return fmt::format("a partition table ({})", found.type) +
               (found.ambivalent ? " together with another signature" : "");
    std::string text = found.type.empty() ? "something that blkid cannot name" : fmt::format("'{}'", found.type);
    if (!found.uuid.empty()) text += fmt::format(" with UUID {}", found.uuid);
    if (!found.label.empty()) text += fmt::format(" and label '{}'", found.label);
    return text;
}

}  // namespace

result<probe_result> probe_device(const std::filesystem::path& device) {
    const unique_fd fd{::open(device.c_str(), O_RDONLY | O_CLOEXEC)};
    if (!fd) return errno_error(errno, fmt::format("open {}", device.string()));
    return probe_fd(fd.get(), device.string());
}

format_plan plan_format(bool record_formatted, const wanted_signature& wanted, const probe_result& found) {
    INVARIANT(is_uuid(wanted.uuid), "plan_format: '{}' is not a UUID", wanted.uuid);
    const bool plain = !found.empty && !found.ambivalent && !found.partition_table;
    const bool ours = plain && found.type == wanted.type && found.uuid == wanted.uuid;
    if (!record_formatted) {
        if (found.empty || ours) return {format_action::format, {}};
        return {
            format_action::refuse,
            fmt::format("the record says that this volume was never formatted, but its device holds {}; nothing was "
                        "touched. If that data is not wanted, remove the volume and create it again",
                        name_of(found))};
    }
    if (ours) return {format_action::mount_it, {}};
    if (found.empty)
        return {
            format_action::refuse,
            fmt::format("the record says that this volume holds a {} (UUID {}), but blkid finds nothing on "
                        "its device; nothing was touched. Its replicas may be damaged: look at them before anything "
                        "else",
                        wanted.name, wanted.uuid)};
    return {format_action::refuse,
            fmt::format("the record says that this volume holds a {} (UUID {}), but its device holds {}; "
                        "nothing was touched",
                        wanted.name, wanted.uuid, name_of(found))};
}

format_plan plan_format(bool record_formatted, fs_type fs, const std::string& fs_uuid, const probe_result& found) {
    const std::string type{to_string(fs)};
    return plan_format(record_formatted, wanted_signature{type, fs_uuid, type + " file system"}, found);
}

/// flock has no time-out of its own, and whoever holds the lock does so for moments: look again until the deadline.
status lock_device(int fd, const std::string& device) {
    const auto deadline = std::chrono::steady_clock::now() + lock_patience;
    for (int pause_ms = 1;; pause_ms = std::min(pause_ms * 2, 100)) {
        if (::flock(fd, LOCK_EX | LOCK_NB) == 0) return ok();
        if (errno != EWOULDBLOCK && errno != EINTR) return errno_error(errno, fmt::format("lock {}", device));
        if (std::chrono::steady_clock::now() >= deadline)
            return error{errc::busy, fmt::format("{} is locked by another program (mkfs, fsck, udev?) for more than "
                                                 "{} ms",
                                                 device, lock_patience.count())};
        ::poll(nullptr, 0, pause_ms);
    }
}

namespace {

/// ext4: nodiscard, since a new volume is all holes and discarding it again would only cost requests to every replica;
///   lazy_itable_init stays at its default (the kernel zeroes inode tables later, in the background); -m 0, since no
///   blocks need to be kept for root where the container's root is the only user; 4096-byte blocks, the unit of
///   replication. No mmp: the replicas refuse the earlier writer before the new one reads its first byte (R2), so that
///   mmp could find nothing any more, but would make every mount after a crash wait (44 s with the defaults of
///   e2fsprogs 1.47), and write for ever.
/// xfs: -K (no discard) for the same reason; -f, since xfs refuses to overwrite our own unfinished mkfs, and the
///   decision was made already, under the lock.
std::vector<std::string> mkfs_command(const std::string& device, fs_type fs, const std::string& fs_uuid) {
    switch (fs) {
        case fs_type::ext4:
            return {"mkfs.ext4", "-q",    "-F", "-b",   "4096", "-m",        "0",
                    "-U",        fs_uuid, "-O", "^mmp", "-E",   "nodiscard", device};
        case fs_type::xfs:
            return {"mkfs.xfs", "-q", "-f", "-K", "-s", "size=4096", "-m", fmt::format("uuid={}", fs_uuid), device};
    }
    return {};
}

int call_close(int, const void*) {
    return 0;
}  // the exit closes it

/// The last close of a block device writes back what mkfs left dirty; after a time-out that hangs, so a child does it.
void close_elsewhere(unique_fd fd) {
    [[maybe_unused]] const auto outcome =
        run_isolated({call_close, nullptr, std::move(fd)}, "close", std::chrono::milliseconds{0});
}

status make_filesystem(int fd, const std::string& device, fs_type fs, const std::string& fs_uuid,
                       std::chrono::milliseconds timeout, int server) {
    run_request mkfs{mkfs_command(device, fs, fs_uuid), timeout, 16 * 1024};
    mkfs.give_up_fd = server;
    TRY(run_checked(mkfs));
    // mkfs has synced; ours to make sure, since what follows (the record) depends on it.
    if (::fsync(fd) != 0) return errno_error(errno, fmt::format("sync {}", device));
    TRY_ASSIGN(const auto found, probe_fd(fd, device));
    if (plan_format(true, fs, fs_uuid, found).action == format_action::mount_it) return ok();
    return error{errc::io_failed,
                 fmt::format("{} succeeded, but blkid finds {} on {}", mkfs_command(device, fs, fs_uuid)[0],
                             found.empty ? "nothing" : name_of(found), device)};
}

}  // namespace

result<format_outcome> ensure_filesystem(const std::filesystem::path& device, bool record_formatted, fs_type fs,
                                         const std::string& fs_uuid, std::chrono::milliseconds timeout, int server) {
    const std::string name = device.string();
    unique_fd fd{::open(device.c_str(), O_RDWR | O_CLOEXEC)};
    if (!fd) return errno_error(errno, fmt::format("open {}", name));
    TRY(lock_device(fd.get(), name));
    TRY_ASSIGN(const auto found, probe_fd(fd.get(), name));
    const auto plan = plan_format(record_formatted, fs, fs_uuid, found);
    switch (plan.action) {
        case format_action::mount_it: return format_outcome::already;
        case format_action::refuse: return error{errc::corrupt, plan.reason};
        case format_action::format: break;
    }
    auto made = make_filesystem(fd.get(), name, fs, fs_uuid, timeout, server);
    if (made.has_error()) {
        close_elsewhere(std::move(fd));
        return made.error().within(fmt::format("format {} as {}", name, to_string(fs)));
    }
    return format_outcome::made;
}

}  // namespace weft
