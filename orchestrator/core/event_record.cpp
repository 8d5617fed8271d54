// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/core/event_record.hpp"

#include <boost/json.hpp>
#include <fmt/format.h>

#include <chrono>

#include "nbd-backend/base/invariant.hpp"
#include "orchestrator/core/json_fields.hpp"
#include "orchestrator/core/names.hpp"

namespace weft {

namespace json = boost::json;
namespace fields = json_fields;

namespace {
constexpr std::int64_t time_max_ms = 253402300799999;  // 9999-12-31T23:59:59.999Z
constexpr std::uint64_t sequence_modulus = 1000000;
}  // namespace

std::string_view to_string(severity level) noexcept {
    switch (level) {
        case severity::info: return "info";
        case severity::warning: return "warning";
        case severity::error: return "error";
    }
    return "unknown";
}

result<severity> parse_severity(std::string_view text) {
    for (const auto level : {severity::info, severity::warning, severity::error})
        if (to_string(level) == text) return level;
    return error{errc::corrupt, fmt::format("'{}' is not a severity", printable(text))};
}

// 13 digits of milliseconds last until the year 2286; a clock beyond that sorts wrongly but breaks nothing.
std::string event_key(const event_record& record) {
    return fmt::format("{}{:013}-{}-{:06}", event_prefix, record.time_ms, record.node.str(),
                       record.sequence % sequence_modulus);
}

std::string encode(const event_record& record) {
    // Texts repeat what kernels and programs said; bytes that JSON cannot carry must not make the event unreadable.
    const auto clean = [](const std::string& text) { return is_utf8(text) ? text : printable(text, text.size()); };
    return json::serialize(json::object{{"time_ms", record.time_ms},
                                        {"sequence", record.sequence},
                                        {"node", record.node.str()},
                                        {"severity", to_string(record.level)},
                                        {"subject", clean(record.subject)},
                                        {"text", clean(record.text)}});
}

result<event_record> decode_event(std::string_view text) {
    TRY_ASSIGN(const auto object, fields::parse_object(text));
    TRY(fields::expect_fields(object, {"time_ms", "sequence", "node", "severity", "subject", "text"}));
    event_record record;
    TRY_ASSIGN(const auto time, fields::number(object, "time_ms", static_cast<std::uint64_t>(time_max_ms)));
    record.time_ms = static_cast<std::int64_t>(time);
    TRY_ASSIGN(record.sequence, fields::number(object, "sequence"));
    TRY_ASSIGN(std::string node, fields::text(object, "node"));
    if (const auto good = check_node_name(node); good.has_error()) return fields::wrong("node", good.error().text);
    record.node = node_name{std::move(node)};
    TRY_ASSIGN(const std::string level, fields::text(object, "severity"));
    TRY_ASSIGN(record.level, parse_severity(level));
    TRY_ASSIGN(record.subject, fields::text(object, "subject"));
    TRY_ASSIGN(record.text, fields::text(object, "text"));
    return record;
}

std::vector<std::string> events_to_trim(const std::vector<std::string>& keys, std::size_t keep) {
    if (keys.size() <= keep) return {};
    return {keys.begin(), keys.end() - static_cast<std::ptrdiff_t>(keep)};
}

std::string render_time(std::int64_t unix_ms) {
    INVARIANT(unix_ms >= 0 && unix_ms <= time_max_ms, "time {} ms is not within the years 1970 to 9999", unix_ms);
    using namespace std::chrono;
    const sys_time<milliseconds> when{milliseconds{unix_ms}};
    const auto day = floor<days>(when);
    const year_month_day date{day};
    const hh_mm_ss<milliseconds> time{when - day};
    return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z", static_cast<int>(date.year()),
                       static_cast<unsigned>(date.month()), static_cast<unsigned>(date.day()), time.hours().count(),
                       time.minutes().count(), time.seconds().count(), time.subseconds().count());
}

result<std::int64_t> parse_time(std::string_view text) {
    const auto bad = [&] {
        return error{errc::invalid_argument,
                     fmt::format("'{}' is not a time such as 2024-05-01T12:00:00.123Z", printable(text))};
    };
    constexpr std::string_view shape = "0000-00-00T00:00:00.000Z";
    if (text.size() != shape.size()) return bad();
    for (std::size_t i = 0; i < shape.size(); ++i)
        if (shape[i] == '0' ? text[i] < '0' || text[i] > '9' : text[i] != shape[i]) return bad();
    const auto number = [&](std::size_t from, std::size_t digits) {
        int value = 0;
        for (const char c : text.substr(from, digits)) value = value * 10 + (c - '0');
        return value;
    };
    using namespace std::chrono;
    const year_month_day date{year{number(0, 4)}, month{static_cast<unsigned>(number(5, 2))},
                              day{static_cast<unsigned>(number(8, 2))}};
    if (!date.ok()) return bad();
    const auto time = hours{number(11, 2)} + minutes{number(14, 2)} + seconds{number(17, 2)};
    const std::int64_t unix_ms =
        duration_cast<milliseconds>(sys_days{date}.time_since_epoch() + time).count() + number(20, 3);
    // Reading it back shows an hour 24, a minute 60 and the years before 1970.
    if (unix_ms < 0 || render_time(unix_ms) != text) return bad();
    return unix_ms;
}

}  // namespace weft
