// SPDX-License-Identifier: Apache-2.0
// The calls of dm-tables/io/luks.hpp as a helper (helper_process.hpp): `weftd --helper luks VERB DEVICE UUID NAME`, the
// key on stdin.
//
// They read and write the device while they keep libdevmapper's mutex, which in weftd would stop every other volume's
// devices, too. And libcryptsetup's and OpenSSL's copies of keys go with the process.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "dm-tables/io/luks.hpp"
#include "orchestrator/io/secret_bytes.hpp"

namespace weft {

enum class luks_verb {
    open_new,  // the record calls the volume never formatted: writes the header if the law allows it, then opens it
    open,
    resize,
};

/// Runs it from weftd. `server` as in helper_call. Errors: those of the calls; corrupt (something else is on the
/// device, by plan_format); busy (somebody else holds its lock); timed_out; unavailable.
status run_luks(luks_verb verb, const dm::luks_volume& volume, const secret_bytes& key,
                std::chrono::milliseconds timeout, int server);

/// The helper "luks".
result<std::string> luks_helper(const std::vector<std::string>& words);

}  // namespace weft
