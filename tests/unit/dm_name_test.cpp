// SPDX-License-Identifier: Apache-2.0
#include "dm-tables/core/dm_name.hpp"

#include <doctest/doctest.h>

#include <set>
#include <string>
#include <vector>

using namespace weft;
using namespace weft::dm;
using part = device_role::part;

namespace {

const std::string id = "3f0a2c1e-5b7d-4e9f-8a1b-2c3d4e5f6071";

std::vector<device_role> all_roles() {
    std::vector<device_role> roles{{}};
    for (unsigned segment = 0; segment < segments_max; ++segment) {
        roles.push_back({part::segment, segment, 0});
        for (unsigned leg = 0; leg < legs_max; ++leg) {
            roles.push_back({part::leg_meta, segment, leg});
            roles.push_back({part::leg_data, segment, leg});
        }
    }
    return roles;
}

}  // namespace

TEST_CASE("dm name: names and UUIDs read as the README shows them") {
    CHECK(render_name({"", id, {}}, "orders") == "weft-orders");
    CHECK(render_name({"n1", id, {}}, "orders") == "weft-orders@n1");
    CHECK(render_name({"", id, {part::leg_data, 0, 1}}, "orders") == "weft-orders:s0-leg1-data");
    CHECK(render_name({"n1", id, {part::segment, 12, 0}}, "or-ders.x") == "weft-or-ders.x@n1:s12");
    CHECK(render_uuid({"", id, {}}) == "WEFT-" + id + "-volume");
    CHECK(render_uuid({"n1", id, {part::leg_meta, 3, 2}}) == "WEFT-n1-" + id + "-s3-leg2-meta");
    CHECK(node_path("weft-orders") == "/dev/mapper/weft-orders");
}

TEST_CASE("dm name: every role comes back from its UUID, whatever the scope looks like") {
    for (const std::string& scope :
         std::vector<std::string>{"", "n1", "deadbeef", "3f0a2c1e", "a.b_c", "0123456789abcdef"})
        for (const device_role& role : all_roles()) {
            const device_identity who{scope, id, role};
            const std::string text = render_uuid(who);
            CAPTURE(text);
            CHECK(text.size() <= dm_uuid_max);
            const auto back = parse_uuid(text);
            REQUIRE(back.has_value());
            CHECK(*back == who);
        }
}

TEST_CASE("dm name: what is not ours is not found, what only begins like ours is corrupt") {
    for (const std::string& text :
         std::vector<std::string>{"", "LVM-abc", "CRYPT-LUKS2-x", "weft-" + id + "-volume", "WEFT"})
        CHECK(parse_uuid(text).error().code == errc::not_found);
    for (const std::string& rest : std::vector<std::string>{"",
                                                            "x",
                                                            id,
                                                            id + "-",
                                                            id + "-top",
                                                            id + "-s",
                                                            id + "-s01",
                                                            id + "-s256",
                                                            id + "-s-1",
                                                            id + "-s1-leg8-data",
                                                            id + "-s1-leg0",
                                                            id + "-s1-leg0-",
                                                            id + "-s1-leg0-datax",
                                                            id + "-volume ",
                                                            id + "-s1x",
                                                            "-" + id + "-volume",
                                                            "a-b-" + id + "-volume",
                                                            "a b-" + id + "-volume",
                                                            "0123456789abcdefg-" + id + "-volume",
                                                            "3F0A2C1E" + id.substr(8) + "-volume",
                                                            id.substr(1) + "-volume"}) {
        CAPTURE(rest);
        const auto parsed = parse_uuid("WEFT-" + rest);
        REQUIRE(parsed.has_error());
        CHECK(parsed.error().code == errc::corrupt);
    }
}

TEST_CASE("dm name: the longest name fits, and different devices never share one") {
    const std::string longest(128, 'n');
    const std::string scope(scope_max, 's');
    std::set<std::string> names;
    for (const device_role& role : all_roles()) {
        const std::string name = render_name({scope, id, role}, longest);
        CHECK(name.size() <= dm_name_max);
        CHECK(names.insert(name).second);
    }
    CHECK(render_name({scope, id, {part::leg_meta, 255, 7}}, longest).size() == dm_name_max);
    // Two long names that differ at the end only are told apart by their volumes' ids.
    const std::string other = "3f0a2c1e-5b7e-4e9f-8a1b-2c3d4e5f6071";
    CHECK(render_name({"", id, {}}, longest + "a") != render_name({"", other, {}}, longest + "b"));
    CHECK(render_name({"", id, {}}, std::string(shortened_name_max, 'n')) == "weft-" + std::string(90, 'n'));
    CHECK(render_name({"", id, {}}, std::string(91, 'n')) == "weft-" + std::string(77, 'n') + "+3f0a2c1e5b7d");
}

TEST_CASE("dm name: a scope is short and has no dash") {
    for (const char* good : {"", "a", "A.b_9", "0123456789abcdef"}) CHECK(check_scope(good).has_value());
    for (const char* bad : {"a-b", "a b", "a:b", "a@b", "0123456789abcdefg", "\n"}) {
        REQUIRE(check_scope(bad).has_error());
        CHECK(check_scope(bad).error().code == errc::invalid_argument);
    }
}
