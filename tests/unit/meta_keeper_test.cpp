// SPDX-License-Identifier: Apache-2.0
#include "nbd-backend/io/meta_keeper.hpp"

#include <doctest/doctest.h>
#include <fcntl.h>

#include <atomic>
#include <cerrno>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "nbd-backend/io/drive_dir.hpp"
#include "nbd-backend/io/posix_file.hpp"
#include "nbd-backend/io/replica_dir.hpp"
#include "tests/unit/file_size_limit.hpp"
#include "tests/unit/temp_dir.hpp"

using namespace weft;
using namespace weft::io;
using core::region_range;

namespace {

constexpr std::uint64_t regions = 64;

/// A replica of 64 regions whose meta is kept, and its meta file as it is on the disk.
struct kept_replica {
    kept_replica() {
        REQUIRE(init_drive(path, {drive_id{make_uuid()}, make_uuid(), node_name{"n1"}}).has_value());
        REQUIRE(
            create_replica(path, {id, volume_id{make_uuid()}, regions * core::region_bytes_default, true}).has_value());
        reopen();
    }
    void reopen(const std::string& boot_id = "boot-1") {
        keeper.reset();
        boot = boot_id;
        auto opened = replica_file::open(path, id);
        REQUIRE(opened.has_value());
        file.emplace(std::move(*opened));
        failure.emplace(report);
        keeper.emplace(*file, boot, *failure, report);
    }
    /// Opened for the first time, as by a writer.
    void enter(std::uint64_t epoch) { REQUIRE(keeper->raise_epoch(epoch).has_value()); }

    int change(region_range range) {
        const int problem = keeper->begin_change(range);
        if (problem == 0) keeper->end_change(range);
        return problem;
    }
    [[nodiscard]] std::string meta_path() const { return replica_path(path, id) + "/meta"; }
    /// Does the file say that this region is dirty?
    [[nodiscard]] bool stored_dirty(std::uint64_t region) const {
        core::bitmap_page page{};
        REQUIRE(read_at(open_file(meta_path(), O_RDONLY)->get(), page, core::bitmap_offset_bytes) == 0);
        const auto bits = core::decode_bitmap_page(page, 0);
        REQUIRE(bits.has_value());
        return (std::to_integer<unsigned>((*bits)[region / 8]) >> (region % 8) & 1U) != 0;
    }
    /// Makes it a replica as the first servers left it, which did not keep the bitmap.
    void forget_bitmap_kept() const {
        const auto fd = open_file(meta_path(), O_RDWR);
        auto meta = file->meta();
        meta.incompat = 0;
        for (int slot = 0; slot < 2; ++slot, ++meta.generation)
            REQUIRE(write_at(fd->get(), core::encode_meta(meta),
                             core::slot_of(meta.generation) * core::meta_slot_bytes) == 0);
    }

    test::temp_dir made;
    std::string path = made.path().string();
    replica_id id{make_uuid()};
    std::string boot;
    std::vector<std::string> told;
    failure_reporter report = [this](const std::string& text) { told.push_back(text); };
    std::optional<replica_file> file;
    std::optional<failure_latch> failure;
    std::optional<meta_keeper> keeper;
};

}  // namespace

TEST_CASE("meta_keeper: the first change of a region costs one sync, later ones none, whoever serves it") {
    kept_replica replica;
    replica.enter(1);
    for (int i = 0; i < 100; ++i) CHECK(replica.change({7, 8}) == 0);
    CHECK(replica.keeper->bit_syncs() == 1);
    CHECK(replica.stored_dirty(7));
    CHECK(!replica.stored_dirty(8));
    CHECK(replica.change({20, 22}) == 0);
    CHECK(replica.keeper->bit_syncs() == 2);
    CHECK(replica.change({7, 8}) == 0);
    replica.reopen();
    for (const region_range range : {region_range{7, 8}, region_range{20, 22}}) CHECK(replica.change(range) == 0);
    CHECK(replica.keeper->bit_syncs() == 0);
}

TEST_CASE("meta_keeper: changes of clean regions that come together share syncs") {
    kept_replica replica;
    replica.enter(1);
    std::atomic<int> failures{0};
    std::vector<std::thread> threads;
    for (std::uint64_t i = 0; i < 8; ++i)
        threads.emplace_back([&, i] {
            for (std::uint64_t n = 0; n < 8; ++n) {
                const auto region = (n * 29 + i * 8) % regions;
                if (replica.change({region, region + 1}) != 0 || !replica.stored_dirty(region)) ++failures;
            }
        });
    for (auto& thread : threads) thread.join();
    CHECK(failures.load() == 0);
    CHECK(replica.keeper->bit_syncs() <= 64);
    MESSAGE("syncs for " << replica.keeper->map().dirty_count() << " regions: " << replica.keeper->bit_syncs());
}

TEST_CASE("meta_keeper: a sequential writer does not wait for the disk in every region") {
    kept_replica replica;
    replica.enter(1);
    for (std::uint64_t i = 0; i < regions; ++i) CHECK(replica.change({i, i + 1}) == 0);
    CHECK(replica.keeper->bit_syncs() < 10);
}

TEST_CASE("meta_keeper: what is cleared is clean now and after a restart, and costs a sync to set again") {
    kept_replica replica;
    replica.enter(1);
    CHECK(replica.change({3, 9}) == 0);
    CHECK(replica.keeper->clear({4, 6}) == 0);
    CHECK(replica.keeper->sync() == 0);
    CHECK(!replica.keeper->map().is_dirty(4));
    CHECK(!replica.stored_dirty(5));
    replica.reopen();
    CHECK(replica.keeper->map().dirty_count() == 4);
    CHECK(replica.change({4, 5}) == 0);
    CHECK(replica.keeper->bit_syncs() == 1);
    CHECK(replica.stored_dirty(4));
}

TEST_CASE("meta_keeper: a region with a change in flight is not cleared, in memory or in the file") {
    kept_replica replica;
    replica.enter(1);
    REQUIRE(replica.keeper->begin_change({3, 4}) == 0);
    CHECK(replica.keeper->clear({0, regions}) == 0);
    CHECK(replica.keeper->map().is_dirty(3));
    CHECK(replica.stored_dirty(3));
    replica.keeper->end_change({3, 4});
    CHECK(replica.keeper->clear({0, regions}) == 0);
    CHECK(!replica.stored_dirty(3));
}

TEST_CASE("meta_keeper: a torn page counts as dirty, is told, and the next write of the page heals it") {
    kept_replica replica;
    replica.enter(1);
    {
        const auto fd = open_file(replica.meta_path(), O_RDWR);
        const std::vector<std::byte> junk(512, std::byte{0xa5});
        REQUIRE(write_at(fd->get(), junk, core::bitmap_offset_bytes + 512) == 0);
    }
    replica.reopen();
    CHECK(replica.keeper->map().dirty_count() == regions);
    REQUIRE(replica.told.size() == 1);
    CHECK(replica.told[0].find(replica.id.str()) != std::string::npos);
    CHECK(replica.told[0].find("page 0") != std::string::npos);
    CHECK(replica.change({3, 4}) == 0);
    CHECK(replica.keeper->bit_syncs() == 0);
    CHECK(replica.keeper->clear({5, 6}) == 0);
    replica.reopen();
    CHECK(replica.told.size() == 1);
    CHECK(replica.keeper->map().dirty_count() == regions - 1);
}

TEST_CASE("meta_keeper: a replica that was changed while nobody kept its bitmap is all dirty, and kept from then on") {
    for (const bool by_clear : {false, true}) {
        kept_replica replica;
        replica.enter(1);
        replica.forget_bitmap_kept();
        replica.reopen();
        CHECK(replica.keeper->map().dirty_count() == regions);
        CHECK(!replica.stored_dirty(9));  // nothing is written by looking
        CHECK(!replica.file->meta().keeps_bitmap());
        CHECK((by_clear ? replica.keeper->clear({9, 10}) : replica.change({9, 10})) == 0);
        CHECK(replica.file->meta().keeps_bitmap());
        CHECK(replica.keeper->sync() == 0);
        replica.reopen();
        CHECK(replica.file->meta().keeps_bitmap());
        CHECK(replica.keeper->map().dirty_count() == regions - (by_clear ? 1 : 0));
        CHECK(replica.file->meta().change_boot_id == (by_clear ? "" : "boot-1"));  // a clear changes no data
    }
}

TEST_CASE("meta_keeper: a replica that was never opened while nobody kept its bitmap is as it was born") {
    kept_replica replica;
    replica.forget_bitmap_kept();
    replica.reopen();
    CHECK(replica.keeper->map().dirty_count() == 0);
    replica.enter(1);
    CHECK(replica.change({9, 10}) == 0);
    CHECK(replica.file->meta().keeps_bitmap());
    replica.reopen();
    CHECK(replica.keeper->map().dirty_count() == 1);
}

TEST_CASE("meta_keeper: a bit that cannot be stored fails the replica before a byte is changed") {
    kept_replica replica;
    replica.enter(1);
    REQUIRE(replica.change({3, 4}) == 0);
    {
        const test::file_size_limit limit(core::bitmap_offset_bytes);
        CHECK(replica.change({9, 10}) == EIO);
    }
    CHECK(replica.failure->is_set());
    REQUIRE(replica.told.size() == 1);
    CHECK(replica.told[0].find("store the bitmap") != std::string::npos);
    CHECK(replica.change({9, 10}) == EIO);
    CHECK(replica.keeper->sync() == EIO);
    CHECK(replica.keeper->raise_epoch(2).has_error());
    replica.reopen();
    CHECK(replica.keeper->map().dirty_count() == 1);
    CHECK(replica.change({9, 10}) == 0);
}
