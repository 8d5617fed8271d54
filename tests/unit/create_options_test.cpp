// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/core/create_options.hpp"

#include <doctest/doctest.h>

using namespace weft;
using options = std::map<std::string, std::string>;

TEST_CASE("create_options: without options the defaults hold") {
    const auto parsed = *parse_create_options({});
    CHECK(parsed.size_bytes == 10 * gib);
    CHECK(parsed.replicas == 2);
    CHECK(parsed.min_replicas == 1);
    CHECK(parsed.fs == fs_type::ext4);
    CHECK_FALSE(parsed.thick);
    CHECK(parsed.checksums);
    CHECK_FALSE(parsed.encrypt);
    CHECK(parsed.on_full == core::full_policy::hold);
    CHECK(parsed.resync_rate == 0);
    CHECK(parsed.scrub_every_s == 0);
}

TEST_CASE("create_options: every option is understood") {
    const auto parsed = *parse_create_options({{"size", "1g"},
                                               {"replicas", "3"},
                                               {"min-replicas", "2"},
                                               {"fs", "xfs"},
                                               {"provisioning", "thick"},
                                               {"checksums", "off"},
                                               {"encrypt", "on"},
                                               {"on-full", "fail"},
                                               {"resync-rate", "100MiB/s"},
                                               {"scrub-every", "7d"}});
    CHECK(parsed.size_bytes == gib);
    CHECK(parsed.replicas == 3);
    CHECK(parsed.min_replicas == 2);
    CHECK(parsed.fs == fs_type::xfs);
    CHECK(parsed.thick);
    CHECK_FALSE(parsed.checksums);
    CHECK(parsed.encrypt);
    CHECK(parsed.on_full == core::full_policy::fail);
    CHECK(parsed.resync_rate == 100 * mib);
    CHECK(parsed.scrub_every_s == 7 * 86400);
}

TEST_CASE("create_options: an option that creation takes is known as one") {
    CHECK(is_create_option("size"));
    CHECK(is_create_option("scrub-every"));
    CHECK_FALSE(is_create_option("Size"));
    CHECK_FALSE(is_create_option(""));
}

TEST_CASE("create_options: stripes are a number from 1 to 16") {
    CHECK(parse_create_options({{"stripes", "16"}})->stripes == 16);
    for (const auto* text : {"0", "17", "-1", "two", "1.5", "", "4 "}) {
        const auto refused = parse_create_options({{"stripes", text}});
        REQUIRE(refused.has_error());
        CHECK(refused.error().text.find("option 'stripes'") != std::string::npos);
    }
}

TEST_CASE("create_options: sizes are rounded up to a whole MiB") {
    CHECK(parse_create_options({{"size", "16777217"}})->size_bytes == 17 * mib);
    CHECK(parse_create_options({{"size", "16777216"}})->size_bytes == 16 * mib);
    CHECK(parse_create_options({{"size", "64T"}})->size_bytes == 64 * tib);
    CHECK(parse_create_options({{"size", "17M"}, {"stripes", "4"}})->size_bytes == 20 * mib);
    CHECK(parse_create_options({{"size", "10GiB"}, {"stripes", "3"}})->size_bytes == 10 * gib + 2 * mib);
}

TEST_CASE("create_options: an unknown option is refused by name with the sorted list of the known ones") {
    for (const char* name : {"sized", "Size", "SIZE", "min_replicas", "", "o", "size\n"}) {
        CAPTURE(name);
        const auto refused = parse_create_options({{name, "1"}});
        REQUIRE(refused.has_error());
        CHECK(refused.error().code == errc::invalid_argument);
        CHECK(refused.error().text.find("unknown option '") == 0);
        CHECK(refused.error().text.find("checksums, encrypt, fs, layout, min-replicas, on-full, provisioning, "
                                        "replicas, resync-rate, scrub-every, size") != std::string::npos);
        CHECK(refused.error().text.find('\n') == std::string::npos);
    }
    CHECK(parse_create_options({{"sized", "1"}}).error().text.find("'sized'") != std::string::npos);
}

TEST_CASE("create_options: a bad value is refused under the option's name") {
    const std::pair<options, const char*> cases[] = {
        {{{"size", ""}}, "'size': ''"},
        {{{"size", "0"}}, "0 bytes"},
        {{{"size", "-1"}}, "'-1'"},
        {{{"size", "1e30"}}, "'1e30'"},
        {{{"size", "10 GiBs"}}, "'10 GiBs'"},
        {{{"size", "1\n"}}, "'1\\n'"},
        {{{"size", "65T"}}, "64 TiB"},
        {{{"size", "70368744177665"}}, "64 TiB"},
        {{{"size", "15m"}}, "too small for ext4: at least 16 MiB"},
        {{{"size", "1"}}, "too small"},
        {{{"size", "299m"}, {"fs", "xfs"}}, "too small for xfs: at least 300 MiB"},
        {{{"replicas", "0"}}, "'replicas': '0'"},
        {{{"replicas", "4"}}, "from 1 to 3"},
        {{{"replicas", "-1"}}, "'-1'"},
        {{{"replicas", "2.0"}}, "'2.0'"},
        {{{"replicas", " 2"}}, "' 2'"},
        {{{"replicas", ""}}, "''"},
        {{{"replicas", "99999999999999999999"}}, "from 1 to 3"},
        {{{"min-replicas", "0"}}, "'min-replicas'"},
        {{{"min-replicas", "3"}}, "more than the volume's replicas (2)"},
        {{{"replicas", "1"}, {"min-replicas", "2"}}, "more than the volume's replicas (1)"},
        {{{"fs", "ntfs"}}, "'fs': 'ntfs'"},
        {{{"fs", "EXT4"}}, "write ext4 or xfs"},
        {{{"fs", ""}}, "'fs'"},
        {{{"provisioning", "Thick"}}, "'provisioning': 'Thick' is neither thin nor thick"},
        {{{"checksums", "yes"}}, "'checksums': 'yes' is neither off nor on"},
        {{{"encrypt", "yes"}}, "'encrypt': 'yes' is neither off nor on"},
        {{{"encrypt", "on"}, {"size", "19m"}}, "too small for encrypted ext4: at least 20 MiB"},
        {{{"on-full", ""}}, "'on-full': '' is neither hold nor fail"},
        {{{"resync-rate", "fast"}}, "'resync-rate': 'fast' is not a rate"},
        {{{"scrub-every", "weekly"}}, "'scrub-every': 'weekly' is not a time"},
    };
    for (const auto& row : cases) {
        const auto& given = row.first;
        const auto& problem = row.second;
        CAPTURE(problem);
        const auto refused = parse_create_options(given);
        REQUIRE(refused.has_error());
        CHECK(refused.error().code == errc::invalid_argument);
        CHECK_MESSAGE(refused.error().text.find(problem) != std::string::npos, refused.error().text);
        CHECK(refused.error().text.find('\n') == std::string::npos);
    }
}
