// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/io/drive_format.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <span>
#include <sstream>

#include "nbd-backend/base/crash_point.hpp"
#include "nbd-backend/core/crc32c.hpp"
#include "orchestrator/io/device_probe.hpp"
#include "orchestrator/io/filesystem.hpp"
#include "orchestrator/io/process.hpp"

namespace weft {

namespace fs = std::filesystem;

namespace {

constexpr std::uint64_t edge_bytes = mib;  // looked at, and zeroed, at each end
constexpr std::uint64_t mark_bytes = 4096;
constexpr std::uint64_t mark_offset = edge_bytes - mark_bytes;
constexpr std::string_view mark_text = "A drive that weftd was making here: ";
constexpr std::chrono::minutes mkfs_patience{5};
static_assert(drive_device_min_bytes >= 2 * edge_bytes);

result<std::vector<std::byte>> read_at(int fd, std::uint64_t offset, std::uint64_t bytes, const std::string& name) {
    std::vector<std::byte> data(bytes);
    std::size_t done = 0;
    while (done < data.size()) {
        const ssize_t n = ::pread(fd, data.data() + done, data.size() - done, static_cast<off_t>(offset + done));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return errno_error(errno, fmt::format("read {}", name));
        if (n == 0) return error{errc::io_failed, fmt::format("read {}: it ends before its size", name)};
        done += static_cast<std::size_t>(n);
    }
    return data;
}

status write_at(int fd, std::uint64_t offset, std::span<const std::byte> data, const std::string& name) {
    while (!data.empty()) {
        const ssize_t n = ::pwrite(fd, data.data(), data.size(), static_cast<off_t>(offset));
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return errno_error(n < 0 ? errno : EIO, fmt::format("write to {}", name));
        data = data.subspan(static_cast<std::size_t>(n));
        offset += static_cast<std::uint64_t>(n);
    }
    return ok();
}

status sync(int fd, const std::string& name) {
    if (::fsync(fd) != 0) return errno_error(errno, fmt::format("sync {}", name));
    return ok();
}

std::vector<std::byte> make_mark(const std::string& filesystem) {
    const std::string text = std::string(mark_text) + filesystem + "\n";
    std::vector<std::byte> mark(mark_bytes);
    std::memcpy(mark.data(), text.data(), text.size());
    return mark;
}

/// The UUID in a mark that is whole; empty when it is none.
std::string read_mark(std::span<const std::byte> at) {
    constexpr std::size_t uuid_length = 36;
    const std::string text(reinterpret_cast<const char*>(at.data()), mark_text.size() + uuid_length);
    const std::string uuid = text.substr(mark_text.size());
    const auto whole = make_mark(uuid);
    return is_uuid(uuid) && std::equal(whole.begin(), whole.end(), at.begin(), at.end()) ? uuid : std::string();
}

bool any_set(std::span<const std::byte> bytes) {
    return std::any_of(bytes.begin(), bytes.end(), [](std::byte b) { return b != std::byte{0}; });
}

struct part {
    std::string name;  // "vdb1"
    device_number number;
    fs::path sysfs;
};

result<device_number> read_number(const fs::path& sysfs) {
    TRY_ASSIGN(const auto text, read_file(sysfs / "dev"));
    device_number number;
    char colon = 0;
    std::istringstream line(text.value_or(""));
    line >> number.major >> colon >> number.minor;
    if (!line || colon != ':') return error{errc::io_failed, fmt::format("{}/dev has no number", sysfs.string())};
    return number;
}

/// The device, then its partitions.
result<std::vector<part>> parts_of(const block_device& device) {
    const fs::path sysfs = fmt::format("/sys/dev/block/{}:{}", device.number.major, device.number.minor);
    std::vector<part> parts{{fs::path(device.name).filename().string(), device.number, sysfs}};
    std::error_code problem;
    for (fs::directory_iterator entry{sysfs, problem}, end; !problem && entry != end; entry.increment(problem)) {
        std::error_code ignored;
        if (!fs::exists(entry->path() / "partition", ignored)) continue;
        TRY_ASSIGN(const auto number, read_number(entry->path()));
        parts.push_back({entry->path().filename().string(), number, entry->path()});
    }
    if (problem) return errno_error(problem.value(), fmt::format("list {}", sysfs.string()));
    std::sort(parts.begin() + 1, parts.end(), [](const part& a, const part& b) { return a.name < b.name; });
    return parts;
}

status add_users(const part& of, const std::vector<mount_entry>& mounts, std::vector<std::string>& users) {
    const auto mounted =
        std::find_if(mounts.begin(), mounts.end(), [&](const mount_entry& entry) { return entry.device == of.number; });
    if (mounted != mounts.end()) users.push_back(fmt::format("{} is mounted at {}", of.name, mounted->mount_point));
    std::error_code problem;
    for (fs::directory_iterator entry{of.sysfs / "holders", problem}, end; !problem && entry != end;
         entry.increment(problem)) {
        TRY_ASSIGN(const auto name, read_file(entry->path() / "dm" / "name"));
        std::string holder = entry->path().filename().string();
        if (name) holder += fmt::format(" ({})", name->substr(0, name->find('\n')));
        users.push_back(fmt::format("{} is held by {}", of.name, holder));
    }
    TRY_ASSIGN(const auto swaps, read_file("/proc/swaps"));
    std::istringstream lines(swaps.value_or(""));
    for (std::string line; std::getline(lines, line);) {
        const std::string path = unescape_mount_field(line.substr(0, line.find_first_of(" \t")));
        struct stat st {};
        if (path.starts_with('/') && ::stat(path.c_str(), &st) == 0 && S_ISBLK(st.st_mode) &&
            ::major(st.st_rdev) == of.number.major && ::minor(st.st_rdev) == of.number.minor)
            users.push_back(fmt::format("{} is used as swap", of.name));
    }
    return ok();
}

result<bool> is_loop_of(const fs::path& sysfs, const fs::path& runtime_dir) {
    TRY_ASSIGN(const auto backing, read_file(sysfs / "loop" / "backing_file"));
    return backing && backing->starts_with(runtime_dir.string() + "/");
}

/// What no list tells: another mount namespace, md, a kernel part that opened it for itself.
bool is_claimed_by_kernel(const std::string& name) {
    const unique_fd alone{::open(name.c_str(), O_RDONLY | O_CLOEXEC | O_EXCL)};
    return !alone && errno == EBUSY;
}

}  // namespace

result<bool> is_block_device(const fs::path& path) {
    struct stat st {};
    if (::stat(path.c_str(), &st) == 0) return S_ISBLK(st.st_mode);
    if (errno == ENOENT || errno == ENOTDIR) return false;
    return errno_error(errno, fmt::format("look at {}", path.string()));
}

result<locked_device> locked_device::open(const fs::path& path) {
    unique_fd fd{::open(path.c_str(), O_RDWR | O_CLOEXEC)};
    if (!fd && (errno == EROFS || errno == EACCES)) fd = unique_fd{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
    if (!fd) return errno_error(errno, fmt::format("open {}", path.string()));
    TRY(lock_device(fd.get(), path.string()));
    struct stat st {};
    if (::fstat(fd.get(), &st) != 0) return errno_error(errno, fmt::format("look at {}", path.string()));
    if (!S_ISBLK(st.st_mode))
        return error{errc::invalid_argument, fmt::format("{} is not a block device", path.string())};
    TRY_ASSIGN(auto device, describe_block_device({::major(st.st_rdev), ::minor(st.st_rdev)}));
    return locked_device{std::move(fd), std::move(device)};
}

result<device_facts> locked_device::inspect(const fs::path& runtime_dir) const {
    device_facts facts;
    facts.name = device_.name;
    facts.model = device_.model;
    facts.serial = device_.serial;
    facts.size_bytes = device_.size_bytes;
    int read_only = 0;
    if (::ioctl(fd_.get(), BLKROGET, &read_only) != 0) return errno_error(errno, fmt::format("ask {}", facts.name));
    facts.read_only = read_only != 0;
    TRY_ASSIGN(const auto parts, parts_of(device_));
    TRY_ASSIGN(const auto mounts, read_own_mounts());
    for (const auto& one : parts) TRY(add_users(one, mounts, facts.users));
    for (std::size_t i = 1; i < parts.size(); ++i) facts.partitions.push_back(parts[i].name);
    if (facts.users.empty() && is_claimed_by_kernel(facts.name))
        facts.users.emplace_back("the kernel has it open for itself or for another mount namespace");
    TRY_ASSIGN(const bool ours, is_loop_of(parts[0].sysfs, runtime_dir));
    facts.of_weft = device_.of_weft || ours;
    if (facts.of_weft || facts.size_bytes < drive_device_min_bytes) return facts;  // refused without a look inside
    TRY_ASSIGN(const auto head, read_at(fd_.get(), 0, edge_bytes, facts.name));
    TRY_ASSIGN(const auto tail, read_at(fd_.get(), facts.size_bytes - edge_bytes, edge_bytes, facts.name));
    TRY_ASSIGN(facts.signatures, find_signatures(fd_.get(), facts.name));
    facts.mark = read_mark(std::span(head).subspan(mark_offset));
    facts.data = facts.signatures.empty() && facts.mark.empty() && (any_set(head) || any_set(tail));
    facts.checksum = core::crc32c(tail, core::crc32c(head));
    return facts;
}

status locked_device::format(const std::string& filesystem) const {
    const std::string& name = device_.name;
    const auto mark = make_mark(filesystem);
    TRY(write_at(fd_.get(), mark_offset, mark, name));
    TRY(sync(fd_.get(), name));
    WEFT_CRASH_POINT("drive.marked");
    const std::vector<std::byte> zeros(edge_bytes);
    TRY(write_at(fd_.get(), 0, std::span(zeros).first(mark_offset), name));
    TRY(write_at(fd_.get(), device_.size_bytes - edge_bytes, zeros, name));
    TRY(sync(fd_.get(), name));
    // The kernel forgets the partitions of a table that is gone. A partition has none, and says EINVAL.
    if (::ioctl(fd_.get(), BLKRRPART) != 0 && errno != EINVAL && errno != ENOTTY)
        return errno_error(errno, fmt::format("let the kernel read the partitions of {} again", name));
    TRY_ASSIGN(const auto left, find_signatures(fd_.get(), name));
    if (!left.empty())
        return error{errc::io_failed, fmt::format("{} was wiped, but blkid still finds '{}' on it: wipe it with "
                                                  "wipefs --all, then add it again",
                                                  name, left.front().type)};
    WEFT_CRASH_POINT("drive.wiped");
    // reflink: snapshots will use it. The label tells people whose it is.
    TRY(run_checked({{"mkfs.xfs", "-q", "-f", "-K", "-L", "weft-drive", "-m",
                      fmt::format("crc=1,reflink=1,uuid={}", filesystem), name},
                     mkfs_patience,
                     16 * kib}));
    TRY(sync(fd_.get(), name));
    TRY_ASSIGN(const auto made, probe_xfs(name));
    if (made != filesystem)
        return error{errc::io_failed, fmt::format("mkfs.xfs succeeded, but its file system is not on {}", name)};
    TRY_ASSIGN(const auto there, read_at(fd_.get(), mark_offset, mark_bytes, name));
    if (there == mark) {  // else the file system has something of its own in that place
        TRY(write_at(fd_.get(), mark_offset, std::span(zeros).first(mark_bytes), name));
        TRY(sync(fd_.get(), name));
    }
    return ok();
}

result<std::string> probe_xfs(const fs::path& device) {
    TRY_ASSIGN(const auto found, probe_device(device));
    const bool plain = !found.empty && !found.ambivalent && !found.partition_table;
    return plain && found.type == "xfs" ? found.uuid : std::string();
}

}  // namespace weft
