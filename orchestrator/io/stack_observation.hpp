// SPDX-License-Identifier: Apache-2.0
// Looks at what a volume is made of on this node, for people (core/device_stack.hpp makes the tree).
//
// Reads /proc, /sys and device-mapper's tables and status (which is asked for without a flush); touches no device, so
// it does not wait for a volume that holds (R4). What cannot be had at once, because somebody inside of libdevmapper
// waits for I/O, is left out, and `note` says so. Never fails, for the same reason. Blocking for at most a second; any
// thread.
#pragma once

#include <string>

#include "nbd-backend/base/ids.hpp"
#include "orchestrator/core/device_stack.hpp"
#include "orchestrator/io/kernel_attach.hpp"

namespace weft {

/// `name`: the volume's, for the link in /dev/weft.
seen_stack observe_stack(const kernel_scope& scope, const volume_paths& paths, const volume_id& id,
                         const std::string& name);

}  // namespace weft
