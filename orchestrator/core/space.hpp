// SPDX-License-Identifier: Apache-2.0
// Drives that fill up, and volumes that wait for them. Pure.
//
//   mark   0 ──used >= 80 %──▶ 80 ──used >= 90 %──▶ 90       (straight to 90 is possible)
//          0 ◀──used < 78 %── 80 ◀──used < 88 %── 90
// The mark is kept in the drive's record, so that passing it is told once, whoever restarts; the two points between up
// and down keep a drive that stays about there from being told again and again.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "orchestrator/core/cluster_view.hpp"

namespace weft {

/// How full a drive is, in whole percent, rounded down; 100 for one without any size.
std::uint32_t used_percent(const drive_record& drive);

/// The mark after `before`, by the figure above.
std::uint32_t next_fill_mark(const drive_record& drive, std::uint32_t before);

/// What to tell people when the mark of a drive rose: "is 83 % full: …".
std::string describe_fill(const drive_record& drive);

/// Why a volume's writes wait for space and what helps, from its engines' status; empty when none waits.
std::string describe_space_wait(const volume_record& record, const std::vector<core::engine_status>& extents,
                                const cluster_view& view);

}  // namespace weft
