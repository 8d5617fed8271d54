// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/io/volume_process.hpp"

#include <dirent.h>
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <memory>

#include "nbd-backend/base/crash_point.hpp"
#include "nbd-backend/base/invariant.hpp"
#include "orchestrator/io/mountinfo.hpp"
#include "orchestrator/io/server_start.hpp"

namespace weft {

namespace fs = std::filesystem;

namespace {

/// Requests that one connection may have in the plugin at a time (nbdkit -t). nbdkit makes this many threads for every
/// connection, so their stacks are kept small: the plugin parks in them and works elsewhere.
constexpr int threads_per_connection = 64;
constexpr std::uint64_t stack_bytes = 512 * 1024;

constexpr std::size_t attach_config_max = 16 * 1024 * 1024;

/// Unique on the machine, where several weftd may run and attach the same volume one after the other: when nbdfuse was
/// told to end, the kernel shows no more than this name of what a loop device is over. FNV-1a of the path.
std::string fuse_file_name(const fs::path& directory) {
    std::uint64_t hash = 14695981039346656037U;
    for (const char c : directory.native()) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211U;
    return fmt::format("volume-{:016x}", hash);
}

}  // namespace

volume_paths paths_of(const fs::path& runtime_dir, const volume_id& id) {
    INVARIANT(is_uuid(id.str()), "paths_of: '{}' is not a UUID", id.str());
    const fs::path directory = runtime_dir / "volumes" / id.str();
    volume_paths paths;
    paths.directory = directory;
    paths.config = directory / "attach.json";
    paths.control_socket = directory / "control.sock";
    paths.nbd_socket = directory / "nbd.sock";
    paths.server_identity = directory / "server.identity";
    paths.server_pidfile = directory / "server.pid";
    paths.server_log = directory / "server.log";
    paths.fuse_directory = directory / "fuse";
    paths.fuse_file = directory / "fuse" / fuse_file_name(directory);
    paths.fuse_identity = directory / "nbdfuse.identity";
    paths.fuse_pidfile = directory / "nbdfuse.pid";
    paths.fuse_log = directory / "nbdfuse.log";
    return paths;
}

std::string volume_uri(const volume_paths& paths) {
    static constexpr std::string_view plain = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/";
    std::string uri = "nbd+unix:///volume?socket=";
    for (const char c : paths.nbd_socket.string()) {
        if (plain.find(c) != std::string_view::npos)
            uri += c;
        else
            uri += fmt::format("%{:02X}", static_cast<unsigned char>(c));
    }
    return uri;
}

/// No --swap: nbdkit 1.32 has 192 MiB of zeroed static data, all of which mlockall would make resident, for every
/// volume. What keeps the node from hanging under memory pressure is that the server's own allocations never wait for
/// writeback through itself (PR_SET_IO_FLUSHER) and that it is never killed for memory; spawn_request::data_path sets
/// both.
result<process_identity> start_volume_server(const volume_server_config& config) {
    const auto paths = paths_of(config.runtime_dir, config.attach.id);
    TRY(make_directories(paths.directory));
    // Before anything is overwritten: a live server has read this very file, and its sockets are its own.
    TRY_ASSIGN(const auto live, read_live_identity(paths.server_identity));
    if (live)
        return error{errc::busy,
                     fmt::format("the volume server of '{}' runs already (pid {})", config.attach.volume, live->pid)};
    TRY(write_file_atomically(paths.config, core::encode_attach_config(config.attach)));
    WEFT_CRASH_POINT("attach.config-written");
    TRY(remove_file(paths.nbd_socket));  // a killed server leaves them, and bind refuses what exists
    TRY(remove_file(paths.control_socket));
    server_start start;
    start.name = fmt::format("volume server of '{}'", config.attach.volume);
    start.pidfile = paths.server_pidfile;
    start.ready_timeout = config.ready_timeout;
    start.spawn.argv = {"nbdkit",
                        "-f",
                        "-t",
                        std::to_string(threads_per_connection),
                        "-U",
                        paths.nbd_socket.string(),
                        "-P",
                        paths.server_pidfile.string(),
                        config.plugin.string(),
                        "config=" + paths.config.string(),
                        "control=" + paths.control_socket.string()};
    start.spawn.unit = fmt::format("weft-volume@{}.service", config.attach.id.str());
    start.spawn.identity_file = paths.server_identity;
    start.spawn.log_file = paths.server_log;
    start.spawn.data_path = true;
    start.spawn.stack_bytes = stack_bytes;
    return start_server(start);
}

result<std::optional<process_identity>> find_volume_server(const fs::path& runtime_dir, const volume_id& id) {
    return read_live_identity(paths_of(runtime_dir, id).server_identity);
}

status stop_volume_server(const fs::path& runtime_dir, const volume_id& id, std::chrono::milliseconds grace) {
    TRY_ASSIGN(const auto live, find_volume_server(runtime_dir, id));
    return live ? terminate(*live, grace) : ok();
}

status kill_volume_server(const fs::path& runtime_dir, const volume_id& id) {
    TRY_ASSIGN(const auto live, find_volume_server(runtime_dir, id));
    return live ? kill_now(*live) : ok();
}

result<std::optional<core::attach_config>> read_attach_config(const fs::path& runtime_dir, const volume_id& id) {
    const auto path = paths_of(runtime_dir, id).config;
    TRY_ASSIGN(const auto text, read_file(path, attach_config_max));
    if (!text) return std::optional<core::attach_config>{};
    auto config = core::decode_attach_config(*text);
    if (config.has_error()) return config.error().within(path.string());
    return std::optional<core::attach_config>{std::move(*config)};
}

status note_clean(const fs::path& runtime_dir, const volume_id& id, bool clean) {
    TRY_ASSIGN(auto config, read_attach_config(runtime_dir, id));
    if (!config || config->clean == clean) return ok();
    config->clean = clean;
    return write_file_atomically(paths_of(runtime_dir, id).config, core::encode_attach_config(*config));
}

result<std::vector<volume_id>> list_volume_directories(const fs::path& runtime_dir) {
    TRY_ASSIGN(const auto names, list_uuid_directories(runtime_dir / "volumes"));
    std::vector<volume_id> ids;
    for (const auto& name : names) ids.emplace_back(name);
    return ids;
}

status remove_volume_directory(const fs::path& runtime_dir, const volume_id& id) {
    const auto paths = paths_of(runtime_dir, id);
    TRY_ASSIGN(const auto server, read_live_identity(paths.server_identity));
    TRY_ASSIGN(const auto fuse, read_live_identity(paths.fuse_identity));
    if (server || fuse)
        return error{errc::busy, fmt::format("{} still belongs to process {}", paths.directory.string(),
                                             server ? server->pid : fuse->pid)};
    // Asked of mountinfo and not of the mount point, which would ask a FUSE server that may hang.
    TRY_ASSIGN(const auto mounts, read_own_mounts());
    const std::string below = paths.directory.string() + "/";
    for (const auto& mount : mounts)
        if (mount.mount_point.starts_with(below))
            return error{errc::busy, fmt::format("{} is still mounted", mount.mount_point)};
    return remove_directory_tree(paths.directory);
}

}  // namespace weft
