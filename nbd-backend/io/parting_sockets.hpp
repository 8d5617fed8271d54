// SPDX-License-Identifier: Apache-2.0
// Sockets whose connection we gave up while the server may still answer on them: half-closed, read and thrown away
// until the server closes its end.
//
// Why not simply close: nbdkit 1.32 aborts the whole process (assertion in raw_send_socket) when one thread of a
// connection finds that the client hung up while another one has a reply to send. A replica server that wakes up after
// a hang has exactly that: many answers for a client that is gone, and it serves a whole drive. Half-closed, it reads
// the end of the stream, answers what it has, and closes in order.
//
// Nothing read here is looked at: the session is over (E2). Thread rule: one thread.
#pragma once

#include <poll.h>

#include <cstddef>
#include <vector>

#include "nbd-backend/core/engine_types.hpp"

namespace weft::io {

class parting_sockets {
public:
    parting_sockets() = default;
    ~parting_sockets();
    parting_sockets(const parting_sockets&) = delete;
    parting_sockets& operator=(const parting_sockets&) = delete;

    /// Takes the descriptor over, ends our direction. -1 is ignored.
    void add(int fd, core::instant now);
    /// Appends what to poll for.
    void append(std::vector<pollfd>& polled) const;
    /// `polled`: the entries of append(), after poll(2).
    void progress(const pollfd* polled, core::instant now);

private:
    struct socket {
        int fd = -1;
        core::instant until{0};
    };
    std::vector<socket> sockets_;  // oldest first
};

}  // namespace weft::io
