// SPDX-License-Identifier: Apache-2.0
// Many processes on one store, and what kill -9 at any moment leaves behind: every acknowledged commit, whole.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sched.h>
#include <sqlite3.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <random>
#include <vector>

#include "orchestrator/io/store.hpp"
#include "tests/unit/child_process.hpp"
#include "tests/unit/temp_dir.hpp"

using namespace weft;
using namespace std::chrono_literals;

namespace {

/// Memory that parent and children share: what was begun and what was acknowledged survives the child.
struct tally {
    std::atomic<std::uint64_t> begun;
    std::atomic<std::uint64_t> acknowledged;
    std::atomic<std::uint64_t> conflicts;
};

class shared_tallies {
public:
    explicit shared_tallies(std::size_t count) : bytes_(count * sizeof(tally)) {
        void* const memory = ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        REQUIRE(memory != MAP_FAILED);
        tallies_ = static_cast<tally*>(memory);
    }
    ~shared_tallies() { ::munmap(tallies_, bytes_); }
    shared_tallies(const shared_tallies&) = delete;
    shared_tallies& operator=(const shared_tallies&) = delete;
    tally& operator[](std::size_t index) { return tallies_[index]; }

private:
    std::size_t bytes_;
    tally* tallies_ = nullptr;
};

std::uint64_t number_at(store& db, const std::string& key) {
    const auto entry = db.get(key);
    if (entry.has_error() || !*entry) return 0;
    return std::stoull((*entry)->value);
}

/// Adds one to `shared` by compare-and-swap, `times` times or for ever (0). The exit status says what went wrong.
int increment_shared(const std::string& url, tally& mine, std::uint64_t times) {
    const auto db = open_store(url);
    if (db.has_error()) return 2;
    while (times == 0 || mine.acknowledged < times) {
        const auto now = (*db)->get("shared");
        if (now.has_error()) continue;
        const std::uint64_t value = *now ? std::stoull((*now)->value) : 0;
        const std::uint64_t revision = *now ? (*now)->revision : 0;
        ++mine.begun;
        const auto made = (*db)->commit({{{"shared", revision}}, {{"shared", std::to_string(value + 1)}}, {}});
        if (!made.has_error())
            ++mine.acknowledged;
        else if (made.error().code == errc::conflict)
            ++mine.conflicts;
        else if (made.error().code != errc::unavailable)
            return 3;
    }
    return 0;
}

/// Writes the same growing number under two keys, for ever. Both or none may be seen.
int write_pairs(const std::string& url, const std::string& name, tally& mine) {
    const auto db = open_store(url);
    if (db.has_error()) return 2;
    std::uint64_t value = number_at(**db, name + "/left");
    while (true) {
        const std::string text = std::to_string(++value);
        mine.begun = value;
        const auto made = (*db)->commit({{}, {{name + "/left", text}, {name + "/right", text}}, {}});
        if (made.has_error() && made.error().code != errc::unavailable) return 3;
        if (made.has_error())
            --value;
        else
            mine.acknowledged = value;
    }
}

/// Follows every revision; ends (badly) if one of them cannot be read or goes back.
int read_for_ever(const std::string& url) {
    const auto db = open_store(url);
    if (db.has_error()) return 2;
    std::uint64_t seen = 0;
    while (true) {
        const auto now = (*db)->wait_beyond(seen, 10s);
        if (now.has_error() || *now < seen) return 3;
        const auto all = (*db)->list("");
        if (all.has_error() || all->revision < *now) return 4;
        seen = *now;
    }
}

bool is_intact(const std::string& path) {
    sqlite3* db = nullptr;
    std::string answer;
    if (sqlite3_open(path.c_str(), &db) == SQLITE_OK)
        sqlite3_exec(
            db, "PRAGMA integrity_check",
            [](void* out, int, char** columns, char**) {
                *static_cast<std::string*>(out) += columns[0];
                return 0;
            },
            &answer, nullptr);
    sqlite3_close(db);
    return answer == "ok";
}

}  // namespace

TEST_CASE("store_crash: compare-and-swap from many processes loses no increment") {
    test::temp_dir dir;
    const std::string url = "sqlite:" + dir.file("s.db");
    constexpr std::size_t processes = 4;
    constexpr std::uint64_t times = 40;
    shared_tallies tallies(processes);
    std::vector<test::child_process> children;
    // The children create the file at the same time, too.
    for (std::size_t i = 0; i < processes; ++i)
        children.emplace_back([&, i] { return increment_shared(url, tallies[i], times); });
    for (auto& child : children) CHECK(child.join() == 0);
    const auto db = open_store(url);
    REQUIRE_FALSE(db.has_error());
    CHECK(number_at(**db, "shared") == processes * times);
    CHECK((*db)->get("shared")->value().revision == processes * times);
    CHECK(std::distance(std::filesystem::directory_iterator(dir.path()), {}) == 3);  // s.db, -wal, -shm
}

TEST_CASE("store_crash: kill -9 at any moment loses nothing acknowledged and tears no commit") {
    test::temp_dir dir;
    const std::string path = dir.file("s.db");
    const std::string url = "sqlite:" + path;
    const unsigned seed = std::random_device{}();
    CAPTURE(seed);
    std::mt19937 random(seed);
    constexpr std::size_t writers = 2;
    constexpr int rounds = 15;
    shared_tallies tallies(writers + 1);
    tally& counter = tallies[writers];
    REQUIRE_FALSE(open_store(url).has_error());
    // Somebody who lives through it all: SQLite then recovers from the dead while the store is in use.
    test::child_process survivor([&] { return read_for_ever(url); });
    for (int round = 0; round < rounds; ++round) {
        std::vector<test::child_process> children;
        for (std::size_t i = 0; i < writers; ++i)
            children.emplace_back([&, i] { return write_pairs(url, fmt::format("w{}", i), tallies[i]); });
        children.emplace_back([&] { return increment_shared(url, counter, 0); });
        // Opened after the fork: a connection must not be carried into a child.
        const auto watcher = open_store(url);
        REQUIRE_FALSE(watcher.has_error());
        // The moment of the kill is the thing under test: after a random number of commits and a random while.
        const auto start = (*watcher)->list("")->revision;
        const auto seen = (*watcher)->wait_beyond(start + random() % 30, 5s);
        REQUIRE_FALSE(seen.has_error());
        CHECK(*seen > start);
        ::usleep(static_cast<useconds_t>(random() % 10000));
        for (auto& child : children) child.kill();

        for (std::size_t i = 0; i < writers; ++i) {
            const auto left = number_at(**watcher, fmt::format("w{}/left", i));
            CHECK(left == number_at(**watcher, fmt::format("w{}/right", i)));
            CHECK(left >= tallies[i].acknowledged);
            CHECK(left <= tallies[i].begun);
        }
        const auto shared = number_at(**watcher, "shared");
        CHECK(shared >= counter.acknowledged);
        // A round may leave one commit that was made but whose acknowledgement the killed child did not live to note.
        CHECK(shared <= counter.acknowledged + static_cast<std::uint64_t>(round) + 1);
    }
    CHECK(counter.acknowledged > 0);
    CHECK(is_intact(path));
    CHECK(survivor.is_running());
}

TEST_CASE(
    "store_crash: a full disk refuses commits, keeps every earlier one, and takes new ones when it has room again") {
    if (::geteuid() != 0) {
        MESSAGE("skipped: only root can mount a small tmpfs (in a mount namespace of its own)");
        return;
    }
    test::temp_dir dir;
    test::child_process child([&] {
        const std::string place = dir.path().string();
        if (::unshare(CLONE_NEWNS) != 0 || ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return 77;
        if (::mount("tmpfs", place.c_str(), "tmpfs", 0, "size=512k") != 0) return 77;
        const auto db = open_store("sqlite:" + dir.file("s.db"));
        if (db.has_error()) return 2;
        std::uint64_t acknowledged = 0;
        errc refused{};
        while (refused == errc{} && acknowledged < 1000) {
            const auto made = (*db)->commit({{}, {{fmt::format("k{:04}", acknowledged), std::string(3000, 'x')}}, {}});
            if (made.has_error())
                refused = made.error().code;
            else
                ++acknowledged;
        }
        if (refused != errc::no_space) return 3;
        const auto all = (*db)->list("k");
        if (all.has_error() || all->entries.size() != acknowledged || all->revision != acknowledged) return 4;
        if (::mount("tmpfs", place.c_str(), "tmpfs", MS_REMOUNT, "size=4m") != 0) return 77;
        const auto made = (*db)->commit({{}, {{"more", "1"}}, {}});
        return !made.has_error() && *made == acknowledged + 1 ? 0 : 5;
    });
    const int how = child.join();
    if (how == 77)
        MESSAGE("skipped: this machine refuses the mount namespace or the tmpfs");
    else
        CHECK(how == 0);
}

TEST_CASE("store_crash: killed while the file is being made, the next one makes or finds a whole store") {
    std::mt19937 random(std::random_device{}());
    for (int round = 0; round < 20; ++round) {
        test::temp_dir dir;
        const std::string url = "sqlite:" + dir.file("s.db");
        test::child_process child([&] { return open_store(url).has_error() ? 1 : 0; });
        ::usleep(static_cast<useconds_t>(random() % 3000));
        child.kill();
        const auto db = open_store(url);
        if (db.has_error()) FAIL(db.error().text);
        CHECK(*(*db)->commit({{}, {{"a", "1"}}, {}}) == 1);
        for (const auto& entry : std::filesystem::directory_iterator(dir.path()))
            CHECK(entry.path().filename().string().starts_with("s.db"));
    }
}
