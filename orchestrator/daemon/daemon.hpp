// SPDX-License-Identifier: Apache-2.0
// weftd's life from a checked config to an orderly stop: the only place where everything meets.
//
// Start: directories, one weftd per state and runtime directory (flock), copy of the records, store, lease, what
// already runs is adopted, sockets, reconciler. A store that does not answer delays nothing: the sockets come up and
// answer from the copy. Stop: sockets unlinked, running calls told to give up, threads joined. Nothing is detached and
// the lease is not dropped: the data path lives on, containers notice nothing, and the next weftd adopts it.
#pragma once

#include "orchestrator/core/daemon_options.hpp"

namespace weft {

/// Runs until SIGTERM or SIGINT. Errors: why it could not start.
status run_daemon(const daemon_options& options);

}  // namespace weft
