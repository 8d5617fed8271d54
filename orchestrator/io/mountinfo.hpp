// SPDX-License-Identifier: Apache-2.0
// Mounts, as /proc/*/mountinfo tells them: parser (pure) and readers.
//
// Names are compared after un-escaping (\040 space, \011 tab, \012 newline, \134 backslash). A file system is
// recognised by its major:minor, never by its source text, which anybody may set. Source: proc(5), "mountinfo". Cannot
// see mount namespaces that no process lives in (pinned by a bind mount or an open fd only): the caller's last defence
// there is that the loop device stays busy. Any thread; reading may take milliseconds per thousand processes.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "nbd-backend/base/result.hpp"

namespace weft {

struct device_number {
    std::uint32_t major = 0;
    std::uint32_t minor = 0;
    friend bool operator==(const device_number&, const device_number&) = default;
};

struct mount_entry {
    std::uint64_t id = 0;
    std::uint64_t parent = 0;
    device_number device;
    std::string root;  // within the file system: "/" unless a bind mount of a part of it
    std::string mount_point;
    std::string options;                   // per mount
    std::vector<std::string> propagation;  // "shared:2", "master:1"; empty: private
    std::string type;                      // "ext4", "fuse.nbdfuse", ...
    std::string source;
    std::string super_options;
};

/// Errors: corrupt, naming the line.
result<std::vector<mount_entry>> parse_mountinfo(std::string_view text);

/// "\040" -> " "; anything that is not a full octal escape stays as it is.
std::string unescape_mount_field(std::string_view field);

/// The mounts of the calling process's namespace, in mount order.
result<std::vector<mount_entry>> read_own_mounts();

/// Whether `mount`, one of `theirs` in another namespace, goes away by itself when its original among `ours` is
/// unmounted: it is there only because its parent receives from the peer group of the original's parent, at the same
/// place, and nothing is mounted upon it. Services of systemd with a namespace of their own (systemd-udevd is one) get
/// such a copy of every mount. In use there, it makes our umount(2) busy. False when in doubt. Pure. Source:
/// mount_namespaces(7), "Shared subtrees"; propagate_umount and propagate_mount_busy in the kernel's fs/pnode.c.
bool follows_our_unmount(const mount_entry& mount, const std::vector<mount_entry>& theirs,
                         const std::vector<mount_entry>& ours);

/// A mount of a device in somebody else's mount namespace.
struct foreign_mount {
    std::uint64_t mount_namespace = 0;  // inode of /proc/PID/ns/mnt; 0 if we may not look
    pid_t pid = 0;                      // one process that lives there
    std::string command;                // its name (comm)
    std::string mount_point;            // as seen there
};

/// Every other mount namespace that holds `device` mounted and would go on holding it when we unmount it
/// (follows_our_unmount), one entry per mount. Processes that vanish meanwhile are
/// skipped; a mountinfo that may not be read is an error (io_failed): "cannot know" must not look like "nobody".
result<std::vector<foreign_mount>> foreign_holders(device_number device);

/// "held by postgres (pid 4711) at /var/lib/postgresql, ... and 2 more", for an error text.
std::string describe(const std::vector<foreign_mount>& holders);

}  // namespace weft
