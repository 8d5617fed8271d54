// SPDX-License-Identifier: Apache-2.0
// The replicas of a drive as directories: birth, end and list. weftd calls this directly; the replica server only lists
// and opens (replica_file.hpp).
//
//   <drive>/replicas/<id>/{data,meta,sums}   a replica: whole and durable from the moment it has this name
//   <drive>/replicas/.tmp-<id>/         one being born; replaced by the next attempt
//   <drive>/trash/<id>/                 one being deleted; no longer a replica
//
// Laws: killed at any point, a replica is there entirely or not at all; create and remove may be repeated and then
// finish what was begun. A server that has a removed replica open goes on with the unlinked files until it closes them.
// Callers serialise create and remove of one and the same replica. Blocking; any thread; nothing is kept in memory.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "nbd-backend/base/ids.hpp"
#include "nbd-backend/base/result.hpp"

namespace weft::io {

struct replica_birth {
    replica_id id;
    volume_id volume;
    std::uint64_t size_bytes = 0;  // multiple of block_bytes, > 0
    bool born_equal = true;        // R6: true for the first replicas of a new extent (clean); false: every bit set
    bool thick = false;            // all its space is allocated now and for good
    bool checksums = true;         // it keeps a checksum of every block, and never returns bytes that do not match
};

/// Creates the replica, or finds that it is there with the same volume, size, birth, allocation and sums. `drive` is an
/// initialised drive. Errors: invalid_argument (ids that are not UUIDs, a bad size), already_exists (there, but
/// different: the text says in what), not_found (no such drive), no_space (the text names the sizes), corrupt,
/// unsupported (also a thick one on a file system that cannot allocate), io_failed. A failed creation leaves nothing
/// behind, a killed one what the next attempt, remove_replica or nobody needs.
status create_replica(const std::string& drive, const replica_birth& birth);

/// Removes the replica and whatever an unfinished create or remove left of it; no error if nothing is there.
/// Errors: invalid_argument, not_found (no such drive: it may only be unmounted), io_failed.
status remove_replica(const std::string& drive, const replica_id& id);

/// Ids in ascending order. Errors: not_found (no such drive), io_failed.
result<std::vector<replica_id>> list_replicas(const std::string& drive);

/// Deletes what killed removals left behind. Errors: io_failed.
status empty_trash(const std::string& drive);

/// <drive>/replicas/<id>. Precondition: is_uuid(id).
std::string replica_path(const std::string& drive, const replica_id& id);

}  // namespace weft::io
