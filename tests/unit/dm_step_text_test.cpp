// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <algorithm>

#include "dm-tables/core/step_text.hpp"

using namespace weft;
using namespace weft::dm;

namespace {

step loading(target what) {
    return {step::verb::load, "weft-db", "WEFT-0b9c7a52-volume", {{0, 2048, std::move(what)}}};
}

std::vector<step> one_of_each() {
    std::vector<step> steps;
    for (const auto verb :
         {step::verb::create, step::verb::clear, step::verb::suspend, step::verb::resume, step::verb::remove})
        steps.push_back({verb, "weft-db", "WEFT-0b9c7a52-volume", {}});
    steps.push_back(loading(linear_target{"/dev/nbd0", 8}));
    steps.push_back({step::verb::doubt, "weft-db", "WEFT-x", {{0, 2048, linear_target{"/dev/nbd0", 0}}}});
    steps.push_back(loading(striped_target{128, {{"/dev/nbd0", 0}, {"/dev/nbd1", 0}}}));
    raid1_target set;
    set.legs = {{"/dev/mapper/a:m0", "/dev/mapper/a:d0", false}, {"", "", false}};
    set.region_sectors = 1024;
    steps.push_back(loading(set));
    steps.push_back(loading(error_target{}));
    return steps;
}

}  // namespace

TEST_CASE("dm steps: what is encoded is decoded") {
    const auto rendered = render(one_of_each());
    REQUIRE(rendered.has_value());
    const auto again = decode_steps(encode(*rendered));
    REQUIRE(again.has_value());
    CHECK(*again == *rendered);
    CHECK(decode_steps("")->empty());
}

TEST_CASE("dm steps: a line for each, the rows of a table below it") {
    const auto rendered =
        render({loading(linear_target{"/dev/nbd0", 8}), {step::verb::resume, "weft-db", "WEFT-x", {}}});
    REQUIRE(rendered.has_value());
    CHECK(encode(*rendered) ==
          "load weft-db WEFT-0b9c7a52-volume 1\n0 2048 linear /dev/nbd0 8\nresume weft-db WEFT-x 0\n");
}

TEST_CASE("dm steps: devices by number are the words that the table itself gives") {
    for (const auto& it : one_of_each()) {
        const auto rendered = render({it});
        REQUIRE(rendered.has_value());
        auto named = devices_of(rendered->front().rows), wanted = devices_of(it.rows);
        std::sort(named.begin(), named.end());
        std::sort(wanted.begin(), wanted.end());
        CHECK(named == wanted);
        device_numbers numbers;
        for (const auto& device : devices_of(it.rows)) numbers[device] = "43:" + std::to_string(numbers.size());
        CHECK(by_number(rendered->front().rows, numbers) == render_by_number(it.rows, numbers));
    }
}

TEST_CASE("dm steps: what is no step is refused, naming the line") {
    for (const char* text : {"load", "load a b", "load a b c", "fly a b 0", "load a b 1\n", "load a b 1\n0 x linear",
                             "load a b 1\n0 8", "create a b 0 0", "create a b -1"}) {
        CAPTURE(text);
        const auto decoded = decode_steps(text);
        REQUIRE(decoded.has_error());
        CHECK(decoded.error().code == errc::corrupt);
        CHECK(decoded.error().text.find("line ") != std::string::npos);
    }
    CHECK(decode_steps("create a b 0\nload a b 1\n0 8").error().text.find("line 3") != std::string::npos);
}

TEST_CASE("dm steps: a table that the check refuses, or a name that is no word, is not rendered") {
    CHECK(render({loading(linear_target{"nbd0", 8})}).error().code == errc::invalid_argument);
    CHECK(render({{step::verb::remove, "weft db", "WEFT-x", {}}}).error().code == errc::invalid_argument);
    CHECK(render({{step::verb::remove, "weft-db", "", {}}}).error().code == errc::invalid_argument);
}
