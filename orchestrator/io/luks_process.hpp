// SPDX-License-Identifier: Apache-2.0
// The calls of dm-tables/io/luks.hpp in a process of their own, `weftd --luks VERB DEVICE UUID NAME`, the key on stdin.
//
// They read and write a device that waits for as long as its volume holds (R4), while they keep libdevmapper's mutex:
// in weftd that would stop every other volume's devices, and a thread that waits in the kernel would keep a killed
// weftd from dying. A process is left behind by the one that waits for it (run in process.hpp), dies with weftd, and
// takes libcryptsetup's and OpenSSL's copies of keys with it.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "dm-tables/io/luks.hpp"
#include "orchestrator/io/secret_bytes.hpp"

namespace weft {

enum class luks_verb { format, open, resize };

/// Runs it from weftd. Errors: those of the call; timed_out.
status run_luks(luks_verb verb, const dm::luks_volume& volume, const secret_bytes& key,
                std::chrono::milliseconds timeout);

/// The process itself: the words after --luks. Returns its exit code, what went wrong is on stdout.
int luks_main(const std::vector<std::string>& words);

}  // namespace weft
