// SPDX-License-Identifier: Apache-2.0
// A directory as a drive: who it belongs to, and how much room it has.
//
//   <drive>/weft.json   {"version":1,"drive":uuid,"cluster":uuid,"node":name}; its birth makes the directory a drive
//   <drive>/lock        flock, exclusive, for the whole life of the replica server process
//   <drive>/replicas/   see replica_dir.hpp
//   <drive>/trash/      replicas on their way out
//
// Laws: weft.json appears whole or not at all and is never rewritten; of several processes that initialise a directory
// at the same time exactly one wins, the others see its result. Blocking; any thread; nothing is kept in memory.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "nbd-backend/base/ids.hpp"
#include "nbd-backend/base/result.hpp"
#include "nbd-backend/base/units.hpp"

namespace weft::io {

struct drive_identity {
    drive_id drive;
    std::string cluster;  // UUID
    node_name node;

    friend bool operator==(const drive_identity&, const drive_identity&) = default;
};

/// A directory with less free space than this does not become a drive.
inline constexpr std::uint64_t drive_free_min_bytes = 16 * mib;

/// Pure: the text of weft.json and back. decode errors: corrupt naming the field, unsupported for a later version.
std::string encode_drive_identity(const drive_identity& identity);
result<drive_identity> decode_drive_identity(std::string_view json);

/// Absolute, without control characters, not too long. Errors: invalid_argument.
status check_drive_path(const std::string& path);

/// Makes the directory a drive, or finds that it already is one of this cluster and node. Returns the identity that the
/// directory has now: after an earlier init its drive id is the old one, not `wanted.drive`. Idempotent; safe to repeat
/// after a kill at any point.
/// Errors: invalid_argument (not absolute, not a directory, read-only), not_found (missing), no_space, busy (belongs to
/// another cluster or node, which the text names), corrupt, io_failed.
result<drive_identity> init_drive(const std::string& path, const drive_identity& wanted);

/// Errors: as init_drive; not_found also when the directory is not a drive.
result<drive_identity> read_drive(const std::string& path);

struct drive_space {
    std::uint64_t size_bytes = 0;  // of the file system
    std::uint64_t free_bytes = 0;  // for an ordinary user
};

/// Errors: not_found, io_failed.
result<drive_space> measure_drive(const std::string& path);

}  // namespace weft::io
