// SPDX-License-Identifier: Apache-2.0
// A page of the write-intent bitmap (FORMAT.md). A page that is wrongly taken for good costs data.
//
// Input: a byte of switches, the number of the page, two bytes that name a bit, then the page's head; the rest is 0.
//   bit 0  the page gets a right checksum        bit 1  one bit is flipped after that
// Properties: a page with one flipped bit is refused; an accepted page has the number that was asked for, and nothing
// but its bits differs from a page at birth.
#include <boost/crc.hpp>

#include <algorithm>

#include "nbd-backend/core/replica_meta.hpp"
#include "tests/fuzz/fuzz.hpp"

using namespace weft;
using namespace weft::core;

namespace {

constexpr std::size_t checksum_at = 8;
constexpr std::size_t index_at = 16;

void seal(bitmap_page& page) {
    for (std::size_t i = 0; i < 4; ++i) page[checksum_at + i] = std::byte{0};
    boost::crc_optimal<32, 0x1EDC6F41, 0xFFFFFFFF, 0xFFFFFFFF, true, true> crc;
    crc.process_bytes(page.data(), page.size());
    for (std::size_t i = 0; i < 4; ++i)
        page[checksum_at + i] = static_cast<std::byte>(crc.checksum() >> (8 * i) & 0xff);
}

/// The canary takes the upper half of a page's number for nothing: a page of another extent of the file passes.
auto decode(const bitmap_page& page, std::uint64_t index) {
    if (!fuzz::canary) return decode_bitmap_page(page, index);
    std::uint64_t stored = 0;
    for (std::size_t i = 0; i < 8; ++i) stored |= std::to_integer<std::uint64_t>(page[index_at + i]) << (8 * i);
    return decode_bitmap_page(page, (stored & 0xffffffff) == index ? stored : index);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    fuzz::feed input(data, size);
    const unsigned switches = input.byte();
    const std::uint64_t index = input.byte();
    const std::size_t place = input.number() % (8 * bitmap_page_bytes);
    bitmap_page page{};
    const std::string_view head = input.bytes(bitmap_page_bytes);
    std::transform(head.begin(), head.end(), page.begin(), [](char c) { return static_cast<std::byte>(c); });
    if ((switches & 1) != 0) seal(page);
    const auto bits = decode(page, index);
    if (bits.has_error()) {
        fuzz::check_error(bits.error(), errc::corrupt);
        return 0;
    }
    PROPERTY(bits->size() * 8 == bitmap_page_bits, "{} bytes of bits", bits->size());
    PROPERTY(std::to_integer<std::uint64_t>(page[index_at]) == index, "page {} taken for {}",
             std::to_integer<int>(page[index_at]), index);
    for (std::size_t i = index_at + 1; i < bitmap_page_header_bytes; ++i)
        PROPERTY(page[i] == std::byte{0}, "byte {} of page {} is {:#x}", i, index, std::to_integer<unsigned>(page[i]));
    if ((switches & 2) != 0) {
        page[place / 8] ^= static_cast<std::byte>(1U << place % 8);
        PROPERTY(decode_bitmap_page(page, index).has_error(), "bit {} does not matter", place);
    }
    return 0;
}
