// SPDX-License-Identifier: Apache-2.0
// CRC-32C (Castagnoli, reflected, as in RFC 3720): the checksum of everything that Weft stores. Fast: the processor's
// own instruction where it has one (x86-64 with SSE 4.2, looked up at run time), else a table. Pure; any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace weft::core {

/// Of `before` followed by these bytes, `before` being the CRC of what came before (0: nothing).
std::uint32_t crc32c(std::span<const std::byte> bytes, std::uint32_t before = 0) noexcept;

/// The same without the processor's help: what other machines run, and what tests compare with.
std::uint32_t crc32c_by_table(std::span<const std::byte> bytes, std::uint32_t before = 0) noexcept;

}  // namespace weft::core
