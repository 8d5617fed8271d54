// SPDX-License-Identifier: Apache-2.0
// What `weft` says of itself: the table of its commands with their texts, and help at every level made of it. Pure.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "orchestrator/cli/command.hpp"

namespace weft::cli {

struct command_help {
    verb what;
    std::string_view group;               // empty: the command stands alone ("weft status")
    std::vector<std::string_view> names;  // the first is the one that help shows, the others are aliases
    std::string_view argument;            // "NAME", empty if it takes none
    std::string_view summary;             // a line without a full stop
    std::string_view options;             // indented lines, may be empty
    std::string_view details;             // sentences, may be empty
};

/// Null if there is none. For a command that stands alone `group` is its name and `name` is ignored.
const command_help* find_command(std::string_view group, std::string_view name);
bool is_group(std::string_view word);
bool is_single(std::string_view word);  // a command that stands alone

std::string title_of(const command_help& command);  // "weft volume create"
std::string help_of(const command_help& command);
std::string help_of_group(std::string_view group);
std::string short_help();

}  // namespace weft::cli
