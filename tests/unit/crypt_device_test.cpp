// SPDX-License-Identifier: Apache-2.0
// The clear device of an encrypted volume among device-mapper's devices: how it is known, how far it reaches.
#include "dm-tables/core/crypt_device.hpp"

#include <doctest/doctest.h>

using namespace weft::dm;

namespace {

const std::string luks = "0b9c7a52-7f3a-4a68-9a55-0f7d6a0f0c01";
const std::string uuid = "CRYPT-LUKS2-0b9c7a527f3a4a689a550f7d6a0f0c01-weft-db:crypt";
const std::string id = "3f0a2c1e-5b7d-4e9f-8a1b-2c3d4e5f6071";

observed_device clear_above(const std::string& number) {
    return {"weft-db:crypt", uuid, "253:7", raw_table{{0, 1000, "crypt", "aes :64:logon:k 0 " + number + " 8192"}}, {},
            false,           0,    {}};
}

observed_device volume() {
    return {"weft-db", "WEFT-" + id + "-volume", "253:1", raw_table{{0, 9192, "linear", "43:0 0"}}, {}, false, 1, {}};
}

}  // namespace

TEST_CASE("crypt device: its name and the beginning of its UUID follow from the volume") {
    CHECK(crypt_name("weft-db@one") == "weft-db@one:crypt");
    CHECK(uuid.starts_with(crypt_uuid_prefix(luks)));
    CHECK(crypt_uuid_prefix(luks).ends_with("-"));
}

TEST_CASE("crypt device: only LUKS2 above a volume of ours is one") {
    CHECK(is_crypt_device("weft-db:crypt", uuid));
    // libcryptsetup cuts the UUID of a long name; the name itself is whole.
    CHECK(is_crypt_device("weft-" + std::string(90, 'x') + ":crypt", "CRYPT-LUKS2-0b9c-weft-xxx"));
    CHECK_FALSE(is_crypt_device("weft-db", uuid));
    CHECK_FALSE(is_crypt_device("weft-db:s0", "WEFT-" + id + "-s0"));
    CHECK_FALSE(is_crypt_device("home:crypt", "CRYPT-LUKS2-0b9c-home:crypt"));
    CHECK_FALSE(is_crypt_device("weft-db:crypt", "CRYPT-PLAIN-weft-db:crypt"));
    CHECK_FALSE(is_crypt_device("weft-db:crypt", ""));
}

TEST_CASE("crypt device: it is found by the name of its volume's device") {
    const observation there{{volume(), clear_above("253:1")}, {}};
    REQUIRE(find_crypt(there, "weft-db") != nullptr);
    CHECK(find_crypt(there, "weft-db")->number == "253:7");
    CHECK(find_crypt(there, "weft-d") == nullptr);
    CHECK(find_crypt(there, "weft-db:crypt") == nullptr);
}

TEST_CASE("crypt device: it reaches as far as header and length together") {
    CHECK(crypt_reach_sectors(*clear_above("253:1").active) == 9192);
    CHECK_FALSE(crypt_reach_sectors({}).has_value());
    CHECK_FALSE(crypt_reach_sectors({{0, 8, "linear", "43:0 0"}}).has_value());
    CHECK_FALSE(crypt_reach_sectors({{0, 8, "crypt", "aes key 0 253:1"}}).has_value());
    CHECK_FALSE(crypt_reach_sectors({{0, 8, "crypt", "aes key 0 253:1 x"}}).has_value());
    CHECK_FALSE(crypt_reach_sectors({{0, 8, "crypt", "aes key 0 253:1 18446744073709551615"}}).has_value());
    CHECK_FALSE(crypt_reach_sectors({{0, 8, "crypt", "a k 0 1:1 0"}, {8, 8, "crypt", "a k 0 1:1 8"}}).has_value());
}

TEST_CASE("crypt device: a volume's device under a clear one is not removed by a plan") {
    const auto held = make_plan({}, {{volume(), clear_above("253:1")}, {}}, "");
    CHECK(held.steps.empty());
    REQUIRE(held.reports.size() == 1);
    CHECK(held.reports[0].what == report::kind::leftover_in_use);
}
