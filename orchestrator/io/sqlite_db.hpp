// SPDX-License-Identifier: Apache-2.0
// A thin owner of one SQLite connection and of its prepared statements; the only file besides sqlite_file.cpp that
// knows <sqlite3.h>.
//
// A statement is prepared once per SQL text and reused; sqlite_query borrows it and resets it when it goes out of
// scope, so that no read transaction stays open behind anybody's back. Closing never checkpoints and never deletes the
// -wal file: SQLite finds that file by its path, and when the database was moved away the path may already belong to
// another one (https://www.sqlite.org/howtocorrupt.html, section 2.4). One thread at a time; not across fork().
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>

#include "nbd-backend/base/result.hpp"

struct sqlite3;
struct sqlite3_stmt;

namespace weft {

/// How long a statement waits for another process's lock before it answers unavailable.
inline constexpr std::chrono::milliseconds sqlite_busy_timeout{1000};

class sqlite_db {
public:
    /// Opens an existing file for reading and writing. Never creates one.
    static result<std::unique_ptr<sqlite_db>> open(const std::string& path);
    /// An empty database in memory.
    static result<std::unique_ptr<sqlite_db>> open_memory();
    ~sqlite_db();
    sqlite_db(const sqlite_db&) = delete;
    sqlite_db& operator=(const sqlite_db&) = delete;

    /// Runs statements that return no rows. Errors as sqlite_query::step.
    status run(const char* sql);
    /// Ends a transaction that is still open; afterwards nothing of it remains.
    void roll_back() noexcept;
    [[nodiscard]] sqlite3* handle() const noexcept { return handle_; }

private:
    friend class sqlite_query;
    explicit sqlite_db(sqlite3* handle) noexcept : handle_(handle) {}
    static result<std::unique_ptr<sqlite_db>> open_with(const std::string& path, int flags);
    result<sqlite3_stmt*> prepared(const char* sql);

    sqlite3* handle_;
    std::unordered_map<std::string_view, sqlite3_stmt*> statements_;  // keyed by the literal's text
};

/// The error of `db`'s last call: unavailable (locked by another process), no_space, corrupt (not a database, damaged)
/// or io_failed. `code` is SQLite's extended result code.
error sqlite_error(const sqlite_db& db, int code, std::string_view doing);

/// One execution of a prepared statement. `sql` must be a literal. Errors of preparing and binding come out of step().
class sqlite_query {
public:
    sqlite_query(sqlite_db& db, const char* sql);
    ~sqlite_query();
    sqlite_query(const sqlite_query&) = delete;
    sqlite_query& operator=(const sqlite_query&) = delete;

    /// Parameters are numbered from 1. The text must stay valid until the query is gone.
    sqlite_query& bind(int index, std::string_view text);
    sqlite_query& bind(int index, std::int64_t number);

    /// True: a row is there. False: it is done.
    result<bool> step();
    /// For statements without rows.
    status finish();

    /// Columns are numbered from 0; valid until the next step.
    [[nodiscard]] std::string text(int column) const;
    [[nodiscard]] std::int64_t number(int column) const;

private:
    sqlite_db& db_;
    const char* sql_;
    sqlite3_stmt* statement_ = nullptr;
    status problem_;
};

}  // namespace weft
