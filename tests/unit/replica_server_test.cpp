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
    void restart() {
        server = std::make_unique<replica_server>(path, "boot-1", [](const std::string&) {});
    }
    std::unique_ptr<replica_connection> open(std::uint64_t epoch, std::uint64_t session) {
        auto opened = server->open(fmt::format("{}/{}/{}", id.str(), epoch, session));
        REQUIRE(opened.has_value());
        return std::move(*opened);
    }
    test::temp_dir made;
    std::string path = made.path().string();
    replica_id id{make_uuid()};
    std::unique_ptr<replica_server> server;
};

const std::vector<std::byte> block(block_bytes, std::byte{0x5a});

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
