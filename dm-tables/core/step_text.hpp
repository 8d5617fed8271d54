// SPDX-License-Identifier: Apache-2.0
// The steps of a plan as text, for the process that carries them out: a line for each, the rows of a table below it.
//
//   load weft-orders WEFT-6f…-volume 1
//   0 2048 linear /dev/nbd0 0
//
// Names and UUIDs are words (dm_name.hpp), and so is every parameter of a table (table.hpp). Pure.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "dm-tables/core/plan.hpp"

namespace weft::dm {

/// A step whose table is checked and rendered, devices by path.
struct raw_step {
    step::verb what = step::verb::create;
    std::string name;
    std::string uuid;
    raw_table rows;  // only for load

    bool operator==(const raw_step&) const = default;
};

/// Errors: invalid_argument (check of table.hpp; a name or UUID that is not a word).
result<std::vector<raw_step>> render(const std::vector<step>& steps);

std::string encode(const std::vector<raw_step>& steps);
/// Errors: corrupt, naming the line.
result<std::vector<raw_step>> decode_steps(std::string_view text);

}  // namespace weft::dm
