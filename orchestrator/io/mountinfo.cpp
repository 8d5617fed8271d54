// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/io/mountinfo.hpp"

#include <dirent.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <utility>

#include "orchestrator/io/atomic_file.hpp"

namespace weft {

namespace {

constexpr std::size_t mountinfo_max_bytes = 64 * 1024 * 1024;
constexpr std::size_t holders_shown = 3;

bool is_octal(char c) { return c >= '0' && c <= '7'; }

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

std::optional<std::uint64_t> namespace_of(const std::string& process_directory) {
    struct stat st {};
    if (::stat((process_directory + "/ns/mnt").c_str(), &st) != 0) return std::nullopt;
    return st.st_ino;
}

/// The processes of every mount namespace that is not ours.
result<std::map<std::uint64_t, std::vector<pid_t>>> foreign_namespaces() {
    const auto own = namespace_of("/proc/self");
    if (!own) return errno_error(errno, "look at our own mount namespace");
    const std::unique_ptr<DIR, int (*)(DIR*)> proc{::opendir("/proc"), ::closedir};
    if (!proc) return errno_error(errno, "read /proc");
    std::map<std::uint64_t, std::vector<pid_t>> found;
    while (const dirent* entry = ::readdir(proc.get())) {
        const auto pid = parse_number<pid_t>(entry->d_name);
        if (!pid) continue;
        const auto inode = namespace_of(fmt::format("/proc/{}", *pid));
        if (!inode) {
            // Gone meanwhile, a zombie, or a kernel thread on its way out: those hold no namespace.
            if (errno == ENOENT || errno == ESRCH) continue;
            return errno_error(errno, fmt::format("look at the mount namespace of process {}", *pid));
        }
        if (*inode != *own) found[*inode].push_back(*pid);
    }
    return found;
}

std::string command_of(pid_t pid) {
    auto text = read_file(fmt::format("/proc/{}/comm", pid), 4096);
    if (text.has_error() || !*text) return "?";
    std::string name = **text;
    while (!name.empty() && name.back() == '\n') name.pop_back();
    return name;
}

}  // namespace

result<std::vector<foreign_mount>> foreign_holders(device_number device) {
    TRY_ASSIGN(const auto namespaces, foreign_namespaces());
    std::vector<foreign_mount> holders;
    for (const auto& [inode, pids] : namespaces) {
        // mountinfo shows what is below the process's root, so one process per (namespace, root) is asked; the next one
        // when the first has ended meanwhile. A chrooted process must not hide what its siblings see.
        std::set<std::pair<dev_t, ino_t>> roots_seen;
        std::set<std::uint64_t> mounts_seen;
        for (const pid_t pid : pids) {
            struct stat root {};
            if (::stat(fmt::format("/proc/{}/root", pid).c_str(), &root) != 0) continue;  // gone, or a zombie
            if (roots_seen.count({root.st_dev, root.st_ino}) != 0) continue;
            auto text = read_file(fmt::format("/proc/{}/mountinfo", pid), mountinfo_max_bytes);
            if (text.has_error()) {
                const int cause = text.error().os_errno;
                if (cause == ESRCH || cause == EINVAL || cause == ENOENT) continue;  // exiting: it left its namespace
                return text.error().within("cannot know who holds the volume");
            }
            if (!*text || (*text)->empty()) continue;
            roots_seen.insert({root.st_dev, root.st_ino});
            TRY_ASSIGN(const auto entries, parse_mountinfo(**text));
            for (const auto& entry : entries)
                if (entry.device == device && mounts_seen.insert(entry.id).second)
                    holders.push_back({inode, pid, command_of(pid), entry.mount_point});
        }
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
