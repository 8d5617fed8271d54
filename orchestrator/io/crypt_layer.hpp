// SPDX-License-Identifier: Apache-2.0
// The encrypted volume's layer of the kernel attach: the clear device above the volume's own.
//
//   nbd ─ weft-NAME ─ weft-NAME:crypt ─ file system        up: look, format the header if due, open, blank, mkfs, mount
//                                                          down: umount, clear device, weft-NAME, nbd
//
// The law for the header is that for a file system (filesystem.hpp): written if and only if the record says "never
// formatted" and blkid finds nothing, or exactly the LUKS header whose UUID this record minted, which can only be of a
// format that was cut short. Killed …
//   … while the header is written        nothing, or a header of ours: written again, with another volume key
//   … before the clear device is there   the same
//   … before or in mkfs                  the clear device is there and is used as it is; its ends are blanked again,
//   mkfs
//                                        is done again
//   … after mkfs, before the record says "formatted"    the same
//   … after that                         the header is opened and never written again
// A clear device without a table (libdevmapper was killed between two of its steps) is of no use to anybody: the whole
// is taken apart and made anew.
// Blocking, as the volume does; root.
#pragma once

#include <string>

#include "orchestrator/core/daemon_options.hpp"
#include "orchestrator/io/kernel_attach.hpp"
#include "orchestrator/io/volume_device.hpp"

namespace weft {

/// As volume_devices::unlock. Precondition: shape.encryption.
result<std::string> unlock_device(const daemon_options& options, const kernel_scope& scope, const volume_shape& shape,
                                  const std::string& device, int server);

/// Zeroes where signatures live (1 MiB at both ends) of a clear device that no container has seen. Errors: busy (it is
/// mounted or otherwise in use), timed_out, io_failed; unavailable when `server` (a pidfd) has ended.
status blank_clear_device(const std::string& device, int server);

/// The clear device goes, if there is one. Errors: busy (it is open).
status remove_clear_device(const kernel_scope& scope, const volume_id& id, int server);

}  // namespace weft
