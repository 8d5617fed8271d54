// SPDX-License-Identifier: Apache-2.0
// Resync progress from successive looks at a volume (its JSON, see API.md): part done, rate, time left. Pure: the time
// of each look is an argument.
//
// Rates are taken over the looks of the last 5 s, so that they follow changes without jumping. "Rate" is data that
// crossed the network; "time left" comes from the part of the extent that was dealt with, holes included, which go by
// without being copied.
#pragma once

#include <boost/json.hpp>

#include <chrono>
#include <deque>
#include <map>
#include <optional>
#include <string>

namespace weft::cli {

struct resync_progress {
    std::uint64_t done_bytes = 0, size_bytes = 0;
    std::optional<double> bytes_per_second;              // unknown after the first look
    std::optional<std::chrono::milliseconds> time_left;  // unknown while nothing moves
    [[nodiscard]] double part() const {
        return size_bytes == 0 ? 0.0 : static_cast<double>(done_bytes) / static_cast<double>(size_bytes);
    }
};

/// By replica id; only replicas that are being resynced.
using progress_map = std::map<std::string, resync_progress>;

class resync_meter {
public:
    /// `now`: monotonic, not before the last look's.
    progress_map observe(std::chrono::nanoseconds now, const boost::json::value& volume);

private:
    struct look {
        std::chrono::nanoseconds at;
        std::uint64_t done_bytes, copied_bytes;
    };
    std::map<std::string, std::deque<look>> looks_;
};

/// Nothing is being resynced and every replica is up to date: a watch may end.
bool is_settled(const boost::json::value& volume);

}  // namespace weft::cli
