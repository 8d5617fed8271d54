// SPDX-License-Identifier: Apache-2.0
// The replica server of a drive: `nbdkit` + weft-replica plugin, one process per drive, detached from weftd.
//
// Its identity, pid file and log live in <runtime>/drives/<drive id>/. Adopted after a restart of weftd by reading the
// identity; its exit is seen through exit_watcher (process.hpp). The drive's own lock (flock by the plugin) keeps a
// second server away even if this directory is lost. Blocking (start: until it listens or died); any thread, one caller
// per drive at a time.
//
// Fault injection, for tests: where the file <runtime>/replica-filters exists, a server is started under nbdkit
// filters. Every line is `--filter=NAME` or a filter's `key=value`. The directory is root's, as is what nbdkit would do
// with it.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "nbd-backend/base/ids.hpp"
#include "nbd-backend/base/result.hpp"
#include "orchestrator/io/process.hpp"

namespace weft {

struct replica_server_config {
    std::filesystem::path runtime_dir;
    std::filesystem::path plugin;           // .../nbdkit-weft-replica-plugin.so, absolute
    drive_id drive;                         // a UUID (INVARIANT)
    std::filesystem::path drive_directory;  // absolute
    std::string host;                       // IP address to listen on
    std::uint16_t port = 0;
    std::string boot_id;  // what it tells its clients (core::is_boot_id); empty: this kernel's
    std::chrono::milliseconds ready_timeout{10000};
};

/// What is running for a drive, with the arguments that it was started with (from /proc/PID/cmdline).
struct replica_server {
    process_identity process;
    std::string host;
    std::uint16_t port = 0;
    std::filesystem::path drive_directory;
};

/// Returns when it accepts connections. Errors: busy when one is alive already, or when the port is in use (text says
/// which); unavailable with the end of its log when it died at once; timed_out (it was ended again); invalid_argument
/// for a replica-filters file that is not as above.
result<process_identity> start_replica_server(const replica_server_config& config);

/// The live server of a drive, whatever weftd started it. Compare host, port and directory with what is wanted.
result<std::optional<replica_server>> find_replica_server(const std::filesystem::path& runtime_dir,
                                                          const drive_id& drive);

/// SIGTERM, `grace`, SIGKILL; then its files are removed. Success when there is none.
status stop_replica_server(const std::filesystem::path& runtime_dir, const drive_id& drive,
                           std::chrono::milliseconds grace);

/// Every drive that has a directory under <runtime>/drives.
result<std::vector<drive_id>> list_replica_directories(const std::filesystem::path& runtime_dir);

}  // namespace weft
