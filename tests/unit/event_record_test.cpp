// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/core/event_record.hpp"

#include <doctest/doctest.h>
#include <fmt/format.h>

using namespace weft;

namespace {
event_record sample() {
    return {1714564800123, 7, node_name{"n1"}, severity::warning, "volume db", "replica 3f0a… on n2 is outdated"};
}
}  // namespace

TEST_CASE("event_record: keys sort by time, then tell nodes and sequences apart") {
    auto event = sample();
    CHECK(event_key(event) == "events/1714564800123-n1-000007");
    const auto key = event_key(event);
    event.sequence = 1000008;
    CHECK(event_key(event) > key);
    event = sample();
    event.time_ms = 999;
    CHECK(event_key(event) == "events/0000000000999-n1-000007");
    CHECK(event_key(event) < key);
}

TEST_CASE("event_record: an event survives encode, decode, encode") {
    CHECK(encode(sample()) == R"({"time_ms":1714564800123,"sequence":7,"node":"n1","severity":"warning",)"
                              R"("subject":"volume db","text":"replica 3f0a… on n2 is outdated"})");
    CHECK(encode(*decode_event(encode(sample()))) == encode(sample()));
}

TEST_CASE("event_record: bytes that JSON cannot carry do not make an event unreadable") {
    auto event = sample();
    event.text = "mkfs said \xff\xfe";
    const auto decoded = decode_event(encode(event));
    REQUIRE_FALSE(decoded.has_error());
    CHECK(decoded->text == "mkfs said \\xff\\xfe");
}

TEST_CASE("event_record: what is no event is corrupt") {
    for (const char* text :
         {"", "{}", R"({"time_ms":-1,"sequence":7,"node":"n1","severity":"info","subject":"","text":""})",
          R"({"time_ms":1,"sequence":7,"node":"","severity":"info","subject":"","text":""})",
          R"({"time_ms":1,"sequence":7,"node":"n1","severity":"fatal","subject":"","text":""})",
          R"({"time_ms":1e20,"sequence":7,"node":"n1","severity":"info","subject":"","text":""})"}) {
        CAPTURE(text);
        CHECK(decode_event(text).error().code == errc::corrupt);
    }
}

TEST_CASE("event_record: the newest events are kept") {
    std::vector<std::string> keys;
    for (int i = 0; i < 1003; ++i) keys.push_back(fmt::format("events/{:013}-n1-000000", i));
    const auto old = events_to_trim(keys);
    REQUIRE(old.size() == 3);
    CHECK(old.back() == keys[2]);
    CHECK(events_to_trim(keys, 1003).empty());
    CHECK(events_to_trim({}, 0).empty());
    CHECK(events_to_trim(keys, 0).size() == 1003);
}

TEST_CASE("event_record: times are RFC 3339 in UTC with milliseconds") {
    CHECK(render_time(0) == "1970-01-01T00:00:00.000Z");
    CHECK(render_time(1714564800123) == "2024-05-01T12:00:00.123Z");
    CHECK(render_time(951782399999) == "2000-02-28T23:59:59.999Z");
    CHECK(render_time(951782400000) == "2000-02-29T00:00:00.000Z");
    CHECK(render_time(253402300799999) == "9999-12-31T23:59:59.999Z");
}

TEST_CASE("event_record: a time that was written is read back, anything else is refused") {
    for (const std::int64_t ms :
         {std::int64_t{0}, std::int64_t{1714564800123}, std::int64_t{951782399999}, std::int64_t{253402300799999}})
        CHECK(*parse_time(render_time(ms)) == ms);
    for (const char* bad : {"", "2024-05-01T12:00:00Z", "2024-02-30T12:00:00.000Z", "2024-13-01T12:00:00.000Z",
                            "2024-05-01T24:00:00.000Z", "2024-05-01T12:60:00.000Z", "1969-12-31T23:59:59.999Z",
                            "2024-05-01 12:00:00.123Z", "2024-05-01T12:00:00.123+", "2024-05-0xT12:00:00.123Z"}) {
        CAPTURE(bad);
        REQUIRE(parse_time(bad).has_error());
        CHECK(parse_time(bad).error().code == errc::invalid_argument);
    }
}
