// SPDX-License-Identifier: Apache-2.0
// weftd's life from a checked config to an orderly stop: the only place where everything meets.
//
// Start: directories, one weftd per state and runtime directory (flock), copy of the records, store, lease, what
// already runs is adopted, sockets, reconciler. A store that does not answer delays nothing: the sockets come up and
// answer from the copy. Stop: sockets unlinked, running calls told to give up, threads joined. Nothing is detached and
// the lease is not dropped: the data path lives on, containers notice nothing, and the next weftd adopts it. Only
// let_go_of_volumes ends attachments.
#pragma once

#include <chrono>

#include "orchestrator/core/daemon_options.hpp"

namespace weft {

/// Runs until SIGTERM or SIGINT. Errors: why it could not start.
status run_daemon(const daemon_options& options);

/// In place of a weftd that has ended, when the machine goes down: detaches every volume of this node, whoever used it,
/// and waits up to `patience` for what still holds one. Nothing is taken from a living mount namespace. Errors: busy
/// (another weftd runs; or what is left, by name), those of run_daemon.
status let_go_of_volumes(const daemon_options& options, std::chrono::milliseconds patience);

}  // namespace weft
