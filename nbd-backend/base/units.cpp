// SPDX-License-Identifier: Apache-2.0
#include "nbd-backend/base/units.hpp"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <limits>

namespace weft {

namespace {

error bad_size(std::string_view text) {
    return error{errc::invalid_argument,
                 fmt::format("'{}' is not a size: write a whole number of bytes or with a suffix, such as 10GiB, 512m "
                             "or 1073741824",
                             text.substr(0, 64))};
}

/// The power of 1024 that a suffix stands for, or -1.
int power_of_suffix(std::string_view suffix) {
    if (suffix.empty()) return 0;
    std::string lower;
    for (const char c : suffix) lower.push_back(c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c);
    if (lower == "b") return 0;
    constexpr std::string_view letters = "kmgtp";
    const auto index = letters.find(lower[0]);
    if (index == std::string_view::npos) return -1;
    const std::string_view rest = std::string_view(lower).substr(1);
    if (!rest.empty() && rest != "b" && rest != "ib" && rest != "i") return -1;
    return static_cast<int>(index) + 1;
}

}  // namespace

result<std::uint64_t> parse_size(std::string_view text) {
    std::uint64_t number = 0;
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), number);
    if (parsed.ec != std::errc{}) return bad_size(text);
    std::string_view suffix = text.substr(static_cast<std::size_t>(parsed.ptr - text.data()));
    if (suffix.size() > 1 && suffix[0] == ' ') suffix.remove_prefix(1);
    const int power = power_of_suffix(suffix);
    if (power < 0) return bad_size(text);
    for (int i = 0; i < power; ++i) {
        if (number > std::numeric_limits<std::uint64_t>::max() / kib) return bad_size(text);
        number *= kib;
    }
    return number;
}

std::string render_size(std::uint64_t bytes) {
    constexpr std::array<std::string_view, 6> names = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    auto value = static_cast<double>(bytes);
    std::size_t unit = 0;
    while (value >= 1024 && unit + 1 < names.size()) {
        value /= 1024;
        ++unit;
    }
    const std::string number = fmt::format("{:.1f}", value);
    const bool whole = number.ends_with(".0");
    return fmt::format("{} {}", whole ? number.substr(0, number.size() - 2) : number, names[unit]);
}

}  // namespace weft
