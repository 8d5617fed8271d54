// SPDX-License-Identifier: Apache-2.0
// Gets the key of an encrypted volume on this node: from the key command, or the key directory (core/key_policy.hpp has
// the rules). The key goes into secret_bytes and nowhere else.
//
// The command is run as  <key-command> VOLUME VOLUME-ID, without a shell, in a session of its own. Its stdout is the
// key, all of it; after 30 s it is killed with what it started; when it fails, the end of its stderr is in the error.
// It runs again for every unlocking and every growth, and while a growth fails with every attempt, every few seconds.
#pragma once

#include <string>

#include "nbd-backend/base/ids.hpp"
#include "nbd-backend/base/result.hpp"
#include "orchestrator/core/daemon_options.hpp"
#include "orchestrator/io/secret_bytes.hpp"

namespace weft {

struct encryption_key {
    secret_bytes bytes;
    std::string source;  // "key file /etc/weft/keys/db.key", for error texts
};

/// Blocks for as long as the command takes. Errors: unavailable, for every reason why there is no key, naming the file
/// or command and what to do.
result<encryption_key> read_volume_key(const daemon_options& options, const std::string& volume, const volume_id& id);

}  // namespace weft
