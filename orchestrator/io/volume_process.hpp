// SPDX-License-Identifier: Apache-2.0
// The volume server of an attached volume: `nbdkit` + weft-volume plugin, one process per volume, detached from weftd.
//
// Everything about it lives in <runtime>/volumes/<volume id>/ and nowhere in weftd's memory; volume_paths names it all.
// A directory without a live process is a leftover, to be torn down and removed. Starting is refused while one is
// alive: a volume server that starts again is a new writer and needs a new epoch (R1), so weftd must decide, not retry.
// Blocking (start: until the sockets listen or the server died); any thread, one caller per volume at a time.
#pragma once

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "nbd-backend/base/ids.hpp"
#include "nbd-backend/base/result.hpp"
#include "nbd-backend/core/control_message.hpp"
#include "orchestrator/io/process.hpp"

namespace weft {

/// Where the files of one attached volume are.
struct volume_paths {
    std::filesystem::path directory;        // <runtime>/volumes/<id>, 0700
    std::filesystem::path config;           // attach.json
    std::filesystem::path control_socket;   // control.sock
    std::filesystem::path nbd_socket;       // nbd.sock
    std::filesystem::path server_identity;  // server.identity
    std::filesystem::path server_pidfile;   // server.pid: nbdkit writes it when it listens
    std::filesystem::path server_log;       // server.log
    std::filesystem::path fuse_directory;   // fuse/: mount point of nbdfuse
    std::filesystem::path fuse_file;        // fuse/volume-<hash of directory>: the whole volume as a file
    std::filesystem::path fuse_identity;    // nbdfuse.identity
    std::filesystem::path fuse_pidfile;     // nbdfuse.pid
    std::filesystem::path fuse_log;         // nbdfuse.log
};

/// `id` must be a UUID (INVARIANT): it becomes a path.
volume_paths paths_of(const std::filesystem::path& runtime_dir, const volume_id& id);

/// "nbd+unix:///volume?socket=/run/weft/volumes/.../nbd.sock"
std::string volume_uri(const volume_paths& paths);

struct volume_server_config {
    std::filesystem::path runtime_dir;
    std::filesystem::path plugin;  // .../nbdkit-weft-volume-plugin.so, absolute
    core::attach_config attach;
    std::chrono::milliseconds ready_timeout{10000};
};

/// Writes attach.json, starts the server, returns when its NBD socket listens. Errors: busy (one is alive already);
/// unavailable, with the end of its log, when it died at once; timed_out (it was ended again).
result<process_identity> start_volume_server(const volume_server_config& config);

/// The live server of a volume. Errors: corrupt, io_failed.
result<std::optional<process_identity>> find_volume_server(const std::filesystem::path& runtime_dir,
                                                           const volume_id& id);

/// SIGTERM, `grace`, SIGKILL. Acknowledged data is on the replicas; unflushed data there is in their kernels.
status stop_volume_server(const std::filesystem::path& runtime_dir, const volume_id& id,
                          std::chrono::milliseconds grace);

/// SIGKILL at once, for a server that has clients who wait for the next one: told to stop, it would first answer what
/// they still ask with ESHUTDOWN, and the kernel takes that for an I/O error. Dead, it answers nothing, and they ask
/// the next one. What was acknowledged is with the replicas. Success also when there was none.
status kill_volume_server(const std::filesystem::path& runtime_dir, const volume_id& id);

/// The epoch in a volume's attach.json: which attachment the leftover was. nullopt when there is none.
result<std::optional<core::attach_config>> read_attach_config(const std::filesystem::path& runtime_dir,
                                                              const volume_id& id);

/// Of a mirrored volume: `clean` in attach.json says that the legs are equal and no set has run over them since, not
/// even in this attachment: false before a set is assembled, true when it has gone in order. Nothing happens when there
/// is no attach.json. Errors: corrupt, io_failed, no_space.
status note_clean(const std::filesystem::path& runtime_dir, const volume_id& id, bool clean);

/// Every volume that has a directory under <runtime>/volumes, alive or left over; other names there are skipped.
result<std::vector<volume_id>> list_volume_directories(const std::filesystem::path& runtime_dir);

/// Removes the directory of a volume with no live server and no fuse mount. Errors: busy when there is one.
status remove_volume_directory(const std::filesystem::path& runtime_dir, const volume_id& id);

}  // namespace weft
