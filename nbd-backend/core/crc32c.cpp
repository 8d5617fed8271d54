// SPDX-License-Identifier: Apache-2.0
#include "nbd-backend/core/crc32c.hpp"

#include <array>
#include <cstring>

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

namespace weft::core {

namespace {

constexpr std::uint32_t reflected_polynomial = 0x82F63B78;
constexpr std::size_t byte_values = 256;
using byte_table = std::array<std::uint32_t, byte_values>;

/// steps[n][v]: the register after the byte v and n zero bytes, begun at 0. Eight of them: a word at a time.
constexpr std::size_t word_bytes = sizeof(std::uint64_t);
constexpr std::array<byte_table, word_bytes> make_steps() {
    std::array<byte_table, word_bytes> made{};
    for (std::uint32_t value = 0; value < byte_values; ++value) {
        std::uint32_t crc = value;
        for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? reflected_polynomial : 0);
        made[0][value] = crc;
    }
    for (std::size_t n = 1; n < word_bytes; ++n)
        for (std::size_t value = 0; value < byte_values; ++value)
            made[n][value] = (made[n - 1][value] >> 8) ^ made[0][made[n - 1][value] & 0xff];
    return made;
}
constexpr auto steps = make_steps();

/// The register (not inverted) after one more byte.
constexpr std::uint32_t step(std::uint32_t state, std::uint32_t byte) {
    return (state >> 8) ^ steps[0][(state ^ byte) & 0xff];
}

#if defined(__x86_64__)

// The instruction takes 8 bytes in one cycle but gives its result three cycles later. So three neighbouring lanes are
// computed side by side and joined: the register is linear over GF(2), hence that of A followed by B is that of A
// carried across |B| zero bytes, xor that of B begun at 0. A lane has the length with which a block of 4096 bytes is
// three lanes and two words.
constexpr std::size_t lane_bytes = 1360;
static_assert(lane_bytes % sizeof(std::uint64_t) == 0 && 4096 - 3 * lane_bytes < lane_bytes);

/// Carries a register across lane_bytes zero bytes: one table per byte of the register.
struct lane_carry {
    std::array<byte_table, 4> tables{};

    lane_carry() {
        for (std::size_t place = 0; place < tables.size(); ++place)
            for (std::uint32_t value = 0; value < byte_values; ++value) {
                std::uint32_t state = value << (8 * place);
                for (std::size_t i = 0; i < lane_bytes; ++i) state = step(state, 0);
                tables[place][value] = state;
            }
    }
    [[nodiscard]] std::uint32_t operator()(std::uint32_t state) const noexcept {
        return tables[0][state & 0xff] ^ tables[1][state >> 8 & 0xff] ^ tables[2][state >> 16 & 0xff] ^
               tables[3][state >> 24];
    }
};

std::uint64_t load_word(const std::byte* at) noexcept {
    std::uint64_t word = 0;
    std::memcpy(&word, at, sizeof word);
    return word;
}

__attribute__((target("sse4.2"))) std::uint32_t by_instruction(std::span<const std::byte> bytes,
                                                               std::uint32_t state) noexcept {
    static const lane_carry carry;
    const std::byte* at = bytes.data();
    std::size_t left = bytes.size();
    for (; left >= 3 * lane_bytes; left -= 3 * lane_bytes, at += 3 * lane_bytes) {
        std::uint64_t first = state;
        std::uint64_t second = 0;
        std::uint64_t third = 0;
        for (std::size_t i = 0; i < lane_bytes; i += sizeof(std::uint64_t)) {
            first = _mm_crc32_u64(first, load_word(at + i));
            second = _mm_crc32_u64(second, load_word(at + lane_bytes + i));
            third = _mm_crc32_u64(third, load_word(at + 2 * lane_bytes + i));
        }
        state = carry(static_cast<std::uint32_t>(first)) ^ static_cast<std::uint32_t>(second);
        state = carry(state) ^ static_cast<std::uint32_t>(third);
    }
    std::uint64_t wide = state;
    for (; left >= sizeof(std::uint64_t); left -= sizeof(std::uint64_t), at += sizeof(std::uint64_t))
        wide = _mm_crc32_u64(wide, load_word(at));
    state = static_cast<std::uint32_t>(wide);
    for (; left > 0; --left, ++at) state = _mm_crc32_u8(state, std::to_integer<std::uint8_t>(*at));
    return state;
}

bool has_instruction() noexcept {
    __builtin_cpu_init();
    return __builtin_cpu_supports("sse4.2") != 0;
}

#endif

}  // namespace

std::uint32_t crc32c_by_table(std::span<const std::byte> bytes, std::uint32_t before) noexcept {
    std::uint32_t state = ~before;
    for (; bytes.size() >= word_bytes; bytes = bytes.subspan(word_bytes)) {
        std::uint32_t next = 0;
        for (std::size_t i = 0; i < word_bytes; ++i) {
            const auto carried = i < sizeof state ? state >> (8 * i) & 0xff : 0;
            next ^= steps[word_bytes - 1 - i][carried ^ std::to_integer<std::uint32_t>(bytes[i])];
        }
        state = next;
    }
    for (const auto byte : bytes) state = step(state, std::to_integer<std::uint32_t>(byte));
    return ~state;
}

std::uint32_t crc32c(std::span<const std::byte> bytes, std::uint32_t before) noexcept {
#if defined(__x86_64__)
    static const bool fast = has_instruction();
    if (fast) return ~by_instruction(bytes, ~before);
#endif
    return crc32c_by_table(bytes, before);
}

}  // namespace weft::core
