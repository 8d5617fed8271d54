// SPDX-License-Identifier: Apache-2.0
#include "nbd-backend/core/crc32c.hpp"

#include <doctest/doctest.h>

#include <random>
#include <string_view>
#include <vector>

using namespace weft::core;

namespace {
std::vector<std::byte> random_bytes(std::size_t size) {
    std::mt19937 random(42);
    std::vector<std::byte> bytes(size);
    for (auto& byte : bytes) byte = static_cast<std::byte>(random() & 0xff);
    return bytes;
}
}  // namespace

TEST_CASE("crc32c: the world's check values") {
    const auto text = std::as_bytes(std::span(std::string_view("123456789")));
    CHECK(crc32c(text) == 0xE3069283U);
    CHECK(crc32c_by_table(text) == 0xE3069283U);
    // RFC 3720, appendix B.4
    CHECK(crc32c(std::vector<std::byte>(32)) == 0x8A9136AAU);
    CHECK(crc32c(std::vector<std::byte>(32, std::byte{0xff})) == 0x62A8AB43U);
    CHECK(crc32c({}) == 0);
}

TEST_CASE("crc32c: the fast way and the table agree at every length and alignment around the lanes") {
    const auto bytes = random_bytes(3 * 4096);
    for (std::size_t length = 0; length <= 200; ++length)
        for (std::size_t at = 0; at < 9; ++at) {
            const auto piece = std::span(bytes).subspan(at, length);
            CHECK(crc32c(piece, 7) == crc32c_by_table(piece, 7));
        }
    for (const std::size_t length : {1359UL, 1360UL, 4079UL, 4080UL, 4081UL, 4096UL, 8159UL, 8160UL, 8192UL, 12288UL}) {
        CAPTURE(length);
        const auto piece = std::span(bytes).first(length);
        CHECK(crc32c(piece) == crc32c_by_table(piece));
    }
}

TEST_CASE("crc32c: pieces one after the other give the whole") {
    const auto bytes = random_bytes(10000);
    const auto whole = crc32c(bytes);
    for (const std::size_t cut : {0UL, 1UL, 4095UL, 4096UL, 9999UL, 10000UL})
        CHECK(crc32c(std::span(bytes).subspan(cut), crc32c(std::span(bytes).first(cut))) == whole);
}
