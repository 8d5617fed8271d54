// SPDX-License-Identifier: Apache-2.0
// Small helpers for texts that come from outside: shown harmless, split into words, read as numbers. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace weft::dm {

/// `text` for an error message: what is not printable ASCII becomes '?', and what is beyond 80 characters "...".
std::string shown(std::string_view text);

/// The words between runs of spaces.
std::vector<std::string_view> words_of(std::string_view text);

/// A whole decimal number without sign, leading zeros ("0" itself is fine) or overflow.
std::optional<std::uint64_t> number_of(std::string_view word);

/// True for "major:minor", both decimal.
bool is_device_number(std::string_view word);

}  // namespace weft::dm
