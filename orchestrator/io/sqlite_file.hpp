// SPDX-License-Identifier: Apache-2.0
// The SQLite file of the store as a file: making it, recognising it, telling it from another one in its place.
//
//   application_id = "Weft", user_version = the version of the tables below (1)
//   store(id = 1, store_id, revision)       one row: which store this is; the newest revision
//   kv(key, value, revision)                the records
//   leases(name, holder, boot_id, expires_ms)  CLOCK_BOOTTIME milliseconds within the boot of that id
// A new file appears complete or not at all: it is built in memory, written to an unnamed file (O_TMPFILE), synced and
// linked; of several processes that do so at once one wins. Blocking; any thread.
#pragma once

#include <sys/types.h>

#include <memory>
#include <optional>
#include <string>

#include "nbd-backend/base/result.hpp"
#include "orchestrator/io/sqlite_db.hpp"

namespace weft {

/// Which file lies at a path.
struct file_identity {
    dev_t device = 0;
    ino_t inode = 0;
    friend bool operator==(const file_identity&, const file_identity&) = default;
};

/// Nothing if there is no file at `path`. Errors: io_failed.
result<std::optional<file_identity>> identify_file(const std::string& path);

/// An open store file: the connection, and what it was when it was opened.
struct opened_store_file {
    std::unique_ptr<sqlite_db> db;
    file_identity identity;
    std::string store_id;
    std::uint64_t revision = 0;
};

/// Opens the file at `path` in WAL mode with synchronous=FULL after having checked that it is a whole Weft store.
/// Errors: corrupt (something else, or damaged), unsupported (newer), unavailable (not there, locked, exchanged
/// meanwhile).
result<opened_store_file> open_store_file(const std::string& path);

/// Makes a new, empty store at `path`; already_exists if something is there.
status create_store_file(const std::string& path);

/// The store_id in the file itself, without what its -wal would add to it. Needed before a file that came to lie beside
/// the -wal of another one is opened: SQLite would mix the two. Errors: corrupt, io_failed, unavailable (not there).
result<std::string> peek_store_id(const std::string& path);

}  // namespace weft
