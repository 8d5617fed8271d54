// SPDX-License-Identifier: Apache-2.0
// The legs of a mirrored volume in the kernel: an nbd device for each replica that may be used.
//
//   nbd.sock ── leg/0/REPLICA-A ── /dev/nbd4 ─┐
//           └── leg/0/REPLICA-B ── /dev/nbd5 ─┴ raid1 ── linear ── /dev/mapper/weft-NAME
//
// Invariants: a device shows one replica for as long as it exists, and a replica that the record calls outdated is
// never used again (engine_legs.cpp), so the set can never take other content for what it knows. The device of a leg
// that is not to be used is cut before the set is changed: a table is swapped only when all I/O has ended, and I/O to a
// leg without a server never would. That is not before the record says so (R4). No memory; blocking; any thread.
#pragma once

#include <chrono>
#include <vector>

#include "dm-tables/core/plan.hpp"
#include "dm-tables/core/volume_stack.hpp"
#include "orchestrator/io/kernel_attach.hpp"

namespace weft {

/// Connects the legs that are to be used and cuts those that are not. `found`: what device-mapper has of the volume.
/// Errors: as connect_nbd; when a new leg cannot be read, io_failed, timed_out, unavailable (wait.server has ended).
result<std::vector<dm::layout_segment>> connect_legs(const kernel_scope& scope, const volume_paths& paths,
                                                     const volume_shape& shape, const dm::observation& found,
                                                     const attach_wait& wait);

/// After the set has dropped them: lets go of the devices that are not used. Errors: busy, timed_out, io_failed.
status release_legs(const kernel_scope& scope, const volume_shape& shape, std::chrono::milliseconds timeout);

/// As volume_devices::legs.
result<std::vector<leg_report>> read_legs(const kernel_scope& scope, const volume_shape& shape);
/// As volume_devices::sets and order_set.
result<std::vector<set_state>> read_sets(const kernel_scope& scope, const volume_shape& shape);
status order_set(const kernel_scope& scope, const volume_shape& shape, std::size_t extent, set_order what);

}  // namespace weft
