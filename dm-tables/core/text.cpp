// SPDX-License-Identifier: Apache-2.0
#include "dm-tables/core/text.hpp"

#include <charconv>

namespace weft::dm {

std::string shown(std::string_view text) {
    constexpr std::size_t most = 80;
    std::string harmless;
    for (const char c : text.substr(0, most)) harmless += c >= 0x20 && c < 0x7f ? c : '?';
    return text.size() > most ? harmless + "..." : harmless;
}

std::vector<std::string_view> words_of(std::string_view text) {
    std::vector<std::string_view> words;
    while (true) {
        const std::size_t begin = text.find_first_not_of(' ');
        if (begin == std::string_view::npos) return words;
        text.remove_prefix(begin);
        words.push_back(text.substr(0, text.find(' ')));
        text.remove_prefix(words.back().size());
    }
}

std::optional<std::uint64_t> number_of(std::string_view word) {
    if (word.empty() || (word.size() > 1 && word[0] == '0')) return std::nullopt;
    std::uint64_t number = 0;
    const auto parsed = std::from_chars(word.data(), word.data() + word.size(), number);
    if (parsed.ec != std::errc{} || parsed.ptr != word.data() + word.size()) return std::nullopt;
    return number;
}

bool is_device_number(std::string_view word) {
    const std::size_t colon = word.find(':');
    return colon != std::string_view::npos && number_of(word.substr(0, colon)).has_value() &&
           number_of(word.substr(colon + 1)).has_value();
}

}  // namespace weft::dm
