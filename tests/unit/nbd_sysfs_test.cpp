// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/io/nbd_sysfs.hpp"

#include <doctest/doctest.h>

#include <fstream>
#include <map>

#include "tests/unit/temp_dir.hpp"

using namespace weft;
namespace fs = std::filesystem;

namespace {

using attributes = std::map<std::string, std::string>;

/// What the kernel shows of a device connected with two sockets.
attributes connected(const std::string& backend, int index) {
    return {{"backend", backend + "\n"},
            {"pid", "4711\n"},
            {"size", "131072\n"},
            {"dev", "43:" + std::to_string(index * 32) + "\n"}};
}

struct fake_sys {
    test::temp_dir root;

    void put(const std::string& name, const attributes& values, int queues = 2) const {
        const fs::path directory = root.path() / "block" / name;
        fs::create_directories(directory);
        for (const auto& [file, text] : values) std::ofstream{directory / file} << text;
        for (int queue = 0; queue < queues; ++queue) fs::create_directories(directory / "mq" / std::to_string(queue));
    }
};

}  // namespace

TEST_CASE("nbd_sysfs: only whole nbd devices are named so") {
    CHECK(parse_nbd_name("nbd0") == 0);
    CHECK(parse_nbd_name("nbd123") == 123);
    for (const char* name :
         {"", "nbd", "nbd-1", "nbd01", "nbd1p1", "nbd+1", "nbd 1", "loop1", "xnbd1", "nbd99999999999"}) {
        CAPTURE(name);
        CHECK_FALSE(parse_nbd_name(name).has_value());
    }
}

TEST_CASE("nbd_sysfs: finds the connected devices with the prefix, by index, with size, number and connections") {
    const fake_sys sys;
    sys.put("nbd10", connected("weft:alpha:b:0", 10), 4);
    sys.put("nbd2", connected("weft:alpha:a:0", 2));
    sys.put("nbd3", connected("weft:beta:a:0", 3));
    sys.put("nbd4", connected("other", 4));
    sys.put("loop0", connected("weft:alpha:c:0", 0));
    const auto found = find_nbd("weft:alpha:", sys.root.path());
    REQUIRE(found.has_value());
    REQUIRE(found->size() == 2);
    CHECK(found->at(0).index == 2);
    CHECK(found->at(0).device == "/dev/nbd2");
    CHECK(found->at(0).numbers == device_number{43, 64});
    CHECK(found->at(0).bytes == 64 * 1024 * 1024);
    CHECK(found->at(0).connections == 2);
    CHECK(found->at(1).index == 10);
    CHECK(found->at(1).connections == 4);
}

TEST_CASE("nbd_sysfs: a device that lacks its mark, its pid or its size is not connected") {
    for (const char* lacking : {"backend", "pid", "size", "dev"}) {
        CAPTURE(lacking);
        const fake_sys sys;
        auto values = connected("weft:alpha:a:0", 1);
        values.erase(lacking);
        sys.put("nbd1", values);
        CHECK(find_nbd("weft:", sys.root.path())->empty());
    }
    const fake_sys sys;
    auto values = connected("weft:alpha:a:0", 1);
    values["size"] = "0\n";
    sys.put("nbd1", values);
    values = connected("", 2);
    sys.put("nbd2", values);
    CHECK(find_nbd("weft:", sys.root.path())->empty());
    CHECK(is_nbd_connected(1, sys.root.path()));
    CHECK_FALSE(is_nbd_connected(3, sys.root.path()));
}

TEST_CASE("nbd_sysfs: one device is read only under its exact mark") {
    const fake_sys sys;
    sys.put("nbd1", connected("weft:alpha:a:10", 1));
    CHECK(read_nbd(1, "weft:alpha:a:10", sys.root.path())->has_value());
    CHECK_FALSE(read_nbd(1, "weft:alpha:a:1", sys.root.path())->has_value());
    CHECK_FALSE(read_nbd(2, "weft:alpha:a:10", sys.root.path())->has_value());
}

TEST_CASE("nbd_sysfs: what the kernel never writes is an error, not a device of size zero") {
    for (const auto& [file, text] : attributes{{"size", "many\n"}, {"dev", "43\n"}, {"dev", "a:b\n"}}) {
        const fake_sys sys;
        auto values = connected("weft:alpha:a:0", 1);
        values[file] = text;
        sys.put("nbd1", values);
        const auto found = find_nbd("weft:", sys.root.path());
        REQUIRE(found.has_error());
        CHECK(found.error().code == errc::io_failed);
    }
}

TEST_CASE("nbd_sysfs: an empty prefix is refused, and a machine without the driver has no devices") {
    const fake_sys sys;
    sys.put("nbd1", connected("weft:alpha:a:0", 1));
    CHECK(find_nbd("", sys.root.path()).error().code == errc::invalid_argument);
    const fake_sys empty;
    fs::create_directories(empty.root.path() / "block");
    CHECK(find_nbd("weft:", empty.root.path())->empty());
    CHECK(find_nbd("weft:", empty.root.path() / "nowhere").error().code == errc::not_found);
}
