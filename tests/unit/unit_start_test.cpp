// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/io/unit_start.hpp"

#include <doctest/doctest.h>

using namespace weft;

TEST_CASE("unit start: what is to be run survives encode and decode, whatever the arguments are") {
    spawn_request what;
    what.argv = {"/usr/sbin/nbdkit", "-f", "drive=/srv/a b\n\"c\"", ""};
    what.log_file = "/run/weft/drives/x/server.log";
    what.data_path = true;
    what.stack_bytes = 524288;
    const auto back = decode_start(encode_start(what));
    REQUIRE(back.has_value());
    CHECK(back->argv == what.argv);
    CHECK(back->log_file == what.log_file);
    CHECK(back->data_path);
    CHECK(back->stack_bytes == 524288);
}

TEST_CASE("unit start: what does not say what to start is refused, a cut one above all") {
    spawn_request what;
    what.argv = {"nbdkit"};
    what.log_file = "/log";
    const std::string whole = encode_start(what);
    for (std::size_t cut = 0; cut + 1 < whole.size(); ++cut) {  // the last byte is the line's end
        CAPTURE(cut);
        CHECK(decode_start(whole.substr(0, cut)).error().code == errc::corrupt);
    }
    for (const char* text : {R"({"argv":[],"log":"/l","data_path":true,"stack_bytes":0})",
                             R"({"argv":[1],"log":"/l","data_path":true,"stack_bytes":0})",
                             R"({"argv":["a"],"log":1,"data_path":true,"stack_bytes":0})",
                             R"({"argv":["a"],"log":"/l","data_path":1,"stack_bytes":0})",
                             R"({"argv":["a"],"log":"/l","data_path":true,"stack_bytes":-1})", R"(["a"])"}) {
        CAPTURE(text);
        CHECK(decode_start(text).error().code == errc::corrupt);
    }
}

TEST_CASE("unit start: only our servers' jobs are found, in systemctl's columns") {
    CHECK(server_units_in("").empty());
    const auto found = server_units_in(
        "  12 weft-volume@3f0a2c1e-0000-4000-8000-000000000001.service start running\n"
        "13 weftd.service                start waiting\n"
        "14 docker.service start waiting\n"
        "15 weft-replica@a.service       start waiting\n"
        "16 my-weft-volume@a.service     start waiting\n"
        "17 weft-nbdfuse@b.service start running");
    REQUIRE(found.size() == 3);
    CHECK(found[0] == "weft-volume@3f0a2c1e-0000-4000-8000-000000000001.service");
    CHECK(found[1] == "weft-replica@a.service");
    CHECK(found[2] == "weft-nbdfuse@b.service");
}
