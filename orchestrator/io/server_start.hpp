// SPDX-License-Identifier: Apache-2.0
// What starting nbdkit and nbdfuse have in common: start detached, then wait for the pid file that both write (-P) when
// they are ready. Private to *_process.cpp and portable_attach.cpp.
#pragma once

#include <chrono>
#include <filesystem>
#include <string>

#include "nbd-backend/base/result.hpp"
#include "orchestrator/io/process.hpp"

namespace weft {

struct server_start {
    spawn_request spawn;
    std::filesystem::path
        pidfile;  // the program's -P; in a directory that exists. A stale one is removed before the start
    std::chrono::milliseconds ready_timeout{10000};
    std::string name;  // for error texts: "volume server of 3f0a..."
};

/// Sleeps in poll on inotify (the pid file) and a pidfd (the death), whichever is first. Errors: busy (one runs
/// already); unavailable when it died, with the end of its log; timed_out, after it was ended again.
result<process_identity> start_server(const server_start& what);

}  // namespace weft
