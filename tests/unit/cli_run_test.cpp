// SPDX-License-Identifier: Apache-2.0
// Whole commands of `weft` against the admin face and a fake service; only socket and terminal are missing.
#include <boost/json.hpp>
#include <doctest/doctest.h>
#include <fmt/format.h>

#include "fake_service.hpp"
#include "golden.hpp"
#include "orchestrator/api/admin.hpp"
#include "orchestrator/cli/run.hpp"

using namespace weft;
using namespace weft::cli;
using namespace weft::testing;
using namespace std::chrono_literals;

namespace {

struct typed {
    int code = 0;
    std::string out, err;
};

/// What a shell would see. `on_wait` runs between two looks of a watch.
typed type(
    service& served, const std::vector<std::string>& words, std::size_t columns = 0,
    std::function<void()> on_wait = [] {}) {
    typed seen;
    const parsed_line line = parse_line(words);
    if (!line.problem.empty()) return {exit_usage, "", "weft: " + line.problem + "\n"};
    if (!line.run) return {exit_done, line.help, ""};
    const admin face(served);
    std::chrono::nanoseconds clock{0};
    surroundings world;
    world.ask = [&](const http_request& request) { return result<http_response>(face.handle(request)); };
    world.out = [&](std::string_view text) { seen.out += text; };
    world.err = [&](std::string_view text) { seen.err += text; };
    world.now = [&] { return clock; };
    world.wait = [&](std::chrono::milliseconds length) {
        clock += length;
        on_wait();
    };
    world.columns = columns;
    world.lines = columns == 0 ? 0 : 30;
    seen.code = run(*line.run, world);
    return seen;
}

}  // namespace

TEST_CASE("cli_run: every command reaches the service under each of its names") {
    struct command_case {
        std::vector<std::string> words;
        std::string call, says;
    };
    const std::vector<command_case> cases = {
        {{"status"}, "status", "cluster cccccccc"},
        {{"events"}, "events 50", "SUBJECT"},
        {{"events", "-n", "7"}, "events 7", "SUBJECT"},
        {{"node", "ls"}, "nodes", "LEASE"},
        {{"node", "list"}, "nodes", "LEASE"},
        {{"drive", "ls"}, "drives", "SERVING"},
        {{"drive", "list"}, "drives", "SERVING"},
        {{"drive", "add", "/srv/disk"}, "add_drive /srv/disk", "drive d1d1d1d1-1111-4111-8111-111111111111 added"},
        {{"drive", "create", "/srv/disk"}, "add_drive /srv/disk", "added: /srv/disk"},
        {{"drive", "add", "/dev/sdc", "--erase", "ext4:ab"}, "add_drive /dev/sdc erase ext4:ab", "added"},
        {{"drive", "inspect", "d3d3"}, "drives", "/dev/sdb, 1 TiB, ST2000NM0055 ZC20ABCD"},
        {{"drive", "rm", "d1d1"}, "remove_drive d1d1", "drive d1d1 removed"},
        {{"drive", "delete", "/srv/disk"}, "remove_drive /srv/disk", "removed"},
        {{"volume", "ls"}, "list", "HEALTH"},
        {{"volume", "list"}, "list", "HEALTH"},
        {{"volume", "create", "new", "--size", "1g", "--replicas=3", "--fs", "xfs", "--min-replicas", "2", "--opt",
          "x=y=z"},
         "create new fs=xfs min-replicas=2 replicas=3 size=1g x=y=z",
         "volume new created, 10 GiB"},
        {{"volume", "add", "new"}, "create new", "created"},
        {{"volume", "inspect", "db"}, "inspect db", "extent 0"},
        {{"volume", "show", "db"}, "inspect db", "extent 0"},
        {{"volume", "info", "db"}, "inspect db", "127.0.0.2:7480"},
        {{"volume", "rm", "db"}, "remove db", "volume db removed"},
        {{"volume", "delete", "db"}, "remove db", "volume db removed"},
        {{"volume", "set", "db", "on-full=fail", "resync-rate=50m"},
         "set db on-full=fail resync-rate=50m",
         "volume db changed: thin, checksums on, on-full hold, resync-rate 0 (no limit), scrub-every never, "
         "min-replicas 1"},
        {{"volume", "create", "new", "--provisioning", "thick", "--checksums=off", "--on-full", "fail", "--resync-rate",
          "1m", "--scrub-every", "7d", "--encrypt", "on"},
         "create new checksums=off encrypt=on on-full=fail provisioning=thick resync-rate=1m scrub-every=7d",
         "volume new created"},
        {{"volume", "scrub", "db"}, "scrub db", "scrub 1 of volume db is asked for"},
        {{"volume", "grow", "db", "--size", "20g"}, "grow db 20g", "volume db has 20 GiB from now on"},
        {{"volume", "attach", "db"}, "attach db", "attached with epoch 8: nbd+unix:"},
        {{"volume", "attach", "--force", "db"}, "attach db force", "epoch 8"},
        {{"volume", "detach", "db"}, "detach db", "volume db detached"},
        {{"volume", "restart", "db"}, "restart db", "volume db goes on over another volume server, epoch 9"},
        {{"volume", "restart", "--all"}, "restart db", "volume db goes on over another volume server, epoch 9"},
        {{"volume", "repair", "db"}, "repair db", "volume db: replica 1 on node n2 is replaced by replica 2"},
        {{"volume", "recover", "db", "--from", "1111"}, "recover db 1111", "volume db: goes on from replica 1111"},
        {{"volume", "recover", "db", "--from=1111", "--accept-data-loss"}, "recover db 1111 accepted", "goes on"},
        {{"node", "forget", "n2"}, "forget n2", "node n2: forgotten, 1 of its drives left the pool"},
        {{"node", "forget", "n2", "--force"}, "forget n2 force", "node n2"},
    };
    for (const auto& [its_words, wanted_call, says] : cases) {
        const auto& words = its_words;  // clang 14 cannot capture a structured binding
        CAPTURE(words);
        fake_service served;
        served.volumes.emplace("db", sample_volume("db"));
        const typed seen = type(served, words);
        CHECK(seen.code == 0);
        CHECK(seen.err.empty());
        CHECK(seen.out.find(says) != std::string::npos);
        const auto calls = served.calls();
        CHECK(std::find(calls.begin(), calls.end(), wanted_call) != calls.end());
    }
}

// Bug guarded against: Boost.Program_options replaced the placeholder in its error text by itself, for ever.
TEST_CASE("cli_run: a placeholder of the option parser in an option is refused, not replaced for ever") {
    for (const char* word : {"--%canonical_option%", "--size=%value%", "-%prefix%", "--force=%original_token%"}) {
        const parsed_line line = parse_line({"volume", "create", "db", word});
        CHECK_MESSAGE(line.problem.find("between two '%'") != std::string::npos, line.problem);
    }
    CHECK(parse_line({"volume", "ls", "--socket", "/run/50%/a_%/x.sock"}).run.has_value());
}

TEST_CASE("cli_run: -o json prints weftd's answer as one document, wherever the option stands") {
    for (const std::vector<std::string>& words :
         {std::vector<std::string>{"-o", "json", "volume", "inspect", "db"},
          {"volume", "inspect", "db", "-o", "json"},
          {"volume", "--output=json", "inspect", "db"},
          {"--timeout", "5", "volume", "-ojson", "inspect", "--socket", "/x", "db"}}) {
        CAPTURE(words);
        fake_service served;
        served.volumes.emplace("db", sample_volume("db"));
        const typed seen = type(served, words);
        CHECK(seen.code == 0);
        CHECK(boost::json::parse(seen.out).at("name") == "db");
        CHECK(served.calls() == std::vector<std::string>{"inspect db"});
    }
    fake_service served;
    for (const char* group : {"node", "drive", "volume"})
        CHECK(boost::json::parse(type(served, {"-o", "json", group, "ls"}).out).is_array());
    CHECK(boost::json::parse(type(served, {"-o", "json", "volume", "create", "x"}).out).at("name") == "x");
    CHECK(boost::json::parse(type(served, {"-o", "json", "volume", "rm", "x"}).out).at("removed") == "x");
}

TEST_CASE("cli_run: every refusal of weftd has its exit status and its text on standard error") {
    const std::vector<std::pair<errc, int>> table = {
        {errc::invalid_argument, 1}, {errc::not_found, 4},   {errc::already_exists, 6}, {errc::busy, 5},
        {errc::no_space, 1},         {errc::io_failed, 1},   {errc::corrupt, 1},        {errc::stale_epoch, 1},
        {errc::no_quorum, 7},        {errc::unavailable, 7}, {errc::timed_out, 7},      {errc::outcome_unknown, 7},
        {errc::unsupported, 1},      {errc::conflict, 7},    {errc::shutting_down, 7}};
    for (const auto& [its_code, exit] : table) {
        const auto& code = its_code;  // clang 14 cannot capture a structured binding
        CAPTURE(to_string(code));
        fake_service served;
        served.failures["remove"] = {code, "volume 'db' is what it is"};
        const typed seen = type(served, {"volume", "rm", "db"});
        CHECK(seen.code == exit);
        CHECK(seen.err == "weft: volume 'db' is what it is\n");
        CHECK(seen.out.empty());
    }
}

TEST_CASE("cli_run: a weftd that cannot be asked, or speaks nonsense, is told apart from a refusal") {
    const invocation command = *parse_line({"status"}).run;
    std::string complaint;
    surroundings world;
    world.err = [&](std::string_view text) { complaint += text; };
    world.ask = [](const http_request&) { return result<http_response>(error{errc::unavailable, "nobody there"}); };
    CHECK(run(command, world) == exit_unreachable);
    world.ask = [](const http_request&) { return result<http_response>(error{errc::outcome_unknown, "closed"}); };
    CHECK(run(command, world) == exit_not_now);
    world.ask = [](const http_request&) {
        return result<http_response>(http_response{200, "text/html", "<html>", false});
    };
    CHECK(run(command, world) == exit_refused);
    world.ask = [](const http_request&) { return result<http_response>(http_response{500, "", "{}", false}); };
    CHECK(run(command, world) == exit_refused);
    CHECK(complaint ==
          "weft: nobody there\nweft: closed\nweft: weftd answered 200 with something that is not JSON\n"
          "weft: weftd refused with HTTP status 500 and no reason\n");
}

TEST_CASE("cli_run: wrong command lines are named, exit 2 and ask nothing") {
    struct bad_case {
        std::vector<std::string> words;
        std::string says;
    };
    const std::vector<bad_case> cases = {
        {{}, "say what to do, for example 'weft status' or 'weft volume ls'"},
        {{""}, "there is no command ''"},
        {{"--frobnicate"}, "unknown option '--frobnicate' and no command"},
        {{"frobnicate"}, "there is no command 'frobnicate'\nSee 'weft --help'."},
        {{"volume"}, "say what to do with a volume\nSee 'weft volume --help'."},
        {{"volume", "frobnicate"}, "there is no command 'volume frobnicate'"},
        {{"volume", "lsx"}, "there is no command 'volume lsx'"},
        {{"volume", "create"}, "weft volume create: NAME is missing\nSee 'weft volume create --help'."},
        {{"volume", "create", ""}, "NAME is empty"},
        {{"volume", "create", "a", "b"}, "there is nothing to do with 'b'"},
        {{"volume", "create", "a", "--sise", "1g"}, "unrecognised option '--sise'"},
        {{"volume", "create", "a", "--siz", "1g"}, "unrecognised option '--siz'"},
        {{"volume", "create", "a", "--size"}, "'--size'"},
        {{"volume", "create", "a", "--size", "1g", "--size", "2g"}, "--size"},
        {{"volume", "create", "a", "--size", "1g", "--opt", "size=2g"}, "option 'size' is given twice"},
        {{"volume", "create", "a", "--opt", "novalue"}, "--opt 'novalue' is not of the form KEY=VALUE"},
        {{"volume", "create", "a", "--opt", "=x"}, "--opt '=x' is not of the form KEY=VALUE"},
        {{"volume", "create", "\xff"}, "NAME is not UTF-8 text"},
        {{"volume", "restart"}, "weft volume restart: NAME is missing"},
        {{"volume", "restart", "--all", "db"}, "there is nothing to do with 'db'"},
        {{"volume", "detach", "db", "--all"}, "unrecognised option '--all'"},
        {{"volume", "ls", "extra"}, "there is nothing to do with 'extra'"},
        {{"volume", "ls", "--force"}, "unrecognised option '--force'"},
        {{"volume", "attach", "db", "--watch"}, "unrecognised option '--watch'"},
        {{"volume", "show", "db", "--watch", "-o", "json"}, "--watch draws for people"},
        {{"drive", "add"}, "PATH is missing"},
        {{"drive", "rm"}, "ID is missing"},
        {{"drive", "add", "/dev/sdc", "--erase", ""}, "--erase is empty"},
        {{"volume", "grow", "db", "--size", ""}, "--size is empty"},
        {{"volume", "recover", "db", "--from", ""}, "--from is empty"},
        {{"--socket", "", "status"}, "--socket is empty"},
        {{"status", "extra"}, "there is nothing to do with 'extra'"},
        {{"events", "-n", "0"}, "-n must be a whole number from 1 to 1000, not '0'"},
        {{"events", "-n", "1e3"}, "not '1e3'"},
        {{"events", "-n", "-5"}, "-n"},
        {{"-o", "yaml", "status"}, "-o must be json or table, not 'yaml'"},
        {{"status", "-o"}, "'--output'"},
        {{"status", "--timeout", "0"}, "--timeout must be a whole number from 1 to 86400, not '0'"},
        {{"status", "--socket", ""}, "--socket"},
        {{"help", "frobnicate"}, "there is no command 'frobnicate'"},
        {{"help", "volume", "frobnicate"}, "there is no command 'volume frobnicate'"},
    };
    for (const auto& [its_words, says] : cases) {
        const auto& words = its_words;  // clang 14 cannot capture a structured binding
        CAPTURE(words);
        fake_service served;
        const typed seen = type(served, words);
        CHECK(seen.code == exit_usage);
        CHECK(seen.out.empty());
        CAPTURE(seen.err);
        CHECK(seen.err.starts_with("weft: "));
        CHECK(seen.err.find(says) != std::string::npos);
        CHECK(seen.err.find("\nSee 'weft") != std::string::npos);
        CHECK(served.calls().empty());
    }
}

TEST_CASE("cli_run: names that weftd refuses arrive there unharmed") {
    struct bad_case {
        std::string name, says;
    };
    for (const auto& [its_name, says] : std::vector<bad_case>{{"a/b", "'a/b' is not a volume name"},
                                                              {"..", "'..' is not a volume name"},
                                                              {"a\nb", "'a\\nb' is not a volume name"},
                                                              {"a%2Fb", "'a%2Fb' is not a volume name"},
                                                              {"a?b=c", "'a?b=c' is not a volume name"},
                                                              {"sch\xc3\xb6n", "a character that is not ASCII"},
                                                              {std::string(300, 'x'), "it has 300 characters"}}) {
        const auto& name = its_name;  // clang 14 cannot capture a structured binding
        CAPTURE(name);
        for (const char* command : {"create", "inspect", "rm", "attach", "detach"}) {
            CAPTURE(command);
            fake_service served;
            const typed seen = type(served, {"volume", command, "--", name});
            CHECK(seen.code == exit_refused);
            CHECK(seen.err.find(clean(says)) != std::string::npos);
            CHECK(served.calls().empty());
        }
    }
}

TEST_CASE("cli_run: restart --all asks for every volume of this node, whatever the one before it said") {
    fake_service served;
    for (const char* name : {"a", "b", "c"}) served.volumes.emplace(name, sample_volume(name));
    served.volumes["b"].record.writer = node_name{"n2"};
    served.volumes.emplace("repaired", sample_volume("repaired"));
    served.volumes["repaired"].record.maintenance = true;
    const auto restarts = [&] {
        std::vector<std::string> asked;
        for (const auto& call : served.calls())
            if (call.starts_with("restart")) asked.push_back(call);
        return asked;
    };
    const typed seen = type(served, {"volume", "restart", "--all"});
    CHECK(seen.code == exit_done);
    CHECK(restarts() == std::vector<std::string>{"restart a", "restart c"});
    const auto document = boost::json::parse(type(served, {"-o", "json", "volume", "restart", "--all"}).out);
    CHECK(document.as_array().size() == 2);
    CHECK(document.as_array()[1].at("restarted") == "c");

    served.failures.emplace("restart", error{errc::unsupported, "volume is attached portably"});
    const typed refused = type(served, {"volume", "restart", "--all"});
    CHECK(refused.code == exit_refused);
    CHECK(refused.err == "weft: volume is attached portably\nweft: volume is attached portably\n");
    CHECK(restarts().size() == 6);

    fake_service idle;
    CHECK(type(idle, {"volume", "restart", "--all"}).out == "no volume is attached on this node\n");
}

TEST_CASE("cli_run: --help at every level, as golden files") {
    fake_service served;
    check_golden("cli_help.txt", type(served, {"--help"}).out);
    check_golden("cli_help_volume.txt", type(served, {"volume", "--help"}).out);
    check_golden("cli_help_volume_create.txt", type(served, {"volume", "create", "--help"}).out);
    check_golden("cli_manual.txt", type(served, {"help"}).out);
    CHECK(type(served, {"help", "volume", "create"}).out == type(served, {"volume", "create", "-h"}).out);
    CHECK(type(served, {"help", "volume"}).out == type(served, {"volume", "--help"}).out);
    CHECK(type(served, {"status", "--help"}).out.find("Usage: weft status\n") == 0);
    CHECK(type(served, {"volume", "rm", "x", "--help"}).out.find("Usage: weft volume rm NAME") == 0);
    CHECK(type(served, {"--version"}).out == "weft " WEFT_VERSION "\n");
    CHECK(served.calls().empty());
}

TEST_CASE("cli_run: a watch draws over itself on a terminal and ends when all is up to date") {
    fake_service served;
    served.volumes.emplace("db", sample_resync("db"));
    int looks = 0;
    const typed seen = type(served, {"volume", "show", "db", "--watch"}, 60, [&] {
        auto& slot = served.volumes["db"].live_extents[0].slots[1];
        slot.resync_done_bytes += gib;
        slot.resync_copied_bytes += gib;
        if (++looks == 3) served.volumes["db"] = sample_volume("db");
    });
    CHECK(seen.code == 0);
    CHECK(looks == 3);
    std::size_t redraws = 0;
    for (std::size_t at = seen.out.find("A\r\x1b[J"); at != std::string::npos; at = seen.out.find("A\r\x1b[J", at + 1))
        ++redraws;
    CHECK(redraws == 3);
    std::size_t begin = 0;
    for (std::size_t end = seen.out.find('\n'); end != std::string::npos; end = seen.out.find('\n', begin)) {
        std::string line = seen.out.substr(begin, end - begin);
        if (const auto erased = line.find("\x1b[J"); erased != std::string::npos) line.erase(0, erased + 3);
        CHECK(width_of(line) <= 60);
        begin = end + 1;
    }
}

TEST_CASE("cli_run: a watch into a pipe writes a line for every change") {
    fake_service served;
    served.volumes.emplace("db", sample_resync("db"));
    int looks = 0;
    const typed seen = type(served, {"volume", "show", "db", "-w"}, 0, [&] {
        ++looks;
        if (looks == 2) {
            served.volumes["db"].live_extents[0].slots[1].resync_done_bytes += gib;
            served.volumes["db"].live_extents[0].slots[1].resync_copied_bytes += gib;
        }
        if (looks == 4) served.volumes["db"] = sample_volume("db");
    });
    CHECK(seen.code == 0);
    check_golden("cli_watch_lines.txt", seen.out);
}

TEST_CASE("cli_run: a watch outlives a short absence of weftd, not a missing volume") {
    fake_service served;
    served.volumes.emplace("db", sample_resync("db"));
    int looks = 0;
    const auto seen = type(served, {"volume", "show", "db", "--watch"}, 0, [&] {
        ++looks;
        if (looks == 1) served.failures["inspect"] = {errc::unavailable, "the store is away"};
        if (looks == 10) {
            served.failures.clear();
            served.volumes["db"] = sample_volume("db");
        }
    });
    CHECK(seen.code == 0);
    CHECK(looks == 10);
    served.failures["inspect"] = {errc::unavailable, "the store is away"};
    CHECK(type(served, {"volume", "show", "db", "--watch"}).code == exit_not_now);
    served.failures.clear();
    CHECK(type(served, {"volume", "show", "nope", "--watch"}).code == exit_not_found);
    served.volumes["db"] = sample_resync("db");
    looks = 0;
    const auto gave_up = type(served, {"volume", "show", "db", "--watch"}, 0, [&] {
        ++looks;
        served.failures["inspect"] = {errc::unavailable, "the store is away"};
    });
    CHECK(gave_up.code == exit_not_now);
    CHECK(looks == 61);
}

TEST_CASE("cli_run: set wants a name and at least one pair, each of the form KEY=VALUE, none twice") {
    const std::pair<std::vector<std::string>, const char*> cases[] = {
        {{"volume", "set"}, "is missing"},
        {{"volume", "set", "db"}, "KEY=VALUE is missing"},
        {{"volume", "set", "db", "on-full"}, "'on-full' is not of the form KEY=VALUE"},
        {{"volume", "set", "db", "=hold"}, "'=hold' is not of the form KEY=VALUE"},
        {{"volume", "set", "db", "on-full=hold", "on-full=fail"}, "option 'on-full' is given twice"},
    };
    for (const auto& row : cases) {
        const auto& says = row.second;
        CAPTURE(says);
        fake_service served;
        const typed seen = type(served, row.first);
        CHECK(seen.code == exit_usage);
        CHECK_MESSAGE(seen.err.find(says) != std::string::npos, seen.err);
        CHECK(served.calls().empty());
    }
}

TEST_CASE("cli_run: scrub --wait shows how far it is, each percent once, and ends with the report") {
    fake_service served;
    auto& volume = served.volumes.emplace("db", sample_volume("db")).first->second;
    int looks = 0;
    const typed seen = type(served, {"volume", "scrub", "db", "--wait"}, 0, [&] {
        auto& scrub = volume.live_extents[0].scrub;
        scrub.serial = 1;
        scrub.running = true;
        scrub.done_bytes = ++looks >= 3 ? 6 * gib : 3 * gib;
        if (looks < 5) return;
        volume.record.scrub_finished = 1;
        volume.record.scrub_report = "10 GiB compared, no difference";
    });
    CHECK(seen.code == 0);
    CHECK(seen.err.empty());
    CHECK(seen.out ==
          "db: scrub 1, not begun, or not known here\ndb: scrub 1, 30 %\ndb: scrub 1, 60 %\n"
          "scrub 1 of volume db: 10 GiB compared, no difference\n");
}

TEST_CASE("cli_run: scrub --wait prints the volume as one document with -o json, and fails when it goes away") {
    fake_service served;
    auto& volume = served.volumes.emplace("db", sample_volume("db")).first->second;
    const typed seen =
        type(served, {"-o", "json", "volume", "scrub", "db", "--wait"}, 0, [&] { volume.record.scrub_finished = 1; });
    CHECK(seen.code == 0);
    CHECK(boost::json::parse(seen.out).at("scrub_finished") == 1);
    volume.record.scrub_finished = 0;
    const typed gone = type(served, {"volume", "scrub", "db", "--wait"}, 0, [&] { served.volumes.clear(); });
    CHECK(gone.code == exit_not_found);
}
