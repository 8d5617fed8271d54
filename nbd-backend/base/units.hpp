// SPDX-License-Identifier: Apache-2.0
// Sizes are bytes in std::uint64_t everywhere; the suffix _bytes stands where a bare integer leaves the type system.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "nbd-backend/base/result.hpp"

namespace weft {

inline constexpr std::uint64_t kib = 1024;
inline constexpr std::uint64_t mib = 1024 * kib;
inline constexpr std::uint64_t gib = 1024 * mib;
inline constexpr std::uint64_t tib = 1024 * gib;

/// The smallest unit of I/O: minimum and preferred NBD block size, and the granularity of replica files.
inline constexpr std::uint64_t block_bytes = 4096;

/// Parses "10GiB", "10g", "10G", "512MiB", "4096" (bytes). Suffixes K/M/G/T/P, with optional "i" and "B", any case, are
/// powers of 1024 ("GB" too: what people who type it mean when they size a disk image). One space before the suffix is
/// allowed. Errors: invalid_argument naming the text for anything else: empty, signs, fractions, exponents, overflow.
result<std::uint64_t> parse_size(std::string_view text);

/// "10 GiB", "1.5 MiB", "512 B": at most one decimal, for people.
std::string render_size(std::uint64_t bytes);

}  // namespace weft
