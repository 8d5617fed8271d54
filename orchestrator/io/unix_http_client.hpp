// SPDX-License-Identifier: Apache-2.0
// One HTTP request over a unix socket, for the `weft` command: a connection per call, blocking.
//
// No state; any thread. It does not retry: only the caller knows whether asking twice is harmless.
#pragma once

#include <chrono>
#include <string>

#include "nbd-backend/base/result.hpp"
#include "orchestrator/api/http.hpp"

namespace weft {

/// Sends the request (body as application/json) and returns the answer, whatever its status. `patience` bounds the
/// whole call. Errors: unavailable (nobody listens, not allowed: nothing was done), timed_out and outcome_unknown (the
/// request was sent, the answer did not come: look before asking again), corrupt (the answer is not HTTP).
result<http_response> unix_http_call(const std::string& socket_path, const http_request& request,
                                     std::chrono::milliseconds patience);

}  // namespace weft
