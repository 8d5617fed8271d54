// SPDX-License-Identifier: Apache-2.0
// An HTTP/1.1 server on a unix stream socket (Boost.Beast; the Docker plugin socket and the admin socket of weftd).
//
// One thread moves bytes for all connections; every request's handler runs on a thread of its own from an elastic pool,
// so a Mount of minutes never delays a Get. At most connections_max connections; at the limit the one that is idle for
// longest is closed, and if none is idle new ones wait in the kernel's backlog. What it accepts on purpose: an empty
// Host header and no Content-Type (dockerd 20.10.24 sends neither, seen). What it refuses, without keeping it in
// memory: a body above body_max (413), headers above header_max (431), anything that is not HTTP (400); all three
// close.
//
// Descriptors are close-on-exec from birth: weftd forks, and Asio's own accept(2) would leak them into the children.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "nbd-backend/base/result.hpp"
#include "orchestrator/api/http.hpp"

namespace weft {

struct unix_http_options {
    std::string path;                    // absolute, at most 107 bytes (sockaddr_un)
    mode_t mode = 0600;                  // of the socket, set before anybody can connect
    std::string group;                   // the socket's group if it exists on this machine; empty: unchanged
    std::string owner_name = "weftd";    // for the text "another weftd is listening"
    int inherited = -1;                  // a listening socket at `path` that somebody else made (a service manager):
                                         // taken instead of making one; its file is never touched. Owned from listen on
    std::size_t body_max = 1024 * 1024;  // bytes
    std::uint32_t header_max = 32 * 1024;                // bytes, request line and all headers
    std::size_t connections_max = 256;                   // and so also the most handlers at a time
    std::chrono::milliseconds idle_timeout{300'000};     // without a request on a kept-alive connection
    std::chrono::milliseconds transfer_timeout{30'000};  // for a request to arrive or an answer to be taken
};

class unix_http_server {
public:
    /// Binds, listens and serves from then on; when it returns, a client can connect. Creates the parent folder (0755)
    /// if it is missing. A socket file on which nobody answers is replaced (a killed weftd left it); one on which
    /// somebody answers is not. Errors: busy ("another weftd is listening"), invalid_argument (path too long or
    /// relative), already_exists (the path is no socket), io_failed and the rest of errno_error.
    static result<std::unique_ptr<unix_http_server>> listen(unix_http_options options, http_handler handler,
                                                            http_refusal refusal);

    /// As stop().
    ~unix_http_server();
    unix_http_server(const unix_http_server&) = delete;
    unix_http_server& operator=(const unix_http_server&) = delete;

    /// Stops accepting, removes the socket file (if it is still ours), closes idle connections, waits until the running
    /// handlers have returned and their answers were taken, joins all threads. Blocks for as long as a handler does:
    /// the owner tells its service to give up first. May be called twice, from one thread, never from a handler.
    void stop();

    struct impl;

private:
    explicit unix_http_server(std::unique_ptr<impl> self);
    std::unique_ptr<impl> impl_;
};

}  // namespace weft
