// SPDX-License-Identifier: Apache-2.0
// Carries out one command: requests to weftd, text to the two streams, an exit status. Everything outside (socket,
// terminal, clock) comes in as `surroundings`, so that tests run whole commands against a fake.
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "nbd-backend/base/result.hpp"
#include "orchestrator/api/http.hpp"
#include "orchestrator/cli/command.hpp"
#include "orchestrator/cli/text.hpp"

namespace weft::cli {

// Documented in help.cpp and API.md.
inline constexpr int exit_done = 0;
inline constexpr int exit_refused = 1;
inline constexpr int exit_usage = 2;
inline constexpr int exit_unreachable = 3;
inline constexpr int exit_not_found = 4;
inline constexpr int exit_busy = 5;
inline constexpr int exit_exists = 6;
inline constexpr int exit_not_now = 7;

/// The exit status for an error code of weftd's answer ("busy"); unknown codes are refusals.
int exit_of(std::string_view code);

struct surroundings {
    std::function<result<http_response>(const http_request&)> ask;  // blocks; errors: weftd was not reached
    std::function<void(std::string_view)> out, err;                 // unbuffered
    std::function<std::chrono::nanoseconds()> now;                  // monotonic
    std::function<void(std::chrono::milliseconds)> wait;            // between two looks of a watch
    style how;
    std::size_t columns = 0;  // of the terminal that `out` is; 0: it is none
    std::size_t lines = 0;
};

int run(const invocation& command, const surroundings& world);

}  // namespace weft::cli
