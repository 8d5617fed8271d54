// SPDX-License-Identifier: Apache-2.0
// What a volume is made of on a node, from its file system down to its replicas, as a tree.
//
//   kernel     file_system ─ (crypt) ─ volume ─ segment ─ (leg) ─ nbd ─ replica
//   portable   file_system ─ loop ─ nbdfuse ─ whole ─ extent ─ replica
//   elsewhere  extent ─ replica
//
// Driven by what is there: a layer is in the tree because a device of it was seen, and stands over what its table maps,
// not because the record says that there should be one. What the record has and no device shows (an extent that the
// table does not reach yet, the replica of a missing leg) is shown all the same, so every replica is in the tree once.
// Pure; total: what was seen at different moments, or makes no sense, gives a smaller tree.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "orchestrator/core/records.hpp"

namespace weft {

enum class leg_condition : std::uint8_t { in_sync, syncing, failed, missing };

/// A leg of a raid1 set, by its place.
struct seen_leg {
    leg_condition condition = leg_condition::missing;
    std::string data;  // number of the device that holds the copy; empty: none
};

/// A row of a device-mapper table.
struct seen_row {
    std::string type;  // device-mapper's: linear, striped, raid, crypt, …
    std::uint64_t size_bytes = 0;
    std::uint64_t chunk_bytes = 0;    // striped
    std::string cipher;               // crypt
    std::vector<std::string> mapped;  // numbers of the devices it maps; of raid: none, `legs` has them
    std::vector<seen_leg> legs;       // raid
    std::string action;               // raid: what the set does now, as md calls it: idle, resync, recover, …
    std::uint64_t done_bytes = 0;     // raid: of `all_bytes`
    std::uint64_t all_bytes = 0;
};

/// A device-mapper device. Numbers are "major:minor".
struct seen_mapper {
    std::string name, number;
    bool is_volume = false;  // the volume's own device: under an encrypted one's clear device, over all others
    bool suspended = false;
    std::vector<seen_row> rows;  // of its active table
};

struct seen_nbd {
    std::string device, number;  // "/dev/nbd3", "43:96"
    std::uint64_t size_bytes = 0;
    std::uint32_t extent = 0;
    replica_id leg;  // mirrored: whose device it is; else empty
};

struct seen_loop {
    std::string device, number;
};

struct seen_mount {
    std::string number, type, mount_point;
};

/// What a node has of one volume.
struct seen_stack {
    std::vector<seen_mapper> mappers;
    std::vector<seen_nbd> nbds;
    std::vector<seen_loop> loops;
    std::int64_t nbdfuse_pid = 0;    // 0: it does not run
    std::string whole_socket;        // where the volume server serves the whole volume
    std::vector<seen_mount> mounts;  // of these devices, in weftd's namespace
    std::string link;                // "/dev/weft/db", if it is there, …
    std::string link_number;         // … and the number of the device that it leads to
    std::string note;                // what could not be looked at, and why; empty: all was
};

enum class stack_layer : std::uint8_t {
    file_system,
    crypt,
    volume,
    segment,
    leg,
    nbd,
    loop,
    nbdfuse,
    whole,
    extent,
    replica,
    other,  // a device that we do not make, or a replica that the record does not have any more
};
std::string_view to_string(stack_layer layer) noexcept;
std::string_view to_string(leg_condition condition) noexcept;

/// Which fields say something depends on the layer (API.md, "stack").
struct stack_node {
    stack_layer what = stack_layer::other;
    std::string name;    // device node, device-mapper name, socket
    std::string number;  // "253:0"
    std::string link;    // "/dev/weft/db"
    std::string type;    // file system; crypt: cipher; segment: linear, striped, raid1
    std::vector<std::string> mount_points;
    std::uint64_t size_bytes = 0;
    std::uint64_t chunk_bytes = 0;
    std::uint32_t stripes = 0;
    std::optional<std::uint32_t> index;   // of a segment or leg
    std::optional<std::uint32_t> extent;  // everything below belongs to it
    std::optional<leg_condition> condition;
    std::string action;  // of a raid1 segment, with the progress of it
    std::uint64_t done_bytes = 0;
    std::uint64_t all_bytes = 0;
    bool suspended = false;
    std::int64_t pid = 0;
    std::optional<replica_record> replica;
    std::vector<stack_node> below;
};

struct device_stack {
    std::string_view attach = "none";  // kernel, portable, none (no block device on this node)
    std::string note;                  // as seen_stack's
    std::vector<stack_node> tree;      // from the top down; several: nothing stands over all of them
};

device_stack make_stack(const volume_record& record, const seen_stack& seen);

}  // namespace weft
