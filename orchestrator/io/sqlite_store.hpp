// SPDX-License-Identifier: Apache-2.0
// The store in one SQLite file: one machine, any number of weftd processes on it (SQLite's WAL needs shared memory, so
// the file must not be on a network file system: https://www.sqlite.org/wal.html).
//
// Invariants:
//   - WAL with synchronous=FULL: an answered commit survives kill -9 of everybody and power loss (pragma.html).
//   - A commit is one BEGIN IMMEDIATE transaction: expectations are read and changes made under SQLite's write lock.
//   - The file is created by open_sqlite_store only, never afterwards: were it moved away, an empty one in its place
//     would say "no volume exists". Every call compares (device, inode) of the path with what is open; if they differ
//     the answer is unavailable and nothing is written to the moved file. When a file is back at the path it is opened
//     afresh, and refused if it is another store or an older copy (its revision fell).
//   - Leases are measured in CLOCK_BOOTTIME with the kernel's boot id: no wall clock; another boot's lease is expired.
// Thread rule: one connection behind one mutex; wait_beyond waits outside of it. Must not be used across fork().
#pragma once

#include <memory>
#include <string>

#include "orchestrator/io/store.hpp"

namespace weft {

/// Opens the file, or creates it if nothing is at `path` (its directory must exist). Errors: invalid_argument (relative
/// path, no such directory), corrupt (not a Weft store), unsupported (written by a newer Weft), unavailable, io_failed,
/// no_space.
result<std::unique_ptr<store>> open_sqlite_store(const std::string& path);

}  // namespace weft
