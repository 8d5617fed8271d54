// SPDX-License-Identifier: Apache-2.0
#include "nbd-backend/core/export_name.hpp"

#include <doctest/doctest.h>

#include <string>

using namespace weft;
using namespace weft::core;

namespace {
const std::string id = "3f0a2c1e-0b4d-4c7e-9a55-00d1e2f3a4b5";
const std::string boot = "0e5b1f7c-58f2-4f0a-8d0f-4a6c1b2d3e4f";
}  // namespace

TEST_CASE("export_name: a writer's name and a look are understood and rendered to the same bytes") {
    const auto writer = parse_export_name(id + "/7/2");
    REQUIRE(writer.has_value());
    CHECK(writer->replica.str() == id);
    CHECK(writer->key == fence_key{7, 2});
    CHECK(writer->is_writer());
    CHECK(render(*writer) == id + "/7/2");

    const auto look = parse_export_name(id);
    REQUIRE(look.has_value());
    CHECK(!look->is_writer());
    CHECK(render(*look) == id);

    const auto map = parse_export_name(id + "/7/2/dirty");
    REQUIRE(map.has_value());
    CHECK(map->is_map);
    CHECK(!writer->is_map);
    CHECK(map->key == fence_key{7, 2});
    CHECK(render(*map) == id + "/7/2/dirty");
    const auto map_look = parse_export_name(id + "/dirty");
    REQUIRE(map_look.has_value());
    CHECK(map_look->is_map);
    CHECK(!map_look->is_writer());
    CHECK(render(*map_look) == id + "/dirty");

    const std::string highest = id + "/18446744073709551615/18446744073709551615";
    REQUIRE(parse_export_name(highest).has_value());
    CHECK(render(*parse_export_name(highest)) == highest);
}

TEST_CASE("export_name: everything else is refused, quoting its beginning in one line") {
    const std::string long_name(300, 'a');
    for (const std::string& text : {std::string(),
                                    std::string("/"),
                                    id + "/",
                                    id + "//",
                                    id + "/1",
                                    id + "/1/",
                                    id + "//1",
                                    id + "/0/1",
                                    id + "/1/0",
                                    id + "/01/1",
                                    id + "/1/01",
                                    id + "/-1/1",
                                    id + "/+1/1",
                                    id + "/1/1/",
                                    id + "/1/1/1",
                                    id + "/1/1\n",
                                    id + "/dirty/",
                                    id + "//dirty",
                                    id + "/1/dirty",
                                    id + "/1/1/1/dirty",
                                    id + "/1/1/dirty/dirty",
                                    id + "/dirty/1/1",
                                    id + "/1/1/Dirty",
                                    id + "dirty",
                                    std::string("/dirty"),
                                    id + "\n",
                                    " " + id,
                                    id + " ",
                                    id + "/18446744073709551616/1",
                                    id + "/1e3/1",
                                    id + "/0x1/1",
                                    std::string("../") + id,
                                    std::string("../../../etc/passwd"),
                                    id + "/../1",
                                    std::string("3F0A2C1E-0B4D-4C7E-9A55-00D1E2F3A4B5"),
                                    long_name,
                                    id + "/1/" + long_name,
                                    id + std::string("\0/1/1", 5)}) {
        CAPTURE(text);
        const auto parsed = parse_export_name(text);
        REQUIRE(parsed.has_error());
        CHECK(parsed.error().code == errc::invalid_argument);
        CHECK(parsed.error().text.find('\n') == std::string::npos);
        CHECK(parsed.error().text.size() < 250);
        CHECK(parsed.error().text.find("expected <replica uuid>") != std::string::npos);
    }
}

TEST_CASE("export_name: a description says what it was rendered from") {
    for (const auto& description :
         {export_description{false, boot, {7, 2}, ""}, export_description{true, boot, {9, 0}, "b1"},
          export_description{false, "a", {0, 0}, boot}}) {
        const auto parsed = parse_export_description(render(description));
        REQUIRE(parsed.has_value());
        CHECK(*parsed == description);
    }
    CHECK(render(export_description{true, "b2", {9, 4}, "b1"}) ==
          "weft-replica v=1 status=fenced boot=b2 epoch=9 session=4 prior=b1");
    CHECK(render(export_description{false, "b2", {9, 4}, ""}) ==
          "weft-replica v=1 status=ok boot=b2 epoch=9 session=4 prior=-");
}

TEST_CASE("export_name: fields that a later server adds to its description are ignored") {
    const auto parsed =
        parse_export_description("weft-replica v=1 status=ok boot=b epoch=1 session=1 prior=- more=x y");
    REQUIRE(parsed.has_value());
    CHECK(parsed->current == fence_key{1, 1});
}

TEST_CASE("export_name: what is not a description is corrupt, another version is unsupported") {
    for (const char* text :
         {"", "weft-replica", "nbdkit", "weft-replica status=ok", "weft-replica v=1",
          "weft-replica v=1 status=odd boot=b", "weft-replica v=1 status=ok boot= epoch=1 session=1 prior=-",
          "weft-replica v=1 status=ok boot=b epoch=x session=1",
          "weft-replica v=1 status=ok boot=b epoch=1 session=-1 prior=-",
          "weft-replica v=1 status=ok boot=b epoch=1 session=1",
          "weft-replica v=1 status=ok boot=b epoch=1 session=1 prior=../x",
          "weft-replica v=1  status=ok boot=b epoch=1 session=1 prior=-",
          "weft-replica v=1 status=ok boot=-b epoch=1 session=1 prior=-"}) {
        CAPTURE(text);
        const auto parsed = parse_export_description(text);
        REQUIRE(parsed.has_error());
        CHECK(parsed.error().code == errc::corrupt);
    }
    const auto later = parse_export_description("weft-replica v=2 status=ok");
    REQUIRE(later.has_error());
    CHECK(later.error().code == errc::unsupported);
}

TEST_CASE("export_name: a boot id is a short word") {
    CHECK(is_boot_id(boot));
    CHECK(is_boot_id(std::string(boot_id_max, 'a')));
    for (const std::string& text : {std::string(), std::string("-"), std::string("a b"), std::string("a\n"),
                                    std::string("a/b"), std::string(boot_id_max + 1, 'a')})
        CHECK(!is_boot_id(text));
}
