// SPDX-License-Identifier: Apache-2.0
#include "nbd-backend/io/drive_dir.hpp"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "nbd-backend/io/posix_file.hpp"
#include "tests/unit/temp_dir.hpp"

using namespace weft;
using namespace weft::io;

namespace {

struct scratch {
    test::temp_dir made;
    std::string path = made.path().string();
};

/// What a test says the drive is.
drive_identity identity(const std::string& node = "n1") {
    return {drive_id{"11111111-1111-4111-8111-111111111111"}, "22222222-2222-4222-8222-222222222222", node_name{node}};
}

/// A tmpfs over the directory; unmounted at the end. Needs root, as the plugins' tests do.
struct small_filesystem {
    small_filesystem(const std::string& where, const char* options, unsigned long flags) : path(where) {
        mounted = ::mount("none", where.c_str(), "tmpfs", flags, options) == 0;
    }
    ~small_filesystem() {
        if (mounted) (void)::umount2(path.c_str(), MNT_DETACH);
    }
    std::string path;
    bool mounted = false;
};

void write_identity(const std::string& drive, const std::string& text) {
    std::ofstream(drive + "/weft.json", std::ios::trunc) << text;
}

void check_refused(const result<drive_identity>& outcome, errc code, const std::string& text) {
    CAPTURE(text);
    REQUIRE(outcome.has_error());
    CHECK(outcome.error().code == code);
    CHECK_MESSAGE(outcome.error().text.find(text) != std::string::npos, outcome.error().text);
}

}  // namespace

TEST_CASE("drive_dir: an empty directory becomes a drive, again and again the same one") {
    const scratch dir;
    const auto first = init_drive(dir.path, identity());
    REQUIRE(first.has_value());
    CHECK(*first == identity());
    for (const char* name : {"/weft.json", "/lock", "/replicas", "/trash"}) CHECK(*exists(dir.path + name));
    auto again = identity();
    again.drive = drive_id{"33333333-3333-4333-8333-333333333333"};
    const auto second = init_drive(dir.path, again);
    REQUIRE(second.has_value());
    CHECK(second->drive == identity().drive);
    const auto read = read_drive(dir.path);
    REQUIRE(read.has_value());
    CHECK(*read == identity());
}

TEST_CASE("drive_dir: an init that was killed between its steps is finished by the next") {
    const scratch dir;
    REQUIRE(::mkdir((dir.path + "/replicas").c_str(), 0700) == 0);
    std::ofstream(dir.path + "/.weft.json.leftover") << "{\"vers";
    CHECK(read_drive(dir.path).has_error());
    REQUIRE(init_drive(dir.path, identity()).has_value());
    REQUIRE(::rmdir((dir.path + "/trash").c_str()) == 0);
    REQUIRE(init_drive(dir.path, identity()).has_value());
    CHECK(*exists(dir.path + "/trash"));
}

TEST_CASE("drive_dir: of several nodes that add one directory at the same time exactly one gets it") {
    for (int round = 0; round < 20; ++round) {
        const scratch dir;
        std::array<int, 4> won{};
        std::vector<std::thread> nodes;
        for (std::size_t i = 0; i < won.size(); ++i)
            nodes.emplace_back([&, i] {
                auto mine = identity("n" + std::to_string(i));
                mine.drive = drive_id{make_uuid()};
                const auto outcome = init_drive(dir.path, mine);
                won[i] = outcome.has_value() && *outcome == mine ? 1 : 0;
                if (outcome.has_error() && outcome.error().code != errc::busy) won[i] = 100;
            });
        for (auto& node : nodes) node.join();
        CHECK(won[0] + won[1] + won[2] + won[3] == 1);
    }
}

TEST_CASE("drive_dir: what cannot be a drive is refused, each with its own reason") {
    const scratch dir;
    check_refused(init_drive("relative/path", identity()), errc::invalid_argument, "not an absolute path");
    check_refused(init_drive("", identity()), errc::invalid_argument, "not an absolute path");
    check_refused(init_drive("/a\nb", identity()), errc::invalid_argument, "control characters");
    check_refused(init_drive("/" + std::string(5000, 'a'), identity()), errc::invalid_argument, "5001 bytes");
    check_refused(init_drive(dir.path + "/nowhere", identity()), errc::not_found, "does not exist");
    std::ofstream(dir.path + "/file") << "x";
    check_refused(init_drive(dir.path + "/file", identity()), errc::invalid_argument, "is not a directory");
    check_refused(init_drive(dir.path + "/file/below", identity()), errc::invalid_argument, "no directory");
    check_refused(read_drive(dir.path), errc::not_found, "weft drive add");
    CHECK(!*exists(dir.path + "/weft.json"));
}

TEST_CASE("drive_dir: a drive of another cluster or node is refused by name and stays what it is") {
    const scratch dir;
    REQUIRE(init_drive(dir.path, identity("n1")).has_value());
    auto stranger = identity("n1");
    stranger.cluster = "99999999-2222-4222-8222-222222222222";
    check_refused(init_drive(dir.path, stranger), errc::busy, "another cluster, " + identity().cluster);
    check_refused(init_drive(dir.path, identity("n2")), errc::busy, "belongs to node 'n1'");
    CHECK(*read_drive(dir.path) == identity("n1"));
}

TEST_CASE("drive_dir: a full or read-only file system is refused, a drive that became full is not") {
    const scratch dir;
    {
        const small_filesystem full(dir.path, "size=8m", 0);
        if (!full.mounted) {
            MESSAGE("skipped: cannot mount a tmpfs (not root?)");
            return;
        }
        check_refused(init_drive(dir.path, identity()), errc::no_space, "at least 16 MiB are needed");
        CHECK(!*exists(dir.path + "/weft.json"));
    }
    {
        const small_filesystem read_only(dir.path, "size=32m", MS_RDONLY);
        REQUIRE(read_only.mounted);
        check_refused(init_drive(dir.path, identity()), errc::invalid_argument, "is read-only");
    }
    const small_filesystem filling(dir.path, "size=32m", 0);
    REQUIRE(filling.mounted);
    REQUIRE(init_drive(dir.path, identity()).has_value());
    const auto space = measure_drive(dir.path);
    REQUIRE(space.has_value());
    CHECK(space->size_bytes == 32 * mib);
    CHECK(space->free_bytes > 31 * mib);
    const int fd = ::open((dir.path + "/ballast").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    REQUIRE(::posix_fallocate(fd, 0, static_cast<off_t>(28 * mib)) == 0);
    (void)::close(fd);
    CHECK(measure_drive(dir.path)->free_bytes < 4 * mib);
    CHECK(init_drive(dir.path, identity()).has_value());
}

TEST_CASE("drive_dir: weft.json that is damaged is corrupt, of a later version unsupported, and is never rewritten") {
    const scratch dir;
    const std::string good = encode_drive_identity(identity());
    CHECK(*decode_drive_identity(good) == identity());
    CHECK(encode_drive_identity(*decode_drive_identity(good)) == good);
    for (const std::string& text :
         {std::string(), std::string("{"), std::string("[]"), std::string("null"), good.substr(0, good.size() / 2),
          good + "x", std::string("{\"version\":\"1\"}"), std::string("{\"version\":1}"),
          std::string("{\"version\":1,\"drive\":\"x\",\"cluster\":\"y\",\"node\":\"z\"}"),
          std::string("{\"version\":1,\"drive\":7,\"cluster\":\"y\",\"node\":\"z\"}"),
          "{\"version\":1,\"drive\":\"" + identity().drive.str() + "\",\"cluster\":\"" + identity().cluster +
              "\",\"node\":\"\"}",
          std::string(10000, '['), std::string(100 * kib, ' ')}) {
        write_identity(dir.path, text);
        const auto outcome = init_drive(dir.path, identity());
        REQUIRE(outcome.has_error());
        CHECK(outcome.error().code == errc::corrupt);
        CHECK(outcome.error().text.find(dir.path) != std::string::npos);
        CHECK(*read_small_file(dir.path + "/weft.json", mib) == text);
    }
    write_identity(dir.path, "{\"version\":2}");
    check_refused(init_drive(dir.path, identity()), errc::unsupported, "version 2");
}
