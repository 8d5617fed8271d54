// SPDX-License-Identifier: Apache-2.0
// The block device of an attached volume, whichever way this node makes it:
//
//   kernel    nbd.ko over each extent's export, device-mapper on top (kernel_attach.hpp)
//   portable  nbdfuse and a loop device over the whole-volume export (portable_attach.hpp)
//
// The way is chosen when nothing is there yet; what is there is used and taken apart in the way in which it was made,
// whatever the configuration says by now. No memory: everything is found from the kernel, so every call may be cut off
// and made again. Blocking; one caller per volume at a time; any thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "nbd-backend/base/ids.hpp"
#include "nbd-backend/base/result.hpp"
#include "nbd-backend/core/engine_types.hpp"
#include "nbd-backend/core/volume_layout.hpp"
#include "orchestrator/core/daemon_options.hpp"
#include "orchestrator/core/mirror.hpp"
#include "orchestrator/core/mirror_scrub.hpp"
#include "orchestrator/io/mountinfo.hpp"
#include "orchestrator/io/volume_process.hpp"

namespace weft {

/// What is to be known of an encrypted volume besides its key.
struct volume_encryption {
    std::string luks_uuid;   // minted by the record
    bool formatted = false;  // false: no container has seen the volume, its header may be written (again)
};

/// What the kernel path must know of a volume to stitch it.
struct volume_shape {
    std::string name;
    volume_id id;
    core::volume_layout layout;
    std::vector<std::uint64_t> extent_sizes = {};  // bytes
    leg_table legs = {};                           // mirrored
    bool clean = false;                            // mirrored: the legs are known to be equal (note_clean)
    std::uint64_t resync_rate = 0;                 // mirrored: bytes per second, 0: no limit
    std::optional<volume_encryption> encryption = {};
};

/// What device-mapper says of a leg.
struct leg_report {
    std::uint32_t extent = 0;
    replica_id replica;
    std::optional<core::leg_event> event;  // that the record does not show yet
    std::uint64_t done_bytes = 0;          // of a leg that is being rebuilt
    bool left_out = false;                 // is to be rebuilt, and the set could take it in by now
};

struct volume_device_state {
    bool nothing = true;                    // neither a device nor a part of one
    bool usable = false;                    // whole; works as long as the volume server does
    bool suspended = false;                 // whole, but left in the middle of a change: attach and teardown finish it
    bool unlocked = false;                  // of an encrypted volume: its clear device is there
    bool outlives_server = false;           // waits for the next volume server instead of failing I/O
    std::uint64_t growable_bytes = 0;       // the device's size if it can become larger while it is used, else 0
    std::vector<device_number> devices;     // those that a file system can be mounted from
    std::vector<std::string> mount_points;  // of those, in our namespace
};

/// How long a step of attach waits.
struct attach_wait {
    std::chrono::milliseconds timeout{20000};  // for the volume server's answer
    int server = -1;                           // its pidfd (the caller's): its end ends the wait for I/O
};

struct teardown_options {
    std::filesystem::path mount_point;  // ours, <state>/mounts/<id>: the only one that is unmounted. Any other mount of
                                        // the device (an administrator's bind mount) makes the teardown busy.
    std::chrono::milliseconds timeout{20000};  // for each step that can hang while the volume holds
    bool server_is_gone = false;  // volume server dead or fenced (R5): I/O fails, nothing more can be written; go on
                                  // through I/O errors
    int server = -1;              // as in attach_wait
};

class volume_devices {
public:
    /// `options` must outlive this.
    explicit volume_devices(const daemon_options& options) : options_(options) {}

    /// Reads only; does not touch the volume, so it cannot hang on one that holds (R4). Errors: io_failed, corrupt.
    [[nodiscard]] result<volume_device_state> observe(const volume_paths& paths, const volume_id& id) const;

    /// Every volume of which this node has a device, or a part of one, in the kernel; the portable attach's are known
    /// by their runtime directory. Errors: io_failed.
    [[nodiscard]] result<std::vector<volume_id>> volumes() const;

    /// Brings the device up, finishes what is half there, or gives a device that outlived its server the new one's
    /// sockets, and returns its path; of an encrypted volume that of the ciphertext. The volume server must listen
    /// already. Errors: unavailable (also: it has ended), timed_out, io_failed; unsupported (encrypted, and not by the
    /// kernel); busy (remains of an earlier attachment: tear down first). A failure leaves what was made to the next
    /// call.
    [[nodiscard]] result<std::string> attach(const volume_paths& paths, const volume_shape& shape,
                                             const attach_wait& wait) const;

    /// Of a mirrored volume that is attached: the legs of which there is something to tell. Errors: io_failed, corrupt.
    [[nodiscard]] result<std::vector<leg_report>> legs(const volume_shape& shape) const;
    /// As above: what the set of each extent says of itself. Errors: io_failed, corrupt.
    [[nodiscard]] result<std::vector<set_state>> sets(const volume_shape& shape) const;
    /// As above. Errors: io_failed, busy (something else is going on in the set).
    [[nodiscard]] status order_set(const volume_shape& shape, std::size_t extent, set_order what) const;

    /// Can this node have encrypted volumes? Errors: unsupported, saying why not and what to do.
    [[nodiscard]] status encryption_possible() const;

    /// What the file system is on, from what `attach` returned: the same, or of an encrypted volume the clear device.
    /// Makes that (crypt_layer.hpp), or lets it reach over all of a device that has grown; only then the key is asked
    /// for. `server` as in attach_wait. Errors: those of read_volume_key and run_luks; corrupt (something else is on
    /// the device).
    [[nodiscard]] result<std::string> unlock(const volume_shape& shape, const std::string& device, int server) const;

    /// Unmounts and takes the device apart; idempotent and resumable. Never lazy: while a foreign mount namespace or a
    /// process holds the file system it stays. Errors: busy (names who), timed_out (still going on; call again),
    /// io_failed.
    [[nodiscard]] status teardown(const volume_paths& paths, const volume_id& id,
                                  const teardown_options& options) const;

private:
    [[nodiscard]] result<bool> use_kernel() const;

    const daemon_options& options_;
};

/// Busy, naming who, when anybody but `ours` has one of the devices mounted, here or in another mount namespace.
status refuse_foreign_mounts(const volume_device_state& state, const std::filesystem::path& ours,
                             const std::string& device);

}  // namespace weft
