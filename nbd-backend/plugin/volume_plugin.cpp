// SPDX-License-Identifier: Apache-2.0
// nbdkit plugin "weft-volume": serves a replicated volume, whole and by extent, on the writer's node.
//
//   nbdkit -f -t THREADS -U SOCKET nbdkit-weft-volume-plugin.so config=FILE control=SOCKET
//
//   config    attach.json, written by weftd (core/control_message.hpp, attach_config)
//   control   unix socket on which weftd is answered; made before anything is served
//
// nbdkit's worker threads carry one request each and wait for its end (R4 may make that long). When nbdkit is told to
// stop it waits for its workers and then for its clients to go, so a thread of ours waits for that moment in
// nbdkit_nanosleep(3), which is documented to return early then, and ends the engine: requests that are held get
// ESHUTDOWN. Clients that stay connected after that are cut off with the process: everything acknowledged is with the
// replicas, nothing is kept here.
//
// Checks that must reach the user run in config_complete and get_ready; threads start in after_fork.
#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include <fmt/format.h>
#include <poll.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <thread>

#include "nbd-backend/core/control_message.hpp"
#include "nbd-backend/io/threads.hpp"
#include "nbd-backend/io/volume_server.hpp"
#include "nbd-backend/io/wakeup.hpp"

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

namespace {

using weft::core::op_kind;

// nbdkit runs one plugin per process; these live as long as it.
std::string config_path;
std::string control_path;
std::unique_ptr<weft::io::volume_server> server;
std::thread stop_watcher;
weft::io::wakeup cleaned_up;  // rung when nbdkit has got rid of its clients

// What nbdkit gets, after the engine's end, to send the last answers and to see its clients go.
constexpr int last_answers_ms = 500;

/// Nothing thrown may cross into nbdkit, which is C.
template <typename Result, typename Body>
Result guarded(Result failed, Body body) noexcept {
    try {
        return body();
    } catch (const std::exception& e) {
        nbdkit_error("weft-volume: %s", e.what());
        nbdkit_set_error(EIO);
        return failed;
    }
}

int refuse(const std::string& why) {
    nbdkit_error("%s", why.c_str());
    return -1;
}

int volume_config(const char* key, const char* value) {
    return guarded(-1, [&] {
        const std::string name = key;
        if (name != "config" && name != "control")
            return refuse(fmt::format("unknown parameter '{}'; known are config=FILE and control=SOCKET", name));
        // nbdkit -f stays in its directory, but without -f it goes to /: make both absolute now.
        char* path = nbdkit_absolute_path(value);
        if (path == nullptr) return -1;
        (name == "config" ? config_path : control_path) = path;
        std::free(path);
        return 0;
    });
}

int volume_config_complete() {
    return guarded(-1, [] {
        if (config_path.empty()) return refuse("config=FILE is missing: the volume's attach.json, written by weftd");
        if (control_path.empty()) return refuse("control=SOCKET is missing: where weftd is answered");
        errno = 0;
        std::ifstream file(config_path, std::ios::binary);
        if (!file) return refuse(weft::errno_error(errno, "config=" + config_path).text);
        const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
        if (file.bad()) return refuse(weft::errno_error(EIO, "config=" + config_path).text);
        auto config = weft::core::decode_attach_config(text);
        if (config.has_error()) return refuse(config.error().within("config=" + config_path).text);
        server = std::make_unique<weft::io::volume_server>(std::move(*config));
        return 0;
    });
}

int volume_get_ready() {
    return guarded(-1, [] {
        const auto listening = server->listen(control_path);
        return listening.has_error() ? refuse(listening.error().text) : 0;
    });
}

/// Sleeps until nbdkit stops, ends the engine, and sees to it that the process ends.
void watch_for_stop() {
    constexpr unsigned one_day = 24 * 60 * 60;  // as good as for ever; INT_MAX is refused
    while (nbdkit_nanosleep(one_day, 0) == 0 || errno == EINTR) {
    }
    server->stop();
    pollfd bell{cleaned_up.fd(), POLLIN, 0};
    if (::poll(&bell, 1, last_answers_ms) == 0) ::_exit(EXIT_SUCCESS);
}

int volume_after_fork() {
    return guarded(-1, [] {
        // This process is below its node's page cache: it must not wait for memory that only writing through it can
        // free. Needs CAP_SYS_RESOURCE; inherited by every thread made from here on; best effort.
        (void)::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
        const auto started = server->start();
        if (started.has_error()) return refuse(started.error().text);
        if (const auto bell = cleaned_up.open(); bell.has_error()) return refuse(bell.error().text);
        stop_watcher = weft::io::start_thread("weft-stop", watch_for_stop);
        return 0;
    });
}

void volume_cleanup() {
    if (stop_watcher.joinable()) {
        cleaned_up.ring();
        stop_watcher.join();
    }
    if (server != nullptr) server->stop();
}

void volume_unload() { server.reset(); }

int volume_list_exports(int, int, struct nbdkit_exports* exports) {
    return guarded(-1, [&] {
        for (const std::string& name : server->export_names())
            if (nbdkit_add_export(exports, name.c_str(), nullptr) == -1) return -1;
        return 0;
    });
}

const char* volume_default_export(int, int) { return "volume"; }

void* volume_open(int) {
    return guarded<void*>(nullptr, []() -> void* {
        const auto window = server->find_export(nbdkit_export_name());
        if (window.has_error()) {
            (void)refuse(window.error().text);
            return nullptr;
        }
        return new weft::io::volume_window(*window);
    });
}

const weft::io::volume_window& window_of(void* handle) { return *static_cast<weft::io::volume_window*>(handle); }

void volume_close(void* handle) { delete static_cast<weft::io::volume_window*>(handle); }

int64_t volume_get_size(void* handle) { return static_cast<int64_t>(window_of(handle).size_bytes); }

const char* volume_export_description(void*) {
    return guarded<const char*>(nullptr, [] { return nbdkit_strdup_intern(server->describe().c_str()); });
}

int yes(void*) { return 1; }
int no(void*) { return 0; }
int native_fua(void*) { return NBDKIT_FUA_NATIVE; }

int volume_block_size(void*, uint32_t* minimum, uint32_t* preferred, uint32_t* maximum) {
    *minimum = *preferred = static_cast<uint32_t>(weft::block_bytes);
    *maximum = weft::core::max_request_bytes;
    return 0;
}

int carry_out(void* handle, op_kind kind, std::byte* data, uint32_t count, uint64_t offset, uint32_t flags) {
    return guarded(-1, [&] {
        thread_local weft::io::request_waiter waiter;
        weft::core::request what;
        what.kind = kind;
        what.fua = (flags & NBDKIT_FLAG_FUA) != 0;
        what.offset = offset;
        what.length = count;
        what.data = data;
        const int error = server->submit(waiter, window_of(handle), what);
        if (error == 0) return 0;
        nbdkit_set_error(error);
        return -1;
    });
}

int volume_pread(void* handle, void* buffer, uint32_t count, uint64_t offset, uint32_t flags) {
    return carry_out(handle, op_kind::read, static_cast<std::byte*>(buffer), count, offset, flags);
}

int volume_pwrite(void* handle, const void* buffer, uint32_t count, uint64_t offset, uint32_t flags) {
    // The engine never writes to the source of a write; core::request has one pointer for both directions.
    return carry_out(handle, op_kind::write, const_cast<std::byte*>(static_cast<const std::byte*>(buffer)), count,
                     offset, flags);
}

int volume_flush(void* handle, uint32_t) { return carry_out(handle, op_kind::flush, nullptr, 0, 0, 0); }

int volume_trim(void* handle, uint32_t count, uint64_t offset, uint32_t flags) {
    return carry_out(handle, op_kind::trim, nullptr, count, offset, flags);
}

int volume_zero(void* handle, uint32_t count, uint64_t offset, uint32_t flags) {
    return carry_out(handle, op_kind::zero, nullptr, count, offset, flags);
}

nbdkit_plugin make_plugin() {
    nbdkit_plugin it{};
    it.name = "weft-volume";
    it.longname = "Weft replicated volume";
    it.version = WEFT_VERSION;
    it.description = "The replication engine of a Weft volume: NBD client of its replicas, NBD server of the volume";
    it.config_help =
        "config=FILE      (required) attach.json of the volume\n"
        "control=SOCKET   (required) unix socket on which weftd is answered";
    it.magic_config_key = "config";
    it.config = volume_config;
    it.config_complete = volume_config_complete;
    it.get_ready = volume_get_ready;
    it.after_fork = volume_after_fork;
    it.cleanup = volume_cleanup;
    it.unload = volume_unload;
    it.list_exports = volume_list_exports;
    it.default_export = volume_default_export;
    it.export_description = volume_export_description;
    it.open = volume_open;
    it.close = volume_close;
    it.get_size = volume_get_size;
    it.block_size = volume_block_size;
    it.can_write = yes;
    it.can_flush = yes;
    it.can_fua = native_fua;
    it.can_multi_conn = yes;
    it.can_trim = yes;
    it.can_zero = yes;
    it.can_fast_zero = no;
    it.can_extents = no;
    it.is_rotational = no;
    it.pread = volume_pread;
    it.pwrite = volume_pwrite;
    it.flush = volume_flush;
    it.trim = volume_trim;
    it.zero = volume_zero;
    return it;
}

nbdkit_plugin plugin = make_plugin();

}  // namespace

NBDKIT_REGISTER_PLUGIN(plugin)
