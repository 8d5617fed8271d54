// SPDX-License-Identifier: Apache-2.0
#include "nbd-backend/core/replica_meta.hpp"

#include <boost/crc.hpp>
#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

using namespace weft;
using namespace weft::core;

namespace {

/// FORMAT.md's worked example.
replica_meta example() {
    replica_meta meta;
    meta.incompat = incompat_bitmap_kept;
    meta.generation = 5;
    meta.replica = replica_id{"3f0a2c1e-0b4d-4c7e-9a55-00d1e2f3a4b5"};
    meta.volume = volume_id{"7d1f6a90-5e2c-4b8d-8f31-c0ffee123456"};
    meta.size_bytes = 10 * gib;
    meta.epoch = 7;
    meta.born_equal = false;
    meta.change_boot_id = "0e5b1f7c-58f2-4f0a-8d0f-4a6c1b2d3e4f";
    return meta;
}

/// A slot whose checksum is right for what it holds: for edges behind the checksum.
void reseal(std::span<std::byte> slot, std::size_t checksum_offset) {
    for (std::size_t i = 0; i < 4; ++i) slot[checksum_offset + i] = std::byte{0};
    boost::crc_optimal<32, 0x1EDC6F41, 0xFFFFFFFF, 0xFFFFFFFF, true, true> crc;
    crc.process_bytes(slot.data(), slot.size());
    for (std::size_t i = 0; i < 4; ++i)
        slot[checksum_offset + i] = static_cast<std::byte>((crc.checksum() >> (8 * i)) & 0xff);
}

meta_slot changed(meta_slot slot, std::size_t offset, unsigned value) {
    slot[offset] = static_cast<std::byte>(value);
    reseal(slot, 12);
    return slot;
}

/// Lines "offset  hex hex ...": 16 bytes each, as in FORMAT.md; lines of zeros are left out.
std::string dump(std::span<const std::byte> bytes) {
    std::string text;
    for (std::size_t line = 0; line < bytes.size(); line += 16) {
        const auto row = bytes.subspan(line, 16);
        if (std::all_of(row.begin(), row.end(), [](std::byte b) { return b == std::byte{0}; })) continue;
        char word[24];
        (void)std::snprintf(word, sizeof word, "%04zx ", line);
        text += word;
        for (const auto b : row) {
            (void)std::snprintf(word, sizeof word, " %02x", std::to_integer<unsigned>(b));
            text += word;
        }
        text += "\n";
    }
    return text;
}

/// The fenced block of FORMAT.md that follows the line `<!-- example: name -->`.
std::string documented(const std::string& name) {
    std::ifstream file("nbd-backend/FORMAT.md");
    REQUIRE_MESSAGE(file.is_open(), "run the unit tests from the top of the repository");
    std::string line, text;
    while (std::getline(file, line) && line != "<!-- example: " + name + " -->") continue;
    REQUIRE_MESSAGE(std::getline(file, line), "FORMAT.md has no example " << name);
    REQUIRE(line == "```");
    while (std::getline(file, line) && line != "```") text += line + "\n";
    return text;
}

}  // namespace

TEST_CASE("replica_meta: the checksum is CRC-32C as the world knows it") {
    boost::crc_optimal<32, 0x1EDC6F41, 0xFFFFFFFF, 0xFFFFFFFF, true, true> crc;
    crc.process_bytes("123456789", 9);
    CHECK(crc.checksum() == 0xE3069283U);  // the check value of RFC 3720's polynomial
}

TEST_CASE("replica_meta: the worked examples of FORMAT.md are what is encoded") {
    CHECK(dump(encode_meta(example())) == documented("slot"));
    auto small = example();
    small.size_bytes = 41 * mib;
    CHECK(dump(encode_birth_page(small, 0)) == documented("page"));
}

TEST_CASE("replica_meta: encode, decode, encode gives the same bytes") {
    auto fresh = example();
    fresh.incompat = 0;
    fresh.epoch = 0;
    fresh.change_boot_id = "";
    auto unchanged = example();
    unchanged.change_boot_id = "";
    auto odd = example();
    odd.compat = 0x8000000000000001;
    odd.generation = ~std::uint64_t{0};
    odd.epoch = ~std::uint64_t{0};
    odd.size_bytes = block_bytes;
    odd.region_bytes = region_bytes_min;
    odd.born_equal = true;
    odd.change_boot_id = std::string(64, 'x');
    for (const auto& meta : {example(), fresh, unchanged, odd}) {
        const auto bytes = encode_meta(meta);
        const auto decoded = decode_meta(bytes);
        REQUIRE(decoded.has_value());
        CHECK(*decoded == meta);
        CHECK(encode_meta(*decoded) == bytes);
    }
}

TEST_CASE("replica_meta: every single flipped bit of a slot is found") {
    const auto good = encode_meta(example());
    for (std::size_t bit = 0; bit < 8 * good.size(); ++bit) {
        auto bad = good;
        bad[bit / 8] ^= static_cast<std::byte>(1U << (bit % 8));
        const auto decoded = decode_meta(bad);
        if (decoded.has_value() || decoded.error().code != errc::corrupt || decoded.error().text.empty()) {
            CAPTURE(bit);
            FAIL("accepted");
        }
    }
}

TEST_CASE("replica_meta: a cut, empty or foreign slot is corrupt") {
    const auto good = encode_meta(example());
    for (const std::size_t length : {0UL, 1UL, 512UL, 4095UL}) {
        const auto decoded = decode_meta(std::span(good).first(length));
        REQUIRE(decoded.has_error());
        CHECK(decoded.error().code == errc::corrupt);
    }
    const auto zeros = decode_meta(meta_slot{});
    REQUIRE(zeros.has_error());
    CHECK(zeros.error().text.find("magic") != std::string::npos);
}

TEST_CASE("replica_meta: wrong fields behind a right checksum are corrupt and named") {
    const auto good = encode_meta(example());
    struct edge {
        std::size_t offset;
        unsigned value;
        const char* named;
    };
    for (const edge& wrong :
         {edge{8, 0, "version 0"}, edge{72, 1, "size"}, edge{79, 0xff, "size"}, edge{80, 1, "region"},
          edge{82, 0, "region"}, edge{84, 1, "region"}, edge{88, 1, "bitmap"}, edge{97, 0x20, "bitmap"},
          edge{104, 0, "first epoch"}, edge{112, 2, "birth"}, edge{119, 1, "birth"}, edge{120, 0, "boot id"},
          edge{120, '/', "boot id"}, edge{120 + 40, 'x', "boot id"}, edge{183, 'x', "boot id"},
          edge{184, 'x', "reserved"}, edge{4095, 1, "reserved"}}) {
        CAPTURE(wrong.offset);
        const auto decoded = decode_meta(changed(good, wrong.offset, wrong.value));
        REQUIRE(decoded.has_error());
        CHECK(decoded.error().code == errc::corrupt);
        CHECK(decoded.error().text.find(wrong.named) != std::string::npos);
    }
}

TEST_CASE("replica_meta: a later version or an unknown incompatible feature is unsupported, a compatible one is kept") {
    const auto good = encode_meta(example());
    for (const auto& slot : {changed(good, 8, 2), changed(good, 17, 1), changed(good, 23, 0x80)}) {
        const auto decoded = decode_meta(slot);
        REQUIRE(decoded.has_error());
        CHECK(decoded.error().code == errc::unsupported);
    }
    const auto compatible = decode_meta(changed(good, 24, 4));
    REQUIRE(compatible.has_value());
    CHECK(compatible->compat == 4);
}

TEST_CASE("replica_meta: of two good slots the higher generation wins") {
    auto older = example();
    older.generation = 4;
    older.epoch = 6;
    const auto chosen = choose_meta(encode_meta(older), encode_meta(example()));
    REQUIRE(chosen.has_value());
    CHECK(*chosen == example());
    older.generation = 6;
    const auto other = choose_meta(encode_meta(older), encode_meta(example()));
    REQUIRE(other.has_value());
    CHECK(other->generation == 6);
}

TEST_CASE(
    "replica_meta: a write torn after any byte leaves the old or the new state, and the new one once it is whole") {
    const auto before = example();  // generation 5, in slot 1
    const auto after = with_epoch(before, 8);
    REQUIRE(slot_of(after.generation) == 0);
    auto old_twin = before;
    old_twin.generation = 4;
    const auto kept = encode_meta(before);
    const auto written = encode_meta(after);
    for (std::size_t torn = 0; torn <= meta_slot_bytes; ++torn) {
        for (const auto& overwritten : {encode_meta(old_twin), meta_slot{}}) {
            auto slot = overwritten;
            std::copy_n(written.begin(), torn, slot.begin());
            const auto chosen = choose_meta(slot, kept);
            if (!chosen.has_value() || (*chosen != before && *chosen != after) ||
                (torn == meta_slot_bytes && *chosen != after)) {
                CAPTURE(torn);
                FAIL("neither the old nor the new state");
            }
        }
    }
}

TEST_CASE("replica_meta: sectors of a torn write that arrive in any order leave the old or the new state") {
    const auto before = example();
    const auto after = with_change_boot_id(before, "b3");
    auto old_twin = before;
    old_twin.generation = 4;
    const auto stale = encode_meta(old_twin);
    const auto written = encode_meta(after);
    for (unsigned arrived = 0; arrived < 256; ++arrived) {  // 8 sectors of 512 bytes
        auto slot = stale;
        for (std::size_t sector = 0; sector < 8; ++sector)
            if (arrived >> sector & 1U) std::copy_n(written.begin() + 512 * sector, 512, slot.begin() + 512 * sector);
        const auto chosen = choose_meta(slot, encode_meta(before));
        REQUIRE(chosen.has_value());
        CHECK((*chosen == before || *chosen == after));
    }
}

TEST_CASE("replica_meta: either slot may rot, not both") {
    auto older = example();
    older.generation = 4;
    const auto slot_0 = encode_meta(older);
    const auto slot_1 = encode_meta(example());
    meta_slot rotten = slot_0;
    rotten[100] ^= std::byte{1};
    const auto second = choose_meta(rotten, slot_1);
    REQUIRE(second.has_value());
    CHECK(second->generation == 5);
    const auto first = choose_meta(slot_0, meta_slot{});
    REQUIRE(first.has_value());
    CHECK(first->generation == 4);
    const auto none = choose_meta(rotten, meta_slot{});
    REQUIRE(none.has_error());
    CHECK(none.error().code == errc::corrupt);
    CHECK(none.error().text.find("both slots") != std::string::npos);
}

TEST_CASE("replica_meta: a slot in the other's place does not count") {
    const auto odd = encode_meta(example());
    const auto misplaced = choose_meta(odd, meta_slot{});
    REQUIRE(misplaced.has_error());
    CHECK(misplaced.error().text.find("generation 5 in slot 0") != std::string::npos);
}

TEST_CASE("replica_meta: slots of different replicas are corrupt, a later version in either slot is unsupported") {
    auto other = example();
    other.generation = 6;
    other.replica = replica_id{"aaaaaaaa-0b4d-4c7e-9a55-00d1e2f3a4b5"};
    const auto mixed = choose_meta(encode_meta(other), encode_meta(example()));
    REQUIRE(mixed.has_error());
    CHECK(mixed.error().code == errc::corrupt);
    other = example();
    other.generation = 4;
    const auto upgraded = choose_meta(changed(encode_meta(other), 8, 2), encode_meta(example()));
    REQUIRE(upgraded.has_error());
    CHECK(upgraded.error().code == errc::unsupported);
}

TEST_CASE("replica_meta: a new epoch leaves the boot id of the last change alone, a change leaves the epoch alone") {
    auto fresh = example();
    fresh.epoch = 0;
    fresh.change_boot_id = "";
    const auto opened = with_epoch(fresh, 1);
    CHECK(opened.generation == 6);
    CHECK(opened.change_boot_id.empty());
    const auto changed = with_change_boot_id(opened, "b1");
    CHECK(changed.generation == 7);
    CHECK(changed.epoch == 1);
    CHECK(changed.change_boot_id == "b1");
    const auto fenced = with_epoch(changed, 5);
    CHECK(fenced.generation == 8);
    CHECK(fenced.epoch == 5);
    CHECK(fenced.change_boot_id == "b1");
}

TEST_CASE("replica_meta: a feature is added to those that are there and changes nothing else") {
    auto older = example();
    older.incompat = 0;
    const auto kept = with_incompat(older, incompat_bitmap_kept);
    CHECK(kept.keeps_bitmap());
    CHECK(!older.keeps_bitmap());
    auto expected = example();
    expected.generation = older.generation + 1;
    CHECK(kept == expected);
}

TEST_CASE("replica_meta: an added replica is born with every bit set, the first ones of an extent with none") {
    auto meta = example();
    for (const std::uint64_t size :
         {block_bytes, region_bytes_default, region_bytes_default + block_bytes,
          bitmap_page_bits * region_bytes_default, (bitmap_page_bits + 3) * region_bytes_default}) {
        CAPTURE(size);
        meta.size_bytes = size;
        for (const bool born_equal : {true, false}) {
            meta.born_equal = born_equal;
            std::uint64_t set = 0;
            for (std::uint64_t page = 0; page < bitmap_page_count(meta); ++page) {
                const auto bytes = encode_birth_page(meta, page);
                const auto bits = decode_bitmap_page(bytes, page);
                REQUIRE(bits.has_value());
                for (const auto b : *bits)
                    set += static_cast<std::uint64_t>(std::popcount(std::to_integer<unsigned>(b)));
            }
            CHECK(set == (born_equal ? 0 : region_count(meta)));
        }
    }
}

TEST_CASE("replica_meta: a torn, flipped or misplaced page of the bitmap is corrupt") {
    const auto page = encode_birth_page(example(), 0);
    for (std::size_t bit = 0; bit < 8 * page.size(); bit += 7) {
        auto bad = page;
        bad[bit / 8] ^= static_cast<std::byte>(1U << (bit % 8));
        CHECK(decode_bitmap_page(bad, 0).has_error());
    }
    CHECK(decode_bitmap_page(page, 1).has_error());
    CHECK(decode_bitmap_page(std::span(page).first(512), 0).has_error());
    CHECK(decode_bitmap_page(bitmap_page{}, 0).has_error());
    auto odd = page;
    odd[24] = std::byte{1};
    reseal(odd, 8);
    CHECK(decode_bitmap_page(odd, 0).error().text.find("reserved") != std::string::npos);
}

TEST_CASE("replica_meta: what cannot be stored is refused and named") {
    const auto refused = [](auto change, const char* named) {
        auto meta = example();
        change(meta);
        const auto fit = check(meta);
        REQUIRE(fit.has_error());
        CHECK(fit.error().code == errc::invalid_argument);
        CHECK(fit.error().text.find(named) != std::string::npos);
    };
    refused([](replica_meta& m) { m.replica = replica_id{"../x"}; }, "replica's id");
    refused([](replica_meta& m) { m.volume = volume_id{}; }, "volume's id");
    refused([](replica_meta& m) { m.size_bytes = 0; }, "size 0");
    refused([](replica_meta& m) { m.size_bytes = 4097; }, "4097");
    refused([](replica_meta& m) { m.size_bytes = replica_bytes_max + block_bytes; }, "size");
    refused([](replica_meta& m) { m.region_bytes = 3 * mib; }, "region size");
    refused([](replica_meta& m) { m.region_bytes = 4096; }, "region size");
    refused([](replica_meta& m) { m.epoch = 0; }, "first epoch");
    refused([](replica_meta& m) { m.change_boot_id = "a b"; }, "change boot id");
    refused([](replica_meta& m) { m.change_boot_id = std::string(65, 'a'); }, "change boot id");
}
