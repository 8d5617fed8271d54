// SPDX-License-Identifier: Apache-2.0
// Where the kernel has no device-mapper the driver must say so; where it has, looking must work. What it does to
// devices is tested in guests (tests/vm/test_dm.py).
#include "dm-tables/io/dm_driver.hpp"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <thread>
#include <vector>

#include "dm-tables/io/dm_events.hpp"

using namespace weft;
using namespace weft::dm;

namespace {

bool has_device_mapper() {
    const int fd = ::open("/dev/mapper/control", O_RDONLY | O_CLOEXEC);
    if (fd >= 0) ::close(fd);
    return fd >= 0;
}

void check_unavailable(const error& problem) {
    CHECK(problem.code == errc::unavailable);
    CHECK(problem.text.find("device-mapper") != std::string::npos);
    const bool says_what_to_do = problem.text.find("modprobe dm-mod") != std::string::npos ||
                                 problem.text.find("root only") != std::string::npos;
    CHECK(says_what_to_do);
}

}  // namespace

TEST_CASE("dm driver: without device-mapper every call says unavailable, and what to do") {
    if (has_device_mapper()) {
        MESSAGE("skipped: this kernel has device-mapper");
        return;
    }
    struct stat before {};
    const int had = ::stat("/dev/mapper/control", &before);
    check_unavailable(driver::check_available().error());
    check_unavailable(driver::version().error());
    check_unavailable(driver::observe({}).error());
    check_unavailable(driver::apply({}).error());
    check_unavailable(driver::apply({{step::verb::remove, "weft-x", "WEFT-x", {}}}).error());
    check_unavailable(driver::make_nodes().error());
    check_unavailable(driver::info("weft-x").error());
    check_unavailable(driver::active_table("weft-x").error());
    check_unavailable(driver::status_rows("weft-x").error());
    check_unavailable(driver::dependencies("weft-x").error());
    check_unavailable(driver::message("weft-x", 0, "idle").error());
    check_unavailable(event_watch::open().error());
    check_unavailable(wait_for_event("weft-x", 0, std::chrono::milliseconds(0)).error());
    struct stat after {};
    CHECK(::stat("/dev/mapper/control", &after) == had);  // libdevmapper did not come to make a node
}

TEST_CASE("dm driver: several threads may look at once") {
    std::vector<std::thread> threads;
    std::vector<int> same(4, 0);
    const bool there = has_device_mapper();
    for (int& it : same)
        threads.emplace_back([&it, there] {
            for (int round = 0; round < 50; ++round) it += driver::version().has_value() == there;
        });
    for (std::thread& thread : threads) thread.join();
    for (const int it : same) CHECK(it == 50);
}
