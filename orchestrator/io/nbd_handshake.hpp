// SPDX-License-Identifier: Apache-2.0
// An NBD connection negotiated in user space whose socket is then given away to the kernel's nbd driver.
//
// The driver speaks only the transmission phase, with simple replies; who opens the connection must have finished the
// handshake (fixed newstyle, NBD_OPT_GO, no structured replies). libnbd does it, and may hand its socket over:
//   - it never reads ahead: every receive asks for exactly what the next field needs (recv_into_rbuf in its
//     generator/states.c), and an NBD server says nothing between the answer to NBD_OPT_GO and our first request;
//   - nbd_close(3) closes its descriptor without a word: only nbd_shutdown(3) sends NBD_CMD_DISC. So a duplicate made
//     before stays a connection in the transmission phase, with nothing in flight.
// Blocking up to the time-out; any thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <string>

#include "nbd-backend/base/result.hpp"
#include "orchestrator/io/atomic_file.hpp"

namespace weft {

/// What the server says of its export.
struct nbd_export {
    std::uint64_t bytes = 0;
    std::uint64_t block_min = 1;           // bytes; smallest unit of a request
    std::uint64_t block_preferred = 4096;  // bytes
    std::uint64_t flags = 0;  // NBD_FLAG_* of linux/nbd.h: the protocol's transmission flags that a driver can use

    friend bool operator==(const nbd_export&, const nbd_export&) = default;
};

struct negotiated_nbd {
    unique_fd socket;  // blocking, close-on-exec; the only descriptor of this connection
    nbd_export served;
};

/// Errors: unavailable (nobody listens at `socket`, or the server refuses the export), timed_out, unsupported (a server
/// that a kernel cannot use), invalid_argument (a path or a name that NBD or a socket address cannot hold).
result<negotiated_nbd> negotiate_nbd(const std::filesystem::path& socket, const std::string& export_name,
                                     std::chrono::milliseconds timeout);

}  // namespace weft
