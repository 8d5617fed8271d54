// SPDX-License-Identifier: Apache-2.0
// The mark by which Weft knows its own nbd devices: "weft:<scope>:<volume id>:<extent>[:<replica id>]".
//
// The kernel keeps it with the device (NBD_ATTR_BACKEND_IDENTIFIER, Linux 5.14), shows it in /sys/block/nbdN/backend
// and refuses a reconfigure that names another one. So nothing has to be remembered outside the kernel, and a device
// that does not carry a mark of ours is never touched.
//   scope   who owns it: a node's name (check_node_name), since several weftds may run on one machine
//   extent  0..65535, decimal, no leading zeros: one text per device, so that equal devices have equal texts
//   replica  of a mirrored volume, whose devices are legs: which one. A leg that is filled anew is another replica, so
//           a device never comes to show another content than the one that the kernel knows it with
// decode(encode(x)) = x; nothing else decodes. Pure; any thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "nbd-backend/base/ids.hpp"
#include "nbd-backend/base/result.hpp"

namespace weft {

/// What every mark of every scope begins with.
inline constexpr std::string_view nbd_identity_mark = "weft:";

struct nbd_identity {
    std::string scope;
    volume_id volume;
    std::uint16_t extent = 0;  // index in the volume's list of extents
    replica_id leg = {};       // empty: the device is the extent

    friend bool operator==(const nbd_identity&, const nbd_identity&) = default;
};

/// Errors: invalid_argument (a scope or id outside its grammar).
result<std::string> encode_nbd_identity(const nbd_identity& identity);

/// Errors: invalid_argument: not a mark of Weft's, whoever made the device.
result<nbd_identity> decode_nbd_identity(std::string_view text);

/// What the marks of all devices of one scope, or of one volume in it, begin with: "weft:<scope>:[<volume id>:]". Ends
/// with the colon, so "node1" is no prefix of "node10". Errors: invalid_argument.
result<std::string> nbd_identity_prefix(const std::string& scope, const volume_id& volume = {});

}  // namespace weft
