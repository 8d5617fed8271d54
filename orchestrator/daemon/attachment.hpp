// SPDX-License-Identifier: Apache-2.0
// What weftd remembers of one volume on this node, and the table of all of them.
//
// Two locks. `operation` is held for as long as somebody changes the stack (server, loop, mount) or the references;
// seconds or minutes. `state` guards the fields, for moments, so that Get and List never wait for a Mount. Lock order:
// operation, then state. An entry, once made, stays until weftd ends (a few hundred bytes per volume that was ever
// attached here): two entries for one volume would be two owners of one stack.
//
// References live in <state-dir>/volumes/<volume id>/: refs.json (Docker's) and `administrative` (a mark: attached by
// an administrator). They are on disk before anybody is answered and removed when the stack is entirely gone.
#pragma once

#include <chrono>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "orchestrator/core/mirror.hpp"
#include "orchestrator/core/mirror_scrub.hpp"
#include "orchestrator/core/mount_refs.hpp"
#include "orchestrator/daemon/control_link.hpp"

namespace weft {

struct attachment {
    explicit attachment(volume_id which) : id(std::move(which)) {}

    const volume_id id;
    std::mutex operation;

    mutable std::mutex state;
    std::string name;                                // of the volume
    std::shared_ptr<control_link> link;              // while there is a server, or was until it exited
    std::uint64_t exit_token = 0;                    // of the exit watcher, 0: none
    mount_refs refs;                                 // Docker's; a change is on disk before it is here
    std::map<std::string, std::uint64_t> answering;  // Mounts by ID whose answer is under way; they are pending in refs
    std::chrono::nanoseconds loaded_at{0};           // when the references were read: what was pending then
    bool administrative = false;
    bool dockerd_restarted = false;    // and `refs` do not say so yet
    std::uint64_t device_bytes = 0;    // of a device that can grow while it is used; 0: none, 1: not looked at yet
    bool file_system_follows = false;  // what is above the device has all of it, as far as this weftd knows
    std::optional<leg_table> legs;     // mirrored: those that the set was given last; none: to be looked at
    std::uint64_t legs_rate = 0;       // mirrored: resync_rate that the set was given with them
    std::vector<set_scrub> scrubs;     // mirrored: of each extent
    std::string mountpoint;            // "<mount>/data" while mounted, else empty
    std::optional<std::chrono::nanoseconds> idle_since;  // only suspect references are left since then

    /// The next pass of the reconciler gives the device sockets if it lacks some, and grows it.
    void look_at_device_again() {
        const std::lock_guard lock(state);
        if (device_bytes > 0) device_bytes = 1;
    }
    /// The next pass of the reconciler compares the set with the record, and tells the engine what it says.
    void look_at_legs_again() {
        const std::lock_guard lock(state);
        legs.reset();
    }
    [[nodiscard]] bool used() const {
        const std::lock_guard lock(state);
        return administrative || !refs.unused();
    }
    [[nodiscard]] std::shared_ptr<control_link> current_link() const {
        const std::lock_guard lock(state);
        return link;
    }
    [[nodiscard]] std::string volume_name() const {
        const std::lock_guard lock(state);
        return name;
    }
};

class attachment_table {
public:
    explicit attachment_table(std::filesystem::path state_dir) : directory_(std::move(state_dir) / "volumes") {}

    /// The entry of a volume, made if absent.
    std::shared_ptr<attachment> entry(const volume_id& id);
    /// Null if there is none.
    std::shared_ptr<attachment> find(const volume_id& id) const;
    [[nodiscard]] std::vector<std::shared_ptr<attachment>> all() const;

    /// Every volume that has references on disk.
    result<std::vector<volume_id>> with_references() const;
    /// Reads the references from disk. Errors: corrupt, io_failed.
    status load_references(attachment& of);
    /// Makes `refs` and the mark durable, then current. With `of.operation` held. Errors: no_space, io_failed: then
    /// nothing changed.
    status store_references(attachment& of, const mount_refs& refs, bool administrative);
    /// The stack is gone: nobody can hold a reference any more.
    status forget_references(attachment& of);

private:
    [[nodiscard]] std::filesystem::path directory_of(const volume_id& id) const { return directory_ / id.str(); }

    const std::filesystem::path directory_;
    mutable std::mutex mutex_;
    std::map<volume_id, std::shared_ptr<attachment>> entries_;
};

}  // namespace weft
