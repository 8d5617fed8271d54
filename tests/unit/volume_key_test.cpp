// SPDX-License-Identifier: Apache-2.0
// Where a volume's key comes from on a real file system, and why there is none.
#include "orchestrator/io/volume_key.hpp"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>

#include "orchestrator/io/atomic_file.hpp"
#include "tests/unit/temp_dir.hpp"

using namespace weft;

namespace {

const volume_id id("3f0a2c1e-0000-4000-8000-000000000001");
const std::string key_a(64, 'a');
const std::string key_b = std::string(31, 'b') + "\n";

struct key_place {
    test::temp_dir directory;
    daemon_options options;
    key_place() { options.key_directory = directory.path(); }

    void put(const std::string& name, const std::string& content, mode_t mode = 0400) const {
        std::ofstream(directory.file(name), std::ios::binary) << content;
        REQUIRE(::chmod(directory.file(name).c_str(), mode) == 0);
    }
    void use_command(const std::string& script) {
        put("command", "#!/bin/sh\n" + script + "\n", 0755);
        options.key_command = directory.file("command");
    }
    [[nodiscard]] result<encryption_key> read(const std::string& volume = "db") const {
        return read_volume_key(options, volume, id);
    }
    [[nodiscard]] std::string why_not(const std::string& volume = "db") const {
        const auto key = read(volume);
        REQUIRE(key.has_error());
        CHECK(key.error().code == errc::unavailable);
        return key.error().text;
    }
};

}  // namespace

TEST_CASE("volume key: the volume's file, else the default one, every byte of it") {
    const key_place place;
    CHECK(place.why_not().find("there is no key for volume 'db' on this node") != std::string::npos);
    place.put("default.key", key_a);
    CHECK(place.read()->bytes.view() == key_a);
    place.put("db.key", key_b);
    CHECK(place.read()->bytes.view() == key_b);
    CHECK(place.read()->source == "key file " + place.directory.file("db.key"));
    CHECK(place.read("other")->bytes.view() == key_a);
}

// Bug guarded against: a volume's own key that cannot be used is not replaced by the default one, which would then be
// the key of a new volume.
TEST_CASE("volume key: a file that may not be used is an error, whatever else there is") {
    const key_place place;
    place.put("default.key", key_a);
    place.put("db.key", key_b, 0440);
    CHECK(place.why_not().find("mode 0440") != std::string::npos);
    std::filesystem::remove(place.directory.file("db.key"));
    std::filesystem::create_directory(place.directory.file("db.key"));
    CHECK(place.why_not().find("not a plain file") != std::string::npos);
    std::filesystem::remove(place.directory.file("db.key"));
    REQUIRE(::mkfifo(place.directory.file("db.key").c_str(), 0400) == 0);
    CHECK(place.why_not().find("not a plain file") != std::string::npos);
    std::filesystem::remove(place.directory.file("db.key"));
    std::filesystem::create_symlink("db.key", place.directory.file("db.key"));
    CHECK(place.why_not().find("open key file") != std::string::npos);
}

TEST_CASE("volume key: empty, short and very long files are refused by their size") {
    const key_place place;
    for (const std::size_t size : {0U, 31U, 4097U, 1000000U}) {
        CAPTURE(size);
        std::filesystem::remove(place.directory.file("db.key"));
        place.put("db.key", std::string(size, 'x'));
        CHECK(place.why_not().find(size > 4096 ? "longer than 4096 bytes" : "fewer than 32") != std::string::npos);
    }
}

TEST_CASE("volume key: a directory that others may write to is refused") {
    const key_place place;
    place.put("db.key", key_a);
    REQUIRE(::chmod(place.directory.path().c_str(), 0777) == 0);
    CHECK(place.why_not().find("could put keys into it") != std::string::npos);
}

TEST_CASE("volume key: a name that is none reaches no path") {
    const key_place place;
    CHECK(place.read("../db").error().code == errc::invalid_argument);
}

TEST_CASE("volume key: the command's stdout is the key; its arguments are the volume's name and id") {
    key_place place;
    place.put("db.key", key_b);
    place.use_command("echo chatter >&2; printf '%s %s %s' \"$1\" \"$2\" $#");
    CHECK(place.read()->bytes.view() == "db " + id.str() + " 2");
    CHECK(place.read()->source == "key command " + place.directory.file("command"));
}

TEST_CASE("volume key: what a failing command says on stderr is in the error, what it said on stdout is not") {
    key_place place;
    place.use_command("echo not-for-anybody; echo 'vault is\tsealed' >&2; exit 3");
    CHECK(place.why_not().find("exit code 3: vault is\\tsealed") != std::string::npos);
    CHECK(place.why_not().find("not-for-anybody") == std::string::npos);
}

TEST_CASE("volume key: a command that gives nothing, or too much, has no key") {
    key_place place;
    place.use_command("exit 0");
    CHECK(place.why_not().find("a key of 0 bytes") != std::string::npos);
    place.use_command("exec cat /dev/zero");  // ends by itself only when nobody reads any more
    CHECK(place.why_not().find("longer than 4096 bytes") != std::string::npos);
}

TEST_CASE("volume key: a command that is no program of ours is not run") {
    key_place place;
    place.use_command("printf '%s' " + key_a);
    REQUIRE(::chmod(place.directory.file("command").c_str(), 0777) == 0);
    CHECK(place.why_not().find("others than its owner could change it") != std::string::npos);
    REQUIRE(::chmod(place.directory.file("command").c_str(), 0644) == 0);
    CHECK(place.why_not().find("is not a program") != std::string::npos);
    place.options.key_command = place.directory.file("absent");
    CHECK(place.why_not().find("look at key command") != std::string::npos);
}

TEST_CASE("secret bytes: a forked child does not have them") {
    const key_place place;
    place.put("db.key", key_a);
    const auto key = place.read();
    REQUIRE(key.has_value());
    const char first = key->bytes.view().front();
    const pid_t child = ::fork();
    if (child == 0) ::_exit(key->bytes.view().front() == 0 ? 0 : 1);
    int outcome = 0;
    REQUIRE(::waitpid(child, &outcome, 0) == child);
    CHECK(first == 'a');
    CHECK((WIFEXITED(outcome) && WEXITSTATUS(outcome) == 0));
}
