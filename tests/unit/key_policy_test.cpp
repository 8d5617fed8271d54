// SPDX-License-Identifier: Apache-2.0
// Which files and programs may give a volume's key, and which keys are none.
#include "orchestrator/core/key_policy.hpp"

#include <doctest/doctest.h>

#include <vector>

using namespace weft;

namespace {

constexpr std::uint32_t root = 0, me = 1000, somebody = 1001;

std::string why_not(const status& checked) {
    REQUIRE(checked.has_error());
    CHECK(checked.error().code == errc::unavailable);
    return checked.error().text;
}

}  // namespace

TEST_CASE("key policy: the volume's own key file comes before the default one") {
    CHECK(key_file_names("db") == std::array<std::string, 2>{"db.key", "default.key"});
}

TEST_CASE("key policy: a key file is its owner's alone") {
    for (const std::uint32_t mode : {0400U, 0600U, 0700U})
        for (const std::uint32_t owner : {root, me}) CHECK(check_key_file("/k", {true, owner, mode}, me).has_value());
    for (const std::uint32_t mode : {0440U, 0404U, 0644U, 0620U, 0602U, 0610U, 0601U}) {
        CAPTURE(mode);
        CHECK(why_not(check_key_file("/k", {true, me, mode}, me)).find("chmod it to 0400") != std::string::npos);
    }
    CHECK(why_not(check_key_file("/k", {true, me, 0644}, me)).starts_with("key file /k has mode 0644: "));
    CHECK(why_not(check_key_file("/k", {true, somebody, 0400}, me)) ==
          "key file /k belongs to user 1001, who could change it: chown it to root");
    CHECK(why_not(check_key_file("/k", {false, me, 0400}, me)) == "key file /k is not a plain file");
}

TEST_CASE("key policy: nobody else puts keys into the key directory") {
    for (const std::uint32_t mode : {0700U, 0500U, 0755U})
        CHECK(check_key_directory("/d", {true, root, mode}, me).has_value());
    for (const std::uint32_t mode : {0770U, 0702U, 01777U})
        CHECK(why_not(check_key_directory("/d", {true, root, mode}, me)).find("chmod") != std::string::npos);
    CHECK(why_not(check_key_directory("/d", {false, root, 0700}, me)) == "key directory /d is not a directory");
}

TEST_CASE("key policy: a key command is a program that nobody else changes") {
    CHECK(check_key_command("/c", {true, root, 0755}, me).has_value());
    CHECK(check_key_command("/c", {true, me, 0500}, me).has_value());
    CHECK(why_not(check_key_command("/c", {true, root, 0644}, me)) == "key command /c is not a program");
    CHECK(why_not(check_key_command("/c", {false, root, 0755}, me)) == "key command /c is not a program");
    CHECK(why_not(check_key_command("/c", {true, root, 0775}, me)).find("could change it") != std::string::npos);
    CHECK(why_not(check_key_command("/c", {true, somebody, 0755}, me)).find("user 1001") != std::string::npos);
}

TEST_CASE("key policy: a key has 32 to 4096 bytes") {
    for (const std::size_t size : {32U, 64U, 4096U}) CHECK(check_key_size("it", size).has_value());
    for (const std::size_t size : {0U, 1U, 31U, 4097U}) {
        CAPTURE(size);
        CHECK(why_not(check_key_size("it", size)).find("/dev/urandom") != std::string::npos);
    }
    CHECK(why_not(check_key_size("key file /k", 0)).starts_with("key file /k gave a key of 0 bytes, which is fewer"));
}
