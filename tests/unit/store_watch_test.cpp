// SPDX-License-Identifier: Apache-2.0
// Waiting for the store: woken by every commit of every process, by interrupt(), by nothing else, and idle in between.
#include "orchestrator/io/store_watch.hpp"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/time.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <future>
#include <thread>

#include "orchestrator/io/store.hpp"
#include "tests/unit/child_process.hpp"
#include "tests/unit/temp_dir.hpp"

using namespace weft;
using namespace std::chrono_literals;
namespace fs = std::filesystem;
using clock_type = std::chrono::steady_clock;

namespace {

constexpr auto generous = 20s;  // a wait that must be ended by its event, not by its time

std::unique_ptr<store> must_open(const std::string& path) {
    auto opened = open_store("sqlite:" + path);
    if (opened.has_error()) FAIL(opened.error().text);
    return std::move(*opened);
}

void put(store& db, const std::string& value) {
    const auto made = db.commit({{}, {{"key", value}}, {}});
    if (made.has_error()) FAIL(made.error().text);
}

double seconds(const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
}

}  // namespace

TEST_CASE("store_watch: a revision that is there already is returned without waiting") {
    test::temp_dir dir;
    const auto db = must_open(dir.file("s.db"));
    put(*db, "1");
    const auto before = clock_type::now();
    CHECK(*db->wait_beyond(0, generous) == 1);
    CHECK(clock_type::now() - before < generous / 2);
}

TEST_CASE("store_watch: without a commit the time runs out and the old revision comes back") {
    test::temp_dir dir;
    const auto db = must_open(dir.file("s.db"));
    const auto before = clock_type::now();
    CHECK(*db->wait_beyond(0, 80ms) == 0);
    CHECK(clock_type::now() - before >= 80ms);
    CHECK(*db->wait_beyond(0, 0ms) == 0);
    CHECK(*db->wait_beyond(0, -1ms) == 0);
}

TEST_CASE("store_watch: each of a hundred commits of another process wakes the waiter") {
    test::temp_dir dir;
    const std::string path = dir.file("s.db");
    must_open(path).reset();  // a connection must not be carried into a child
    // The child answers each revision that it sees with the next one, so that a lost wake-up stops the game.
    test::child_process child([&] {
        const auto mine = open_store("sqlite:" + path);
        if (mine.has_error()) return 2;
        for (std::uint64_t turn = 1; turn < 100; turn += 2) {
            const auto seen = (*mine)->wait_beyond(turn - 1, generous);
            if (seen.has_error() || *seen != turn) return 3;
            if ((*mine)->commit({{}, {{"key", "pong"}}, {}}).has_error()) return 4;
        }
        return 0;
    });
    const auto db = must_open(path);
    const auto before = clock_type::now();
    for (std::uint64_t turn = 1; turn < 100; turn += 2) {
        put(*db, "ping");
        REQUIRE(*db->wait_beyond(turn, generous) == turn + 1);
    }
    CHECK(child.join() == 0);
    CHECK(clock_type::now() - before < generous);
}

TEST_CASE("store_watch: all threads that wait are woken by a commit of their own process") {
    test::temp_dir dir;
    const auto db = must_open(dir.file("s.db"));
    std::vector<std::future<std::uint64_t>> waiting;
    for (int i = 0; i < 3; ++i)
        waiting.push_back(std::async(std::launch::async, [&] { return *db->wait_beyond(0, generous); }));
    put(*db, "1");
    for (auto& one : waiting) CHECK(one.get() == 1);
}

TEST_CASE("store_watch: interrupt ends every present wait and the next one, once") {
    test::temp_dir dir;
    const auto db = must_open(dir.file("s.db"));
    const auto before = clock_type::now();
    db->interrupt();
    CHECK(*db->wait_beyond(0, generous) == 0);  // nobody waited: the next one
    std::atomic<int> returned{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < 2; ++i)
        threads.emplace_back([&] {
            CHECK(*db->wait_beyond(0, generous) == 0);
            ++returned;
        });
    while (returned < 2) {  // whether they wait already or are about to, none may be missed
        db->interrupt();
        std::this_thread::yield();
    }
    for (auto& thread : threads) thread.join();
    CHECK(clock_type::now() - before < generous);
    CHECK(*db->wait_beyond(0, 0ms) == 0);  // takes the pending one, if there is one
    const auto quiet = clock_type::now();
    CHECK(*db->wait_beyond(0, 60ms) == 0);
    CHECK(clock_type::now() - quiet >= 60ms);
}

TEST_CASE("store_watch: an unavailable store is waited for until the time is over") {
    test::temp_dir dir;
    const std::string path = dir.file("s.db");
    const auto db = must_open(path);
    put(*db, "1");
    SUBCASE("the file is away") {
        fs::rename(path, dir.file("away"));
    }
    SUBCASE("the whole directory is away") {
        fs::rename(dir.path(), dir.path().string() + ".away");
    }
    const auto before = clock_type::now();
    const auto seen = db->wait_beyond(1, 80ms);
    CHECK(clock_type::now() - before >= 80ms);
    REQUIRE(seen.has_error());
    CHECK(seen.error().code == errc::unavailable);
    db->interrupt();
    CHECK(db->wait_beyond(1, generous).error().code == errc::unavailable);
    CHECK(clock_type::now() - before < generous / 2);
    if (fs::exists(dir.path().string() + ".away")) fs::rename(dir.path().string() + ".away", dir.path());
}

TEST_CASE("store_watch: a store that comes back with something new wakes the waiter") {
    test::temp_dir dir;
    const std::string path = dir.file("s.db");
    const auto db = must_open(path);
    const auto writer = must_open(path);
    bool whole_directory = false;
    SUBCASE("the file") {}
    SUBCASE("the directory") {
        whole_directory = true;
    }
    const std::string from = whole_directory ? dir.path().string() : path;
    fs::rename(from, from + ".away");
    std::promise<void> begun;
    auto waiting = std::async(std::launch::async, [&] {
        begun.set_value();
        return db->wait_beyond(0, generous);
    });
    begun.get_future().wait();
    fs::rename(from + ".away", from);
    put(*writer, "1");
    const auto seen = waiting.get();
    REQUIRE_FALSE(seen.has_error());
    CHECK(*seen == 1);
}

TEST_CASE("store_watch: a commit whose writer was killed before it could ring is found by the second look") {
    test::temp_dir dir;
    const std::string path = dir.file("s.db");
    must_open(path).reset();
    const auto watch = *store_watch::create(path);
    watch->rearm();
    // Growing the log without touching the file is all that such a writer leaves.
    std::ofstream(path + "-wal", std::ios::app) << "x";
    store_watch::wake seen{};
    do seen = watch->wait(clock_type::now() + generous);
    while (seen == store_watch::wake::changed);  // the -wal may have been created
    CHECK(seen == store_watch::wake::log_grew);
}

TEST_CASE("store_watch: other files in the directory wake nobody") {
    test::temp_dir dir;
    const std::string path = dir.file("s.db");
    must_open(path).reset();
    const auto watch = *store_watch::create(path);
    watch->rearm();
    std::ofstream(dir.file("other")) << "x";
    std::ofstream(dir.file("s.db-other")) << "x";
    fs::rename(dir.file("other"), dir.file("another"));
    fs::remove(dir.file("another"));
    CHECK(watch->wait(clock_type::now() + 30ms) == store_watch::wake::timed_out);
    store_watch::ring(path);
    CHECK(watch->wait(clock_type::now() + generous) == store_watch::wake::changed);
    watch->interrupt();
    CHECK(watch->wait(clock_type::now() + generous) == store_watch::wake::interrupted);
    CHECK(watch->wait(clock_type::now() + 1ms) == store_watch::wake::timed_out);
}

TEST_CASE("store_watch: processes that only watch and read do not wake each other") {
    test::temp_dir dir;
    const std::string path = dir.file("s.db");
    put(*must_open(path), "1");
    std::vector<test::child_process> idle;
    for (int i = 0; i < 2; ++i)
        idle.emplace_back([&] {
            const auto mine = open_store("sqlite:" + path);
            if (mine.has_error() || (*mine)->list("").has_error()) return 2;
            rusage begin{};
            ::getrusage(RUSAGE_SELF, &begin);
            const auto seen = (*mine)->wait_beyond(1, 1500ms);
            if (seen.has_error() || *seen != 1) return 3;
            rusage end{};
            ::getrusage(RUSAGE_SELF, &end);
            // Each time a wait puts the process to sleep it is one voluntary switch; a storm would make thousands.
            if (end.ru_nvcsw - begin.ru_nvcsw > 20) return 4;
            if (seconds(end.ru_utime) + seconds(end.ru_stime) - seconds(begin.ru_utime) - seconds(begin.ru_stime) > 0.2)
                return 5;
            return 0;
        });
    // Meanwhile somebody reads.
    const auto db = must_open(path);
    for (int i = 0; i < 500; ++i) REQUIRE((*db->list("")).revision == 1);
    for (auto& child : idle) CHECK(child.join() == 0);
}
