// SPDX-License-Identifier: Apache-2.0
// weft-replica: the nbdkit plugin that serves every replica of one drive, each as an export (FORMAT.md,
// export_name.hpp).
//
//   nbdkit -f -t 16 -i HOST -p PORT nbdkit-weft-replica-plugin.so drive=DIR [boot-id=TEXT]
//
// Only a translation between nbdkit's C interface (version 2, nbdkit-plugin(3) of nbdkit 1.32) and replica_server.hpp.
// Thread rule: PARALLEL; nbdkit calls open and the requests of all connections at the same time, each open on its
// connection's own thread, so that one which waits for a drain (R2) holds nobody up.
// The drive's lock is taken before nbdkit listens and never given back: it ends with the process. Nothing thrown
// crosses into C: every callback that can throw goes through `guarded`. Fenced and misaligned requests are answered
// silently: a thousand log lines would say the same.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstddef>
#include <exception>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "nbd-backend/core/engine_types.hpp"
#include "nbd-backend/io/dead_peers.hpp"
#include "nbd-backend/io/drive_dir.hpp"
#include "nbd-backend/io/replica_server.hpp"

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57  // linux/prctl.h since 5.6
#endif

namespace {

using weft::io::replica_connection;

/// What the process is; set up on one thread before nbdkit accepts connections, then only read.
struct process_state {
    std::string drive;
    std::string boot_id;
    weft::io::unique_fd lock;
    std::unique_ptr<weft::io::replica_server> server;
};
process_state the_process;

/// The door for exceptions: memory may run out in there, nothing else is thrown.
template <typename Result, typename Work>
Result guarded(Result failure, Work work) noexcept {
    try {
        return work();
    } catch (const std::exception& problem) {
        nbdkit_error("weft-replica: %s", problem.what());
        errno = ENOMEM;
        return failure;
    }
}

int complain(const weft::error& problem) {
    nbdkit_error("weft-replica: %s", problem.text.c_str());
    return -1;
}

/// nbdkit's way to answer a request. errno_is_preserved is set below.
int answer(int problem) noexcept {
    if (problem == 0) return 0;
    errno = problem;
    return -1;
}

replica_connection& connection(void* handle) noexcept {
    return *static_cast<replica_connection*>(handle);
}

bool has(std::uint32_t flags, std::uint32_t flag) noexcept {
    return (flags & flag) != 0;
}

int configure(std::string_view key, const char* value) {
    if (key == "drive") {
        the_process.drive = value;
        while (the_process.drive.size() > 1 && the_process.drive.back() == '/') the_process.drive.pop_back();
        return 0;
    }
    if (key == "boot-id") {
        if (!weft::core::is_boot_id(value)) {
            nbdkit_error("weft-replica: boot-id: letters, digits and dashes, at most 64");
            return -1;
        }
        the_process.boot_id = value;
        return 0;
    }
    nbdkit_error("weft-replica: unknown parameter '%s': known are drive and boot-id", std::string(key).c_str());
    return -1;
}

int check_configuration() {
    if (the_process.drive.empty()) {
        nbdkit_error("weft-replica: the parameter drive=DIRECTORY is missing");
        return -1;
    }
    const auto fit = weft::io::check_drive_path(the_process.drive);
    return fit.has_error() ? complain(fit.error()) : 0;
}

weft::result<std::string> read_kernel_boot_id() {
    TRY_ASSIGN(auto text, weft::io::read_small_file("/proc/sys/kernel/random/boot_id", 256));
    while (!text.empty() && text.back() == '\n') text.pop_back();
    if (!weft::core::is_boot_id(text))
        return weft::error{weft::errc::corrupt, "/proc/sys/kernel/random/boot_id holds no boot id"};
    return text;
}

weft::status take_lock(const std::string& drive) {
    const std::string path = drive + "/lock";
    TRY_ASSIGN(the_process.lock, weft::io::open_file(path, O_RDWR | O_CREAT));
    if (::flock(the_process.lock.get(), LOCK_EX | LOCK_NB) == 0) return weft::ok();
    if (errno != EWOULDBLOCK) return weft::errno_error(errno, fmt::format("lock {}", path));
    const auto holder = weft::io::read_small_file(path, 64);
    return weft::error{weft::errc::busy,
                       fmt::format("drive {} is already served by another process (pid {}): its requests may still be "
                                   "under way, so stop it first",
                                   drive, holder.has_value() ? *holder : std::string("unknown"))};
}

weft::status make_ready() {
    TRY(weft::io::read_drive(the_process.drive));
    TRY(take_lock(the_process.drive));
    if (the_process.boot_id.empty()) {
        TRY_ASSIGN(the_process.boot_id, read_kernel_boot_id());
    }
    the_process.server = std::make_unique<weft::io::replica_server>(
        the_process.drive, the_process.boot_id,
        [](const std::string& text) { nbdkit_error("weft-replica: %s", text.c_str()); });
    return weft::ok();
}

/// A stop is a death: at once, whatever is under way. nbdkit's own way would wait until every client has gone, and
/// answer their requests with ESHUTDOWN meanwhile, which to a writer means "fenced for good" (R5). Nothing acknowledged
/// is lost: it is in this kernel's page cache, and the writer sends again what was not acknowledged (R4).
void die_when_told_to_stop() noexcept {
    struct sigaction action {};
    action.sa_handler = [](int) { ::_exit(0); };
    for (const int number : {SIGTERM, SIGINT, SIGQUIT, SIGHUP})
        if (::sigaction(number, &action, nullptr) != 0)
            nbdkit_debug("weft-replica: cannot take over signal %d, ignoring", number);
}

/// In the process that will serve, after nbdkit set up its signals and before there are other threads, which inherit
/// the flag.
int after_fork() noexcept {
    die_when_told_to_stop();
    if (weft::io::end_dead_peers() == 0)
        nbdkit_debug("weft-replica: listens on no TCP socket, or cannot have dead peers noticed, ignoring");
    // We may be below the page cache of the node that writes to us: allocations must not wait for that writing. Needs
    // CAP_SYS_RESOURCE; without it we go on.
    if (::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) != 0) nbdkit_debug("weft-replica: PR_SET_IO_FLUSHER refused, ignoring");
    // For the message to whoever tries to start a second server; a failure costs only that.
    const std::string pid = std::to_string(::getpid());
    if (::ftruncate(the_process.lock.get(), 0) != 0 ||
        weft::io::write_at(the_process.lock.get(), std::as_bytes(std::span(pid)), 0) != 0)
        nbdkit_debug("weft-replica: cannot write the pid into the lock, ignoring");
    return 0;
}

int list_exports(nbdkit_exports* exports) {
    const auto ids = the_process.server->list();
    if (ids.has_error()) return complain(ids.error());
    for (const auto& id : *ids)
        if (nbdkit_add_export(exports, id.str().c_str(), nullptr) == -1) return -1;
    return 0;
}

void* open_export(bool readonly) {
    const std::string_view name = nbdkit_export_name();
    const auto parsed = weft::core::parse_export_name(name);
    if (readonly && parsed.has_value() && parsed->is_writer()) {
        nbdkit_error("weft-replica: this server is read-only (-r): it fences nobody, only looks can be opened");
        return nullptr;
    }
    auto opened = the_process.server->open(name);
    if (opened.has_error()) {
        (void)complain(opened.error());
        return nullptr;
    }
    return opened->release();
}

int add_extents(replica_connection& replica, std::uint64_t offset, std::uint32_t count, std::uint32_t flags,
                nbdkit_extents* extents) noexcept {
    return answer(replica.extents(offset, count, [&](const weft::io::file_extent& found) noexcept {
        const std::uint32_t type = found.hole ? NBDKIT_EXTENT_HOLE | NBDKIT_EXTENT_ZERO : 0;
        return nbdkit_add_extent(extents, found.offset, found.length, type) == 0 && !has(flags, NBDKIT_FLAG_REQ_ONE);
    }));
}

void set_life_cycle(nbdkit_plugin& plugin) {
    plugin.config = [](const char* key, const char* value) {
        return guarded(-1, [&] { return configure(key, value); });
    };
    plugin.config_complete = [] { return guarded(-1, check_configuration); };
    plugin.get_ready = [] {
        return guarded(-1, [] {
            const auto ready = make_ready();
            return ready.has_error() ? complain(ready.error()) : 0;
        });
    };
    plugin.after_fork = [] { return guarded(-1, after_fork); };
    plugin.cleanup = [] { the_process.server.reset(); };
    plugin.list_exports = [](int, int, nbdkit_exports* exports) {
        return guarded(-1, [&] { return list_exports(exports); });
    };
    plugin.open = [](int readonly) -> void* {
        return guarded(static_cast<void*>(nullptr), [&] { return open_export(readonly != 0); });
    };
    plugin.close = [](void* handle) { delete &connection(handle); };
}

void set_properties(nbdkit_plugin& plugin) {
    plugin.export_description = [](void* handle) { return connection(handle).description().c_str(); };
    plugin.get_size = [](void* handle) { return static_cast<std::int64_t>(connection(handle).size_bytes()); };
    plugin.block_size = [](void*, std::uint32_t* minimum, std::uint32_t* preferred, std::uint32_t* maximum) {
        *minimum = *preferred = weft::block_bytes;
        *maximum = weft::core::max_request_bytes;
        return 0;
    };
    const auto writers_only = [](void* handle) { return connection(handle).is_writer() ? 1 : 0; };
    plugin.can_write = writers_only;
    plugin.can_flush = writers_only;
    plugin.can_trim = writers_only;
    const auto writers_of_data = [](void* handle) {
        return connection(handle).is_writer() && !connection(handle).is_map() ? 1 : 0;
    };
    plugin.can_zero = writers_of_data;
    plugin.can_fast_zero = writers_of_data;
    plugin.can_fua = [](void* handle) { return connection(handle).is_writer() ? NBDKIT_FUA_NATIVE : NBDKIT_FUA_NONE; };
    plugin.is_rotational = [](void*) { return 0; };
    // One replica behind all connections, and one sync covers them all.
    plugin.can_multi_conn = [](void*) { return 1; };
    plugin.can_extents = [](void*) { return 1; };
}

void set_requests(nbdkit_plugin& plugin) {
    plugin.pread = [](void* handle, void* buffer, std::uint32_t count, std::uint64_t offset, std::uint32_t) {
        return answer(connection(handle).read({static_cast<std::byte*>(buffer), count}, offset));
    };
    plugin.pwrite = [](void* handle, const void* buffer, std::uint32_t count, std::uint64_t offset,
                       std::uint32_t flags) {
        return answer(connection(handle).write({static_cast<const std::byte*>(buffer), count}, offset,
                                               has(flags, NBDKIT_FLAG_FUA)));
    };
    plugin.flush = [](void* handle, std::uint32_t) { return answer(connection(handle).flush()); };
    plugin.trim = [](void* handle, std::uint32_t count, std::uint64_t offset, std::uint32_t flags) {
        return answer(connection(handle).trim(offset, count, has(flags, NBDKIT_FLAG_FUA)));
    };
    // A hole whether or not MAY_TRIM allows one: it is what zeros are in a thin volume, and what the other replicas
    // have.
    plugin.zero = [](void* handle, std::uint32_t count, std::uint64_t offset, std::uint32_t flags) {
        return answer(
            connection(handle).zero(offset, count, has(flags, NBDKIT_FLAG_FUA), has(flags, NBDKIT_FLAG_FAST_ZERO)));
    };
    plugin.extents = [](void* handle, std::uint32_t count, std::uint64_t offset, std::uint32_t flags,
                        nbdkit_extents* extents) {
        return add_extents(connection(handle), offset, count, flags, extents);
    };
}

nbdkit_plugin make_plugin() {
    nbdkit_plugin plugin{};
    plugin.name = "weft-replica";
    plugin.longname = "Weft replica server";
    plugin.version = WEFT_VERSION;
    plugin.description = "serves the replicas of one Weft drive";
    plugin.config_help =
        "drive=<DIR>     (required) The drive's directory.\n"
        "boot-id=<TEXT>  Instead of the kernel's boot id; for tests.";
    plugin.magic_config_key = "drive";
    plugin.errno_is_preserved = 1;
    set_life_cycle(plugin);
    set_properties(plugin);
    set_requests(plugin);
    return plugin;
}

nbdkit_plugin the_plugin = make_plugin();

}  // namespace

NBDKIT_REGISTER_PLUGIN(the_plugin)
