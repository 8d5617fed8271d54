// SPDX-License-Identifier: Apache-2.0
#include "nbd-backend/io/replica_server.hpp"

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
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

namespace {

struct served_drive {
    served_drive() {
        REQUIRE(init_drive(path, {drive_id{make_uuid()}, make_uuid(), node_name{"n1"}}).has_value());
        REQUIRE(create_replica(path, {id, volume_id{make_uuid()}, 8 * mib, true}).has_value());
        restart();
    }
    void restart(const std::string& boot_id = "boot-1") {
        server = std::make_unique<replica_server>(path, boot_id, [](const std::string&) {});
    }
    [[nodiscard]] core::replica_meta stored() const {
        const auto file = replica_file::open(path, id);
        REQUIRE(file.has_value());
        return file->meta();
    }
    std::unique_ptr<replica_connection> open(std::uint64_t epoch, std::uint64_t session) {
        auto opened = server->open(fmt::format("{}/{}/{}", id.str(), epoch, session));
        REQUIRE(opened.has_value());
        return std::move(*opened);
    }
    std::unique_ptr<replica_connection> open_map(std::uint64_t epoch, std::uint64_t session) {
        auto opened = server->open(fmt::format("{}/{}/{}/dirty", id.str(), epoch, session));
        REQUIRE(opened.has_value());
        return std::move(*opened);
    }
    test::temp_dir made;
    std::string path = made.path().string();
    replica_id id{make_uuid()};
    std::unique_ptr<replica_server> server;
};

/// What an export's extents say, as (length, hole).
std::vector<std::pair<std::uint64_t, bool>> extents_of(replica_connection& connection, std::uint64_t offset,
                                                       std::uint64_t length) {
    std::vector<std::pair<std::uint64_t, bool>> found;
    REQUIRE(connection.extents(offset, length, [&](const file_extent& extent) {
        found.emplace_back(extent.length, extent.hole);
        return true;
    }) == 0);
    return found;
}

const std::vector<std::byte> block(block_bytes, std::byte{0x5a});

/// The boot id that a connection was told of the last change; "-" for none.
std::string told_prior(const replica_connection& connection) {
    const auto& text = connection.description();
    return text.substr(text.find(" prior=") + 7);
}

}  // namespace

TEST_CASE("replica_server: a stale connection is refused every request, the current one is served") {
    served_drive drive;
    const auto old = drive.open(1, 1);
    CHECK(old->write(block, 0, false) == 0);
    const auto current = drive.open(2, 1);
    std::vector<std::byte> buffer(block_bytes);
    CHECK(old->write(block, 0, false) == ESHUTDOWN);
    CHECK(old->read(buffer, 0) == ESHUTDOWN);
    CHECK(old->zero(0, block_bytes, false, false) == ESHUTDOWN);
    CHECK(old->flush() == ESHUTDOWN);
    CHECK(old->extents(0, block_bytes, [](const file_extent&) noexcept { return true; }) == ESHUTDOWN);
    CHECK(current->read(buffer, 0) == 0);
    CHECK(buffer == block);
    CHECK(current->flush() == 0);
}

TEST_CASE("replica_server: a higher key waits for a request of a lower one and no longer") {
    served_drive drive;
    const auto old = drive.open(1, 1);
    std::unique_ptr<replica_connection> next;
    std::atomic<bool> joined{false};
    std::atomic<bool> fenced_while_inside{false}, joined_while_inside{false};
    std::thread opener;
    // The callback runs inside of an admitted request.
    const int problem = old->extents(0, 8 * mib, [&](const file_extent&) noexcept {
        opener = std::thread([&] {
            next = drive.open(2, 1);
            joined = true;
        });
        while (old->flush() != ESHUTDOWN) std::this_thread::yield();
        fenced_while_inside = true;
        joined_while_inside = joined.load();
        return false;
    });
    opener.join();
    CHECK(problem == 0);
    CHECK(fenced_while_inside.load());
    CHECK(!joined_while_inside.load());
    CHECK(next->flush() == 0);
}

TEST_CASE("replica_server: the epoch is durable when the open returns, the session is remembered without connections") {
    served_drive drive;
    drive.open(5, 2).reset();
    CHECK(drive.open(5, 1)->flush() == ESHUTDOWN);
    CHECK(replica_file::open(drive.path, drive.id)->meta().epoch == 5);
    drive.restart();
    CHECK(drive.open(4, 9)->flush() == ESHUTDOWN);
    CHECK(drive.open(5, 1)->flush() == 0);
}

TEST_CASE("replica_server: a fencing without a change does not hide a restart") {
    served_drive drive;
    CHECK(told_prior(*drive.open(1, 1)) == "-");
    {
        const auto writer = drive.open(2, 1);
        CHECK(told_prior(*writer) == "-");
        CHECK(writer->write(block, 0, false) == 0);
    }
    drive.restart("boot-2");
    // Writers come, learn of the restart and die; reads and flushes of theirs are no changes.
    for (std::uint64_t epoch = 3; epoch < 6; ++epoch) {
        const auto writer = drive.open(epoch, 1);
        std::vector<std::byte> buffer(block_bytes);
        CHECK(writer->read(buffer, 0) == 0);
        CHECK(writer->flush() == 0);
        CHECK(told_prior(*writer) == "boot-1");
        CHECK(told_prior(*drive.open(epoch - 1, 9)) == "boot-1");  // fenced, and told the same
    }
    CHECK(drive.stored().change_boot_id == "boot-1");
    const auto writer = drive.open(6, 1);
    CHECK(told_prior(*writer) == "boot-1");
    CHECK(writer->zero(0, block_bytes, false, false) == 0);
    CHECK(told_prior(*writer) == "boot-1");  // as it was when this connection was opened
    CHECK(told_prior(*drive.open(6, 1)) == "boot-2");
    CHECK(drive.stored().change_boot_id == "boot-2");
    CHECK(drive.stored().epoch == 6);
}

TEST_CASE("replica_server: first changes that meet store the boot id once, later ones never again") {
    served_drive drive;
    auto writer = drive.open(1, 1);
    const auto before = drive.stored().generation;
    std::vector<std::thread> threads;
    std::atomic<int> failures{0};
    for (std::uint64_t i = 0; i < 6; ++i)
        threads.emplace_back([&, i] {
            for (int n = 0; n < 20; ++n)
                if (writer->write(block, i * block_bytes, false) != 0) ++failures;
        });
    for (auto& thread : threads) thread.join();
    CHECK(failures.load() == 0);
    CHECK(drive.stored().generation == before + core::meta_slots);
    writer = drive.open(1, 2);
    CHECK(writer->write(block, 0, false) == 0);
    writer.reset();
    drive.restart();  // under the same kernel
    CHECK(drive.open(1, 1)->write(block, 0, false) == 0);
    CHECK(drive.stored().generation == before + core::meta_slots);
    CHECK(drive.stored().change_boot_id == "boot-1");
}

TEST_CASE("replica_server: what is refused is no change") {
    served_drive drive;
    const auto old = drive.open(1, 1);
    const auto writer = drive.open(2, 1);
    CHECK(old->write(block, 0, false) == ESHUTDOWN);
    CHECK(writer->write(block, 512, false) == EINVAL);
    CHECK(writer->write(block, 8 * mib, false) == ENOSPC);
    CHECK((*drive.server->open(drive.id.str()))->zero(0, block_bytes, false, false) == EPERM);
    CHECK(drive.stored().change_boot_id.empty());
}

TEST_CASE("replica_server: a boot id that cannot be stored fails the replica before a byte is changed") {
    served_drive drive;
    auto writer = drive.open(1, 1);
    REQUIRE(drive.stored().generation % 2 ==
            0);  // so slot 1 is the next, behind the limit; the data's block is before it
    int first = 0;
    {
        const test::file_size_limit limit(core::meta_slot_bytes);
        first = writer->write(block, 0, false);
    }
    CHECK(first == EIO);
    std::vector<std::byte> buffer(block_bytes);
    CHECK(writer->write(block, 0, false) == EIO);
    CHECK(writer->read(buffer, 0) == EIO);
    CHECK(writer->flush() == EIO);
    CHECK(drive.server->open(drive.id.str() + "/2/1").has_error());
    writer.reset();
    CHECK(drive.server->open(drive.id.str()).has_error());
    drive.restart();
    CHECK(drive.stored().epoch == 1);
    const auto again = drive.open(1, 1);
    CHECK(again->read(buffer, 0) == 0);
    CHECK(buffer == std::vector<std::byte>(block_bytes));
    CHECK(again->write(block, 0, false) == 0);
    CHECK(drive.stored().change_boot_id == "boot-1");
}

TEST_CASE("replica_server: the map shows what changed, clears whole regions only, and a look only looks") {
    using extents = std::vector<std::pair<std::uint64_t, bool>>;
    constexpr auto half = core::region_bytes_default;  // of the replica
    served_drive drive;
    const auto writer = drive.open(1, 1);
    const auto map = drive.open_map(1, 1);
    CHECK(map->size_bytes() == 8 * mib);
    CHECK(map->description() == writer->description());
    CHECK(extents_of(*map, 0, 8 * mib) == extents{{8 * mib, true}});
    CHECK(writer->write(block, half - block_bytes, false) == 0);
    CHECK(extents_of(*map, 0, 8 * mib) == extents{{half, false}, {half, true}});
    CHECK(extents_of(*map, block_bytes, half) == extents{{half - block_bytes, false}, {block_bytes, true}});
    std::vector<std::byte> read(2 * block_bytes);
    CHECK(map->read(read, half - block_bytes) == 0);
    CHECK(read[block_bytes - 1] == std::byte{0xff});
    CHECK(read[block_bytes] == std::byte{0});
    CHECK(map->write(block, 0, false) == EPERM);
    CHECK(map->zero(0, block_bytes, false, false) == EPERM);
    const auto look = drive.server->open(drive.id.str() + "/dirty");
    REQUIRE(look.has_value());
    CHECK(extents_of(**look, 0, 8 * mib) == extents{{half, false}, {half, true}});
    CHECK((*look)->trim(0, 8 * mib, false) == EPERM);
    CHECK((*look)->flush() == EPERM);
    CHECK(writer->zero(half, block_bytes, false, false) == 0);
    CHECK(map->trim(0, 8 * mib - block_bytes, false) == 0);
    CHECK(extents_of(*map, 0, 8 * mib) == extents{{half, true}, {half, false}});
    CHECK(map->trim(half, half, true) == 0);
    CHECK(extents_of(**look, 0, 8 * mib) == extents{{8 * mib, true}});
    CHECK(writer->trim(block_bytes, block_bytes, false) == 0);
    CHECK(extents_of(*map, 0, 8 * mib) == extents{{half, false}, {half, true}});
    CHECK(map->trim(0, 9 * mib, false) == EINVAL);
}

TEST_CASE("replica_server: a map is fenced and fences like the data of its key") {
    served_drive drive;
    const auto old = drive.open_map(1, 1);
    CHECK(old->flush() == 0);
    const auto next = drive.open_map(2, 1);
    CHECK(old->trim(0, 8 * mib, false) == ESHUTDOWN);
    CHECK(old->flush() == ESHUTDOWN);
    CHECK(old->write(block, 0, false) == ESHUTDOWN);
    CHECK(old->extents(0, 8 * mib, [](const file_extent&) { return true; }) == ESHUTDOWN);
    CHECK(drive.open_map(1, 9)->trim(0, 8 * mib, false) == ESHUTDOWN);
    CHECK(drive.open(1, 9)->flush() == ESHUTDOWN);
    CHECK(drive.stored().epoch == 2);
    CHECK(drive.open(2, 1)->write(block, 0, false) == 0);
    CHECK(next->trim(0, 8 * mib, false) == 0);
    CHECK(drive.stored().change_boot_id == "boot-1");
}

TEST_CASE("replica_server: requests are whole blocks inside of the replica") {
    served_drive drive;
    const auto writer = drive.open(1, 1);
    std::vector<std::byte> buffer(2 * block_bytes);
    CHECK(writer->read(std::span(buffer).first(512), 0) == EINVAL);
    CHECK(writer->write(std::span(buffer).first(block_bytes), 512, false) == EINVAL);
    CHECK(writer->read(buffer, 8 * mib - block_bytes) == EINVAL);
    CHECK(writer->write(buffer, 8 * mib - block_bytes, false) == ENOSPC);
    CHECK(writer->zero(8 * mib, block_bytes, false, false) == ENOSPC);
    CHECK(writer->zero(~std::uint64_t{0} / block_bytes * block_bytes, block_bytes, false, false) == ENOSPC);
    CHECK(writer->write(buffer, 8 * mib - 2 * block_bytes, true) == 0);
}

TEST_CASE("replica_server: many flushes at once all return, and a look never changes anything") {
    served_drive drive;
    const auto writer = drive.open(1, 1);
    std::vector<std::thread> threads;
    std::atomic<int> failures{0};
    for (int i = 0; i < 6; ++i)
        threads.emplace_back([&, i] {
            for (int n = 0; n < 30; ++n)
                if (writer->write(block, static_cast<std::uint64_t>(i) * block_bytes, n % 3 == 0) != 0 ||
                    writer->flush() != 0)
                    ++failures;
        });
    for (auto& thread : threads) thread.join();
    CHECK(failures.load() == 0);
    const auto look = drive.server->open(drive.id.str());
    REQUIRE(look.has_value());
    CHECK((*look)->write(block, 0, false) == EPERM);
    CHECK((*look)->flush() == EPERM);
    std::vector<std::byte> buffer(block_bytes);
    CHECK((*look)->read(buffer, 5 * block_bytes) == 0);
    CHECK(buffer == block);
    CHECK((*look)->description().starts_with("weft-replica v=1 status=ok boot=boot-1 epoch=1 session=1"));
}

TEST_CASE("replica_server: a removed replica is served to the end and not opened again") {
    served_drive drive;
    const auto writer = drive.open(1, 1);
    REQUIRE(remove_replica(drive.path, drive.id).has_value());
    const auto again = drive.server->open(drive.id.str() + "/1/1");
    REQUIRE(again.has_error());
    CHECK(again.error().code == errc::not_found);
    CHECK(writer->write(block, 0, true) == 0);
    CHECK(drive.server->list()->empty());
}
