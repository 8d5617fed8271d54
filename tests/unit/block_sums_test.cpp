// SPDX-License-Identifier: Apache-2.0
#include "nbd-backend/io/block_sums.hpp"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "nbd-backend/core/block_sum.hpp"
#include "nbd-backend/io/drive_dir.hpp"
#include "nbd-backend/io/posix_file.hpp"
#include "nbd-backend/io/replica_dir.hpp"
#include "nbd-backend/io/replica_server.hpp"
#include "tests/unit/file_size_limit.hpp"
#include "tests/unit/temp_dir.hpp"

using namespace weft;
using namespace weft::io;

namespace {

constexpr std::uint64_t region = core::region_bytes_default;

/// A served replica of three regions, with a writer.
struct summed_replica {
    explicit summed_replica(bool checksums = true, bool born_equal = true) {
        REQUIRE(init_drive(path, {drive_id{make_uuid()}, make_uuid(), node_name{"n1"}}).has_value());
        replica_birth birth{id, volume_id{make_uuid()}, 3 * region};
        birth.checksums = checksums;
        birth.born_equal = born_equal;
        REQUIRE(create_replica(path, birth).has_value());
        restart();
    }
    /// As after kill -9: what is dirty stays dirty.
    void restart() {
        map.reset();
        data.reset();
        server = std::make_unique<replica_server>(path, "boot-1", [this](const std::string& text) { told += text; });
        ++epoch;
        const auto name = fmt::format("{}/{}/1", id.str(), epoch);
        auto opened = server->open(name);
        auto opened_map = server->open(name + "/dirty");
        REQUIRE(opened.has_value());
        REQUIRE(opened_map.has_value());
        data = std::move(*opened);
        map = std::move(*opened_map);
    }
    int write(std::uint64_t offset, std::byte value) {
        return data->write(std::vector<std::byte>(2 * block_bytes, value), offset, false);
    }
    int read(std::uint64_t offset) { return data->read(buffer, offset); }
    /// Asks as often as a drive of three regions may need on a busy machine.
    int clear() {
        int problem = EIO;
        for (int i = 0; i < 3 && problem == EIO; ++i) problem = map->trim(0, 3 * region, true);
        return problem;
    }
    bool is_dirty(std::uint64_t index) {
        std::vector<std::byte> seen(block_bytes);
        REQUIRE(map->read(seen, index * region) == 0);
        return seen[0] != std::byte{0};
    }
    [[nodiscard]] std::string file(const std::string& name) const { return replica_path(path, id) + "/" + name; }
    /// Changes a byte of a file behind the server's back.
    void flip(const std::string& name, std::uint64_t offset) const {
        const auto fd = open_file(file(name), O_RDWR);
        std::vector<std::byte> byte(1);
        REQUIRE(read_at(fd->get(), byte, offset) == 0);
        byte[0] ^= std::byte{0x10};
        REQUIRE(write_at(fd->get(), byte, offset) == 0);
    }
    [[nodiscard]] std::uint32_t stored_sum(std::uint64_t offset) const {
        std::vector<std::byte> bytes(core::block_sum_bytes);
        const auto at = offset / block_bytes * core::block_sum_bytes;
        REQUIRE(read_at(open_file(file("sums"), O_RDONLY)->get(), bytes, at) == 0);
        return core::load_block_sum(bytes);
    }

    test::temp_dir made;
    std::string path = made.path().string();
    replica_id id{make_uuid()};
    std::string told;
    std::uint64_t epoch = 0;
    std::unique_ptr<replica_server> server;
    std::unique_ptr<replica_connection> data, map;
    std::vector<std::byte> buffer = std::vector<std::byte>(2 * block_bytes);
};

}  // namespace

TEST_CASE("block_sums: a block of zeros has the sum 0, and FORMAT.md's examples hold") {
    std::vector<std::byte> block(block_bytes);
    CHECK(core::crc32c(block) == core::zero_block_crc);
    CHECK(core::block_sum(block) == 0);
    std::fill(block.begin(), block.end(), std::byte{'w'});
    CHECK(core::block_sum(block) == 0xF88CAB20U);
    std::vector<std::byte> stored(core::block_sum_bytes);
    core::store_block_sum(stored, 0x01020304);
    CHECK(stored[0] == std::byte{4});
    CHECK(core::load_block_sum(stored) == 0x01020304);
}

TEST_CASE("block_sums: every change leaves the sums of what is in the data") {
    summed_replica replica;
    const std::vector<std::byte> block(block_bytes, std::byte{7});
    CHECK(replica.write(region - block_bytes, std::byte{7}) == 0);
    CHECK(replica.stored_sum(region - block_bytes) == core::block_sum(block));
    CHECK(replica.stored_sum(region) == core::block_sum(block));
    CHECK(replica.stored_sum(region + block_bytes) == 0);
    CHECK(replica.data->zero(region - block_bytes, block_bytes, false, false) == 0);
    CHECK(replica.data->trim(region, block_bytes, false) == 0);
    CHECK(replica.stored_sum(region - block_bytes) == 0);
    CHECK(replica.stored_sum(region) == 0);
    CHECK(replica.read(region - block_bytes) == 0);
}

TEST_CASE("block_sums: a flipped byte is never returned to a writer, a look sees it, and writing the block heals it") {
    summed_replica replica;
    REQUIRE(replica.write(0, std::byte{7}) == 0);
    replica.flip("data", block_bytes + 100);
    CHECK(replica.read(0) == EIO);
    CHECK(replica.read(block_bytes) == EIO);
    CHECK(replica.data->read(std::span(replica.buffer).first(block_bytes), 0) == 0);
    CHECK(replica.told.find(fmt::format("replica {}: block at byte 4096: it differs", replica.id.str())) !=
          std::string::npos);
    CHECK(replica.told.find("block at byte", replica.told.find("byte 4096")) == std::string::npos);  // told once
    auto look = replica.server->open(replica.id.str());
    CHECK((*look)->read(replica.buffer, 0) == 0);
    CHECK(replica.buffer[block_bytes + 100] == std::byte{0x17});
    REQUIRE(replica.write(0, std::byte{8}) == 0);
    CHECK(replica.read(0) == 0);
    replica.flip("data", 2 * region);  // in a hole
    CHECK(replica.read(2 * region) == EIO);
    replica.flip("sums", region / 1024);
    CHECK(replica.read(region) == EIO);
}

TEST_CASE("block_sums: what was clean when the server started is verified") {
    summed_replica replica;
    REQUIRE(replica.write(0, std::byte{7}) == 0);
    REQUIRE(replica.data->flush() == 0);
    REQUIRE(replica.clear() == 0);
    replica.restart();
    CHECK(replica.read(0) == 0);
    replica.flip("data", 5);
    CHECK(replica.read(0) == EIO);
}

TEST_CASE("block_sums: a replacement is verified while it is being filled, until its server is killed") {
    summed_replica replica(true, false);
    REQUIRE(replica.is_dirty(0));
    REQUIRE(replica.write(0, std::byte{7}) == 0);
    replica.flip("data", 5);
    CHECK(replica.read(0) == EIO);
    replica.flip("data", region);
    CHECK(replica.read(region) == EIO);
    replica.restart();
    CHECK(replica.read(0) == 0);  // from the first change on, dirty at an open means unsure
    CHECK(replica.read(region) == 0);
}

TEST_CASE("block_sums: a kill between data and sums is no damage, and clearing makes the sums right again") {
    summed_replica replica;
    REQUIRE(replica.write(0, std::byte{7}) == 0);
    REQUIRE(replica.write(region, std::byte{7}) == 0);
    REQUIRE(replica.write(2 * region, std::byte{7}) == 0);
    REQUIRE(replica.map->trim(region, region, false) == 0);
    replica.flip("data", 5);         // the data of a change arrived, its sum did not
    replica.flip("sums", 2 * 4096);  // or the other way round
    replica.restart();
    CHECK(replica.read(0) == 0);
    CHECK(replica.read(2 * region) == 0);
    CHECK(replica.told.empty());
    REQUIRE(replica.clear() == 0);
    CHECK(!replica.is_dirty(0));
    for (int i = 0; i < 2; ++i) {  // by this server and the next
        CHECK(replica.read(0) == 0);
        CHECK(replica.read(region) == 0);
        CHECK(replica.read(2 * region) == 0);
        replica.restart();
    }
    replica.flip("data", 5);
    replica.flip("data", 2 * region + 5);
    CHECK(replica.read(0) == EIO);
    CHECK(replica.read(2 * region) == EIO);
}

TEST_CASE("block_sums: a region whose sums cannot be made right stays dirty and the clear says so") {
    summed_replica replica;
    REQUIRE(replica.write(0, std::byte{7}) == 0);
    REQUIRE(replica.write(region, std::byte{7}) == 0);
    replica.restart();  // both are unsure
    {
        const test::file_size_limit limit(4096);  // the sums of the second region lie behind
        CHECK(replica.map->trim(region, region, false) == EIO);
        CHECK(replica.clear() == EIO);
    }
    CHECK(replica.is_dirty(0));
    CHECK(replica.is_dirty(1));
    CHECK(replica.told.find("cannot be summed again") != std::string::npos);
    CHECK(replica.read(region) == 0);
    CHECK(replica.clear() == 0);
    CHECK(!replica.is_dirty(1));
}

TEST_CASE("block_sums: on a slow drive a clear gives up in time and the next one gets further") {
    summed_replica replica;
    for (std::uint64_t i = 0; i < 3; ++i) REQUIRE(replica.write(i * region, std::byte{7}) == 0);
    replica.map.reset();
    replica.data.reset();
    const auto file = replica_file::open(replica.path, replica.id);
    REQUIRE(file.has_value());
    core::dirty_map map(file->meta());
    map.set_all();
    const failure_reporter report = [&](const std::string& text) { replica.told += text; };
    block_sums sums(*file, map, report, std::chrono::milliseconds(0));  // the slowest drive there is
    CHECK(sums.settle({0, 3}) == EIO);
    CHECK(sums.is_sure(0));
    CHECK(!sums.is_sure(1));
    CHECK(sums.settle({0, 3}) == EIO);
    CHECK(sums.is_sure(1));
    CHECK(sums.settle({0, 3}) == 0);
    CHECK(sums.is_sure(2));
    CHECK(sums.settle({0, 3}) == 0);
    CHECK(replica.told.empty());  // no failure to tell people of
}

TEST_CASE("block_sums: after a write that failed half-way nothing is called damaged") {
    summed_replica replica;
    REQUIRE(replica.write(2 * region, std::byte{7}) == 0);
    {
        const test::file_size_limit limit(2 * region + block_bytes);
        CHECK(replica.write(2 * region, std::byte{9}) != 0);
    }
    CHECK(replica.read(2 * region) == 0);
    CHECK(replica.buffer[0] == std::byte{9});
    CHECK(replica.buffer[block_bytes] == std::byte{7});
    CHECK(replica.is_dirty(2));
    REQUIRE(replica.clear() == 0);
    replica.flip("data", 2 * region);
    CHECK(replica.read(2 * region) == EIO);
}

TEST_CASE("block_sums: without sums there is no file, and everything is passed") {
    summed_replica replica(false);
    CHECK(!*exists(replica.file("sums")));
    REQUIRE(replica.write(0, std::byte{7}) == 0);
    replica.flip("data", 5);
    CHECK(replica.read(0) == 0);
    CHECK(replica.clear() == 0);
    CHECK(!replica.is_dirty(0));
}

TEST_CASE("block_sums: a replica that lost its sums is refused, and the text names the file") {
    summed_replica replica;
    replica.map.reset();
    replica.data.reset();
    REQUIRE(::truncate(replica.file("sums").c_str(), 8) == 0);
    const auto opened = replica.server->open(replica.id.str());
    REQUIRE(opened.has_error());
    CHECK(opened.error().code == errc::corrupt);
    CHECK(opened.error().text.find("/sums is not a file of 12288 bytes but has 8") != std::string::npos);
    REQUIRE(::unlink(replica.file("sums").c_str()) == 0);
    CHECK(replica.server->open(replica.id.str()).has_error());
}
