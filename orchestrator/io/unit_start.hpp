// SPDX-License-Identifier: Apache-2.0
// Servers as systemd's units instead of processes that we fork (systemd/README.md): the same identity files, the same
// errors, the same answer to kill -9 at any instant; only who forks is another.
//
//   weftd      lock identity ─ stop the unit ─ write X.start ─ systemctl start ─────────────────────── read X.identity
//   systemd                                                      └ fork: weftd --launch X   ready ┘
//   launcher                                       read X.start ─ write X.identity ─ READY ─ exec
//
// The lock is weftd's alone here, so a weftd that is killed in the middle leaves a start job that nobody holds a lock
// for. What keeps two starts apart then is that systemd runs one instance per name: every start first stops what the
// name stands for, and a new weftd, before it reads any identity, stops what is still being started
// (stop_unfinished_starts). A start job is done only when the identity is on disk.
// Facts: systemctl(1), systemd.service(5) Type=notify. systemctl as root needs no message bus. Any thread.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "nbd-backend/base/result.hpp"
#include "orchestrator/io/process.hpp"

namespace weft {

/// From now on spawn_detached starts what names a unit as that unit. Called once, before there are other threads.
void start_servers_as_units();
[[nodiscard]] bool servers_are_units() noexcept;

/// spawn_detached for a request with a unit. Errors: as there; unavailable when systemd does not start it.
result<process_identity> spawn_as_unit(const spawn_request& what);

/// Ends every start of one of our servers that systemd has not finished. Errors: unavailable.
status stop_unfinished_starts();

/// The units in the output of `systemctl list-jobs --plain --no-legend` that run our servers. Pure.
std::vector<std::string> server_units_in(std::string_view list_jobs);

/// What is to be run, for the launcher: one JSON document.
std::string encode_start(const spawn_request& what);
/// Fills all but `unit` and `identity_file`. Errors: corrupt.
result<spawn_request> decode_start(std::string_view text);

/// The launcher, `weftd --launch STEM`: becomes what STEM.start says. Returns only with an error.
error launch(const std::filesystem::path& stem);

}  // namespace weft
