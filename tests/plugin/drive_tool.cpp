// SPDX-License-Identifier: Apache-2.0
// What weftd does to drives before it starts their servers, as a program for tests:
//
//   drive_tool init DRIVE CLUSTER NODE                        makes the directory and initialises it
//   drive_tool create DRIVE REPLICA VOLUME BYTES equal|dirty [thick] [nosums]
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include "nbd-backend/io/drive_dir.hpp"
#include "nbd-backend/io/replica_dir.hpp"

int main(int count, char** words) {
    const std::vector<std::string> w(words + 1, words + count);
    weft::status outcome;
    if (w.size() == 4 && w[0] == "init") {
        std::filesystem::create_directories(w[1]);
        const auto made = weft::io::init_drive(w[1], {weft::drive_id(weft::make_uuid()), w[2], weft::node_name(w[3])});
        if (made.has_error()) outcome = made.error();
    } else if (w.size() >= 6 && w[0] == "create") {
        const auto asked = [&w](const char* word) { return std::find(w.begin() + 6, w.end(), word) != w.end(); };
        weft::io::replica_birth birth{weft::replica_id(w[2]), weft::volume_id(w[3]), std::stoull(w[4])};
        birth.born_equal = w[5] == "equal";
        birth.thick = asked("thick");
        birth.checksums = !asked("nosums");
        outcome = weft::io::create_replica(w[1], birth);
    } else {
        fmt::print(
            stderr,
            "drive_tool: init DRIVE CLUSTER NODE | create DRIVE REPLICA VOLUME BYTES equal|dirty [thick] [nosums]\n");
        return 2;
    }
    if (outcome.has_error()) {
        fmt::print(stderr, "drive_tool: {}\n", outcome.error().text);
        return 1;
    }
    return 0;
}
