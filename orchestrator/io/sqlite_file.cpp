// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/io/sqlite_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "nbd-backend/base/ids.hpp"
#include "orchestrator/io/atomic_file.hpp"

namespace weft {

namespace {

constexpr std::int64_t application_id = 0x57656674;  // "Weft"
constexpr std::int64_t schema_version = 1;
constexpr off_t peek_max_bytes = 256 * 1024 * 1024;

// Offsets in the header of a database file: https://www.sqlite.org/fileformat2.html, section 1.3.
constexpr std::size_t write_version_offset = 18;
constexpr std::size_t read_version_offset = 19;
constexpr std::size_t header_bytes = 100;
constexpr unsigned char version_rollback = 1;
constexpr unsigned char version_wal = 2;

error gone(const std::string& path) {
    return error{errc::unavailable,
                 fmt::format("the store {} is not there; if it was moved away, put it back (nothing is lost)", path)};
}

error not_a_store(const std::string& path, std::string_view why) {
    return error{errc::corrupt, fmt::format("{} is not a Weft store: {}", path, why)};
}

/// The bytes of an empty store, in WAL mode.
result<std::vector<unsigned char>> make_empty_store() {
    TRY_ASSIGN(const auto db, sqlite_db::open_memory());
    TRY(db->run("PRAGMA page_size = 4096"));
    TRY(db->run(fmt::format("PRAGMA application_id = {}", application_id).c_str()));
    TRY(db->run(fmt::format("PRAGMA user_version = {}", schema_version).c_str()));
    TRY(
        db->run("CREATE TABLE store(id INTEGER PRIMARY KEY CHECK (id = 1), store_id TEXT NOT NULL,"
                " revision INTEGER NOT NULL);"
                "CREATE TABLE kv(key TEXT PRIMARY KEY NOT NULL, value TEXT NOT NULL, revision INTEGER NOT NULL)"
                " WITHOUT ROWID;"
                "CREATE TABLE leases(name TEXT PRIMARY KEY NOT NULL, holder TEXT NOT NULL, boot_id TEXT NOT NULL,"
                " expires_ms INTEGER NOT NULL) WITHOUT ROWID;"));
    const std::string id = make_uuid();
    TRY(sqlite_query(*db, "INSERT INTO store(id, store_id, revision) VALUES (1, ?1, 0)").bind(1, id).finish());
    sqlite3_int64 size = 0;
    unsigned char* const bytes = sqlite3_serialize(db->handle(), "main", &size, 0);
    if (bytes == nullptr || std::cmp_less(size, header_bytes)) {
        sqlite3_free(bytes);
        return error{errc::io_failed, "make an empty store: out of memory"};
    }
    std::vector<unsigned char> image(bytes, bytes + size);
    sqlite3_free(bytes);
    image[write_version_offset] = version_wal;
    image[read_version_offset] = version_wal;
    return image;
}

status write_all(int fd, const std::vector<unsigned char>& bytes) {
    std::size_t done = 0;
    while (done < bytes.size()) {
        const ssize_t written = ::pwrite(fd, bytes.data() + done, bytes.size() - done, static_cast<off_t>(done));
        if (written < 0 && errno == EINTR) continue;
        if (written < 0) return errno_error(errno, "write");
        done += static_cast<std::size_t>(written);
    }
    return ok();
}

/// A file that is open for good. Closing any descriptor of a file drops all POSIX locks that this process has on it
/// (fcntl(2)), those of SQLite's connections too; so what was opened here to look at is never closed again. One
/// descriptor for each file that was ever put into a store's place while we ran: few.
result<int> keep_open(const std::string& path) {
    static std::mutex mutex;
    static std::map<std::pair<dev_t, ino_t>, int> kept;
    const std::lock_guard lock(mutex);
    struct stat at_path {};
    if (::stat(path.c_str(), &at_path) != 0) return gone(path);
    const auto key = std::make_pair(at_path.st_dev, at_path.st_ino);
    if (const auto found = kept.find(key); found != kept.end()) return found->second;
    unique_fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY));
    if (!fd) return errno_error(errno, "open " + path);
    struct stat opened {};
    if (::fstat(fd.get(), &opened) != 0) return errno_error(errno, "stat " + path);
    const int raw = fd.release();
    kept.emplace(std::make_pair(opened.st_dev, opened.st_ino), raw);
    return raw;
}

result<std::vector<unsigned char>> read_whole(int fd) {
    struct stat now {};
    if (::fstat(fd, &now) != 0) return errno_error(errno, "stat");
    if (now.st_size > peek_max_bytes) return error{errc::corrupt, "it is larger than any store"};
    std::vector<unsigned char> bytes(static_cast<std::size_t>(now.st_size));
    std::size_t done = 0;
    while (done < bytes.size()) {
        const ssize_t got = ::pread(fd, bytes.data() + done, bytes.size() - done, static_cast<off_t>(done));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return errno_error(errno, "read");
        if (got == 0) break;
        done += static_cast<std::size_t>(got);
    }
    bytes.resize(done);
    return bytes;
}

/// Is what we opened a store of ours, in a version that we know?
status check_kind(sqlite_db& db, const std::string& path) {
    sqlite_query kind(db, "PRAGMA application_id");
    TRY_ASSIGN(const bool has_kind, kind.step());
    if (!has_kind || kind.number(0) != application_id)
        return not_a_store(path, "it is the database of another program; choose another path");
    sqlite_query version(db, "PRAGMA user_version");
    TRY_ASSIGN(const bool has_version, version.step());
    const std::int64_t found = has_version ? version.number(0) : 0;
    if (found > schema_version)
        return error{errc::unsupported,
                     fmt::format("the store {} has version {}, this Weft knows versions up to {}; install a newer Weft",
                                 path, found, schema_version)};
    if (found < 1) return not_a_store(path, "its version is missing");
    return ok();
}

/// Journal, durability, and whether the file is sound.
status prepare(sqlite_db& db, const std::string& path) {
    {
        sqlite_query journal(db, "PRAGMA journal_mode = WAL");
        TRY_ASSIGN(const bool answered, journal.step());
        if (!answered || journal.text(0) != "wal")
            return error{errc::unsupported,
                         fmt::format("the file system of {} cannot hold a store: SQLite's write-ahead log needs shared "
                                     "memory; choose a local file system",
                                     path)};
    }
    TRY(db.run("PRAGMA synchronous = FULL"));
    TRY(db.run("PRAGMA cell_size_check = ON"));
    {
        // The log is cut back to this after a checkpoint: it does not keep the size of one busy hour.
        sqlite_query limit(db, "PRAGMA journal_size_limit = 16777216");
        TRY(limit.step());
    }
    sqlite_query sound(db, "PRAGMA quick_check(1)");
    TRY_ASSIGN(const bool answered, sound.step());
    if (!answered || sound.text(0) != "ok")
        return error{errc::corrupt, fmt::format("the store {} is damaged: {}; restore it from a backup", path,
                                                answered ? sound.text(0) : "no answer")};
    return ok();
}

}  // namespace

result<std::optional<file_identity>> identify_file(const std::string& path) {
    struct stat now {};
    if (::stat(path.c_str(), &now) == 0) return std::optional(file_identity{now.st_dev, now.st_ino});
    if (errno == ENOENT || errno == ENOTDIR) return std::optional<file_identity>();
    return errno_error(errno, "look at the store " + path);
}

result<opened_store_file> open_store_file(const std::string& path) {
    struct stat before {};
    if (::stat(path.c_str(), &before) != 0) return gone(path);
    if (!S_ISREG(before.st_mode)) return not_a_store(path, "it is not a plain file");
    // SQLite would take an empty file for an empty database.
    if (before.st_size == 0) return not_a_store(path, "it is empty; remove it to begin a new store");
    opened_store_file opened;
    opened.identity = {before.st_dev, before.st_ino};
    auto db = sqlite_db::open(path);
    if (db.has_error()) return db.error().within("store " + path);
    opened.db = std::move(*db);
    if (const auto kind = check_kind(*opened.db, path); kind.has_error()) {
        const auto& why = kind.error();
        if (why.code == errc::corrupt && !why.text.starts_with(path)) return not_a_store(path, why.text);
        return why;
    }
    TRY(prepare(*opened.db, path));
    sqlite_query row(*opened.db, "SELECT store_id, revision FROM store WHERE id = 1");
    TRY_ASSIGN(const bool found, row.step());
    if (!found || !is_uuid(row.text(0)) || row.number(1) < 0)
        return not_a_store(path, "it does not say which one it is");
    opened.store_id = row.text(0);
    opened.revision = static_cast<std::uint64_t>(row.number(1));
    // Is what SQLite has open what was at the path before and is there now?
    int moved = 1;
    sqlite3_file_control(opened.db->handle(), "main", SQLITE_FCNTL_HAS_MOVED, &moved);
    TRY_ASSIGN(const auto now, identify_file(path));
    if (moved != 0 || now != opened.identity)
        return error{errc::unavailable, fmt::format("the store {} was exchanged while it was being opened", path)};
    return opened;
}

status create_store_file(const std::string& path) {
    TRY_ASSIGN(const auto image, make_empty_store());
    const std::string directory = std::filesystem::path(path).parent_path().string();
    const unique_fd fd(::open(directory.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
    if (!fd) return errno_error(errno, fmt::format("make a store in {}", directory));
    TRY(write_all(fd.get(), image));
    if (::fsync(fd.get()) != 0) return errno_error(errno, "sync the new store " + path);
    const std::string unnamed = fmt::format("/proc/self/fd/{}", fd.get());
    if (::linkat(AT_FDCWD, unnamed.c_str(), AT_FDCWD, path.c_str(), AT_SYMLINK_FOLLOW) != 0)
        return errno_error(errno, "make the store " + path);
    const unique_fd dir(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!dir || ::fsync(dir.get()) != 0) return errno_error(errno, "sync " + directory);
    return ok();
}

result<std::string> peek_store_id(const std::string& path) {
    TRY_ASSIGN(const int fd, keep_open(path));
    TRY_ASSIGN(auto image, read_whole(fd));
    if (image.size() < header_bytes) return not_a_store(path, "it is too short");
    // A database in memory cannot be in WAL mode.
    image[write_version_offset] = version_rollback;
    image[read_version_offset] = version_rollback;
    TRY_ASSIGN(const auto db, sqlite_db::open_memory());
    const auto size = static_cast<sqlite3_int64>(image.size());
    const int code = sqlite3_deserialize(db->handle(), "main", image.data(), size, size, SQLITE_DESERIALIZE_READONLY);
    if (code != SQLITE_OK) return sqlite_error(*db, code, "read " + path);
    TRY(check_kind(*db, path));
    sqlite_query row(*db, "SELECT store_id FROM store WHERE id = 1");
    TRY_ASSIGN(const bool found, row.step());
    if (!found) return not_a_store(path, "it does not say which one it is");
    return row.text(0);
}

}  // namespace weft
