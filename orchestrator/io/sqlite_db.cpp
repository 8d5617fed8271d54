// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/io/sqlite_db.hpp"

#include <fmt/format.h>
#include <sqlite3.h>

namespace weft {

error sqlite_error(const sqlite_db& db, int code, std::string_view doing) {
    const int os_errno = sqlite3_system_errno(db.handle());
    const std::string text = fmt::format("{}: {} (SQLite {})", doing, sqlite3_errmsg(db.handle()), code);
    switch (code & 0xff) {
        case SQLITE_BUSY:
        case SQLITE_LOCKED:
            return error{errc::unavailable, fmt::format("{}: another process keeps the store locked", doing)};
        case SQLITE_FULL: return error{errc::no_space, os_errno, text};
        case SQLITE_CORRUPT:
        case SQLITE_NOTADB: return error{errc::corrupt, text};
        default: return error{errc::io_failed, os_errno, text};
    }
}

result<std::unique_ptr<sqlite_db>> sqlite_db::open(const std::string& path) {
    return open_with(path, SQLITE_OPEN_READWRITE);
}

result<std::unique_ptr<sqlite_db>> sqlite_db::open_memory() {
    return open_with(":memory:", SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_MEMORY);
}

result<std::unique_ptr<sqlite_db>> sqlite_db::open_with(const std::string& path, int flags) {
    sqlite3* handle = nullptr;
    const int code =
        sqlite3_open_v2(path.c_str(), &handle, flags | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE, nullptr);
    if (handle == nullptr) return error{errc::io_failed, "open the store: out of memory"};
    std::unique_ptr<sqlite_db> db(new sqlite_db(handle));
    if (code != SQLITE_OK) return sqlite_error(*db, code, "open");
    sqlite3_busy_timeout(handle, static_cast<int>(sqlite_busy_timeout.count()));
    sqlite3_db_config(handle, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, nullptr);
    sqlite3_db_config(handle, SQLITE_DBCONFIG_DEFENSIVE, 1, nullptr);
    sqlite3_db_config(handle, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, nullptr);
    return db;
}

sqlite_db::~sqlite_db() {
    for (const auto& [sql, statement] : statements_) sqlite3_finalize(statement);
    sqlite3_close(handle_);
}

status sqlite_db::run(const char* sql) {
    const int code = sqlite3_exec(handle_, sql, nullptr, nullptr, nullptr);
    if (code != SQLITE_OK) return sqlite_error(*this, code, sql);
    return ok();
}

void sqlite_db::roll_back() noexcept {
    // "No transaction is active" is what we want; any other failure has already ended the transaction by itself
    // (https://www.sqlite.org/lang_transaction.html, section 3).
    if (sqlite3_get_autocommit(handle_) == 0) sqlite3_exec(handle_, "ROLLBACK", nullptr, nullptr, nullptr);
}

result<sqlite3_stmt*> sqlite_db::prepared(const char* sql) {
    if (const auto found = statements_.find(sql); found != statements_.end()) return found->second;
    sqlite3_stmt* statement = nullptr;
    const int code = sqlite3_prepare_v3(handle_, sql, -1, SQLITE_PREPARE_PERSISTENT, &statement, nullptr);
    if (code != SQLITE_OK) return sqlite_error(*this, code, sql);
    statements_.emplace(sql, statement);
    return statement;
}

sqlite_query::sqlite_query(sqlite_db& db, const char* sql) : db_(db), sql_(sql) {
    auto statement = db.prepared(sql);
    if (statement.has_error())
        problem_ = statement.error();
    else
        statement_ = *statement;
}

sqlite_query::~sqlite_query() {
    if (statement_ == nullptr) return;
    sqlite3_reset(statement_);
    sqlite3_clear_bindings(statement_);
}

sqlite_query& sqlite_query::bind(int index, std::string_view text) {
    if (problem_.has_error()) return *this;
    const char* const bytes = text.data() == nullptr ? "" : text.data();  // a null pointer would bind NULL
    const int code = sqlite3_bind_text64(statement_, index, bytes, text.size(), SQLITE_STATIC, SQLITE_UTF8);
    if (code != SQLITE_OK) problem_ = sqlite_error(db_, code, sql_);
    return *this;
}

sqlite_query& sqlite_query::bind(int index, std::int64_t number) {
    if (problem_.has_error()) return *this;
    const int code = sqlite3_bind_int64(statement_, index, number);
    if (code != SQLITE_OK) problem_ = sqlite_error(db_, code, sql_);
    return *this;
}

result<bool> sqlite_query::step() {
    TRY(problem_);
    const int code = sqlite3_step(statement_);
    if (code == SQLITE_ROW) return true;
    if (code == SQLITE_DONE) return false;
    return sqlite_error(db_, code, sql_);
}

status sqlite_query::finish() {
    TRY(step());
    return ok();
}

std::string sqlite_query::text(int column) const {
    const auto* bytes = reinterpret_cast<const char*>(sqlite3_column_text(statement_, column));
    if (bytes == nullptr) return {};
    return {bytes, static_cast<std::size_t>(sqlite3_column_bytes(statement_, column))};
}

std::int64_t sqlite_query::number(int column) const {
    return sqlite3_column_int64(statement_, column);
}

}  // namespace weft
