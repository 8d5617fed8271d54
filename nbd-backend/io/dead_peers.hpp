// SPDX-License-Identifier: Apache-2.0
// Connections whose peer has lost its power or its network, and which therefore nobody ends.
//
// A host that vanishes sends no FIN. A server that only answers would keep its connections for ever, and with them a
// thread each and the open files of replicas that were removed since, whose space is then never free. So the kernel
// asks an idle peer for a sign of life. A writer that lives, however busy or stopped its process is, has a kernel that
// answers; one that is cut off for so long has lost the link by its own time-outs long before (R4).
#pragma once

#include <chrono>

namespace weft::io {

/// An idle connection is probed after this …
inline constexpr std::chrono::seconds probe_after{5};
/// … then this often …
inline constexpr std::chrono::seconds probe_every{2};
/// … and ended after so many probes without an answer.
inline constexpr int probes_max = 3;

/// Makes the kernel end connections to dead peers on every TCP socket that this process listens on: what is accepted
/// from them inherits it (Linux). Call it when the sockets listen, before the first connection. Returns how many there
/// were; a socket that refuses is left as it is.
int end_dead_peers() noexcept;

}  // namespace weft::io
