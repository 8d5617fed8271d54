// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/io/sqlite_store.hpp"

#include <fmt/format.h>
#include <time.h>

#include <algorithm>
#include <filesystem>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "orchestrator/core/names.hpp"
#include "orchestrator/io/atomic_file.hpp"
#include "orchestrator/io/sqlite_db.hpp"
#include "orchestrator/io/sqlite_file.hpp"
#include "orchestrator/io/store_watch.hpp"
#include "orchestrator/io/turn_gate.hpp"

namespace weft {

namespace {

/// How long to wait for our own other threads; with SQLite's busy timeout this makes about store_timeout.
constexpr std::chrono::milliseconds turn_timeout = store_timeout - sqlite_busy_timeout;
static_assert(turn_timeout.count() > 0);

/// After the log grew without a ring: how long until the committer must have rung, were it alive.
constexpr std::chrono::milliseconds second_look_delay{250};

std::int64_t boot_clock_ms() {
    timespec now{};
    ::clock_gettime(CLOCK_BOOTTIME, &now);  // goes on while the machine sleeps, unlike CLOCK_MONOTONIC
    return static_cast<std::int64_t>(now.tv_sec) * 1000 + now.tv_nsec / 1000000;
}

result<std::string> read_boot_id() {
    TRY_ASSIGN(const auto text, read_file("/proc/sys/kernel/random/boot_id", 100));
    if (!text || text->size() < 36) return error{errc::io_failed, "the kernel does not tell its boot id"};
    return text->substr(0, 36);
}

/// The smallest text that sorts after every text with this prefix; nothing if there is none.
std::optional<std::string> end_of_prefix(std::string prefix) {
    while (!prefix.empty() && prefix.back() == '\xff') prefix.pop_back();
    if (prefix.empty()) return std::nullopt;
    prefix.back() = static_cast<char>(static_cast<unsigned char>(prefix.back()) + 1);
    return prefix;
}

result<std::uint64_t> revision_of(sqlite_db& db) {
    sqlite_query query(db, "SELECT revision FROM store WHERE id = 1");
    TRY_ASSIGN(const bool found, query.step());
    if (!found) return error{errc::corrupt, "the store has lost its revision"};
    return static_cast<std::uint64_t>(query.number(0));
}

status check_expectation(sqlite_db& db, const store_commit::expectation& expected) {
    sqlite_query query(db, "SELECT revision FROM kv WHERE key = ?1");
    query.bind(1, expected.key);
    TRY_ASSIGN(const bool found, query.step());
    const std::uint64_t now = found ? static_cast<std::uint64_t>(query.number(0)) : 0;
    if (now == expected.revision) return ok();
    const auto render = [](std::uint64_t revision) {
        return revision == 0 ? std::string("absent") : fmt::format("at revision {}", revision);
    };
    return error{errc::conflict, fmt::format("'{}' is {}, expected was {}", printable(expected.key, 160), render(now),
                                             render(expected.revision))};
}

/// The change itself, inside of a transaction. Returns the new revision.
result<std::uint64_t> apply_change(sqlite_db& db, const store_commit& change) {
    for (const auto& expected : change.expect) TRY(check_expectation(db, expected));
    TRY_ASSIGN(const std::uint64_t now, revision_of(db));
    if (change.puts.empty() && change.erases.empty()) return now;
    const auto next = static_cast<std::int64_t>(now + 1);
    for (const auto& put : change.puts) {
        sqlite_query query(db,
                           "INSERT INTO kv(key, value, revision) VALUES (?1, ?2, ?3) ON CONFLICT(key) DO UPDATE SET "
                           "value = excluded.value, revision = excluded.revision");
        TRY(query.bind(1, put.key).bind(2, put.value).bind(3, next).finish());
    }
    for (const auto& key : change.erases) TRY(sqlite_query(db, "DELETE FROM kv WHERE key = ?1").bind(1, key).finish());
    TRY(sqlite_query(db, "UPDATE store SET revision = ?1 WHERE id = 1").bind(1, next).finish());
    return now + 1;
}

class sqlite_store final : public store {
public:
    sqlite_store(std::string path, std::string boot_id, opened_store_file opened)
        : path_(std::move(path)),
          boot_id_(std::move(boot_id)),
          store_id_(opened.store_id),
          file_(std::move(opened)),
          newest_(file_.revision) {}

    result<std::optional<store_entry>> get(const std::string& key) override;
    result<store_snapshot> list(const std::string& prefix) override;
    result<std::uint64_t> commit(const store_commit& change) override;
    result<std::uint64_t> wait_beyond(std::uint64_t seen, std::chrono::milliseconds timeout) override;
    void interrupt() override;
    status renew_lease(const std::string& name, const std::string& holder, std::chrono::milliseconds ttl) override;
    status drop_lease(const std::string& name, const std::string& holder) override;
    result<std::vector<lease>> leases() override;

private:
    /// Runs `work(db)` alone on the connection, with the right file behind it; closes the connection after an error
    /// that it may not recover from.
    template <typename Work>
    auto on_connection(Work work) -> decltype(work(std::declval<sqlite_db&>()));
    /// `work(db)` in a transaction that is committed if it succeeds; with on_connection's lock held.
    template <typename Work>
    auto in_transaction(sqlite_db& db, const char* begin, Work work) -> decltype(work(db));
    /// One change of the leases.
    template <typename Work>
    status change_leases(Work work);
    status commit_transaction(sqlite_db& db);

    status ensure_open();
    status reopen(const file_identity& found);
    status check_in_place() const;
    /// Remembers the newest revision; refuses an older one.
    status note_revision(std::uint64_t revision);
    result<std::uint64_t> revision();

    result<std::unique_ptr<store_watch>> begin_wait(bool& interrupted);
    void end_wait(std::unique_ptr<store_watch> watch);
    result<std::uint64_t> wait_with(store_watch& watch, std::uint64_t seen, store_watch::clock::time_point deadline,
                                    bool interrupted);

    const std::string path_;
    const std::string boot_id_;
    const std::string store_id_;

    turn_gate gate_;            // guards the two below
    opened_store_file file_;    // .db is null while there is no connection
    std::uint64_t newest_ = 0;  // revision

    std::mutex watches_mutex_;  // guards the three below
    std::vector<store_watch*> waiting_;
    std::vector<std::unique_ptr<store_watch>> idle_;
    bool interrupt_pending_ = false;
};

// ---- the connection ----

status sqlite_store::check_in_place() const {
    TRY_ASSIGN(const auto now, identify_file(path_));
    if (!now)
        return error{
            errc::unavailable,
            fmt::format("the store {} is not there; if it was moved away, put it back (nothing is lost)", path_)};
    if (*now != file_.identity)
        return error{errc::unavailable, fmt::format("another file lies in the place of the store {}", path_)};
    return ok();
}

status sqlite_store::note_revision(std::uint64_t revision) {
    if (revision < newest_)
        return error{
            errc::unavailable,
            fmt::format("the store {} went back from revision {} to {}: it is an older copy; put the newer one "
                        "back, or restart weftd on every node to accept the loss",
                        path_, newest_, revision)};
    newest_ = revision;
    return ok();
}

status sqlite_store::reopen(const file_identity& found) {
    if (found != file_.identity) {
        TRY_ASSIGN(const std::string id, peek_store_id(path_));
        if (id != store_id_)
            return error{errc::unavailable, fmt::format("another store lies in the place of {}; put ours back", path_)};
    }
    TRY_ASSIGN(auto opened, open_store_file(path_));
    if (opened.store_id != store_id_)
        return error{errc::unavailable, fmt::format("another store lies in the place of {}; put ours back", path_)};
    TRY(note_revision(opened.revision));
    file_ = std::move(opened);
    return ok();
}

status sqlite_store::ensure_open() {
    TRY_ASSIGN(const auto now, identify_file(path_));
    if (file_.db != nullptr && now == file_.identity) return ok();
    // A connection to a file that is only away stays: the file may come back as it was.
    if (!now) return check_in_place();
    file_.db.reset();
    const auto opened = reopen(*now);
    if (opened.has_error() && opened.error().code != errc::unavailable)
        return error{errc::unavailable, opened.error().os_errno, opened.error().text};
    return opened;
}

template <typename Work>
auto sqlite_store::on_connection(Work work) -> decltype(work(std::declval<sqlite_db&>())) {
    const turn my_turn(gate_, turn_timeout);
    if (!my_turn.mine())
        return error{errc::unavailable, fmt::format("the store {} does not answer: its disk is busy", path_)};
    TRY(ensure_open());
    auto outcome = work(*file_.db);
    if (!outcome.has_error()) return outcome;
    const errc code = outcome.error().code;
    if (code == errc::io_failed || code == errc::corrupt || code == errc::outcome_unknown) file_.db.reset();
    return outcome.error().within("store " + path_);
}

status sqlite_store::commit_transaction(sqlite_db& db) {
    TRY(check_in_place());
    const auto committed = db.run("COMMIT");
    if (committed.has_error()) {
        const auto& why = committed.error();
        // Locked or full: SQLite promises that nothing was changed. After an I/O error the log may or may not hold it.
        if (why.code == errc::unavailable || why.code == errc::no_space) return why;
        return error{errc::outcome_unknown, why.os_errno, why.text};
    }
    if (const auto still = check_in_place(); still.has_error())
        return error{errc::outcome_unknown, "moved away while being written: " + still.error().text};
    return ok();
}

template <typename Work>
auto sqlite_store::in_transaction(sqlite_db& db, const char* begin, Work work) -> decltype(work(db)) {
    TRY(db.run(begin));
    auto outcome = work(db);
    if (outcome.has_error()) {
        db.roll_back();
        return outcome;
    }
    if (const auto committed = commit_transaction(db); committed.has_error()) {
        db.roll_back();
        return committed.error();
    }
    return outcome;
}

// ---- records ----

result<std::optional<store_entry>> sqlite_store::get(const std::string& key) {
    return on_connection([&](sqlite_db& db) -> result<std::optional<store_entry>> {
        sqlite_query query(db, "SELECT value, revision FROM kv WHERE key = ?1");
        query.bind(1, key);
        TRY_ASSIGN(const bool found, query.step());
        if (!found) return std::optional<store_entry>();
        return std::optional(store_entry{key, query.text(0), static_cast<std::uint64_t>(query.number(1))});
    });
}

result<store_snapshot> sqlite_store::list(const std::string& prefix) {
    const auto read = [&](sqlite_db& db) -> result<store_snapshot> {
        store_snapshot snapshot;
        TRY_ASSIGN(snapshot.revision, revision_of(db));
        TRY(note_revision(snapshot.revision));
        const auto end = end_of_prefix(prefix);
        sqlite_query query(db, end ? "SELECT key, value, revision FROM kv WHERE key >= ?1 AND key < ?2 ORDER BY key"
                                   : "SELECT key, value, revision FROM kv WHERE key >= ?1 ORDER BY key");
        query.bind(1, prefix);
        if (end) query.bind(2, *end);
        while (true) {
            TRY_ASSIGN(const bool found, query.step());
            if (!found) return snapshot;
            snapshot.entries.push_back({query.text(0), query.text(1), static_cast<std::uint64_t>(query.number(2))});
        }
    };
    return on_connection([&](sqlite_db& db) { return in_transaction(db, "BEGIN", read); });
}

result<std::uint64_t> sqlite_store::commit(const store_commit& change) {
    for (const auto& put : change.puts)
        if (put.key.empty()) return error{errc::invalid_argument, "a record without a key"};
    const auto apply = [&](sqlite_db& db) -> result<std::uint64_t> {
        TRY_ASSIGN(const std::uint64_t now, revision_of(db));
        TRY(note_revision(now));
        return apply_change(db, change);
    };
    const auto revision = on_connection([&](sqlite_db& db) -> result<std::uint64_t> {
        TRY_ASSIGN(const std::uint64_t made, in_transaction(db, "BEGIN IMMEDIATE", apply));
        TRY(note_revision(made));
        return made;
    });
    if (!revision.has_error() || revision.error().code == errc::outcome_unknown) store_watch::ring(path_);
    return revision;
}

result<std::uint64_t> sqlite_store::revision() {
    return on_connection([&](sqlite_db& db) -> result<std::uint64_t> {
        TRY_ASSIGN(const std::uint64_t now, revision_of(db));
        TRY(note_revision(now));
        return now;
    });
}

// ---- waiting ----

result<std::unique_ptr<store_watch>> sqlite_store::begin_wait(bool& interrupted) {
    const std::lock_guard lock(watches_mutex_);
    std::unique_ptr<store_watch> watch;
    if (idle_.empty()) {
        TRY_ASSIGN(watch, store_watch::create(path_));
    } else {
        watch = std::move(idle_.back());
        idle_.pop_back();
    }
    interrupted = std::exchange(interrupt_pending_, false);
    waiting_.push_back(watch.get());
    return watch;
}

void sqlite_store::end_wait(std::unique_ptr<store_watch> watch) {
    const std::lock_guard lock(watches_mutex_);
    std::erase(waiting_, watch.get());
    watch->forget_interrupt();
    idle_.push_back(std::move(watch));
}

result<std::uint64_t> sqlite_store::wait_with(store_watch& watch, std::uint64_t seen,
                                              store_watch::clock::time_point deadline, bool interrupted) {
    constexpr auto none = store_watch::clock::time_point::max();
    auto second_look = none;
    while (true) {
        if (watch.rearm() == store_watch::wake::log_grew)
            second_look = std::min(second_look, store_watch::clock::now() + second_look_delay);
        auto now = revision();
        const bool over = interrupted || store_watch::clock::now() >= deadline;
        if (over || (!now.has_error() && *now > seen)) return now;
        for (bool look = false; !look;) {
            switch (watch.wait(std::min(second_look, deadline))) {
                case store_watch::wake::changed: look = true; break;
                case store_watch::wake::interrupted: look = interrupted = true; break;
                case store_watch::wake::timed_out:
                    look = true;
                    second_look = none;
                    break;
                case store_watch::wake::log_grew:
                    second_look = std::min(second_look, store_watch::clock::now() + second_look_delay);
                    break;
            }
        }
    }
}

result<std::uint64_t> sqlite_store::wait_beyond(std::uint64_t seen, std::chrono::milliseconds timeout) {
    // An hour at most, so that "for ever" does not overflow.
    const auto capped = std::clamp(timeout, std::chrono::milliseconds{0}, std::chrono::milliseconds{3600 * 1000});
    const auto deadline = store_watch::clock::now() + capped;
    bool interrupted = false;
    TRY_ASSIGN(auto watch, begin_wait(interrupted));
    auto now = wait_with(*watch, seen, deadline, interrupted);
    end_wait(std::move(watch));
    return now;
}

void sqlite_store::interrupt() {
    const std::lock_guard lock(watches_mutex_);
    interrupt_pending_ = true;
    for (auto* watch : waiting_) watch->interrupt();
}

// ---- leases ----

// Leases need no disk: power loss ends the boot and with it every lease, and a kill -9 loses nothing that the kernel
// has. A renewal that waited behind a busy disk's fsync could come too late.
template <typename Work>
status sqlite_store::change_leases(Work work) {
    return on_connection([&](sqlite_db& db) -> status {
        TRY(db.run("PRAGMA synchronous = NORMAL"));
        const auto outcome = in_transaction(db, "BEGIN IMMEDIATE", work);
        // Were this to fail, on_connection must close the connection: its next commit has to be durable.
        if (const auto restored = db.run("PRAGMA synchronous = FULL"); restored.has_error())
            return error{errc::io_failed, restored.error().text};
        return outcome;
    });
}

status sqlite_store::renew_lease(const std::string& name, const std::string& holder, std::chrono::milliseconds ttl) {
    return change_leases([&](sqlite_db& db) -> status {
        const std::int64_t now = boot_clock_ms();
        {
            sqlite_query query(db, "SELECT holder, boot_id, expires_ms FROM leases WHERE name = ?1");
            query.bind(1, name);
            TRY_ASSIGN(const bool found, query.step());
            const bool valid = found && query.text(1) == boot_id_ && query.number(2) > now;
            if (valid && query.text(0) != holder)
                return error{errc::busy, fmt::format("the lease '{}' is held by another process ('{}') for {} ms more",
                                                     printable(name), printable(query.text(0)), query.number(2) - now)};
        }
        sqlite_query query(db,
                           "INSERT INTO leases(name, holder, boot_id, expires_ms) VALUES (?1, ?2, ?3, ?4) ON CONFLICT "
                           "(name) DO UPDATE SET holder = excluded.holder, boot_id = excluded.boot_id, expires_ms = "
                           "excluded.expires_ms");
        return query.bind(1, name).bind(2, holder).bind(3, boot_id_).bind(4, now + ttl.count()).finish();
    });
}

status sqlite_store::drop_lease(const std::string& name, const std::string& holder) {
    return change_leases([&](sqlite_db& db) -> status {
        sqlite_query query(db, "UPDATE leases SET expires_ms = 0 WHERE name = ?1 AND holder = ?2");
        return query.bind(1, name).bind(2, holder).finish();
    });
}

result<std::vector<lease>> sqlite_store::leases() {
    return on_connection([&](sqlite_db& db) -> result<std::vector<lease>> {
        std::vector<lease> found;
        const std::int64_t now = boot_clock_ms();
        sqlite_query query(db, "SELECT name, holder, boot_id, expires_ms FROM leases ORDER BY name");
        while (true) {
            TRY_ASSIGN(const bool row, query.step());
            if (!row) return found;
            const std::int64_t left = query.text(2) == boot_id_ ? query.number(3) - now : 0;
            found.push_back({query.text(0), query.text(1), std::chrono::milliseconds{std::max<std::int64_t>(left, 0)}});
        }
    });
}

/// A missing file is made, but not beside the log of one that was there: SQLite would throw that log away, and with it
/// commits that it had acknowledged.
status make_if_missing(const std::string& path) {
    TRY_ASSIGN(const auto present, identify_file(path));
    if (present) return ok();
    TRY_ASSIGN(const auto log, identify_file(path + "-wal"));
    if (log)
        return error{errc::unavailable,
                     fmt::format("the store {0} is not there but its log {0}-wal is; put the store back, or remove the "
                                 "log to begin an empty one",
                                 path)};
    const auto made = create_store_file(path);
    if (made.has_error() && made.error().code != errc::already_exists) return made;
    return ok();
}

/// `path` with the symbolic links in it resolved, so that the directory we watch is the one where SQLite writes.
result<std::string> resolve(const std::string& path) {
    const std::filesystem::path given(path);
    if (!given.is_absolute() || !given.has_filename() || path.find('\0') != std::string::npos)
        return error{
            errc::invalid_argument,
            fmt::format("'{}' is not a store's file: write an absolute path, as in sqlite:/var/lib/weft/store.db",
                        printable(path, 80))};
    std::error_code ec;
    if (!std::filesystem::is_directory(given.parent_path(), ec))
        return error{errc::invalid_argument, fmt::format("the store's directory '{}' does not exist; make it first",
                                                         printable(given.parent_path().string(), 80))};
    const auto resolved = std::filesystem::weakly_canonical(given, ec);
    if (ec) return errno_error(ec.value(), "look at " + printable(path, 80));
    return resolved.string();
}

}  // namespace

result<std::unique_ptr<store>> open_sqlite_store(const std::string& path) {
    TRY_ASSIGN(std::string resolved, resolve(path));
    TRY_ASSIGN(std::string boot_id, read_boot_id());
    // create_store_file closes a descriptor of the new file; no connection of ours may have locks on it yet.
    static std::mutex opening;
    const std::lock_guard lock(opening);
    TRY(make_if_missing(resolved));
    TRY_ASSIGN(auto opened, open_store_file(resolved));
    return std::unique_ptr<store>(
        std::make_unique<sqlite_store>(std::move(resolved), std::move(boot_id), std::move(opened)));
}

}  // namespace weft
