// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <string>

#include "dm-tables/core/status.hpp"

using namespace weft;
using namespace weft::dm;

namespace {

raid_status raid(const std::string& text) {
    const auto status = parse_raid_status(text);
    REQUIRE_MESSAGE(status.has_value(), (status.has_error() ? status.error().text : ""));
    return *status;
}

void refused(std::string_view type, const std::string& text, const std::string& why) {
    const auto status = parse_status(type, text);
    CAPTURE(text);
    REQUIRE(status.has_error());
    CHECK(status.error().code == errc::corrupt);
    CHECK_MESSAGE(status.error().text.ends_with(": " + why), status.error().text);
}

}  // namespace

TEST_CASE("dm status: a healthy raid1 set of Linux 6.1 is understood word by word") {
    const raid_status status = raid("raid1 2 AA 4096/4096 idle 0 0 -");
    CHECK(status.type == "raid1");
    CHECK(status.legs == std::vector<leg_health>{leg_health::in_sync, leg_health::in_sync});
    CHECK(status.done_sectors == 4096);
    CHECK(status.all_sectors == 4096);
    CHECK(status.action == sync_action::idle);
    CHECK(status.mismatches == 0);
    CHECK(status.healthy());
    CHECK(status.percent() == 100);
    CHECK(render_status(status) == "raid1 2 AA 4096/4096 idle 0 0 -");
}

TEST_CASE("dm status: a set that is ill says which leg, and how far it is") {
    const raid_status rebuilding = raid("raid1 3 AaD 1024/4096 recover 128 0 -");
    CHECK(rebuilding.legs == std::vector<leg_health>{leg_health::in_sync, leg_health::syncing, leg_health::failed});
    CHECK(rebuilding.action == sync_action::recover);
    CHECK(rebuilding.mismatches == 128);
    CHECK(rebuilding.percent() == 25);
    CHECK_FALSE(rebuilding.healthy());
    CHECK(raid("raid1 2 A- 8/8 idle 0 0 -").legs[1] == leg_health::absent);
    CHECK_FALSE(raid("raid1 2 A- 8/8 idle 0 0 -").healthy());
    CHECK_FALSE(raid("raid1 2 AA 8/8 check 0 0 -").healthy());
    CHECK(raid("raid1 2 aa 4095/4096 resync 0 0 -").percent() == 99);
    CHECK(raid("raid1 2 aa 0/0 resync 0 0 -").percent() == 100);
    CHECK(raid("raid1 2 aa 9223372036854775807/18446744073709551615 resync 0 0 -").percent() == 49);
}

TEST_CASE("dm status: legs are equal when nothing makes them so any more, and nothing is left to do") {
    CHECK(raid("raid1 2 AA 4096/4096 idle 0 0 -").unequal_sectors() == 0);
    CHECK(raid("raid1 2 AA 1024/4096 check 0 0 -").unequal_sectors() == 0);
    CHECK(raid("raid1 3 AAa 1024/4096 recover 0 0 -").unequal_sectors() == 0);
    CHECK(raid("raid1 2 aa 1024/4096 resync 0 0 -").unequal_sectors() == 3072);
    CHECK(raid("raid1 2 AA 1024/4096 repair 0 0 -").unequal_sectors() == 3072);
    CHECK(raid("raid1 2 aa 0/4096 idle 0 0 -").unequal_sectors() == 4096);  // it has not begun
    CHECK(raid("raid1 2 AA 4096/4096 frozen 0 0 -").unequal_sectors() == 4096);
    CHECK(raid("raid1 2 aa 4096/4096 resync 0 0 -").unequal_sectors() > 0);
}

TEST_CASE("dm status: every action has its name, and older and newer kernels are understood") {
    for (const char* action : {"idle", "frozen", "resync", "recover", "check", "repair", "reshape", "undef"})
        CHECK(to_string(raid("raid1 2 AA 1/2 " + std::string(action) + " 0 0 -").action) == action);
    CHECK(raid("raid4 5 AAAAA 2/490221568").action == sync_action::unknown);  // before 1.5
    CHECK(raid("raid4 5 AAAAA 2/490221568 resync 0").all_sectors == 490221568);
    CHECK(raid("raid1 2 AA 1/2 idle 0 0 - something 7 new").done_sectors == 1);
}

TEST_CASE("dm status: a raid line that is none is refused with its reason") {
    refused("raid", "", "it ends before the ratio of what is in sync");
    refused("raid", "raid1 2 AA", "it ends before the ratio of what is in sync");
    refused("raid", "mirror 2 AA 1/2 idle 0", "it does not begin with a raid type");
    for (const char* count : {"0", "-1", "x", "02", "254", "99999999999999999999"})
        refused("raid", "raid1 " + std::string(count) + " AA 1/2 idle 0", "the number of devices is none");
    refused("raid", "raid1 3 AA 1/2 idle 0", "the health characters are not one for each device");
    refused("raid", "raid1 2 AX 1/2 idle 0", "a health character is none of A, a, D and -");
    for (const char* ratio : {"12", "1/", "/2", "3/2", "1/2/3", "-1/2", "1/x", "1/18446744073709551616"})
        refused("raid", "raid1 2 AA " + std::string(ratio) + " idle 0",
                "the ratio is not DONE/ALL with DONE at most ALL");
    refused("raid", "raid1 2 AA 1/2 sleeping 0", "the sync action is not a known one");
    refused("raid", "raid1 2 AA 1/2 idle", "it ends before the number of mismatches");
    refused("raid", "raid1 2 AA 1/2 idle x", "the number of mismatches is none");
    refused("raid", "raid1 2 AA 1/2 idle 0 y", "the data offset is not a number");
    refused("raid", "raid1 2 AA 1/2 idle 0 0 x", "the journal's character is none of -, A, a and D");
    CHECK(parse_raid_status("raid1 2 A\x1b 1/2 idle 0").error().text.find('\x1b') == std::string::npos);
}

TEST_CASE("dm status: stripes say which of them had an error") {
    const auto status = parse_striped_status("3 43:0 43:32 253:1 1 ADA");
    REQUIRE(status.has_value());
    CHECK(status->failed == std::vector<bool>{false, true, false});
    refused("striped", "", "it is empty");
    refused("striped", "0 1 A", "the number of stripes is none");
    refused("striped", "18446744073709551615 43:0 1 A", "the number of stripes is none");
    refused("striped", "2 43:0 43:1 1", "it ends before the health characters");
    refused("striped", "2 43:0 zz 1 AA", "word 3 is not a device");
    refused("striped", "2 43:0 43:1 2 AA", "there is not one group of health characters");
    refused("striped", "2 43:0 43:1 1 A", "the health characters are not one for each stripe");
    refused("striped", "2 43:0 43:1 1 Aa", "a health character is neither A nor D");
}

TEST_CASE("dm status: silent targets say nothing, and others are not read by guess") {
    for (const char* type : {"linear", "crypt", "error"}) {
        CHECK(std::holds_alternative<silent_status>(*parse_status(type, "")));
        refused(type, "43:0", "such a target says nothing");
    }
    CHECK(std::holds_alternative<raid_status>(*parse_status("raid", "raid1 2 AA 1/1 idle 0 0 -")));
    CHECK(std::holds_alternative<striped_status>(*parse_status("striped", "2 1:1 1:2 1 AA")));
    CHECK(parse_status("thin-pool", "").error().code == errc::unsupported);
}
