// SPDX-License-Identifier: Apache-2.0
// All records of the cluster as one value: what a node knows of the store at one moment. Pure.
//
// A record that does not decode is kept out of the maps and named in `bad`: one damaged key must not blind a node to
// all the others, and nothing may be done to a volume whose record cannot be read (it is neither present nor absent).
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "orchestrator/core/records.hpp"

namespace weft {

template <typename Record>
struct versioned {
    Record record;
    std::uint64_t revision = 0;  // of the commit that last wrote it
};

/// A node's lease as last seen, with the moment of the look: it runs on while the store does not answer.
struct seen_lease {
    std::chrono::milliseconds remaining{0};
    std::chrono::nanoseconds seen_at{0};  // monotonic
};

struct cluster_view {
    std::uint64_t revision = 0;  // every commit up to it is contained; 0: nothing is known
    std::optional<versioned<cluster_record>> cluster;
    std::map<std::string, versioned<volume_record>> volumes;  // by name
    std::map<node_name, versioned<node_record>> nodes;
    std::map<drive_id, versioned<drive_record>> drives;
    std::map<replica_id, versioned<trash_record>> trash;
    std::map<node_name, seen_lease> leases;
    std::map<std::string, std::string> bad;  // key -> what is wrong with it
};

/// Decodes one entry of the store into the view. Keys of other kinds (events) are ignored.
void put_entry(cluster_view& view, std::string_view key, std::string_view value, std::uint64_t revision);
/// Forgets one key.
void erase_entry(cluster_view& view, std::string_view key);

/// The revision of what the view holds under a key; 0 when it holds nothing.
std::uint64_t entry_revision(const cluster_view& view, std::string_view key);

/// The volume with this id, whatever its name; null when there is none.
const versioned<volume_record>* find_volume(const cluster_view& view, const volume_id& id);

/// What is left of a node's lease at `now`; 0 when it has expired or was never taken.
std::chrono::milliseconds lease_left(const cluster_view& view, const node_name& node, std::chrono::nanoseconds now);

/// The nodes whose lease has not expired at `now`.
std::set<node_name> living_nodes(const cluster_view& view, std::chrono::nanoseconds now);

/// The number of replicas, existing or in the trash, that the records place on a drive.
std::uint64_t replicas_on(const cluster_view& view, const drive_id& drive);

/// One JSON document with every record (leases excepted: they would be lies by the time they are read), for the copy on
/// disk that answers while the store does not. Decoding takes the newest entry's revision for the view's. Errors:
/// corrupt.
std::string encode(const cluster_view& view);
result<cluster_view> decode_cluster_view(std::string_view json);

}  // namespace weft
