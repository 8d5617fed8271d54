// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/core/option_values.hpp"

#include <doctest/doctest.h>

using namespace weft;

TEST_CASE("option_values: a resync rate is a size per second or 0 for no limit") {
    CHECK(*parse_resync_rate("0") == 0);
    CHECK(*parse_resync_rate("0/s") == 0);
    CHECK(*parse_resync_rate("1m") == mib);
    CHECK(*parse_resync_rate("100MiB") == 100 * mib);
    CHECK(*parse_resync_rate("100 MiB/s") == 100 * mib);
    CHECK(*parse_resync_rate("1048576") == mib);
    CHECK(*parse_resync_rate("1T") == tib);
    for (const char* bad : {"", "/s", "-1", "1.5m", "100MiB/h", "100MiB /s ", "none", "1m\n", "1048575", "2T", "1B"}) {
        CAPTURE(bad);
        const auto refused = parse_resync_rate(bad);
        REQUIRE(refused.has_error());
        CHECK(refused.error().code == errc::invalid_argument);
        CHECK(refused.error().text.find("option 'resync-rate': ") == 0);
        CHECK(refused.error().text.find('\n') == std::string::npos);
    }
}

TEST_CASE("option_values: the time between scrubs has one unit, or is never") {
    CHECK(*parse_scrub_every("never") == 0);
    CHECK(*parse_scrub_every("10s") == 10);
    CHECK(*parse_scrub_every("90m") == 5400);
    CHECK(*parse_scrub_every("12h") == 43200);
    CHECK(*parse_scrub_every("7d") == 604800);
    CHECK(*parse_scrub_every("2w") == 1209600);
    CHECK(*parse_scrub_every("3650d") == scrub_every_max_s);
    for (const char* bad : {"", "0", "0s", "9s", "7", "d", "7D", "7 d", "1d12h", "-7d", "1.5d", "3651d", "Never",
                            "7d\n", "99999999999999999999d", "4000w"}) {
        CAPTURE(bad);
        const auto refused = parse_scrub_every(bad);
        REQUIRE(refused.has_error());
        CHECK(refused.error().code == errc::invalid_argument);
        CHECK(refused.error().text.find("option 'scrub-every': ") == 0);
        CHECK(refused.error().text.find('\n') == std::string::npos);
    }
}

TEST_CASE("option_values: what is shown of a time between scrubs is read back as the same") {
    for (const std::uint64_t seconds :
         {std::uint64_t{0}, std::uint64_t{10}, std::uint64_t{61}, std::uint64_t{5400}, std::uint64_t{86400},
          std::uint64_t{604800}, std::uint64_t{86401}, scrub_every_max_s}) {
        CAPTURE(seconds);
        CHECK(*parse_scrub_every(render_scrub_every(seconds)) == seconds);
    }
    CHECK(render_scrub_every(604800) == "1w");
    CHECK(render_scrub_every(5400) == "90m");
    CHECK(render_resync_rate(0) == "no limit");
    CHECK(render_resync_rate(100 * mib) == "100 MiB/s");
}
