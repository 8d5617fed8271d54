// SPDX-License-Identifier: Apache-2.0
// Binding a unix socket at a path that a killed predecessor may have left behind, without ever taking it from a living
// one.
//
// The decision "nobody answers there, so replace it" and the bind are made under flock(2) of the parent folder, so two
// starters cannot both find the same stale file. Mode and group are set between bind and listen: until listen nobody
// can connect. Killed between the two, the file left behind is a stale one like any other. Any thread; blocks for the
// lock.
#pragma once

#include <sys/types.h>

#include <string>

#include "nbd-backend/base/result.hpp"

namespace weft {

/// A listening, non-blocking, close-on-exec socket and the file that it made.
struct listening_socket {
    int fd = -1;       // owned by the caller
    dev_t device = 0;  // identity of the socket file: unlink_if_ours compares it
    ino_t inode = 0;
};

/// Errors: see unix_http_server::listen. `owner_name` is the program that the user knows ("weftd").
result<listening_socket> listen_unix(const std::string& path, mode_t mode, const std::string& group,
                                     const std::string& owner_name);

/// Removes the socket file unless somebody else has put another one there meanwhile. Errors are ignored: at worst a
/// stale file stays, which the next start replaces.
void unlink_if_ours(const std::string& path, const listening_socket& ours) noexcept;

/// Connects with close-on-exec from birth; the kernel's wait for the listener's backlog is bounded by timeout_ms.
/// Errors: unavailable (nobody listens, no such file, not allowed, backlog full: the text says which),
/// invalid_argument (path too long).
result<int> connect_unix(const std::string& path, int timeout_ms);

}  // namespace weft
