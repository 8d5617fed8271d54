// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/io/mountinfo.hpp"

#include <dirent.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <compare>
#include <memory>
#include <optional>
#include <set>

#include "orchestrator/io/atomic_file.hpp"

namespace weft {

namespace {

constexpr std::size_t mountinfo_max_bytes = 64 * 1024 * 1024;
constexpr std::size_t holders_shown = 3;

bool is_octal(char c) {
    return c >= '0' && c <= '7';
}

template <typename Number>
std::optional<Number> parse_number(std::string_view text) {
    Number value{};
    const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (failure != std::errc{} || end != text.data() + text.size() || text.empty()) return std::nullopt;
    return value;
}

std::vector<std::string_view> split(std::string_view text, char separator) {
    std::vector<std::string_view> parts;
    while (true) {
        const auto at = text.find(separator);
        parts.push_back(text.substr(0, at));
        if (at == std::string_view::npos) return parts;
        text.remove_prefix(at + 1);
    }
}

std::optional<device_number> parse_device(std::string_view text) {
    const auto colon = text.find(':');
    if (colon == std::string_view::npos) return std::nullopt;
    const auto major = parse_number<std::uint32_t>(text.substr(0, colon));
    const auto minor = parse_number<std::uint32_t>(text.substr(colon + 1));
    if (!major || !minor) return std::nullopt;
    return device_number{*major, *minor};
}

/// 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
std::optional<mount_entry> parse_line(std::string_view line) {
    const auto fields = split(line, ' ');
    if (fields.size() < 10) return std::nullopt;
    const auto dash = std::find(fields.begin() + 6, fields.end(), std::string_view{"-"});
    if (fields.end() - dash < 4 || dash[1].empty()) return std::nullopt;
    const auto id = parse_number<std::uint64_t>(fields[0]);
    const auto parent = parse_number<std::uint64_t>(fields[1]);
    const auto device = parse_device(fields[2]);
    if (!id || !parent || !device) return std::nullopt;
    mount_entry entry;
    entry.id = *id;
    entry.parent = *parent;
    entry.device = *device;
    entry.root = unescape_mount_field(fields[3]);
    entry.mount_point = unescape_mount_field(fields[4]);
    entry.options = std::string(fields[5]);
    entry.propagation.assign(fields.begin() + 6, dash);
    entry.type = unescape_mount_field(dash[1]);
    entry.source = unescape_mount_field(dash[2]);
    entry.super_options = std::string(dash[3]);
    return entry;
}

}  // namespace

std::string unescape_mount_field(std::string_view field) {
    std::string plain;
    plain.reserve(field.size());
    for (std::size_t i = 0; i < field.size(); ++i) {
        if (field[i] == '\\' && i + 3 < field.size() && field[i + 1] <= '3' && is_octal(field[i + 1]) &&
            is_octal(field[i + 2]) && is_octal(field[i + 3])) {
            plain += static_cast<char>((field[i + 1] - '0') * 64 + (field[i + 2] - '0') * 8 + (field[i + 3] - '0'));
            i += 3;
        } else {
            plain += field[i];
        }
    }
    return plain;
}

result<std::vector<mount_entry>> parse_mountinfo(std::string_view text) {
    std::vector<mount_entry> entries;
    while (!text.empty()) {
        const auto end = text.find('\n');
        const auto line = text.substr(0, end);
        text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
        if (line.empty()) continue;
        auto entry = parse_line(line);
        if (!entry) return error{errc::corrupt, fmt::format("not a line of mountinfo: '{}'", line.substr(0, 200))};
        entries.push_back(std::move(*entry));
    }
    return entries;
}

result<std::vector<mount_entry>> read_own_mounts() {
    TRY_ASSIGN(const auto text, read_file("/proc/self/mountinfo", mountinfo_max_bytes));
    if (!text) return error{errc::io_failed, "/proc/self/mountinfo is missing; is /proc mounted?"};
    return parse_mountinfo(*text);
}

namespace {

const mount_entry* find_mount(const std::vector<mount_entry>& among, std::uint64_t id) {
    const auto found = std::find_if(among.begin(), among.end(), [&](const mount_entry& one) { return one.id == id; });
    return found == among.end() ? nullptr : &*found;
}

/// Where below `parent` the mount is, as a path in the parent's file system. nullopt: not below it (a chroot's view).
std::optional<std::string> place_in(const mount_entry& parent, const mount_entry& mount) {
    const std::string base = parent.mount_point == "/" ? "" : parent.mount_point;
    if (!mount.mount_point.starts_with(base + "/")) return std::nullopt;
    return (parent.root == "/" ? "" : parent.root) + mount.mount_point.substr(base.size());
}

/// "2" of "shared:2"; empty: none.
std::string peer_group(const mount_entry& mount) {
    constexpr std::string_view tag = "shared:";
    for (const auto& one : mount.propagation)
        if (one.starts_with(tag)) return one.substr(tag.size());
    return {};
}

bool receives_from(const mount_entry& mount, const std::string& group) {
    return std::any_of(mount.propagation.begin(), mount.propagation.end(),
                       [&](const std::string& one) { return one == "shared:" + group || one == "master:" + group; });
}

}  // namespace

bool follows_our_unmount(const mount_entry& mount, const std::vector<mount_entry>& theirs,
                         const std::vector<mount_entry>& ours) {
    const mount_entry* their_parent = find_mount(theirs, mount.parent);
    if (their_parent == nullptr) return false;
    const bool covered =
        std::any_of(theirs.begin(), theirs.end(), [&](const mount_entry& other) { return other.parent == mount.id; });
    const auto their_place = place_in(*their_parent, mount);
    if (covered || !their_place) return false;
    return std::any_of(ours.begin(), ours.end(), [&](const mount_entry& original) {
        if (original.device != mount.device || original.root != mount.root) return false;
        const mount_entry* parent = find_mount(ours, original.parent);
        if (parent == nullptr || parent->device != their_parent->device) return false;
        const std::string group = peer_group(*parent);
        return !group.empty() && receives_from(*their_parent, group) && place_in(*parent, original) == their_place;
    });
}

namespace {

/// A place from which mounts are seen. A process whose namespace we may not look at (it has capabilities that we lack)
/// is a place of its own: its mountinfo is readable all the same.
struct vantage {
    std::uint64_t mount_namespace = 0;
    dev_t root_device = 0;  // a chrooted process sees less than its siblings
    ino_t root_inode = 0;
    pid_t unknown = 0;
    friend auto operator<=>(const vantage&, const vantage&) = default;
};

/// nullopt: the process is gone, or a zombie, which holds no namespace.
std::optional<vantage> vantage_of(const std::string& process_directory, pid_t pid) {
    struct stat space {
    }, root{};
    if (::stat((process_directory + "/ns/mnt").c_str(), &space) != 0 ||
        ::stat((process_directory + "/root").c_str(), &root) != 0) {
        if (errno == ENOENT || errno == ESRCH) return std::nullopt;
        return vantage{0, 0, 0, pid};
    }
    return vantage{space.st_ino, root.st_dev, root.st_ino, 0};
}

result<std::vector<pid_t>> all_processes() {
    const std::unique_ptr<DIR, int (*)(DIR*)> proc{::opendir("/proc"), ::closedir};
    if (!proc) return errno_error(errno, "read /proc");
    std::vector<pid_t> pids;
    while (const dirent* entry = ::readdir(proc.get()))
        if (const auto pid = parse_number<pid_t>(entry->d_name)) pids.push_back(*pid);
    return pids;
}

/// nullopt: the process is gone.
result<std::optional<std::vector<mount_entry>>> read_mounts_of(pid_t pid) {
    using answer = std::optional<std::vector<mount_entry>>;
    auto text = read_file(fmt::format("/proc/{}/mountinfo", pid), mountinfo_max_bytes);
    if (text.has_error()) {
        const int cause = text.error().os_errno;
        if (cause == ESRCH || cause == EINVAL) return answer{};  // EINVAL: exiting, it has left its namespace
        return text.error().within("cannot know who holds the volume");
    }
    if (!*text || (*text)->empty()) return answer{};
    TRY_ASSIGN(auto entries, parse_mountinfo(**text));
    return answer{std::move(entries)};
}

std::string command_of(pid_t pid) {
    auto text = read_file(fmt::format("/proc/{}/comm", pid), 4096);
    if (text.has_error() || !*text) return "?";
    std::string name = **text;
    while (!name.empty() && name.back() == '\n') name.pop_back();
    return name;
}

}  // namespace

/// Mount ids are unique on the machine, so a mount that our own list does not have is somebody else's.
result<std::vector<foreign_mount>> foreign_holders(device_number device) {
    TRY_ASSIGN(const auto own_mounts, read_own_mounts());
    TRY_ASSIGN(const auto pids, all_processes());
    std::set<std::uint64_t> mounts_seen;
    for (const auto& mount : own_mounts) mounts_seen.insert(mount.id);
    std::set<vantage> seen;
    if (const auto own = vantage_of("/proc/self", 0)) seen.insert(*own);
    std::vector<foreign_mount> holders;
    for (const pid_t pid : pids) {
        const auto where = vantage_of(fmt::format("/proc/{}", pid), pid);
        if (!where || seen.count(*where) != 0) continue;
        TRY_ASSIGN(const auto mounts, read_mounts_of(pid));
        if (!mounts) continue;  // the next process of that place is asked
        seen.insert(*where);
        for (const auto& mount : *mounts)
            if (mount.device == device && mounts_seen.insert(mount.id).second &&
                !follows_our_unmount(mount, *mounts, own_mounts))
                holders.push_back({where->mount_namespace, pid, command_of(pid), mount.mount_point});
    }
    return holders;
}

std::string describe(const std::vector<foreign_mount>& holders) {
    if (holders.empty()) return "held by nobody";
    std::string text = "held by ";
    for (std::size_t i = 0; i < holders.size() && i < holders_shown; ++i)
        text += fmt::format("{}{} (pid {}) at {}", i == 0 ? "" : ", ", holders[i].command, holders[i].pid,
                            holders[i].mount_point);
    if (holders.size() > holders_shown) text += fmt::format(" and {} more", holders.size() - holders_shown);
    return text;
}

}  // namespace weft
