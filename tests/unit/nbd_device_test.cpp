// SPDX-License-Identifier: Apache-2.0
// What can be said of kernel nbd devices without a kernel that has them: tests/vm/test_nbd.py does the rest.
#include "orchestrator/io/nbd_device.hpp"

#include <doctest/doctest.h>
#include <unistd.h>

#include "orchestrator/io/nbd_watch.hpp"

using namespace weft;

namespace {

bool has_driver() {
    return ::access("/sys/module/nbd", F_OK) == 0;
}

nbd_spec good_spec() {
    nbd_spec spec;
    spec.socket = "/nonexistent/nbd.sock";
    spec.backend = "weft:unit-test:3f0a2c1e-0000-4000-8000-0000000000aa:0";
    return spec;
}

nbd_device device_of(const nbd_spec& spec) {
    nbd_device device;
    device.index = 7;
    device.device = "/dev/nbd7";
    device.backend = spec.backend;
    return device;
}

/// Every call must say what to do about it.
void check_unavailable(const error& why) {
    CAPTURE(why.text);
    CHECK(why.code == errc::unavailable);
    CHECK(why.text.find("modprobe nbd") != std::string::npos);
    CHECK(why.text.find("portable attach") != std::string::npos);
}

}  // namespace

TEST_CASE("nbd_device: without the driver every call is unavailable and says what to do") {
    if (has_driver()) {
        MESSAGE("skipped: this kernel has the nbd driver");
        return;
    }
    const nbd_spec spec = good_spec();
    check_unavailable(connect_nbd(spec).error());
    check_unavailable(reconfigure_nbd(device_of(spec), spec).error());
    check_unavailable(grow_nbd(device_of(spec), 4096).error());
    check_unavailable(disconnect_nbd(device_of(spec), std::chrono::milliseconds{1000}).error());
    check_unavailable(nbd_watch::start([](std::optional<int>) {}).error());
    CHECK(find_nbd("weft:")->empty());
}

TEST_CASE("nbd_device: a spec outside its limits is refused before anything is asked of the kernel") {
    const auto refused = [](const char* about, auto change) {
        CAPTURE(about);
        nbd_spec spec = good_spec();
        change(spec);
        const auto outcome = connect_nbd(spec);
        REQUIRE(outcome.has_error());
        CAPTURE(outcome.error().text);
        CHECK(outcome.error().code == errc::invalid_argument);
        CHECK(outcome.error().text.find(about) != std::string::npos);
    };
    refused("mark", [](nbd_spec& s) { s.backend.clear(); });
    refused("mark", [](nbd_spec& s) { s.backend = std::string(256, 'x'); });
    refused("mark", [](nbd_spec& s) { s.backend = "weft:a\nb"; });
    refused("connections", [](nbd_spec& s) { s.connections = 0; });
    refused("connections", [](nbd_spec& s) { s.connections = nbd_connections_max + 1; });
    refused("block size", [](nbd_spec& s) { s.block_bytes = 1000; });
    refused("block size", [](nbd_spec& s) { s.block_bytes = 256; });
    refused("block size", [](nbd_spec& s) { s.block_bytes = 8192; });
    refused("once a second", [](nbd_spec& s) { s.resend_after = std::chrono::milliseconds{999}; });
    refused("without a connection", [](nbd_spec& s) { s.dead_connection = std::chrono::seconds{0}; });
    refused("without a connection", [](nbd_spec& s) { s.dead_connection = nbd_wait_for_ever * 2; });
}

TEST_CASE("nbd_device: a device of another mark is not reconfigured") {
    nbd_spec spec = good_spec();
    const nbd_device device = device_of(spec);
    spec.backend += "1";
    CHECK(reconfigure_nbd(device, spec).error().code == errc::invalid_argument);
}
