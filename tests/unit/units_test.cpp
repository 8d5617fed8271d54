// SPDX-License-Identifier: Apache-2.0
#include "nbd-backend/base/units.hpp"

#include <doctest/doctest.h>

#include <string>

using namespace weft;

TEST_CASE("units: sizes people type are understood") {
    CHECK(*parse_size("10GiB") == 10 * gib);
    CHECK(*parse_size("10g") == 10 * gib);
    CHECK(*parse_size("10 GB") == 10 * gib);
    CHECK(*parse_size("512m") == 512 * mib);
    CHECK(*parse_size("4096") == 4096);
    CHECK(*parse_size("4096B") == 4096);
    CHECK(*parse_size("1T") == tib);
    CHECK(*parse_size("0") == 0);
}

TEST_CASE("units: what is not a size is refused by name") {
    for (const char* text : {"", " ", "-1", "+1", "1e30", "1.5G", "10 GiBs", "10  G", "G", "10XB", "10 ", "0x10",
                             "１０", "99999999999999999999", "18446744073709551615K", "10GiBi", "10ib"}) {
        CAPTURE(text);
        const auto parsed = parse_size(text);
        REQUIRE(parsed.has_error());
        CHECK(parsed.error().code == errc::invalid_argument);
        CHECK(parsed.error().text.find(std::string("'") + text + "'") != std::string::npos);
    }
}

TEST_CASE("units: sizes are rendered for people") {
    CHECK(render_size(0) == "0 B");
    CHECK(render_size(10 * gib) == "10 GiB");
    CHECK(render_size(1536 * kib) == "1.5 MiB");
}
