// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/core/option_words.hpp"

#include <algorithm>

namespace weft {

bool has_placeholder(std::string_view text) noexcept {
    const auto is_name = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; };
    for (auto begin = text.find('%'); begin != std::string_view::npos; begin = text.find('%', begin + 1)) {
        const auto end = text.find('%', begin + 1);
        if (end == std::string_view::npos) return false;
        const auto name = text.substr(begin + 1, end - begin - 1);
        if (!name.empty() && std::all_of(name.begin(), name.end(), is_name)) return true;
    }
    return false;
}

}  // namespace weft
