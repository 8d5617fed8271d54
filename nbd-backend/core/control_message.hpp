// SPDX-License-Identifier: Apache-2.0
// The control socket between a volume server (nbdkit + weft-volume, listens) and weftd (connects, reconnects after its
// own restart): JSON, one object per line, in both directions. Pure encode/decode; the sockets are elsewhere.
//
//   volume server → weftd                               weftd → volume server
//   hello   once per connection                         (nothing needed)
//   status  after every change worth telling, and       get_status
//           in answer to get_status
//   propose a replica's new state (R4, R8); repeated    result  of a proposal
//           on every new connection until answered
//   notice  for the log and `weft events`               members the record's replicas, their addresses and the volume's
//                                                               policy now
//                                                       leg     mirrored: what device-mapper says of a replica
//                                                       lease   until when nobody else can become the writer (R1);
//                                                               after every renewal
//   detached everything flushed (R11)                   detach  drain, flush, answer `detached`, keep running
//
// Several weftd connections at a time are not allowed: the newest wins, the older one is closed.
// Anything that does not decode is answered by closing the connection: a peer that speaks nonsense is not weftd.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "nbd-backend/base/result.hpp"
#include "nbd-backend/core/engine_types.hpp"
#include "nbd-backend/core/volume_layout.hpp"

namespace weft::core {

/// Longest line that either side accepts, in bytes.
inline constexpr std::size_t control_line_max = 1024 * 1024;

/// Where a replica's server listens and what the record says of it.
struct member_address {
    replica_member member;
    std::string host;  // an IP address
    std::uint16_t port = 0;
};

struct extent_members {
    std::uint64_t size_bytes = 0;
    std::vector<member_address> replicas;
};

/// What weftd writes into <runtime>/volumes/<id>/attach.json before it starts the volume server, mode 0600.
struct attach_config {
    std::string volume;  // name, for logs
    volume_id id;
    std::uint64_t epoch = 0;
    bool clean = false;
    bool device_lives = false;  // mirrored: engine_config::device_lives
    std::uint32_t min_replicas = 1;
    std::uint32_t connections = 8;  // NBD connections per replica, 1 to 16: a replica server works on one request of
                                    // each at a time (why: orchestrator/io/replica_process.cpp)
    std::uint32_t request_timeout_ms = 5000;
    std::uint32_t reconnect_window_ms = 2000;
    std::uint32_t attach_timeout_ms = 5000;
    engine_policy policy;
    volume_layout layout;  // how the volume lies on its extents
    std::vector<extent_members> extents;
};

/// Errors of both: corrupt, naming the field.
std::string encode_attach_config(const attach_config& config);
result<attach_config> decode_attach_config(std::string_view json);

struct hello_message {
    volume_id id;
    std::uint64_t epoch = 0;
    std::int64_t pid = 0;
};
struct status_message {
    std::vector<engine_status> extents;
};
struct propose_message {
    std::uint64_t id = 0;  // unique within the volume server's life
    std::uint32_t extent = 0;
    replica_id replica;
    replica_state to = replica_state::outdated;
    std::string reason;
    bool recovering = false;  // see core::proposal
};
struct notice_message {
    notice what;
};
struct detached_message {
    /// R11: every replica that the record calls up_to_date is equal and flushed. False when a recovery (R7) had not
    /// come to its end: the writer may be released, but the record must not say clean.
    bool equal = true;
};
struct get_status_message {};
struct result_message {
    std::uint64_t id = 0;
    proposal_outcome outcome = proposal_outcome::refused;
    std::string text;  // why, for people
};
struct members_message {
    /// Those that the server knows, in their order and sizes, and perhaps new ones after them: the volume has grown.
    std::vector<extent_members> extents;
    engine_policy policy;
    volume_layout layout;
};
struct leg_message {
    std::uint32_t extent = 0;
    replica_id replica;
    leg_event what = leg_event::in_sync;
};
struct detach_message {};
struct lease_message {
    std::uint64_t until_ns = 0;  // CLOCK_BOOTTIME of this machine, which goes on while it sleeps
};

using control_message =
    std::variant<hello_message, status_message, propose_message, notice_message, detached_message, get_status_message,
                 result_message, members_message, leg_message, detach_message, lease_message>;

/// One line without the newline.
std::string encode_control(const control_message& message);
/// Errors: corrupt, naming what is wrong. Unknown fields are ignored, unknown types are an error.
result<control_message> decode_control(std::string_view line);

}  // namespace weft::core
