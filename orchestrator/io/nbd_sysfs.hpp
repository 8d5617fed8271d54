// SPDX-License-Identifier: Apache-2.0
// Which nbd devices are connected, and whose they are, as /sys shows it (Linux 6.1, drivers/block/nbd.c).
//
// /sys/block/nbdN/pid exists from nbd_start_device() until the device's configuration is gone (nbd_config_put): from
// "connected" until "disconnected and closed by everybody". The number in it is the process that connected it, which
// need not live. `backend` (Linux 5.14) appears a moment before pid and holds our mark. A device that is being taken
// down meanwhile is read as not connected. Reading never touches the device itself, so it cannot hang on one that holds
// (R4). Blocking for microseconds; any thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "nbd-backend/base/result.hpp"
#include "orchestrator/io/mountinfo.hpp"

namespace weft {

struct nbd_device {
    int index = -1;
    std::string device;        // "/dev/nbd3"
    device_number numbers;     // as a device-mapper table wants it
    std::string backend;       // its mark (orchestrator/core/nbd_identity.hpp)
    std::uint64_t bytes = 0;   // its size
    unsigned connections = 0;  // sockets it was connected with, alive or dead (its hardware queues: one per socket)
};

/// 3 for "nbd3"; nullopt for anything else, also partitions ("nbd3p1").
std::optional<int> parse_nbd_name(std::string_view name);

/// The devices that are connected and whose mark begins with `prefix` ("" is refused: invalid_argument), by index. None
/// when the driver is not loaded: nothing can be connected then. `sys` stands for /sys in tests. Errors: io_failed.
result<std::vector<nbd_device>> find_nbd(const std::string& prefix, const std::filesystem::path& sys = "/sys");

/// One device: nullopt unless it is connected and its mark is exactly `backend`. Errors: io_failed.
result<std::optional<nbd_device>> read_nbd(int index, const std::string& backend,
                                           const std::filesystem::path& sys = "/sys");

/// Is anything connected at this index, whoever owns it?
bool is_nbd_connected(int index, const std::filesystem::path& sys = "/sys");

}  // namespace weft
