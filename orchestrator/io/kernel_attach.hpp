// SPDX-License-Identifier: Apache-2.0
// The kernel attach: volume server → nbd.ko (a device for each extent) → device-mapper (the volume).
//
//   nbd.sock ── extent/0 ── /dev/nbd4 ─┐
//           ├── extent/1 ── /dev/nbd5 ─┤ linear | striped ── /dev/mapper/weft-NAME ── ext4|xfs at <state>/mounts/<id>
//           └── …
//
// An encrypted volume has one device more, weft-NAME:crypt, between its own and the file system (crypt_layer.hpp).
//
// The device outlives its volume server: an nbd device without a live connection holds its requests until it gets the
// next server's sockets (nbd_device.hpp), so killing or upgrading the server is a pause for the container. That next
// server is a new writer with a new epoch (R1); what the kernel sends again was never acknowledged.
// No memory: nbd devices are found by their mark, device-mapper's by their UUID.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "dm-tables/core/plan.hpp"
#include "nbd-backend/base/ids.hpp"
#include "nbd-backend/base/result.hpp"
#include "orchestrator/io/nbd_device.hpp"
#include "orchestrator/io/volume_device.hpp"

namespace weft {

/// Whose devices: several weftd may share a kernel.
struct kernel_scope {
    std::string node;   // in the marks of nbd devices
    std::string scope;  // in device-mapper's UUIDs; usually empty
};

/// What device-mapper has of this volume, the clear device included, and of the names that `wanted` asks for.
result<dm::observation> observe_volume(const kernel_scope& scope, const volume_id& id,
                                       const std::vector<dm::volume_stack>& wanted);
/// The volume's own device among those, or null.
const dm::observed_device* find_top(const dm::observation& found);

/// An nbd device with this mark over an export of `bytes` of the volume server. Errors: as connect_nbd.
result<nbd_device> connect_export(const volume_paths& paths, std::string export_name, std::string mark,
                                  std::uint64_t bytes, std::chrono::milliseconds timeout);

/// Can this kernel do it? Loads the modules. Errors: unavailable, saying what is missing and what to do.
status kernel_attach_possible();

/// As volume_devices::volumes.
result<std::vector<volume_id>> volumes_in_kernel(const kernel_scope& scope);
/// As volume_devices::observe.
result<volume_device_state> observe_kernel(const kernel_scope& scope, const volume_id& id);
/// As volume_devices::attach. Grows a device whose volume has more segments than its table.
result<std::string> attach_kernel(const kernel_scope& scope, const volume_paths& paths, const volume_shape& shape,
                                  const attach_wait& wait);
/// As volume_devices::teardown.
status teardown_kernel(const kernel_scope& scope, const volume_id& id, const teardown_options& options);

}  // namespace weft
