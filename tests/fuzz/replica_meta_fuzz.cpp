// SPDX-License-Identifier: Apache-2.0
// The slots of a replica's meta file (FORMAT.md).
//
// Input: a byte of switches, then the heads of slot 0 and slot 1, `head_bytes` each; what follows in a slot is 0.
//   bit 0, 1  the slot gets a right checksum (no fuzzer guesses one)
//   bit 2     a byte that the input's end names is put somewhere into slot 0, before the checksum
//   bit 3     one bit that the input's end names is flipped in slot 0, after the checksum
// Properties: what is accepted encodes to the same bytes; a slot with one flipped bit is refused; of two slots that go
// together the one with the higher generation wins, never a mixture.
#include <boost/crc.hpp>

#include <algorithm>

#include "nbd-backend/core/replica_meta.hpp"
#include "tests/fuzz/fuzz.hpp"

using namespace weft;
using namespace weft::core;

namespace {

constexpr std::size_t head_bytes = 192;
constexpr std::size_t checksum_at = 12;
constexpr std::size_t reserved_at = 184;

void seal(meta_slot& slot) {
    for (std::size_t i = 0; i < 4; ++i) slot[checksum_at + i] = std::byte{0};
    boost::crc_optimal<32, 0x1EDC6F41, 0xFFFFFFFF, 0xFFFFFFFF, true, true> crc;
    crc.process_bytes(slot.data(), slot.size());
    for (std::size_t i = 0; i < 4; ++i)
        slot[checksum_at + i] = static_cast<std::byte>(crc.checksum() >> (8 * i) & 0xff);
}

meta_slot slot_from(std::string_view head) {
    meta_slot slot{};
    std::transform(head.begin(), head.end(), slot.begin(), [](char c) { return static_cast<std::byte>(c); });
    return slot;
}

/// The canary does not look at reserved bytes: what a later version put there would be lost.
result<replica_meta> decode(const meta_slot& slot) {
    if (!fuzz::canary) return decode_meta(slot);
    meta_slot blind = slot;
    std::fill(blind.begin() + reserved_at, blind.end(), std::byte{0});
    const bool sealed = [&] {
        meta_slot again = slot;
        seal(again);
        return again == slot;
    }();
    if (sealed) seal(blind);
    return decode_meta(blind);
}

void check_slot(const meta_slot& slot) {
    const auto meta = decode(slot);
    if (meta.has_error()) {
        const bool later = meta.error().code == errc::unsupported;
        return fuzz::check_error(meta.error(), later ? errc::unsupported : errc::corrupt);
    }
    PROPERTY(check(*meta).has_value(), "accepted what cannot be stored: {}", check(*meta).error().text);
    PROPERTY(encode_meta(*meta) == slot, "replica {} encodes to other bytes", meta->replica.str());
}

void check_choice(const meta_slot& slot_0, const meta_slot& slot_1) {
    const auto first = decode_meta(slot_0);
    const auto second = decode_meta(slot_1);
    const auto chosen = choose_meta(slot_0, slot_1);
    if (chosen.has_error()) {
        const bool later = chosen.error().code == errc::unsupported;
        return fuzz::check_error(chosen.error(), later ? errc::unsupported : errc::corrupt);
    }
    const bool is_first = first.has_value() && *chosen == *first;
    const bool is_second = second.has_value() && *chosen == *second;
    PROPERTY(is_first || is_second, "generation {} is in neither slot", chosen->generation);
    PROPERTY(slot_of(chosen->generation) == (is_first ? 0 : 1), "generation {} in slot {}", chosen->generation,
             is_first ? 0 : 1);
    for (const auto* one : {&first, &second})
        if (one->has_value() && (*one)->generation > chosen->generation)
            PROPERTY(slot_of((*one)->generation) != (one == &first ? 0U : 1U), "generation {} lost to {}",
                     (*one)->generation, chosen->generation);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    fuzz::feed input(data, size);
    const unsigned switches = input.byte();
    meta_slot slots[2] = {slot_from(input.bytes(head_bytes)), slot_from(input.bytes(head_bytes))};
    const std::size_t place = input.number() % meta_slot_bytes;
    const std::uint8_t what = input.byte();
    if ((switches & 4) != 0) slots[0][place] = std::byte{what};
    for (unsigned i = 0; i < 2; ++i)
        if ((switches & (1U << i)) != 0) seal(slots[i]);
    for (const meta_slot& slot : slots) check_slot(slot);
    check_choice(slots[0], slots[1]);
    if ((switches & 8) != 0 && decode_meta(slots[0]).has_value()) {
        slots[0][place] ^= static_cast<std::byte>(1U << what % 8);
        PROPERTY(decode_meta(slots[0]).has_error(), "bit {} of byte {} does not matter", what % 8, place);
    }
    return 0;
}
