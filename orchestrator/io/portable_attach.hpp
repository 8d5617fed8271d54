// SPDX-License-Identifier: Apache-2.0
// The portable attach: volume server → nbdfuse (a file) → loop (a block device). No kernel module, same guarantees.
//
//   nbd.sock ── nbdfuse ── <runtime>/volumes/<id>/fuse/volume-* ── /dev/loopN ── ext4|xfs at <state>/mounts/<id>
//
// No memory: observe() reads /proc and /sys, attach() and teardown() act on what it finds, so both may be killed at any
// point and called again. fsync on the file system becomes an NBD flush and discards become NBD trims (proved by
// tests/plugin/host_io_test with nbdkit's log filter). The order of teardown is the data's order: file system, loop,
// nbdfuse; a step is entered only when the one before is really done, because a loop device whose nbdfuse is gone fails
// writes that the page cache still owes. Blocking; one caller per volume at a time; any thread.
#pragma once

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "nbd-backend/base/ids.hpp"
#include "nbd-backend/base/result.hpp"
#include "orchestrator/io/loop_device.hpp"
#include "orchestrator/io/process.hpp"
#include "orchestrator/io/volume_device.hpp"
#include "orchestrator/io/volume_process.hpp"

namespace weft {

/// What is there now of a volume's portable attach.
struct portable_state {
    std::optional<process_identity> nbdfuse;  // alive
    bool fuse_mounted = false;                // with or without a living nbdfuse behind it
    std::vector<loop_info> loops;             // over the fuse file; more than one only after foreign hands
    std::vector<std::string> mount_points;    // where those loops are mounted in our namespace
    bool usable = false;                      // nbdfuse alive, mounted, exactly one loop: the device works

    [[nodiscard]] bool nothing() const { return !nbdfuse && !fuse_mounted && loops.empty(); }
};

/// Reads only; does not touch the volume, so it cannot hang on one that holds (R4). Errors: io_failed, corrupt.
result<portable_state> observe_portable(const volume_paths& paths);

/// Brings the device up, or finishes what is half there; returns "/dev/loopN" at once when all is there. The volume
/// server must listen already. Errors: unavailable with nbdfuse's last words; timed_out; io_failed. A failure leaves
/// what was made to the next attach or teardown.
result<std::string> attach_portable(const volume_paths& paths, std::chrono::milliseconds timeout);

/// Unmounts, detaches, ends nbdfuse; idempotent and resumable. Never lazy: while a foreign mount namespace or a process
/// holds the file system nothing is touched. Errors: busy (names who), timed_out (still going on; call again),
/// io_failed.
status teardown_portable(const volume_paths& paths, const teardown_options& options);

}  // namespace weft
