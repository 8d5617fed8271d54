// SPDX-License-Identifier: Apache-2.0
// The two clocks of weftd: monotonic for every decision, wall clock only for what people read.
#pragma once

#include <chrono>
#include <cstdint>

namespace weft {

inline std::chrono::nanoseconds monotonic_now() {
    return std::chrono::steady_clock::now().time_since_epoch();
}

/// Milliseconds since 1970-01-01 UTC.
inline std::int64_t unix_now_ms() {
    return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::system_clock::now().time_since_epoch())
        .count();
}

}  // namespace weft
