// SPDX-License-Identifier: Apache-2.0
// What the faces of weftd (Docker plugin socket, admin socket) ask of the node agent: one interface, values only, so
// that the faces can be tested against a fake and the agent without HTTP.
//
// Thread-safe; calls block (a mount may take seconds). Errors carry a text fit for the user: it names what was wrong
// and what to do next.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "nbd-backend/base/result.hpp"
#include "nbd-backend/core/engine_types.hpp"
#include "orchestrator/core/device_stack.hpp"
#include "orchestrator/core/records.hpp"

namespace weft {

using volume_options = std::map<std::string, std::string>;  // as Docker's -o gives them, not yet validated

/// A volume as the record has it, with what this node knows of it.
struct volume_view {
    volume_record record;
    std::string mountpoint;                         // "<mount>/data" while mounted on this node, else empty
    std::string health;                             // "healthy" | "degraded" | "holding" | "unavailable" | "creating"
    bool writer_alive = false;                      // the writer node's lease has not expired
    std::optional<core::engine_status> live;        // first extent; only on the writer's node while attached
    std::vector<core::engine_status> live_extents;  // all extents, as above
    std::string problem;                            // why it waits or what is wrong with it, for people; else empty
    bool from_cache = false;                        // the store did not answer; this is the last known copy
    std::optional<device_stack> stack = {};         // what it is made of on this node; only from inspect_volume
};

struct drive_view {
    drive_record record;
    std::uint64_t replicas = 0;
    bool serving = false;  // its replica server runs; known for this node's drives only
};

struct node_view {
    node_record record;
    bool alive = false;
    std::chrono::milliseconds lease_remaining{0};
    std::uint64_t drives = 0;
    std::uint64_t volumes_attached = 0;
};

struct event_view {
    std::string time;  // RFC 3339 UTC with milliseconds
    std::string node;
    std::string severity;  // info | warning | error
    std::string subject;   // "volume db", "drive 3f0a…", "node n1"
    std::string text;
};

struct status_view {
    std::string cluster_id;
    std::string node;
    std::string version;
    bool store_available = true;
    std::string store_problem;  // why not, if not
    std::vector<node_view> nodes;
    std::uint64_t volumes = 0, volumes_degraded = 0, volumes_attached = 0;
    std::uint64_t pool_size_bytes = 0, pool_free_bytes = 0;
    std::vector<std::string> problems;  // lines for people: drives that fill up, volumes that wait here
};

struct attachment_view {
    std::string nbd_uri;  // whole-volume export
    std::uint64_t epoch = 0;
};

/// Another volume server serves the volume now.
struct restart_view {
    std::string volume;
    std::uint64_t epoch = 0;  // of the new one
};

/// What a repair or a decision of an operator did, a sentence each; empty: there was nothing to do.
struct repair_view {
    std::string subject;  // the volume's or node's name
    std::vector<std::string> done;
};

class service {
public:
    virtual ~service() = default;

    // Volumes; the first group is what Docker calls.
    /// Idempotent cluster-wide: an existing volume is left as it is, whatever the options say (docker-plugin.md 3.3).
    virtual status create_volume(const std::string& name, const volume_options& options) = 0;
    /// Errors: not_found, busy (attached; names the node).
    virtual status remove_volume(const std::string& name) = 0;
    /// Attach, format if and only if the record says never formatted and blkid finds nothing, mount; count the
    /// reference before answering. Returns the path for the container.
    virtual result<std::string> mount_volume(const std::string& name, const std::string& mount_id) = 0;
    /// After each mount_volume that succeeded: did anybody take the answer? If not, no unmount_volume will come. May
    /// block.
    virtual void mount_answered(const std::string& name, const std::string& mount_id, bool delivered) = 0;
    virtual status unmount_volume(const std::string& name, const std::string& mount_id) = 0;
    /// A volume that is not there is no error but nullopt; an error means "cannot know" and the Docker face must then
    /// drop the connection instead of answering (docker-plugin.md 3.3).
    virtual result<std::optional<volume_view>> get_volume(const std::string& name) = 0;
    virtual result<std::vector<volume_view>> list_volumes() = 0;
    /// As get_volume, with what the volume is made of on this node. Never waits for a volume that holds (R4).
    virtual result<std::optional<volume_view>> inspect_volume(const std::string& name) = 0;
    /// Plugin.Activate was called: a dockerd (re)started.
    virtual void docker_activated() = 0;

    /// Attach without mounting, for administrators and tests; counts as use until detach_volume. `force` takes the
    /// volume from a live writer (R1).
    virtual result<attachment_view> attach_volume(const std::string& name, bool force) = 0;
    virtual status detach_volume(const std::string& name) = 0;
    /// Replaces the volume server of a volume that is attached on this node by the kernel path; its users see a pause.
    /// Errors: not_found; busy (attached elsewhere, names the node); invalid_argument (not attached); unsupported (its
    /// users would get I/O errors); unavailable (the next epoch cannot be recorded now); timed_out, no_quorum: the next
    /// server does not serve yet, and weftd goes on.
    virtual result<restart_view> restart_volume(const std::string& name) = 0;

    /// Replaces what is missing at once, without the grace period. Errors: not_found; no_space, no_quorum (no place for
    /// a replica, or nothing to fill it from); busy (its writer's node is dead: it must be taken over or forgotten
    /// first).
    virtual result<repair_view> repair_volume(const std::string& name) = 0;
    /// R12: goes on from a replica that is not up_to_date, when no other is left. `from`: its id or the first
    /// characters of it. Errors: not_found, busy, invalid_argument (not needed, not possible, or `accept_data_loss` is
    /// false: the text says what may be lost).
    virtual result<repair_view> recover_volume(const std::string& name, const std::string& from,
                                               bool accept_data_loss) = 0;
    /// Changes policies (core/policy_change.hpp), also while attached; returns the volume as it is then. Errors:
    /// not_found, invalid_argument, no_quorum, the store's.
    virtual result<volume_view> set_volume(const std::string& name, const volume_options& options) = 0;
    /// Asks for a comparison of the replicas (core/scrub.hpp); returns the volume with the serial that was asked for as
    /// `scrub_wanted`. It has ended when `scrub_finished` is that. Errors: not_found, the store's.
    virtual result<volume_view> scrub_volume(const std::string& name) = 0;
    /// Makes a volume larger, also while it is used. `size`: as create's. Errors: invalid_argument (smaller than it
    /// is), not_found, busy (it is growing), no_space, no_quorum, timed_out (a node did not deliver: it is as it was).
    virtual result<volume_view> grow_volume(const std::string& name, const std::string& size) = 0;

    // Drives, nodes, cluster.
    /// A dead node for good: its drives, replicas and records are taken away. Errors: not_found; busy (it is alive);
    /// no_quorum (data would be lost: the text names the volumes) unless `force`.
    virtual result<repair_view> forget_node(const std::string& name, bool force) = 0;
    /// `path` is a directory on this node. Errors: invalid_argument (a file, relative, missing), already_exists,
    /// io_failed (read-only), no_space (full), busy (belongs to another cluster or node).
    /// `path`: a directory or a block device. `erase`: what may be lost on the device, TYPE:ID[,…]
    /// (core/drive_device.hpp).
    virtual result<drive_view> add_drive(const std::string& path, const std::string& erase) = 0;
    /// Errors: not_found; busy while it holds replicas or is on another node. `id_or_path`: the drive's id, a unique
    /// prefix of it (>= 4 characters) or its path on this node.
    virtual status remove_drive(const std::string& id_or_path) = 0;
    virtual result<std::vector<drive_view>> list_drives() = 0;
    virtual result<std::vector<node_view>> list_nodes() = 0;
    virtual result<status_view> cluster_status() = 0;
    virtual result<std::vector<event_view>> list_events(std::size_t newest) = 0;  // oldest first
};

}  // namespace weft
