// SPDX-License-Identifier: Apache-2.0
// An event of the cluster's life as a value: what `weft events` shows. Kept in the store under a key that sorts by
// time:
//   events/<unix milliseconds, 13 digits>-<node>-<sequence, 6 digits>
// The sequence tells apart what one node says within a millisecond; the node's name what several say. Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "nbd-backend/base/ids.hpp"
#include "nbd-backend/base/result.hpp"

namespace weft {

inline constexpr std::size_t events_kept = 1000;
inline constexpr std::string_view event_prefix = "events/";

enum class severity : std::uint8_t { info, warning, error };
std::string_view to_string(severity level) noexcept;
result<severity> parse_severity(std::string_view text);

struct event_record {
    std::int64_t time_ms = 0;    // since 1970-01-01 UTC
    std::uint64_t sequence = 0;  // counted by the node's process; modulo 10^6 in the key
    node_name node;
    severity level = severity::info;
    std::string subject;  // "volume db", "drive 3f0a…", "node n1"
    std::string text;
};

std::string event_key(const event_record& record);
std::string encode(const event_record& record);
/// Errors: corrupt, naming the field.
result<event_record> decode_event(std::string_view json);

/// The keys to erase so that the newest `keep` stay. `keys`: all event keys, sorted as the store lists them.
std::vector<std::string> events_to_trim(const std::vector<std::string>& keys, std::size_t keep = events_kept);

/// "2024-05-01T12:00:00.123Z"; for created_at use render_time(seconds * 1000). Years 1970..9999.
std::string render_time(std::int64_t unix_ms);
/// Milliseconds since 1970-01-01 UTC of what render_time wrote. Errors: invalid_argument for anything else.
result<std::int64_t> parse_time(std::string_view text);

}  // namespace weft
