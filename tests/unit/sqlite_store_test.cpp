// SPDX-License-Identifier: Apache-2.0
// The SQLite store as its callers see it: compare-and-swap, refusals, files that go and come back, leases.
#include "orchestrator/io/sqlite_store.hpp"

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sqlite3.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "tests/unit/temp_dir.hpp"

using namespace weft;
using namespace std::chrono_literals;
namespace fs = std::filesystem;

namespace {

std::unique_ptr<store> must_open(const std::string& path) {
    auto opened = open_store("sqlite:" + path);
    if (opened.has_error()) FAIL(opened.error().text);
    return std::move(*opened);
}

std::uint64_t must_put(store& in, const std::string& key, const std::string& value) {
    const auto revision = in.commit({{}, {{key, value}}, {}});
    if (revision.has_error()) FAIL(revision.error().text);
    return *revision;
}

/// Another program's connection to the file, held open while it lives.
class intruder {
public:
    explicit intruder(const std::string& path) { REQUIRE(sqlite3_open(path.c_str(), &db_) == SQLITE_OK); }
    ~intruder() { sqlite3_close(db_); }
    intruder(const intruder&) = delete;
    intruder& operator=(const intruder&) = delete;
    void run(const std::string& sql) {
        char* problem = nullptr;
        const int code = sqlite3_exec(db_, sql.c_str(), nullptr, nullptr, &problem);
        INFO(sql << ": " << (problem != nullptr ? problem : ""));
        REQUIRE(code == SQLITE_OK);
    }

private:
    sqlite3* db_ = nullptr;
};

}  // namespace

TEST_CASE("sqlite_store: every commit gets the next revision and every key remembers its own") {
    test::temp_dir dir;
    const auto db = must_open(dir.file("s.db"));
    CHECK(must_put(*db, "volumes/a", "1") == 1);
    CHECK(must_put(*db, "volumes/b", "2") == 2);
    CHECK(must_put(*db, "volumes/a", "3") == 3);
    const auto a = *db->get("volumes/a");
    REQUIRE(a.has_value());
    CHECK(a->value == "3");
    CHECK(a->revision == 3);
    CHECK((*db->get("volumes/b"))->revision == 2);
    CHECK_FALSE((*db->get("volumes/c")).has_value());
}

TEST_CASE("sqlite_store: list gives exactly the keys with the prefix, sorted, at one revision") {
    test::temp_dir dir;
    const auto db = must_open(dir.file("s.db"));
    for (const char* key : {"volumes/b", "volumes/a", "volume", "volumes0", "volumes/", "nodes/n1"})
        must_put(*db, key, key);
    const auto found = *db->list("volumes/");
    CHECK(found.revision == 6);
    REQUIRE(found.entries.size() == 3);
    CHECK(found.entries[0].key == "volumes/");
    CHECK(found.entries[1].key == "volumes/a");
    CHECK(found.entries[2].key == "volumes/b");
    CHECK((*db->list("")).entries.size() == 6);
    CHECK((*db->list("zzz")).entries.empty());
}

TEST_CASE("sqlite_store: a commit happens entirely or not at all") {
    test::temp_dir dir;
    const auto db = must_open(dir.file("s.db"));
    must_put(*db, "a", "1");
    const auto refused = db->commit({{{"a", 1}, {"b", 7}}, {{"a", "2"}, {"c", "3"}}, {"a"}});
    REQUIRE(refused.has_error());
    CHECK(refused.error().code == errc::conflict);
    CHECK(refused.error().text.find("'b'") != std::string::npos);
    CHECK((*db->list("")).revision == 1);
    CHECK((*db->get("a"))->value == "1");

    REQUIRE_FALSE(db->commit({{{"a", 1}, {"b", 0}}, {{"b", "2"}}, {"a"}}).has_error());
    CHECK_FALSE((*db->get("a")).has_value());
    CHECK((*db->get("b"))->revision == 2);
}

TEST_CASE("sqlite_store: expectation 0 means the key must not exist") {
    test::temp_dir dir;
    const auto db = must_open(dir.file("s.db"));
    REQUIRE_FALSE(db->commit({{{"a", 0}}, {{"a", "1"}}, {}}).has_error());
    CHECK(db->commit({{{"a", 0}}, {{"a", "2"}}, {}}).error().code == errc::conflict);
    REQUIRE_FALSE(db->commit({{}, {}, {"a"}}).has_error());
    CHECK_FALSE(db->commit({{{"a", 0}}, {{"a", "3"}}, {}}).has_error());
}

TEST_CASE("sqlite_store: a commit that changes nothing checks its expectations and makes no revision") {
    test::temp_dir dir;
    const auto db = must_open(dir.file("s.db"));
    must_put(*db, "a", "1");
    CHECK(*db->commit({{{"a", 1}}, {}, {}}) == 1);
    CHECK(db->commit({{{"a", 2}}, {}, {}}).error().code == errc::conflict);
}

TEST_CASE("sqlite_store: values come back byte for byte") {
    test::temp_dir dir;
    const auto db = must_open(dir.file("s.db"));
    const std::string odd("a\0b\n'\";--\xc3\xa4", 11);
    must_put(*db, "odd'key", odd);
    CHECK((*db->get("odd'key"))->value == odd);
    must_put(*db, "large", std::string(3000000, 'x'));
    CHECK((*db->get("large"))->value.size() == 3000000);
    must_put(*db, "empty", "");
    CHECK((*db->get("empty"))->value.empty());
    CHECK(db->commit({{}, {{"", "x"}}, {}}).error().code == errc::invalid_argument);
}

TEST_CASE("sqlite_store: what is committed is there after closing, and for other connections at once") {
    test::temp_dir dir;
    auto first = must_open(dir.file("s.db"));
    const auto second = must_open(dir.file("s.db"));
    must_put(*first, "a", "1");
    CHECK((*second->get("a"))->value == "1");
    first.reset();
    must_put(*second, "b", "2");
    const auto third = must_open(dir.file("s.db"));
    CHECK((*third->list("")).revision == 2);
}

TEST_CASE("sqlite_store: bad URLs are refused by name") {
    test::temp_dir dir;
    for (const std::string& url : {std::string(""), std::string("etcd:2379"), std::string("/x.db"),
                                   std::string("sqlite:"), std::string("sqlite:relative.db"),
                                   "sqlite:" + dir.file("no/such/dir.db"), "sqlite:" + dir.path().string() + "/"}) {
        CAPTURE(url);
        const auto opened = open_store(url);
        REQUIRE(opened.has_error());
        CHECK(opened.error().code == errc::invalid_argument);
        CHECK_FALSE(opened.error().text.empty());
    }
}

TEST_CASE("sqlite_store: what is not a Weft store is refused and stays as it was") {
    test::temp_dir dir;
    const std::string path = dir.file("s.db");
    SUBCASE("an empty file") {
        std::ofstream{path};
    }
    SUBCASE("a text") {
        std::ofstream{path} << std::string(10000, 't');
    }
    SUBCASE("another program's database") {
        intruder(path).run("CREATE TABLE other(x); PRAGMA user_version = 1");
    }
    SUBCASE("a directory") {
        fs::create_directory(path);
    }
    const auto size = fs::is_directory(path) ? 0 : fs::file_size(path);
    const auto opened = open_store("sqlite:" + path);
    REQUIRE(opened.has_error());
    CHECK(opened.error().code == errc::corrupt);
    CHECK(opened.error().text.find(path) != std::string::npos);
    if (!fs::is_directory(path)) CHECK(fs::file_size(path) == size);
    CHECK_FALSE(fs::exists(path + "-wal"));
}

TEST_CASE("sqlite_store: a store of a newer version is refused as such") {
    test::temp_dir dir;
    const std::string path = dir.file("s.db");
    must_open(path).reset();
    intruder(path).run("PRAGMA user_version = 2");
    const auto opened = open_store("sqlite:" + path);
    REQUIRE(opened.has_error());
    CHECK(opened.error().code == errc::unsupported);
    CHECK(opened.error().text.find("version 2") != std::string::npos);
}

TEST_CASE("sqlite_store: a damaged store is refused as corrupt") {
    test::temp_dir dir;
    const std::string path = dir.file("s.db");
    {
        const auto db = must_open(path);
        for (int i = 0; i < 200; ++i) must_put(*db, fmt::format("volumes/{}", i), std::string(1000, 'v'));
    }
    intruder(path).run("PRAGMA wal_checkpoint(TRUNCATE)");
    {
        std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
        for (int page = 3; page < 30; ++page) {
            file.seekp(page * 4096);
            file << std::string(600, '\xa5');
        }
    }
    const auto opened = open_store("sqlite:" + path);
    REQUIRE(opened.has_error());
    CHECK(opened.error().code == errc::corrupt);
}

TEST_CASE("sqlite_store: locked by another process, commits are unavailable, reads go on, and it recovers") {
    test::temp_dir dir;
    const std::string path = dir.file("s.db");
    const auto db = must_open(path);
    must_put(*db, "a", "1");
    {
        intruder other(path);
        other.run("BEGIN IMMEDIATE");
        const auto before = std::chrono::steady_clock::now();
        const auto refused = db->commit({{}, {{"a", "2"}}, {}});
        REQUIRE(refused.has_error());
        CHECK(refused.error().code == errc::unavailable);
        CHECK(std::chrono::steady_clock::now() - before < 10s);
        CHECK(db->renew_lease("n1", "h", 1s).error().code == errc::unavailable);
        CHECK((*db->get("a"))->value == "1");
        other.run("ROLLBACK");
    }
    CHECK(must_put(*db, "a", "3") == 2);
}

TEST_CASE("sqlite_store: moved away it is unavailable, is never made anew, and goes on when it is back") {
    test::temp_dir dir;
    const std::string path = dir.file("s.db");
    const auto db = must_open(path);
    must_put(*db, "a", "1");
    fs::rename(path, dir.file("away"));
    CHECK(db->get("a").error().code == errc::unavailable);
    CHECK(db->list("").error().code == errc::unavailable);
    CHECK(db->commit({{}, {{"a", "2"}}, {}}).error().code == errc::unavailable);
    CHECK(db->renew_lease("n1", "h", 1s).error().code == errc::unavailable);
    CHECK(db->leases().error().code == errc::unavailable);
    CHECK_FALSE(fs::exists(path));
    // Somebody who starts now must not begin an empty store beside our log.
    const auto second = open_store("sqlite:" + path);
    REQUIRE(second.has_error());
    CHECK(second.error().code == errc::unavailable);
    CHECK_FALSE(fs::exists(path));

    fs::rename(dir.file("away"), path);
    CHECK((*db->get("a"))->value == "1");
    CHECK(must_put(*db, "a", "3") == 2);
}

TEST_CASE("sqlite_store: copied back as another file with its log still there, nothing committed is lost") {
    test::temp_dir dir;
    const std::string path = dir.file("s.db");
    const auto db = must_open(path);
    for (int i = 0; i < 20; ++i) must_put(*db, "a", std::to_string(i));  // in the log only: no checkpoint yet
    fs::copy_file(path, dir.file("copy"));
    fs::remove(path);
    CHECK(db->get("a").error().code == errc::unavailable);
    fs::rename(dir.file("copy"), path);
    CHECK((*db->get("a"))->value == "19");
    CHECK(must_put(*db, "a", "20") == 21);
}

TEST_CASE("sqlite_store: another store in its place is refused, untouched by our log, and ours is taken back") {
    test::temp_dir dir;
    const std::string path = dir.file("s.db");
    const std::string other = dir.file("other.db");
    {
        const auto stranger = must_open(other);
        must_put(*stranger, "theirs", "1");
    }
    intruder(other).run("PRAGMA wal_checkpoint(TRUNCATE)");
    const auto db = must_open(path);
    must_put(*db, "ours", "1");
    fs::rename(path, dir.file("away"));
    fs::rename(other, path);
    for (int i = 0; i < 3; ++i) {
        const auto refused = db->commit({{}, {{"ours", "2"}}, {}});
        REQUIRE(refused.has_error());
        CHECK(refused.error().code == errc::unavailable);
        CHECK(refused.error().text.find("another store") != std::string::npos);
    }
    fs::rename(path, other);
    fs::rename(dir.file("away"), path);
    CHECK((*db->get("ours"))->value == "1");
    CHECK(must_put(*db, "ours", "3") == 2);
    const auto stranger = must_open(other);
    CHECK((*stranger->list("")).entries.size() == 1);
    CHECK((*stranger->get("theirs"))->value == "1");
}

TEST_CASE("sqlite_store: an older copy of itself in its place is refused") {
    test::temp_dir dir;
    const std::string path = dir.file("s.db");
    auto db = must_open(path);
    must_put(*db, "a", "old");
    intruder(path).run("PRAGMA wal_checkpoint(TRUNCATE)");
    fs::copy_file(path, dir.file("backup"));
    must_put(*db, "a", "new");
    fs::remove(path);
    fs::remove(path + "-wal");
    fs::remove(path + "-shm");
    fs::rename(dir.file("backup"), path);
    const auto refused = db->get("a");
    REQUIRE(refused.has_error());
    CHECK(refused.error().code == errc::unavailable);
    CHECK(refused.error().text.find("older copy") != std::string::npos);
    db = must_open(path);  // a restart is the operator's yes
    CHECK((*db->get("a"))->value == "old");
}

TEST_CASE("sqlite_store: a lease belongs to its holder until it expires or is dropped") {
    test::temp_dir dir;
    const auto db = must_open(dir.file("s.db"));
    REQUIRE_FALSE(db->renew_lease("n1", "first", 1h).has_error());
    REQUIRE_FALSE(db->renew_lease("n1", "first", 1h).has_error());
    const auto refused = db->renew_lease("n1", "second", 1h);
    REQUIRE(refused.has_error());
    CHECK(refused.error().code == errc::busy);
    CHECK(refused.error().text.find("first") != std::string::npos);
    REQUIRE_FALSE(db->renew_lease("n0", "other", 1h).has_error());

    const auto all = *db->leases();
    REQUIRE(all.size() == 2);
    CHECK(all[0].name == "n0");
    CHECK(all[1].name == "n1");
    CHECK(all[1].holder == "first");
    CHECK(all[1].remaining > 59min);
    CHECK(all[1].remaining <= 1h);

    REQUIRE_FALSE(db->drop_lease("n1", "second").has_error());  // not its own: nothing happens
    CHECK((*db->leases())[1].remaining > 59min);
    REQUIRE_FALSE(db->drop_lease("n1", "first").has_error());
    CHECK((*db->leases())[1].remaining <= 0ms);
    CHECK_FALSE(db->renew_lease("n1", "second", 1h).has_error());
}

TEST_CASE("sqlite_store: a lease runs out by itself and can then be taken") {
    test::temp_dir dir;
    const auto db = must_open(dir.file("s.db"));
    REQUIRE_FALSE(db->renew_lease("n1", "first", 60ms).has_error());
    CHECK(db->renew_lease("n1", "second", 1h).error().code == errc::busy);
    CHECK(*db->wait_beyond(1000, 100ms) == 0);  // lets the time pass; leases make no revisions
    CHECK((*db->leases())[0].remaining <= 0ms);
    CHECK_FALSE(db->renew_lease("n1", "second", 1h).has_error());
}

TEST_CASE("sqlite_store: a lease of another boot has expired") {
    test::temp_dir dir;
    const std::string path = dir.file("s.db");
    const auto db = must_open(path);
    REQUIRE_FALSE(db->renew_lease("n1", "first", 1h).has_error());
    intruder(path).run("UPDATE leases SET boot_id = '00000000-0000-0000-0000-000000000000'");
    CHECK((*db->leases())[0].remaining <= 0ms);
    CHECK_FALSE(db->renew_lease("n1", "second", 1h).has_error());
}

TEST_CASE("sqlite_store: used by many threads at once, no increment is lost") {
    test::temp_dir dir;
    const auto db = must_open(dir.file("s.db"));
    must_put(*db, "n", "0");
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t)
        threads.emplace_back([&] {
            for (int done = 0; done < 25;) {
                const auto now = *db->get("n");
                const auto next = std::to_string(std::stoi(now->value) + 1);
                if (!db->commit({{{"n", now->revision}}, {{"n", next}}, {}}).has_error()) ++done;
            }
        });
    for (auto& thread : threads) thread.join();
    CHECK((*db->get("n"))->value == "100");
}
