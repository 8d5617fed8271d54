// SPDX-License-Identifier: Apache-2.0
// The superblock at the beginning of a leg, past the page cache: device-mapper writes it from below, and what another
// device wrote there before may still be cached.
#pragma once

#include <string>

#include "dm-tables/core/raid_superblock.hpp"
#include "nbd-backend/base/result.hpp"

namespace weft::dm {

/// mark_dirty on the device's first block, and flushes it; done already is success. No set may be running over it.
/// Blocking. Errors: corrupt (something else is there), io_failed.
status doubt_leg(const std::string& device);

}  // namespace weft::dm
