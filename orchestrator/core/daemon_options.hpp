// SPDX-License-Identifier: Apache-2.0
// weftd's config file as a checked value. Pure: text in, value or error out.
//
// Lines are `key = value`, `#` begins a comment (Boost.Program_options' config file format). Every key may appear once;
// unknown keys are refused by name, so that a typing error never silently means a default. Paths must be absolute;
// the lengths of those that hold sockets are checked here, because sockaddr_un has room for 107 bytes and the error of
// a bind that comes minutes later would name the wrong thing.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "nbd-backend/base/ids.hpp"
#include "nbd-backend/base/result.hpp"
#include "nbd-backend/base/units.hpp"

namespace weft {

enum class log_level : std::uint8_t { debug, info, warning, error };
std::string_view to_string(log_level level) noexcept;

/// How a volume becomes a block device on this node.
enum class attach_way : std::uint8_t { automatic, kernel, portable };
std::string_view to_string(attach_way way) noexcept;

/// Who starts the servers of the data path: systemd as units, or weftd itself.
enum class supervision : std::uint8_t { automatic, systemd, none };

struct daemon_options {
    node_name node;                                     // node, required
    std::string host;                                   // host, required: IP address of this node's replica servers
    std::string store_url;                              // store, required
    std::filesystem::path state_dir = "/var/lib/weft";  // state-dir: survives a reboot
    std::filesystem::path runtime_dir = "/run/weft";    // runtime-dir: does not
    std::string docker_plugin = "weft";                 // docker-plugin: the driver's name
    std::filesystem::path plugin_dir = "/run/docker/plugins";  // plugin-dir
    std::uint16_t port_base = 7480;                            // port-base: first port of replica servers
    std::chrono::milliseconds lease_ttl{10000};                // lease-ttl-ms, 500..600000
    std::chrono::milliseconds request_timeout{5000};           // request-timeout-ms, 50..600000
    std::chrono::milliseconds reconnect_window{2000};          // reconnect-window-ms, 0..600000
    std::chrono::milliseconds attach_timeout{5000};            // attach-timeout-ms, 50..600000
    std::chrono::milliseconds repair_after{600000};            // repair-after-ms, 1000..2592000000 (30 days)
    std::filesystem::path libexec_dir;                         // libexec-dir: where the nbdkit plugins are
    std::uint64_t extent_size_bytes = 64 * gib;                // extent-size, multiple of 1 MiB
    attach_way attach = attach_way::automatic;                 // attach: auto, kernel or portable
    std::string device_scope;                                  // device-scope: for several weftd on one kernel
    std::filesystem::path key_directory = "/etc/weft/keys";    // key-directory: of encrypted volumes
    std::filesystem::path key_command;                         // key-command: in place of the directory; empty: none
    log_level level = log_level::info;                         // log-level
    supervision supervisor = supervision::automatic;           // supervisor

    [[nodiscard]] std::filesystem::path admin_socket() const { return runtime_dir / "weftd.sock"; }
    [[nodiscard]] std::filesystem::path plugin_socket() const { return plugin_dir / (docker_plugin + ".sock"); }
    [[nodiscard]] std::filesystem::path replica_plugin() const { return libexec_dir / "nbdkit-weft-replica-plugin.so"; }
    [[nodiscard]] std::filesystem::path volume_plugin() const { return libexec_dir / "nbdkit-weft-volume-plugin.so"; }
};

/// `libexec_default` stands in for libexec-dir. Errors: invalid_argument naming the key, what is wrong and what is
/// allowed.
result<daemon_options> parse_daemon_options(std::string_view config, const std::filesystem::path& libexec_default);

/// Every key with its meaning and default, for --help.
std::string describe_daemon_options();

}  // namespace weft
