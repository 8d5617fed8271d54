// SPDX-License-Identifier: Apache-2.0
// The grammar of everything that people name: volumes, nodes, plugins, hosts, drive directories.
//
// Nothing that failed these checks may become a part of a path, a store key, an export name, an argument or a log line.
// Every error is invalid_argument, shows the offending text through `printable` and says the rule.
//   volume  [a-zA-Z0-9][a-zA-Z0-9_.-]*  1..128 characters. Docker's local driver wants at least two; Swarm's templates
//           ("{{.Service.Name}}-{{.Task.Slot}}") make long ones. "." and ".." cannot begin a name, so cannot be one.
//   node    [a-zA-Z0-9][a-zA-Z0-9_.-]*  1..64: a host name is one (hostname(7), HOST_NAME_MAX).
//   plugin  [a-zA-Z0-9][a-zA-Z0-9_.-]*  1..64: becomes <plugin-dir>/NAME.sock, and a socket's path has 107 bytes.
// Pure; any thread.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "nbd-backend/base/result.hpp"

namespace weft {

inline constexpr std::size_t volume_name_max = 128;  // characters
inline constexpr std::size_t node_name_max = 64;
inline constexpr std::size_t plugin_name_max = 64;
inline constexpr std::size_t host_max = 253;         // RFC 1035's limit of a domain name
inline constexpr std::size_t drive_path_max = 1024;  // bytes; leaves room in PATH_MAX for replicas/<uuid>/data

/// `text` made fit for an error message or a log line: control characters, backslashes and bytes that are not UTF-8 are
/// written as \n, \t, \\ or \xHH, and everything beyond `max` characters is replaced by "…".
std::string printable(std::string_view text, std::size_t max = 48);

status check_volume_name(std::string_view name);
status check_node_name(std::string_view name);
status check_plugin_name(std::string_view name);

/// An IP address (v4 or v6) or a host name: [a-zA-Z0-9.:-], 1..253.
status check_host(std::string_view host);

/// An absolute directory with doubled and trailing slashes removed. Refused: relative, "/" itself, components "." and
/// "..", control characters, bytes that are not UTF-8 (they could not be written to the store's JSON), too long.
result<std::string> parse_drive_path(std::string_view text);

/// True for well-formed UTF-8 (RFC 3629: no surrogates, no overlong forms).
bool is_utf8(std::string_view text) noexcept;

}  // namespace weft
