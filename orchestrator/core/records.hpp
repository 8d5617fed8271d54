// SPDX-License-Identifier: Apache-2.0
// The records of the cluster store as values, with their JSON. Pure.
//
// volume_record holds everything of a volume that must change together (design.md, "Cluster state"). Invariants,
// checked by `check` after every decode and before every commit:
//   - `layout` is one of `extents` (core::volume_map), and their size is the volume's;
//   - `growth` is what will be appended to extents and layout; nothing uses it before all its replicas' files exist;
//   - mirrored: the replicas of an extent have distinct legs, below replicas_wanted, which is at least 2; min_replicas
//     is 1 (device-mapper goes on with one leg), and a full drive holds writes: a leg that fails one has to be recorded
//     first (R4);
//   - 1 <= min_replicas <= replicas_wanted <= 3; every extent has 1..8 replicas on distinct drives;
//   - at least one replica of every extent is up_to_date unless an operator decided otherwise (R12);
//   - epoch never falls; `writer` is empty exactly when nobody may write; `clean` only with an empty writer;
//     `maintenance` only with a writer; `luks_uuid` exactly with `encrypt`; `recovering` only on an up_to_date replica.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "nbd-backend/base/ids.hpp"
#include "nbd-backend/base/replica_state.hpp"
#include "nbd-backend/base/result.hpp"
#include "nbd-backend/core/engine_types.hpp"
#include "nbd-backend/core/volume_layout.hpp"

namespace weft {

struct replica_record {
    replica_id id;
    node_name node;
    drive_id drive;
    replica_state state = replica_state::inconsistent;
    bool created = false;    // its files exist on the drive
    bool born_equal = true;  // created with a new extent (clean, all holes); false: added later (R6: every bit set)
    std::uint32_t leg = 0;   // mirrored: its place in device-mapper's set, which it keeps
    bool recovering =
        false;  // up_to_date, but its host forgot writes: no source until it was made equal (core::proposal)
};

inline bool is_up_to_date(const replica_record& replica) {
    return replica.state == replica_state::up_to_date;
}

struct extent_record {
    std::uint64_t size_bytes = 0;
    std::vector<replica_record> replicas;
};

enum class fs_type : std::uint8_t { ext4, xfs };
std::string_view to_string(fs_type fs) noexcept;
result<fs_type> parse_fs_type(std::string_view text);

/// Segments that a volume is about to get. They become the volume's in the very change that notes the last of their
/// replicas as created (transitions' mark_created), so that attaching, serving and repairing never meet a half of one.
struct growth_record {
    std::vector<std::uint32_t> stripes;  // extents of each new segment; empty: the volume does not grow
    std::vector<extent_record> extents;
};

struct volume_record {
    std::string name;
    volume_id id;
    std::uint64_t size_bytes = 0;
    fs_type fs = fs_type::ext4;
    std::string fs_uuid;     // the UUID that our mkfs gives it, chosen at creation: recognises our own unfinished mkfs
    bool formatted = false;  // "never formatted" while false
    bool encrypt = false;    // LUKS2 under the file system
    std::string luks_uuid;   // of its header, chosen at creation as fs_uuid is; empty unless encrypt
    std::uint32_t replicas_wanted = 2;
    std::uint32_t min_replicas = 1;
    std::uint64_t epoch = 0;   // 0: never attached
    node_name writer;          // empty: nobody
    bool clean = true;         // R11: the last writer detached in order
    bool maintenance = false;  // the writer only repairs: anybody who wants the volume takes it over at once
    bool thick = false;        // replicas are preallocated in full
    bool checksums = true;     // replicas keep a CRC-32C per block
    core::full_policy on_full = core::full_policy::hold;
    std::uint64_t resync_rate = 0;     // bytes per second; 0: no limit
    std::uint64_t scrub_every_s = 0;   // 0: only on demand
    std::uint64_t scrub_wanted = 0;    // serial of the scrub that was asked for last
    std::uint64_t scrub_finished = 0;  // serial of the last finished one; <= scrub_wanted
    std::string scrubbed_at;           // when it finished, RFC 3339, UTC; empty: never
    std::string scrub_report;          // what it found, for people
    std::string created_at;            // RFC 3339, UTC
    core::volume_layout layout;
    std::vector<extent_record> extents;
    growth_record growth;

    /// Every up_to_date replica is created: what attaching needs. One that was added later, to be filled by a resync,
    /// may still be on its way.
    [[nodiscard]] bool ready() const;
};

/// The block device of a drive that weftd formatted and mounts; no file system: the drive is a directory.
struct drive_device {
    std::string filesystem;  // UUID of its XFS: what the drive is found by
    std::string name;        // "/dev/vdb", as last seen; for people
    std::string model, serial;
    std::uint64_t size_bytes = 0;
    bool missing = false;  // its node does not have it now
};

struct drive_record {
    drive_id id;
    node_name node;
    std::string path;  // absolute directory on that node
    std::string host;  // where its replica server listens
    std::uint16_t port = 0;
    std::uint64_t size_bytes = 0;   // of its file system, refreshed by its node
    std::uint64_t free_bytes = 0;   // as above
    bool draining = false;          // takes no new replicas
    bool down = false;              // its node cannot keep its replica server running
    std::uint32_t filled_past = 0;  // percent: the mark of space.hpp that it has passed, 0 for none
    drive_device device = {};

    [[nodiscard]] bool is_block() const { return !device.filesystem.empty(); }
};

struct node_record {
    node_name name;
    std::string host;  // address of its replica servers
    std::string version;
};

/// A replica that nobody needs any more; its node deletes the files, then the record.
struct trash_record {
    replica_id id;
    drive_id drive;
    node_name node;
    std::string volume;  // name, for people
};

struct cluster_record {
    std::string id;  // UUID: a drive of another cluster is refused
};

/// Every replica that takes, or will take, space on a drive: those of the extents, then those of the growth.
std::vector<const extent_record*> all_extents(const volume_record& record);

/// JSON, fields in declaration order, no white space. decode errors: corrupt, naming the field.
std::string encode(const volume_record& record);
std::string encode(const drive_record& record);
std::string encode(const node_record& record);
std::string encode(const trash_record& record);
std::string encode(const cluster_record& record);
result<volume_record> decode_volume(std::string_view json);
result<drive_record> decode_drive(std::string_view json);
result<node_record> decode_node(std::string_view json);
result<trash_record> decode_trash(std::string_view json);
result<cluster_record> decode_cluster(std::string_view json);

/// The invariants above. Errors: corrupt, naming the broken one.
status check(const volume_record& record);

std::string volume_key(std::string_view name);
std::string drive_key(const drive_id& id);
std::string node_key(const node_name& name);
std::string trash_key(const replica_id& id);

}  // namespace weft
