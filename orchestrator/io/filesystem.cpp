// SPDX-License-Identifier: Apache-2.0
// Decide and format. Mounting is in mount.cpp.
#include "orchestrator/io/filesystem.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>

#include "nbd-backend/base/ids.hpp"
#include "nbd-backend/base/invariant.hpp"
#include "orchestrator/io/helper_process.hpp"
#include "orchestrator/io/process.hpp"

namespace weft {

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
                        describe(found))};
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
                        wanted.name, wanted.uuid, describe(found))};
}

format_plan plan_format(bool record_formatted, fs_type fs, const std::string& fs_uuid, const probe_result& found) {
    const std::string type{to_string(fs)};
    return plan_format(record_formatted, wanted_signature{type, fs_uuid, type + " file system"}, found);
}

/// flock has no time-out of its own, and whoever holds the lock does so for moments: look again until the deadline.
status lock_device(int fd, const std::string& device, std::chrono::milliseconds patience) {
    const auto deadline = std::chrono::steady_clock::now() + patience;
    for (int pause_ms = 1;; pause_ms = std::min(pause_ms * 2, 100)) {
        if (::flock(fd, LOCK_EX | LOCK_NB) == 0) return ok();
        if (errno != EWOULDBLOCK && errno != EINTR) return errno_error(errno, fmt::format("lock {}", device));
        if (std::chrono::steady_clock::now() >= deadline)
            return error{errc::busy, fmt::format("{} is locked by another program (mkfs, fsck, udev?) for more than "
                                                 "{} ms",
                                                 device, patience.count())};
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

status make_filesystem(int fd, const std::string& device, fs_type fs, const std::string& fs_uuid,
                       std::chrono::milliseconds timeout) {
    run_request mkfs{mkfs_command(device, fs, fs_uuid), timeout, 16 * 1024};
    mkfs.stdin_fd = fd;  // with it the lock is mkfs's, too: killed, it may still wait in the kernel when we are gone
    TRY(run_checked(mkfs));
    // mkfs has synced; ours to make sure, since what follows (the record) depends on it.
    if (::fsync(fd) != 0) return errno_error(errno, fmt::format("sync {}", device));
    TRY_ASSIGN(const auto found, probe_open_device(fd, device));
    if (plan_format(true, fs, fs_uuid, found).action == format_action::mount_it) return ok();
    return error{errc::io_failed,
                 fmt::format("{} succeeded, but blkid finds {} on {}", mkfs_command(device, fs, fs_uuid)[0],
                             found.empty ? "nothing" : describe(found), device)};
}

constexpr std::string_view word_formatted = "formatted";
constexpr std::string_view word_new = "new";
constexpr std::string_view word_made = "made";

}  // namespace

result<format_outcome> ensure_filesystem(const std::filesystem::path& device, bool record_formatted, fs_type fs,
                                         const std::string& fs_uuid, std::chrono::milliseconds timeout,
                                         std::chrono::milliseconds patience) {
    const std::string name = device.string();
    const unique_fd fd{::open(device.c_str(), O_RDWR | O_CLOEXEC)};
    if (!fd) return errno_error(errno, fmt::format("open {}", name));
    TRY(lock_device(fd.get(), name, patience));
    TRY_ASSIGN(const auto found, probe_open_device(fd.get(), name));
    const auto plan = plan_format(record_formatted, fs, fs_uuid, found);
    switch (plan.action) {
        case format_action::mount_it: return format_outcome::already;
        case format_action::refuse: return error{errc::corrupt, plan.reason};
        case format_action::format: break;
    }
    auto made = make_filesystem(fd.get(), name, fs, fs_uuid, timeout);
    if (made.has_error()) return made.error().within(fmt::format("format {} as {}", name, to_string(fs)));
    return format_outcome::made;
}

result<format_outcome> ensure_filesystem_on_volume(const std::filesystem::path& device, bool record_formatted,
                                                   fs_type fs, const std::string& fs_uuid,
                                                   std::chrono::milliseconds timeout, int server) {
    helper_call call;
    call.words = {"format", device.string(), std::string(record_formatted ? word_formatted : word_new),
                  std::string(to_string(fs)), fs_uuid};
    call.timeout = timeout;
    call.server = server;
    TRY_ASSIGN(const auto answer, run_helper(call));
    return answer == word_made ? format_outcome::made : format_outcome::already;
}

result<std::string> format_helper(const std::vector<std::string>& words) {
    constexpr std::size_t words_wanted = 4;
    if (words.size() != words_wanted || !is_uuid(words[3]))
        return error{errc::invalid_argument, "DEVICE new|formatted ext4|xfs UUID"};
    TRY_ASSIGN(const auto fs, parse_fs_type(words[2]));
    // Who runs us has the time limit, and takes mkfs along.
    TRY_ASSIGN(const auto outcome, ensure_filesystem(words[0], words[1] == word_formatted, fs, words[3],
                                                     std::chrono::hours{24}, helper_lock_patience));
    return std::string(outcome == format_outcome::made ? word_made : "already");
}

}  // namespace weft
