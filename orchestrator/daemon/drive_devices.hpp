// SPDX-License-Identifier: Apache-2.0
// The block devices of this node's drives: made, found by UUID, mounted, let go of.
//
//   <state>/drives/<drive id>/        where a drive's file system is mounted
//   <state>/drive-claims/<UUID>       core/drive_device.hpp: a device that is being made a drive
//   <runtime>/drive-mounts/<drive id> which mount this is, made anew by each; see boot_id
//
// Laws: a claim is on disk before the first byte of a device is changed, and says `formatted` before the drive's record
// exists. What is mounted is what the UUID and the identity in it say. Knows nothing of records' changes and of
// servers: that is drive_keeper's. Thread-safe; everything but observe() blocks (seconds).
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "orchestrator/core/daemon_options.hpp"
#include "orchestrator/core/drive_device.hpp"
#include "orchestrator/core/drive_mounts.hpp"
#include "orchestrator/io/udev.hpp"

namespace weft {

class drive_devices {
public:
    explicit drive_devices(const daemon_options& options);

    /// From now on `on_change` is called (on a thread of its own) when block devices change. Errors: io_failed.
    status watch(std::function<void()> on_change);
    void stop_watching();

    /// A drive in the making: mounted, with its identity, not yet recorded.
    struct prepared {
        drive_claim claim;
        std::string directory;
        drive_device device;
    };
    /// Everything up to the record. Repeating it after a kill goes on. One call at a time. Errors: admit_device's,
    /// those of the tools.
    result<prepared> prepare(const std::string& path, const std::string& erase, const cluster_view& view,
                             const node_name& node);
    /// The drive's record exists: the claim has done its work.
    status forget_claim(const drive_claim& claim);

    /// Of every drive of this node that is a block device. Does not open devices that udev knows.
    std::vector<observed_drive> observe(const cluster_view& view);
    /// What is mounted although no record knows it: of a drive that was taken out of the pool. `view` must be current.
    result<std::vector<drive_id>> strays(const cluster_view& view);

    /// Mounts the drive's file system from `device`, and looks into it. Errors: corrupt (it is not this drive's), those
    /// of mount_drive; after one the drive rests.
    result<drive_device> mount(const drive_record& drive, const std::string& device);
    /// See unmount_drive.
    status unmount(const drive_id& id, bool lazily);
    [[nodiscard]] bool is_mounted(const drive_id& id) const;
    /// A look at its file system; true when it has shut down, which observe() tells from then on. May hang.
    bool look_for_damage(const drive_id& id);

    /// What the drive's server calls its kernel's life (R4): the kernel's boot id with the mount's own, because what
    /// was acknowledged and not flushed lives as long as the mount, not as long as the kernel.
    [[nodiscard]] result<std::string> boot_id(const drive_id& id) const;

private:
    struct mount_history {
        bool shut_down = false;
        std::chrono::nanoseconds mounted_at{0};
        std::chrono::nanoseconds not_before{0};
        std::chrono::milliseconds pause{0};
    };

    [[nodiscard]] std::filesystem::path mount_point(const drive_id& id) const;
    [[nodiscard]] std::filesystem::path claims_directory() const;
    result<std::vector<drive_claim>> read_claims() const;
    status write_claim(const drive_claim& claim) const;
    [[nodiscard]] std::vector<std::string> find_devices(const std::vector<block_device>& present,
                                                        const drive_device& wanted) const;
    status mount_and_name(const std::string& device, const drive_id& id);
    status check_content(const drive_record& drive, const std::string& device);
    void rest(const drive_id& id);

    const daemon_options& options_;
    const std::chrono::nanoseconds started_at_;
    std::mutex prepare_mutex_;
    mutable std::mutex mutex_;
    std::map<drive_id, mount_history> histories_;
    std::unique_ptr<block_device_watch> watch_;
};

}  // namespace weft
