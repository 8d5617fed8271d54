// SPDX-License-Identifier: Apache-2.0
#include "nbd-backend/io/space_guard.hpp"

#include <doctest/doctest.h>

using namespace weft;
using namespace weft::io;

namespace {

/// A file system of 100 GiB, so with 256 MiB in reserve, that counts how often it is looked at.
struct fake_drive {
    std::uint64_t above_reserve = 0;
    int looks = 0;
    bool broken = false;
    space_guard guard{[this]() -> result<drive_space> {
        ++looks;
        if (broken) return error{errc::io_failed, "gone"};
        return drive_space{100 * gib, 256 * mib + above_reserve};
    }};
};

}  // namespace

TEST_CASE("space_guard: 2 % are kept free, but never more than 256 MiB") {
    CHECK(space_reserve_bytes(gib) == gib / 50);
    CHECK(space_reserve_bytes(100 * gib) == 256 * mib);
    CHECK(space_reserve_bytes(0) == 0);
}

TEST_CASE("space_guard: with much space one look serves many writes, and is repeated before the space is used up") {
    fake_drive drive;
    drive.above_reserve = 8 * gib;
    for (int i = 0; i < 1024; ++i) CHECK(bool{drive.guard.ask(mib)});
    CHECK(drive.looks == 1);
    for (int i = 0; i < 2048; ++i) CHECK(bool{drive.guard.ask(mib)});
    CHECK(drive.looks == 2);  // a quarter of 8 GiB is the credit
    drive.above_reserve = 4000 * gib;
    for (std::uint64_t written = 0; written < 64 * gib; written += 32 * mib) CHECK(bool{drive.guard.ask(32 * mib)});
    CHECK(drive.looks >= 16);  // somebody else may write, too: at most 4 GiB without a look
}

TEST_CASE("space_guard: with little space every write looks, and one that does not fit is refused") {
    fake_drive drive;
    drive.above_reserve = 10 * mib;
    CHECK(bool{drive.guard.ask(10 * mib)});
    CHECK(!bool{drive.guard.ask(10 * mib + block_bytes)});
    CHECK(drive.looks == 2);
    drive.above_reserve = 0;
    CHECK(!bool{drive.guard.ask(block_bytes)});
    drive.above_reserve = 50 * gib;  // space came back: seen at once
    CHECK(bool{drive.guard.ask(gib)});
}

TEST_CASE("space_guard: writes that are under way share what is left") {
    fake_drive drive;
    drive.above_reserve = 10 * mib;
    {
        const auto held = drive.guard.ask(6 * mib);
        CHECK(bool{held});
        CHECK(!bool{drive.guard.ask(6 * mib)});
        CHECK(bool{drive.guard.ask(4 * mib)});
    }
    CHECK(bool{drive.guard.ask(10 * mib)});
}

TEST_CASE("space_guard: what cannot be measured is not refused") {
    fake_drive drive;
    drive.broken = true;
    CHECK(bool{drive.guard.ask(gib)});
}
