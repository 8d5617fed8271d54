// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/core/names.hpp"

#include <doctest/doctest.h>

using namespace weft;

TEST_CASE("names: volumes are called as Docker and Swarm call them") {
    for (const std::string& name :
         {std::string("a"), std::string("0"), std::string("db"), std::string("web_data.2-x"),
          std::string("srv-1.abcdefghijklmnopqrstuvwxy"), std::string(64, 'f'), std::string(volume_name_max, 'x')}) {
        CAPTURE(name);
        CHECK_FALSE(check_volume_name(name).has_error());
    }
}

TEST_CASE("names: what is no volume name is refused with the name and the rule") {
    const std::pair<std::string, const char*> cases[] = {
        {"", "it is empty"},
        {".", "begins with '.'"},
        {"..", "begins with '.'"},
        {"-x", "begins with '-'"},
        {"_x", "begins with '_'"},
        {"a/b", "'/'"},
        {"../../etc", "'/'"},
        {"a b", "' '"},
        {"a\nb", "'\\n'"},
        {std::string("a\0b", 3), "'\\x00'"},
        {"a\x1b[31m", "'\\x1b'"},
        {"volume,ro", "','"},
        {"$(reboot)", "'$'"},
        {"käse", "not ASCII"},
        {"\xff", "not ASCII"},
        {std::string(volume_name_max + 1, 'x'), "129 characters"},
        {std::string(300, 'x'), "300 characters"},
    };
    for (const auto& row : cases) {
        const auto& name = row.first;
        const auto& problem = row.second;
        CAPTURE(name);
        const auto refused = check_volume_name(name);
        REQUIRE(refused.has_error());
        CHECK(refused.error().code == errc::invalid_argument);
        CHECK_MESSAGE(refused.error().text.find(problem) != std::string::npos, refused.error().text);
        CHECK(refused.error().text.find("letters, digits, '_', '.' and '-'") != std::string::npos);
        CHECK(refused.error().text.find('\n') == std::string::npos);
        CHECK(refused.error().text.find('\x1b') == std::string::npos);
        CHECK(refused.error().text.size() < 300);
    }
}

TEST_CASE("names: nodes and plugins have their own limits and say what they are") {
    CHECK_FALSE(check_node_name(std::string(64, 'n')).has_error());
    CHECK(check_node_name(std::string(65, 'n')).error().text.find("a node name") != std::string::npos);
    CHECK_FALSE(check_plugin_name("weft1").has_error());
    CHECK(check_plugin_name("../weft").error().text.find("a plugin name") != std::string::npos);
}

TEST_CASE("names: printable shows what is there and nothing that a terminal obeys") {
    CHECK(printable("plain ä €") == "plain ä €");
    CHECK(printable("a\nb\tc\rd\\e") == "a\\nb\\tc\\rd\\\\e");
    CHECK(printable("\x1b[0m\x7f") == "\\x1b[0m\\x7f");
    CHECK(printable("\xff\xc3") == "\\xff\\xc3");
    CHECK(printable("\xc2\x9b"
                    "1m") == "\\u009b1m");
    CHECK(printable(std::string(100, 'x'), 5) == "xxxxx…");
    CHECK(printable("ääää", 3) == "äää…");
    CHECK(printable("abc", 3) == "abc");
    CHECK(printable("").empty());
}

TEST_CASE("names: UTF-8 is recognised strictly") {
    for (const char* good : {"", "a", "ä", "€", "𝄞", "\xed\x9f\xbf", "\xf4\x8f\xbf\xbf"}) CHECK(is_utf8(good));
    for (const char* bad : {"\x80", "\xc0\x80", "\xc3", "\xe0\x80\x80", "\xed\xa0\x80", "\xf0\x80\x80\x80",
                            "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "a\xe2\x82"}) {
        CAPTURE(printable(bad));
        CHECK_FALSE(is_utf8(bad));
    }
}

TEST_CASE("names: hosts") {
    for (const char* good : {"127.0.0.1", "::1", "2001:db8::7", "storage7.example.net", "n1"})
        CHECK_FALSE(check_host(good).has_error());
    for (const std::string& bad : {std::string(), std::string("a b"), std::string("-x"), std::string("h/../x"),
                                   std::string("h\n"), std::string(254, 'h')}) {
        CAPTURE(bad);
        CHECK(check_host(bad).error().code == errc::invalid_argument);
    }
}

TEST_CASE("names: a drive's path is made normal") {
    CHECK(*parse_drive_path("/srv/d1") == "/srv/d1");
    CHECK(*parse_drive_path("//srv///d1//") == "/srv/d1");
    CHECK(*parse_drive_path("/srv/my disk,ä..b") == "/srv/my disk,ä..b");
}

TEST_CASE("names: a drive's path that could mislead is refused") {
    const std::pair<std::string, const char*> cases[] = {
        {"", "empty"},
        {"srv/d1", "relative"},
        {"/", "root"},
        {"///", "root"},
        {"/srv/../etc", "'..'"},
        {"/srv/./d", "'.'"},
        {"/srv/..", "'..'"},
        {"/srv/a\nb", "control"},
        {std::string("/a\0b", 4), "control"},
        {"/srv/\xff", "UTF-8"},
        {"/" + std::string(1100, 'x'), "longer"},
    };
    for (const auto& row : cases) {
        const auto& path = row.first;
        const auto& problem = row.second;
        CAPTURE(path);
        const auto refused = parse_drive_path(path);
        REQUIRE(refused.has_error());
        CHECK(refused.error().code == errc::invalid_argument);
        CHECK_MESSAGE(refused.error().text.find(problem) != std::string::npos, refused.error().text);
        CHECK(refused.error().text.find('\n') == std::string::npos);
    }
}

TEST_CASE("names: a refused drive path is shown whole") {
    CHECK(parse_drive_path("/srv/../etc").error().text.starts_with("'/srv/../etc' is not a drive's directory"));
    CHECK(parse_drive_path("//").error().text.starts_with("'//' is not a drive's directory"));
}
