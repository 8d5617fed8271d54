// SPDX-License-Identifier: Apache-2.0
// The clocks of weftd: monotonic for every decision, the clock that also counts while the machine sleeps for the lease
// (the store counts it so), wall clock only for what people read.
#pragma once

#include <chrono>
#include <cstdint>
#include <ctime>

namespace weft {

inline std::chrono::nanoseconds monotonic_now() {
    return std::chrono::steady_clock::now().time_since_epoch();
}

/// CLOCK_BOOTTIME (clock_gettime(2)).
inline std::chrono::nanoseconds awake_or_asleep_now() {
    timespec now{};
    (void)::clock_gettime(CLOCK_BOOTTIME, &now);
    return std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec);
}

/// Milliseconds since 1970-01-01 UTC.
inline std::int64_t unix_now_ms() {
    return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::system_clock::now().time_since_epoch())
        .count();
}

}  // namespace weft
