// SPDX-License-Identifier: Apache-2.0
// What is stored as the checksum of one block (FORMAT.md, "sums"): its CRC-32C xor that of a block of zeros, so that
// the sum of a hole is 0 and a file of sums that nobody has written is right for a replica that nobody has written.
// Pure; any thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "nbd-backend/base/units.hpp"
#include "nbd-backend/core/crc32c.hpp"

namespace weft::core {

inline constexpr std::size_t block_sum_bytes = 4;
/// CRC-32C of 4096 zero bytes; a unit test computes it.
inline constexpr std::uint32_t zero_block_crc = 0x98F94189;

/// Precondition: the bytes are one block.
inline std::uint32_t block_sum(std::span<const std::byte> block) noexcept {
    return crc32c(block) ^ zero_block_crc;
}

/// Little-endian, at the beginning of `bytes`.
inline void store_block_sum(std::span<std::byte> bytes, std::uint32_t sum) noexcept {
    for (std::size_t i = 0; i < block_sum_bytes; ++i) bytes[i] = static_cast<std::byte>(sum >> (8 * i) & 0xff);
}
inline std::uint32_t load_block_sum(std::span<const std::byte> bytes) noexcept {
    std::uint32_t sum = 0;
    for (std::size_t i = 0; i < block_sum_bytes; ++i) sum |= std::to_integer<std::uint32_t>(bytes[i]) << (8 * i);
    return sum;
}

}  // namespace weft::core
