// SPDX-License-Identifier: Apache-2.0
// What must not reach Boost.Program_options.
//
// Its exceptions build their texts by replacing placeholders such as %canonical_option% until none is left (Boost 1.81,
// error_with_option_name::replace_token), and what the user typed is among the replacements: `--%canonical_option%`
// makes what() go on for ever. Pure; any thread.
#pragma once

#include <string_view>

namespace weft {

/// Does `text` hold something that looks like a placeholder: letters or '_' between two '%'?
bool has_placeholder(std::string_view text) noexcept;

}  // namespace weft
