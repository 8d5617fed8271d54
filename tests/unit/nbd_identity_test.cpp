// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/core/nbd_identity.hpp"

#include <doctest/doctest.h>

using namespace weft;

namespace {
const volume_id volume{"3f0a2c1e-0000-4000-8000-0000000000aa"};
}

TEST_CASE("nbd_identity: encode and decode are each other's inverse") {
    for (const nbd_identity& identity : {nbd_identity{"alpha", volume, 0}, nbd_identity{"node-1.example_x", volume, 7},
                                         nbd_identity{"a", volume, 65535}}) {
        const auto text = encode_nbd_identity(identity);
        REQUIRE(text.has_value());
        const auto again = decode_nbd_identity(*text);
        REQUIRE(again.has_value());
        CHECK(*again == identity);
    }
    CHECK(*encode_nbd_identity({"alpha", volume, 12}) == "weft:alpha:3f0a2c1e-0000-4000-8000-0000000000aa:12");
    const nbd_identity leg{"alpha", volume, 3, replica_id{"3f0a2c1e-0000-4000-8000-0000000000bb"}};
    CHECK(*encode_nbd_identity(leg) ==
          "weft:alpha:3f0a2c1e-0000-4000-8000-0000000000aa:3:3f0a2c1e-0000-4000-8000-0000000000bb");
    CHECK(*decode_nbd_identity(*encode_nbd_identity(leg)) == leg);
    CHECK(decode_nbd_identity(*encode_nbd_identity({"alpha", volume, 12}) + ":").has_error());
    CHECK(encode_nbd_identity({"alpha", volume, 3, replica_id{"x"}}).has_error());
}

TEST_CASE("nbd_identity: what Weft would not have written is not Weft's") {
    const std::string good = "weft:alpha:3f0a2c1e-0000-4000-8000-0000000000aa:1";
    REQUIRE(decode_nbd_identity(good).has_value());
    for (const std::string& text :
         {std::string(), std::string("weft"), std::string("weft:"), std::string("weft:::"),
          std::string("other:") + good, std::string("Weft") + good.substr(4), good + ":", good + " ", good + "x",
          good.substr(0, good.size() - 1), good.substr(0, good.size() - 1) + "01",
          good.substr(0, good.size() - 1) + "-1", good.substr(0, good.size() - 1) + "65536",
          good.substr(0, good.size() - 1) + "+1", std::string("weft:al pha:3f0a2c1e-0000-4000-8000-0000000000aa:1"),
          std::string("weft:alpha:3F0A2C1E-0000-4000-8000-0000000000aa:1"), std::string("weft:alpha:3f0a2c1e:1"),
          std::string("weft::3f0a2c1e-0000-4000-8000-0000000000aa:1")}) {
        CAPTURE(text);
        const auto decoded = decode_nbd_identity(text);
        REQUIRE(decoded.has_error());
        CHECK(decoded.error().code == errc::invalid_argument);
    }
}

TEST_CASE("nbd_identity: a scope or id outside its grammar is refused and named") {
    for (const nbd_identity& identity :
         {nbd_identity{"", volume, 0}, nbd_identity{"a:b", volume, 0}, nbd_identity{std::string(65, 'a'), volume, 0},
          nbd_identity{"a", volume_id{"x"}, 0}, nbd_identity{"a", volume_id{}, 0}}) {
        CAPTURE(identity.scope);
        const auto text = encode_nbd_identity(identity);
        REQUIRE(text.has_error());
        CHECK(text.error().code == errc::invalid_argument);
    }
}

TEST_CASE("nbd_identity: a prefix finds one scope's or one volume's devices and no neighbour's") {
    const auto text = *encode_nbd_identity({"node10", volume, 1});
    CHECK(text.starts_with(*nbd_identity_prefix("node10")));
    CHECK(text.starts_with(*nbd_identity_prefix("node10", volume)));
    CHECK_FALSE(text.starts_with(*nbd_identity_prefix("node1")));
    CHECK(nbd_identity_prefix("").error().code == errc::invalid_argument);
    CHECK(nbd_identity_prefix("node1", volume_id{"../x"}).error().code == errc::invalid_argument);
}
