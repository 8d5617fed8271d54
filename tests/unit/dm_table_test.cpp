// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <string>

#include "dm-tables/core/table.hpp"

using namespace weft;
using namespace weft::dm;

namespace {

table one(std::uint64_t length, target what) {
    return {{0, length, std::move(what)}};
}

std::string text(const table& rows) {
    REQUIRE(check(rows).has_value());
    return to_text(render(rows));
}

std::string why_not(const table& rows) {
    const auto verdict = check(rows);
    REQUIRE(verdict.has_error());
    CHECK(verdict.error().code == errc::invalid_argument);
    return verdict.error().text;
}

raid1_target pair_of_legs() {
    raid1_target set;
    set.legs = {{"/dev/m0", "/dev/d0"}, {"/dev/m1", "/dev/d1"}};
    set.region_sectors = 4096;
    return set;
}

}  // namespace

TEST_CASE("dm table: every target is written as the kernel's documentation says") {
    CHECK(text(one(2048, linear_target{"/dev/nbd0", 384})) == "0 2048 linear /dev/nbd0 384\n");
    CHECK(text(one(2048, striped_target{128, {{"/dev/nbd0", 0}, {"/dev/nbd1", 8}}})) ==
          "0 2048 striped 2 128 /dev/nbd0 0 /dev/nbd1 8\n");
    CHECK(text(one(8, error_target{})) == "0 8 error\n");
    CHECK(text(one(2048, crypt_target{"aes-xts-plain64", {64, "logon", "weft:v"}, 0, {"/dev/nbd0", 32768}, {}})) ==
          "0 2048 crypt aes-xts-plain64 :64:logon:weft:v 0 /dev/nbd0 32768\n");
    CHECK(
        text(one(
            2048,
            crypt_target{
                "aes-xts-plain64", {64, "user", "k"}, 7, {"/dev/nbd0", 0}, {"allow_discards", "sector_size:4096"}})) ==
        "0 2048 crypt aes-xts-plain64 :64:user:k 7 /dev/nbd0 0 2 allow_discards sector_size:4096\n");
}

TEST_CASE("dm table: raid1's optional words stand in the order in which the kernel gives them back") {
    raid1_target set = pair_of_legs();
    CHECK(text(one(8192, set)) == "0 8192 raid raid1 3 0 region_size 4096 2 /dev/m0 /dev/d0 /dev/m1 /dev/d1\n");
    set.start = raid1_start::assume_equal;
    CHECK(text(one(8192, set)) == "0 8192 raid raid1 4 0 nosync region_size 4096 2 /dev/m0 /dev/d0 /dev/m1 /dev/d1\n");
    set.start = raid1_start::by_bitmap;
    CHECK(text(one(8192, set)) == "0 8192 raid raid1 3 0 region_size 4096 2 /dev/m0 /dev/d0 /dev/m1 /dev/d1\n");
    set.start = raid1_start::by_superblock;
    set.legs.push_back({"/dev/m2", "/dev/d2", true});
    set.legs[1].rebuild = true;
    set.max_recovery_kib = 1024;
    CHECK(text(one(8192, set)) ==
          "0 8192 raid raid1 9 0 rebuild 1 rebuild 2 max_recovery_rate 1024 region_size 4096 3 "
          "/dev/m0 /dev/d0 /dev/m1 /dev/d1 /dev/m2 /dev/d2\n");
    set.legs[2] = {};
    CHECK(text(one(8192, set)) ==
          "0 8192 raid raid1 7 0 rebuild 1 max_recovery_rate 1024 region_size 4096 3 "
          "/dev/m0 /dev/d0 /dev/m1 /dev/d1 - -\n");
}

TEST_CASE("dm table: rows that leave a gap, overlap, are empty or overflow are refused") {
    const linear_target area{"/dev/a", 0};
    CHECK(why_not({}) == "the table is empty");
    CHECK(why_not({{8, 8, area}}) == "row 0 starts at 8, but the rows before it end at 0");
    CHECK(why_not({{0, 8, area}, {16, 8, area}}) == "row 1 starts at 16, but the rows before it end at 8");
    CHECK(why_not({{0, 8, area}, {7, 8, area}}) == "row 1 starts at 7, but the rows before it end at 8");
    CHECK(why_not({{0, 8, area}, {8, 0, area}}) == "row 1 is empty");
    CHECK(why_not({{0, ~std::uint64_t{0}, area}}) == "row 0 ends beyond what bytes can count");
    CHECK(why_not({{0, 8, linear_target{"/dev/a", ~std::uint64_t{0}}}}) ==
          "row 0: offset 18446744073709551615 on /dev/a plus its length overflows");
}

TEST_CASE("dm table: a device that the kernel would read as two words is refused") {
    CHECK(why_not(one(8, linear_target{"", 0})) == "row 0: a device's path is empty");
    for (const char* path : {"dev/a", "/dev/a b", "/dev/a\tb", "/dev/a\n", "/dev/\xc3\xa4", "a"})
        CHECK(why_not(one(8, linear_target{path, 0})).find("is not an absolute path") != std::string::npos);
    CHECK(why_not(one(8, linear_target{"/x\x1b[2J y", 0})).find('\x1b') == std::string::npos);
}

TEST_CASE("dm table: stripes need a chunk that divides them") {
    const auto stripes = [](std::uint64_t chunk, std::uint64_t length) {
        return one(length, striped_target{chunk, {{"/dev/a", 0}, {"/dev/b", 0}}});
    };
    CHECK(check(stripes(8, 16)).has_value());
    CHECK(why_not(stripes(8, 24)) == "row 0: 24 sectors are not a whole number of 2 chunks of 8 sectors");
    CHECK(why_not(stripes(4, 24)) == "row 0: a chunk of 4 sectors is not a power of two of at least 8");
    CHECK(why_not(stripes(24, 48)) == "row 0: a chunk of 24 sectors is not a power of two of at least 8");
    CHECK(why_not(one(8, striped_target{8, {{"/dev/a", 0}}})) == "row 0: a striped row needs at least two stripes");
}

TEST_CASE("dm table: raid1 wants legs that make sense") {
    const auto with = [](const auto& change) {
        raid1_target set = pair_of_legs();
        change(set);
        return one(8192, set);
    };
    CHECK(why_not(with([](auto& set) { set.legs.pop_back(); })) == "row 0: raid1 has 1 legs; possible are 2 to 8");
    CHECK(why_not(with([](auto& set) { set.legs.resize(9); })) == "row 0: raid1 has 9 legs; possible are 2 to 8");
    CHECK(why_not(with([](auto& set) {
              set.legs = {{}, {}};
          })) == "row 0: no leg of raid1 is left that could be copied from");
    CHECK(why_not(with([](auto& set) { set.legs[0].rebuild = set.legs[1].rebuild = true; })) ==
          "row 0: no leg of raid1 is left that could be copied from");
    CHECK(why_not(with([](auto& set) {
              set.legs[1] = {"", "", true};
          })) == "row 0: leg 1 is missing, so it cannot be rebuilt");
    CHECK(why_not(with([](auto& set) { set.legs[1].meta.clear(); })) == "row 0: a device's path is empty");
    CHECK(why_not(with([](auto& set) { set.legs[1].meta = set.legs[1].data; })) ==
          "row 0: leg 1 has its metadata on its data device");
    CHECK(why_not(with([](auto& set) {
              set.legs[1].rebuild = true;
              set.start = raid1_start::assume_equal;
          })) ==
          "row 0: a leg cannot be rebuilt from legs that are to be made equal, or called equal, in the same table");
    CHECK(why_not(with([](auto& set) { set.region_sectors = 3000; })).find("region of 3000") != std::string::npos);
    CHECK(why_not(with([](auto& set) { set.region_sectors = 16384; })).find("region of 16384") != std::string::npos);
}

TEST_CASE("dm table: regions are a power of two, no larger than the set and never too many") {
    CHECK(choose_region_sectors(8) == 8);
    CHECK(choose_region_sectors(9) == 8);
    CHECK(choose_region_sectors(4096) == 4096);
    CHECK(choose_region_sectors(std::uint64_t{1} << 32) == 4096);    // 2 TiB
    CHECK(choose_region_sectors((std::uint64_t{1} << 33)) == 8192);  // 4 TiB would be 2^21 regions
    raid1_target set = pair_of_legs();
    for (unsigned shift = 3; shift < 54; ++shift)
        for (const std::uint64_t length : {(std::uint64_t{1} << shift), (std::uint64_t{1} << shift) + 8}) {
            CAPTURE(length);
            set.region_sectors = choose_region_sectors(length);
            CHECK(check(one(length, set)).has_value());
        }
    set.region_sectors = 1;
    CHECK(why_not(one((raid1_regions_max + 1), set)).find("more than 2097152 regions") != std::string::npos);
}

TEST_CASE("dm table: a crypt row knows a key by its name only") {
    crypt_target crypt{"aes-xts-plain64", {64, "logon", "weft:v"}, 0, {"/dev/a", 0}, {}};
    CHECK(check(one(8, crypt)).has_value());
    crypt.key.type = "encrypted";
    CHECK(why_not(one(8, crypt)) == "row 0: key type 'encrypted' is neither logon nor user");
    crypt.key = {0, "logon", "x"};
    CHECK(why_not(one(8, crypt)) == "row 0: the key's size is not 1 to 512 bytes");
    crypt.key = {64, "logon", "a b"};
    CHECK(why_not(one(8, crypt)) == "row 0: the key's description is not a word");
    CHECK(without_key("crypt", "aes-xts-plain64 0123abcd 0 43:0 0") == "aes-xts-plain64 00000000 0 43:0 0");
    CHECK(without_key("crypt", "aes :64:logon:x 0 43:0 0") == "aes :64:logon:x 0 43:0 0");
    CHECK(without_key("crypt", "aes") == "aes");
    CHECK(without_key("linear", "43:0 0123abcd") == "43:0 0123abcd");
}

TEST_CASE("dm table: by number it reads as the kernel gives it back, or not at all") {
    const table rows{
        {0, 8, linear_target{"/dev/a", 0}}, {8, 8, linear_target{"/dev/b", 4}}, {16, 8, linear_target{"/dev/a", 8}}};
    CHECK(devices_of(rows) == std::vector<std::string>{"/dev/a", "/dev/b"});
    CHECK_FALSE(render_by_number(rows, {{"/dev/a", "43:0"}}).has_value());
    const auto raw = render_by_number(rows, {{"/dev/a", "43:0"}, {"/dev/b", "253:12"}});
    REQUIRE(raw.has_value());
    CHECK(to_text(*raw) == "0 8 linear 43:0 0\n8 8 linear 253:12 4\n16 8 linear 43:0 8\n");
    CHECK(numbers_in(*raw) == std::vector<std::string>{"43:0", "253:12"});
    CHECK(length_sectors(*raw) == 24);
    CHECK(length_sectors(rows) == 24);
}
