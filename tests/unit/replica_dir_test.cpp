// SPDX-License-Identifier: Apache-2.0
#include "nbd-backend/io/replica_dir.hpp"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "nbd-backend/core/replica_meta.hpp"
#include "nbd-backend/io/drive_dir.hpp"
#include "nbd-backend/io/posix_file.hpp"
#include "nbd-backend/io/replica_file.hpp"
#include "tests/unit/temp_dir.hpp"

using namespace weft;
using namespace weft::io;

namespace {

/// An initialised drive that is gone at the end of the test.
struct scratch_drive {
    scratch_drive() { REQUIRE(init_drive(path, {drive_id{make_uuid()}, make_uuid(), node_name{"n1"}}).has_value()); }
    test::temp_dir made;
    std::string path = made.path().string();
};

replica_birth a_birth(std::uint64_t size = 64 * mib) {
    return {replica_id{make_uuid()}, volume_id{make_uuid()}, size, true};
}

std::uint64_t file_size(const std::string& path) {
    struct stat found {};
    REQUIRE(::stat(path.c_str(), &found) == 0);
    return static_cast<std::uint64_t>(found.st_size);
}

std::uint64_t allocated(const std::string& path) {
    struct stat found {};
    REQUIRE(::stat(path.c_str(), &found) == 0);
    return static_cast<std::uint64_t>(found.st_blocks) * 512;
}

}  // namespace

TEST_CASE("replica_dir: a replica is born sparse, of the exact size, with a meta file that needs no more room") {
    const scratch_drive drive;
    for (const std::uint64_t size : {block_bytes, 64 * mib, 3 * tib + block_bytes}) {
        auto birth = a_birth(size);
        birth.born_equal = size != 64 * mib;
        birth.checksums = size <= gib;  // 3 GiB of them are more than a test should take
        REQUIRE(create_replica(drive.path, birth).has_value());
        const auto path = replica_path(drive.path, birth.id);
        CHECK(file_size(path + "/data") == size);
        CHECK(allocated(path + "/data") == 0);
        const auto opened = replica_file::open(drive.path, birth.id);
        REQUIRE(opened.has_value());
        CHECK(opened->meta().volume == birth.volume);
        CHECK(opened->meta().epoch == 0);
        CHECK(opened->meta().born_equal == birth.born_equal);
        CHECK(file_size(path + "/meta") == core::meta_file_bytes(opened->meta()));
        CHECK(allocated(path + "/meta") >= file_size(path + "/meta"));
        if (!birth.checksums) continue;
        CHECK(file_size(path + "/sums") == size / 1024);
        CHECK(allocated(path + "/sums") >= size / 1024);
        std::array<std::byte, core::bitmap_page_bytes> page{};
        const auto fd = open_file(path + "/meta", O_RDONLY);
        REQUIRE(read_at(fd->get(), page, core::bitmap_offset_bytes) == 0);
        const auto bits = core::decode_bitmap_page(page, 0);
        REQUIRE(bits.has_value());
        CHECK(((*bits)[0] == std::byte{0}) == birth.born_equal);
    }
}

TEST_CASE("replica_dir: creating again finds it, creating it differently is refused and changes nothing") {
    const scratch_drive drive;
    const auto birth = a_birth();
    REQUIRE(create_replica(drive.path, birth).has_value());
    std::ofstream(replica_path(drive.path, birth.id) + "/data", std::ios::in | std::ios::out) << "precious";
    CHECK(create_replica(drive.path, birth).has_value());
    auto larger = birth, other = birth, added = birth, thick = birth, plain = birth;
    thick.thick = true;
    plain.checksums = false;
    larger.size_bytes += block_bytes;
    other.volume = volume_id{make_uuid()};
    added.born_equal = false;
    for (const auto& [different, what] :
         {std::pair{larger, "size"}, std::pair{other, "volume"}, std::pair{added, "birth"},
          std::pair{thick, "allocation"}, std::pair{plain, "checksums"}}) {
        const auto outcome = create_replica(drive.path, different);
        REQUIRE(outcome.has_error());
        CHECK(outcome.error().code == errc::already_exists);
        CHECK(outcome.error().text.find(what) != std::string::npos);
    }
    const auto kept = read_small_file(replica_path(drive.path, birth.id) + "/meta", mib);
    CHECK(kept.has_value());
    std::string begin(8, ' ');
    std::ifstream(replica_path(drive.path, birth.id) + "/data").read(begin.data(), 8);
    CHECK(begin == "precious");
}

TEST_CASE("replica_dir: a thick replica has all its space from birth on and reads as one hole") {
    const scratch_drive drive;
    auto birth = a_birth(8 * mib);
    birth.thick = true;
    REQUIRE(create_replica(drive.path, birth).has_value());
    CHECK(create_replica(drive.path, birth).has_value());
    const auto path = replica_path(drive.path, birth.id);
    CHECK(file_size(path + "/data") == 8 * mib);
    CHECK(allocated(path + "/data") >= 8 * mib);
    const auto opened = replica_file::open(drive.path, birth.id);
    REQUIRE(opened.has_value());
    CHECK(opened->is_thick());
    file_extent found;
    REQUIRE(opened->extent_at(0, 8 * mib, found) == 0);
    CHECK(found.hole);
    CHECK(found.length == 8 * mib);
    const std::vector<std::byte> bytes(mib, std::byte{7});
    REQUIRE(opened->write(bytes, 2 * mib) == 0);
    REQUIRE(opened->zero(2 * mib, mib / 2, false) == 0);
    std::vector<std::byte> read(mib);
    REQUIRE(opened->read(read, 2 * mib) == 0);
    CHECK(read[mib / 2 - 1] == std::byte{0});
    CHECK(read[mib / 2] == std::byte{7});
    CHECK(opened->sync() == 0);
    CHECK(allocated(path + "/data") >= 8 * mib);
    REQUIRE(opened->extent_at(0, 8 * mib, found) == 0);
    CHECK(found.hole);
    CHECK(found.length >= 2 * mib);  // what was read of it since may count as data
}

TEST_CASE("replica_dir: a thick replica that does not fit is refused with the sizes and leaves nothing behind") {
    const scratch_drive drive;
    auto birth = a_birth(4000 * tib);
    birth.thick = true;
    const auto outcome = create_replica(drive.path, birth);
    REQUIRE(outcome.has_error());
    CHECK((outcome.error().code == errc::no_space || outcome.error().os_errno == EFBIG));
    CHECK(std::filesystem::is_empty(drive.path + "/replicas"));
    birth.size_bytes = measure_drive(drive.path)->free_bytes / block_bytes * block_bytes + 100 * mib;
    const auto larger = create_replica(drive.path, birth);
    REQUIRE(larger.has_error());
    CHECK(larger.error().code == errc::no_space);
    CHECK(larger.error().text.find("takes " + render_size(birth.size_bytes) + " at once") != std::string::npos);
    CHECK(larger.error().text.find(" are free on " + drive.path) != std::string::npos);
    CHECK(std::filesystem::is_empty(drive.path + "/replicas"));
    birth.thick = false;
    CHECK(create_replica(drive.path, birth).has_value());
}

TEST_CASE("replica_dir: what a killed creation left is replaced, or taken away by a removal") {
    const scratch_drive drive;
    const auto birth = a_birth();
    const std::string unborn = drive.path + "/replicas/.tmp-" + birth.id.str();
    const auto leave = [&] {
        REQUIRE(::mkdir(unborn.c_str(), 0700) == 0);
        std::ofstream(unborn + "/data") << "half";
        std::ofstream(unborn + "/meta") << "half";
    };
    leave();
    CHECK(list_replicas(drive.path)->empty());
    REQUIRE(create_replica(drive.path, birth).has_value());
    CHECK(!*exists(unborn));
    CHECK(replica_file::open(drive.path, birth.id).has_value());
    REQUIRE(remove_replica(drive.path, birth.id).has_value());
    leave();
    REQUIRE(remove_replica(drive.path, birth.id).has_value());
    CHECK(!*exists(unborn));
}

TEST_CASE("replica_dir: killed at any instant, a creation leaves a whole replica or none, and can be repeated") {
    const scratch_drive drive;
    int born_before_kill = 0;
    for (int round = 0; round < 60; ++round) {
        const auto birth = a_birth();
        const pid_t child = ::fork();
        REQUIRE(child >= 0);
        if (child == 0) {
            for (;;) {
                (void)create_replica(drive.path, birth);
                (void)remove_replica(drive.path, birth.id);
            }
        }
        (void)::usleep(static_cast<useconds_t>(round * 197 % 10000));
        REQUIRE(::kill(child, SIGKILL) == 0);
        REQUIRE(::waitpid(child, nullptr, 0) == child);
        const auto there = list_replicas(drive.path);
        REQUIRE(there.has_value());
        for (const auto& id : *there) {
            ++born_before_kill;
            CHECK(replica_file::open(drive.path, id).has_value());
        }
        REQUIRE(create_replica(drive.path, birth).has_value());
        CHECK(replica_file::open(drive.path, birth.id).has_value());
        REQUIRE(remove_replica(drive.path, birth.id).has_value());
        CHECK(list_replicas(drive.path)->empty());
        REQUIRE(empty_trash(drive.path).has_value());
    }
    MESSAGE("killed while the replica existed: " << born_before_kill << " of 60");
    CHECK(*exists(drive.path + "/trash"));
}

TEST_CASE("replica_dir: a removal may be repeated, and finishes one that was killed") {
    const scratch_drive drive;
    const auto birth = a_birth(), neighbour = a_birth();
    REQUIRE(create_replica(drive.path, birth).has_value());
    REQUIRE(create_replica(drive.path, neighbour).has_value());
    const std::string grave = drive.path + "/trash/" + birth.id.str();
    REQUIRE(::rename(replica_path(drive.path, birth.id).c_str(), grave.c_str()) == 0);
    REQUIRE(::unlink((grave + "/data").c_str()) == 0);  // killed half-way
    CHECK(remove_replica(drive.path, birth.id).has_value());
    CHECK(!*exists(grave));
    CHECK(remove_replica(drive.path, birth.id).has_value());
    CHECK(*list_replicas(drive.path) == std::vector{neighbour.id});
    REQUIRE(::mkdir(grave.c_str(), 0700) == 0);
    CHECK(empty_trash(drive.path).has_value());
    CHECK(!*exists(grave));
}

TEST_CASE("replica_dir: a drive that is not mounted has lost nothing") {
    const auto birth = a_birth();
    for (const std::string& drive : {std::string("/nowhere"), std::string("/tmp")}) {
        const auto removed = remove_replica(drive, birth.id);
        REQUIRE(removed.has_error());
        CHECK(removed.error().code == errc::not_found);
        const auto created = create_replica(drive, birth);
        REQUIRE(created.has_error());
        CHECK(created.error().code == errc::not_found);
        CHECK(list_replicas(drive).error().code == errc::not_found);
    }
}

TEST_CASE("replica_dir: bad ids and sizes are refused before anything is touched") {
    const scratch_drive drive;
    for (const char* id : {"", "..", "../x", "a/b", "3F0A2C1E-0B4D-4C7E-9A55-00D1E2F3A4B5"}) {
        auto birth = a_birth();
        birth.id = replica_id{id};
        CHECK(create_replica(drive.path, birth).error().code == errc::invalid_argument);
        CHECK(remove_replica(drive.path, replica_id{id}).error().code == errc::invalid_argument);
        CHECK(replica_file::open(drive.path, replica_id{id}).error().code == errc::invalid_argument);
    }
    for (const std::uint64_t size : {std::uint64_t{0}, std::uint64_t{1}, block_bytes + 512, ~std::uint64_t{0}})
        CHECK(create_replica(drive.path, a_birth(size)).error().code == errc::invalid_argument);
    CHECK(list_replicas(drive.path)->empty());
}

TEST_CASE("replica_dir: other names on a drive are no replicas") {
    const scratch_drive drive;
    for (const char* name : {".tmp-x", "lost+found", "notes"})
        REQUIRE(::mkdir((drive.path + "/replicas/" + name).c_str(), 0700) == 0);
    CHECK(list_replicas(drive.path)->empty());
}

TEST_CASE("replica_dir: a replica in another's place is corrupt") {
    const scratch_drive drive;
    const auto one = a_birth();
    REQUIRE(create_replica(drive.path, one).has_value());
    const replica_id two{make_uuid()};
    REQUIRE(::rename(replica_path(drive.path, one.id).c_str(), replica_path(drive.path, two).c_str()) == 0);
    const auto opened = replica_file::open(drive.path, two);
    REQUIRE(opened.has_error());
    CHECK(opened.error().code == errc::corrupt);
    CHECK(opened.error().text.find(one.id.str()) != std::string::npos);
}
