// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/io/process.hpp"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include <condition_variable>
#include <csignal>
#include <cstdlib>
#include <mutex>
#include <thread>

using namespace weft;
using namespace std::chrono_literals;

namespace {

struct scratch {
    std::filesystem::path path;
    scratch() {
        std::string name = (std::filesystem::temp_directory_path() / "weft-process-XXXXXX").string();
        REQUIRE(::mkdtemp(name.data()) != nullptr);
        path = name;
    }
    ~scratch() { CHECK(remove_directory_tree(path).has_value()); }
    scratch(const scratch&) = delete;
    scratch& operator=(const scratch&) = delete;
};

/// Ends the process however the test ends.
struct guarded {
    process_identity identity;
    ~guarded() { CHECK(kill_now(identity).has_value()); }
};

spawn_request request(const scratch& where, std::vector<std::string> argv) {
    spawn_request what;
    what.argv = std::move(argv);
    what.identity_file = where.path / "identity";
    what.log_file = where.path / "log";
    return what;
}

const std::string boot = "3f0a2c1e-0000-4000-8000-000000000001";

}  // namespace

TEST_CASE("process: an identity survives encode and decode") {
    const process_identity identity{4711, 18446744073709551615U, boot};
    CHECK(encode_identity(identity) == "4711 18446744073709551615 " + boot + "\n");
    CHECK(*decode_identity(encode_identity(identity)) == identity);
}

TEST_CASE("process: what is not an identity is refused, a cut one above all") {
    const std::string whole = encode_identity({4711, 99, boot});
    for (std::size_t cut = 0; cut < whole.size(); ++cut) {
        CAPTURE(cut);
        CHECK(decode_identity(whole.substr(0, cut)).error().code == errc::corrupt);
    }
    for (const std::string& text :
         {std::string("0 99 ") + boot + "\n", "-1 99 " + boot + "\n", "1 -9 " + boot + "\n", "1  9 " + boot + "\n",
          whole + whole, "99999999999 1 " + boot + "\n", std::string("\n")})
        CHECK(decode_identity(text).has_error());
}

TEST_CASE("process: the start time is field 22, whatever the command is called") {
    const std::string tail = " S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 424242 20 21 22\n";
    for (const char* name : {"(sh)", "(a b)", "(x) S 1 2)", "(())", "(\n)"}) {
        CAPTURE(name);
        const auto stat = parse_proc_stat("4711 " + std::string(name) + tail);
        REQUIRE(stat.has_value());
        CHECK(stat->state == 'S');
        CHECK(stat->start_ticks == 424242);
    }
    for (const char* text : {"", "1", "1 (x)", "1 (x) ", "1 (x) S 1 2 3", "no parenthesis at all"})
        CHECK(parse_proc_stat(text).error().code == errc::corrupt);
}

TEST_CASE("process: we are alive, and nobody else is who we are") {
    auto self = *identify(::getpid());
    CHECK(is_alive(self));
    auto other = self;
    other.start_ticks += 1;
    CHECK_FALSE(is_alive(other));
    other = self;
    other.boot_id = boot;
    CHECK_FALSE(is_alive(other));
}

TEST_CASE("process: a spawned process has a file, a session, no parent here and no inherited files") {
    const scratch where;
    const int leaked = ::open("/dev/null", O_RDONLY);  // deliberately without O_CLOEXEC
    REQUIRE(leaked >= 0);
    const auto identity = spawn_detached(request(where, {"sleep", "60"}));
    ::close(leaked);
    REQUIRE(identity.has_value());
    const guarded end{*identity};
    CHECK(is_alive(*identity));
    CHECK(*read_live_identity(where.path / "identity") == identity.value());
    CHECK(::getsid(identity->pid) != ::getsid(0));
    CHECK(::waitpid(identity->pid, nullptr, WNOHANG) == -1);  // not our child
    // Its loader has libraries open for a moment; what was inherited would stay.
    const auto open_files = [&] {
        std::size_t files = 0;
        for ([[maybe_unused]] const auto& entry :
             std::filesystem::directory_iterator("/proc/" + std::to_string(identity->pid) + "/fd"))
            ++files;
        return files;
    };
    for (const auto limit = std::chrono::steady_clock::now() + 10s;
         open_files() != 3 && std::chrono::steady_clock::now() < limit;)
        std::this_thread::yield();
    CHECK(open_files() == 3);
}

TEST_CASE("process: what it says goes to the log, after what is there") {
    const scratch where;
    for (const char* word : {"one", "two"}) {
        const auto identity = spawn_detached(request(where, {"sh", "-c", "echo $0; echo err >&2", word}));
        REQUIRE(identity.has_value());
        CHECK(wait_for_exit(*identity, 5s));
    }
    CHECK(**read_file(where.path / "log") == "one\nerr\ntwo\nerr\n");
    CHECK(read_tail(where.path / "log", 8) == "two\nerr");
}

TEST_CASE("process: a second spawn over a live one is refused, over a dead one it is made") {
    const scratch where;
    const auto first = spawn_detached(request(where, {"sleep", "60"}));
    REQUIRE(first.has_value());
    const guarded end_first{*first};
    const auto second = spawn_detached(request(where, {"sleep", "60"}));
    REQUIRE(second.has_error());
    CHECK(second.error().code == errc::busy);
    CHECK(second.error().text.find(std::to_string(first->pid)) != std::string::npos);
    REQUIRE(terminate(*first, 5s).has_value());
    CHECK_FALSE(*read_live_identity(where.path / "identity"));
    const auto third = spawn_detached(request(where, {"sleep", "60"}));
    REQUIRE(third.has_value());
    const guarded end_third{*third};
    CHECK(third->pid != first->pid);
}

TEST_CASE("process: a program that is not there is named and leaves no identity") {
    const scratch where;
    const auto no_name = spawn_detached(request(where, {"no-such-program-of-weft"}));
    REQUIRE(no_name.has_error());
    CHECK(no_name.error().code == errc::not_found);
    CHECK(no_name.error().text.find("no-such-program-of-weft") != std::string::npos);
    const auto no_path = spawn_detached(request(where, {"/nowhere/at/all"}));
    REQUIRE(no_path.has_error());
    CHECK(no_path.error().code == errc::not_found);
    CHECK_FALSE(std::filesystem::exists(where.path / "identity"));
    CHECK(spawn_detached(request(where, {})).error().code == errc::invalid_argument);
}

TEST_CASE("process: a reader waits while a spawn is between fork and exec") {
    const scratch where;
    const auto lock_path = (where.path / "identity.lock").string();
    const int lock = ::open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    REQUIRE(::flock(lock, LOCK_EX) == 0);  // as the spawner's child holds it
    std::optional<process_identity> seen;
    std::thread reader{[&] { seen = *read_live_identity(where.path / "identity"); }};
    REQUIRE(write_file_atomically(where.path / "identity", encode_identity(*identify(::getpid()))).has_value());
    ::close(lock);
    reader.join();
    REQUIRE(seen.has_value());
    CHECK(seen->pid == ::getpid());
}

TEST_CASE("process: a spawner that is killed leaves either nothing or a process with a file") {
    // The spawner is killed at instants spread over the time that a spawn takes.
    for (int round = 0; round < 40; ++round) {
        const scratch where;
        const auto what = request(where, {"sleep", "61"});
        const pid_t spawner = ::fork();
        if (spawner == 0) {
            [[maybe_unused]] const auto ignored = spawn_detached(what);
            ::_exit(0);
        }
        const auto until = std::chrono::steady_clock::now() + std::chrono::microseconds{round * 60};
        while (std::chrono::steady_clock::now() < until) {
        }
        ::kill(spawner, SIGKILL);
        ::waitpid(spawner, nullptr, 0);
        const auto found = read_live_identity(where.path / "identity");
        REQUIRE(found.has_value());
        if (*found) {
            const guarded end{**found};
            // What the file names is what was started, already past exec: the lock was let go.
            CHECK(read_file("/proc/" + std::to_string((*found)->pid) + "/comm")->value() == "sleep\n");
        }
    }
}

TEST_CASE("process: SIGTERM ends it, a stopped one too, and a stubborn one dies of SIGKILL") {
    const scratch where;
    auto identity = spawn_detached(request(where, {"sleep", "60"}));
    REQUIRE(identity.has_value());
    ::kill(identity->pid, SIGSTOP);
    CHECK(terminate(*identity, 5s).has_value());
    CHECK_FALSE(is_alive(*identity));
    CHECK(terminate(*identity, 5s).has_value());  // gone is success

    identity = spawn_detached(request(where, {"sh", "-c", "trap '' TERM; echo ready; while :; do sleep 60; done"}));
    REQUIRE(identity.has_value());
    while (read_tail(where.path / "log") != "ready") std::this_thread::yield();
    const auto before = std::chrono::steady_clock::now();
    CHECK(terminate(*identity, 100ms).has_value());
    CHECK(std::chrono::steady_clock::now() - before >= 100ms);
    CHECK_FALSE(is_alive(*identity));
}

TEST_CASE("process: exits are told once, also those of before, and not after forget") {
    const scratch where;
    std::mutex mutex;
    std::condition_variable told;
    int count = 0;
    const auto count_one = [&] {
        const std::lock_guard lock{mutex};
        ++count;
        told.notify_all();
    };
    const auto wait_for_count = [&](int wanted) {
        std::unique_lock lock{mutex};
        return told.wait_for(lock, 5s, [&] { return count == wanted; });
    };
    exit_watcher watcher;
    const auto first = spawn_detached(request(where, {"sleep", "60"}));
    REQUIRE(first.has_value());
    watcher.watch(*first, count_one);
    REQUIRE(kill_now(*first).has_value());
    CHECK(wait_for_count(1));
    watcher.watch(*first, count_one);  // gone already
    CHECK(wait_for_count(2));
    const auto second = spawn_detached(request(where, {"sleep", "60"}));
    REQUIRE(second.has_value());
    const auto token = watcher.watch(*second, count_one);
    watcher.forget(token);
    REQUIRE(kill_now(*second).has_value());
    watcher.watch(*first, count_one);  // comes after what must not come
    CHECK(wait_for_count(3));
}

TEST_CASE("run: output and exit code come back") {
    const auto outcome = run({{"sh", "-c", "echo out; echo err >&2; exit 3"}, 5s});
    REQUIRE(outcome.has_value());
    CHECK(outcome->exit_code == 3);
    CHECK(outcome->output == "out\nerr\n");
    const auto checked = run_checked({{"sh", "-c", "echo the reason >&2; exit 3"}, 5s});
    REQUIRE(checked.has_error());
    CHECK(checked.error().text.find("exit code 3: the reason") != std::string::npos);
    CHECK(run_checked({{"true"}, 5s}).has_value());
}

TEST_CASE("run: arguments reach the program as they are, no shell between") {
    const auto outcome = run({{"printf", "%s", "$(id) ; a'b\"c *"}, 5s});
    REQUIRE(outcome.has_value());
    CHECK(outcome->output == "$(id) ; a'b\"c *");
}

TEST_CASE("run: output is bounded, the newest is kept") {
    const auto outcome =
        run({{"sh", "-c", "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done"}, 30s, 1000});
    REQUIRE(outcome.has_value());
    CHECK(outcome->output.size() <= 1000);
    CHECK(outcome->output.ends_with("line 19999\n"));
}

TEST_CASE("run: who takes stdout gets all of it and the output has stderr only; stdin is what was given") {
    int ends[2];
    REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
    const unique_fd reader{ends[0]};
    REQUIRE(::write(ends[1], "asked", 5) == 5);
    ::close(ends[1]);
    std::string taken;
    run_request what{{"sh", "-c", "echo err >&2; tr a-z A-Z; exit 2"}, 5s};
    what.stdin_fd = reader.get();
    what.take_stdout = [&taken](int fd) {
        char piece[3];
        const ssize_t n = ::read(fd, piece, sizeof piece);
        if (n > 0) taken.append(piece, static_cast<std::size_t>(n));
        return n > 0;
    };
    const auto outcome = run(what);
    REQUIRE(outcome.has_value());
    CHECK(outcome->exit_code == 2);
    CHECK(outcome->output == "err\n");
    CHECK(taken == "ASKED");
}

TEST_CASE("run: what a command started is killed with it when it has a session of its own") {
    const scratch where;
    const auto pidfile = (where.path / "pid").string();
    run_request what{{"sh", "-c", "sleep 600 & echo $! > $0.new; mv $0.new $0; wait", pidfile}, 1s};
    what.whole_session = true;
    // Only the time-out ends it: on a busy machine it may come before anything was started.
    for (; !std::filesystem::exists(pidfile) && what.timeout < 60s; what.timeout *= 2)
        CHECK(run(what).error().code == errc::timed_out);
    const auto text = read_file(pidfile);
    REQUIRE((text.has_value() && *text));
    const auto started = identify(static_cast<pid_t>(std::stol(**text)));
    CHECK((started.has_error() || wait_for_exit(*started, 5s)));
}

TEST_CASE("run: too slow is killed, a signal is named, a missing program is named") {
    const auto before = std::chrono::steady_clock::now();
    const auto slow = run({{"sleep", "60"}, 100ms});
    REQUIRE(slow.has_error());
    CHECK(slow.error().code == errc::timed_out);
    CHECK(std::chrono::steady_clock::now() - before < 10s);
    const auto killed = run({{"sh", "-c", "kill -SEGV $$"}, 5s});
    REQUIRE(killed.has_error());
    CHECK(killed.error().text.find("SIGSEGV") != std::string::npos);
    CHECK(run({{"no-such-program-of-weft"}, 5s}).error().code == errc::not_found);
}

// Bug guarded against: a volume server that died while resize2fs synced its device was not replaced for minutes,
// because who had to replace it waited for resize2fs.
TEST_CASE("run: a command is given up when what it waits for has ended") {
    int ends[2];
    REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
    run_request slow{{"sleep", "100"}};
    slow.give_up_fd = ends[0];
    ::close(ends[1]);  // readable from here on: its end
    const auto outcome = run(slow);
    ::close(ends[0]);
    REQUIRE(outcome.has_error());
    CHECK(outcome.error().code == errc::unavailable);
}

TEST_CASE("run: a command does not outlive a killed caller") {
    const scratch where;
    const auto pidfile = (where.path / "pid").string();
    const pid_t caller = ::fork();
    if (caller == 0) {
        [[maybe_unused]] const auto ignored =
            run({{"sh", "-c", "echo $$ > $0.new; mv $0.new $0; exec sleep 60", pidfile}, 60s});
        ::_exit(0);
    }
    while (!std::filesystem::exists(pidfile)) std::this_thread::yield();
    const auto command = identify(static_cast<pid_t>(std::stol(**read_file(pidfile))));
    REQUIRE(command.has_value());
    ::kill(caller, SIGKILL);
    ::waitpid(caller, nullptr, 0);
    CHECK(wait_for_exit(*command, 5s));
}

TEST_CASE("run_isolated: the errno comes back, and a call that hangs is left behind in time") {
    const auto fails = [](int, const void*) { return ENOSPC; };
    const auto hangs = [](int fd, const void*) {
        char byte;
        return ::read(fd, &byte, 1) < 0 ? errno : 0;
    };
    CHECK(run_isolated({fails, nullptr, {}}, "try", 5s).error().code == errc::no_space);
    int ends[2];
    REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
    const auto hung = run_isolated({hangs, nullptr, unique_fd{ends[0]}}, "read", 50ms);
    REQUIRE(hung.has_error());
    CHECK(hung.error().code == errc::timed_out);
    ::close(ends[1]);  // the child reads end of file and ends; it held no copy of this end
    CHECK(run_isolated({[](int, const void*) { return 0; }, nullptr, {}}, "nothing", 5s).has_value());
}

TEST_CASE("run_isolated: a call whose server has ended is left behind, and can be waited for") {
    const auto hangs = [](int fd, const void*) {
        char byte;
        return ::read(fd, &byte, 1) < 0 ? errno : 0;
    };
    int ends[2], server[2];
    REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
    REQUIRE(::pipe2(server, O_CLOEXEC) == 0);
    const unique_fd ended{server[0]};
    CHECK_FALSE(has_ended(ended.get()));
    CHECK_FALSE(has_ended(-1));
    ::close(server[1]);  // readable from now on, as the pidfd of a process that has ended
    CHECK(has_ended(ended.get()));
    const auto given_up = run_isolated({hangs, nullptr, unique_fd{ends[0]}, ended.get()}, "mount it", 60s);
    REQUIRE(given_up.has_error());
    CHECK(given_up.error().code == errc::unavailable);
    CHECK(await_left_behind("mount another", 0ms, -1).has_value());
    CHECK(await_left_behind("mount it", 10ms, -1).error().code == errc::timed_out);
    CHECK(await_left_behind("mount it", 60s, ended.get()).error().code == errc::unavailable);
    ::close(ends[1]);
    CHECK(await_left_behind("mount it", 60s, -1).has_value());
    CHECK(await_left_behind("mount it", 0ms, -1).has_value());
}
