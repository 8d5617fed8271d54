// SPDX-License-Identifier: Apache-2.0
// What our device-mapper devices are called, and back.
//
//   name  weft-NAME             the volume          weft-orders
//         weft-NAME@SCOPE       the same, with a scope
//         weft-NAME…:ROLE       what it is made of  weft-orders:s0-leg1-data
//   uuid  WEFT-[SCOPE-]VOLUME-ROLE                  WEFT-3f0a2c1e-…-s0-leg1-data
//   role  volume | s<SEGMENT> | s<SEGMENT>-leg<LEG>-meta | s<SEGMENT>-leg<LEG>-data
//
// A device's identity is its UUID; names are for people. A volume's name has letters, digits, '_', '.' and '-' only
// (orchestrator/core/names.hpp), so '@', ':' and '+' part it from what we append and no name can imitate a sub-device.
// All these characters pass through libdevmapper and udev unchanged (dm_task_set_name's white list).
// A name that is too long keeps its first characters and gets '+' and 12 hexadecimal digits of the volume's id.
// The limits are linux/dm-ioctl.h's DM_NAME_LEN 128 and DM_UUID_LEN 129, both with the final zero; proved below.
// A scope has no '-', and a UUID's ninth character is one while a scoped one has a digit at that place of its text, so
// a text is read in one way only.
// Pure; any thread.
#pragma once

#include <compare>
#include <cstddef>
#include <string>
#include <string_view>

#include "nbd-backend/base/result.hpp"

namespace weft::dm {

/// Which part of a volume's stack a device is.
struct device_role {
    enum class part { volume, segment, leg_meta, leg_data };
    part what = part::volume;
    unsigned segment = 0;  // 0..segments_max-1; 0 for the volume
    unsigned leg = 0;      // 0..legs_max-1; 0 for volume and segment
    auto operator<=>(const device_role&) const = default;
};

struct device_identity {
    std::string scope;  // usually empty; lets several daemons share a kernel
    std::string volume_id;
    device_role role;
    auto operator<=>(const device_identity&) const = default;
};

inline constexpr unsigned segments_max = 256;
inline constexpr unsigned legs_max = 8;

inline constexpr std::string_view uuid_prefix = "WEFT-";
inline constexpr std::string_view name_prefix = "weft-";
inline constexpr std::size_t dm_name_max = 127;  // characters
inline constexpr std::size_t dm_uuid_max = 128;
inline constexpr std::size_t scope_max = 16;
inline constexpr std::size_t role_max = std::string_view("s255-leg7-meta").size();
inline constexpr std::size_t volume_id_size = 36;
inline constexpr std::size_t shortened_name_max =
    dm_name_max - name_prefix.size() - (1 + scope_max) - (1 + role_max);  // what is left for the volume's name

static_assert(shortened_name_max == 90);
static_assert(uuid_prefix.size() + scope_max + 1 + volume_id_size + 1 + role_max <= dm_uuid_max);

/// Letters, digits, '_' and '.', at most scope_max of them; may be empty. Errors: invalid_argument.
status check_scope(std::string_view scope);

std::string render_role(const device_role& role);

/// Precondition: the scope passes check_scope and the id is a UUID.
std::string render_uuid(const device_identity& who);

/// Errors: not_found when the text is not one of ours at all (no "WEFT-" at its front), corrupt when it begins like
/// ours but does not go on like it.
result<device_identity> parse_uuid(std::string_view uuid);

/// The device's name. Precondition: as render_uuid; the volume's name passes the grammar above.
std::string render_name(const device_identity& who, std::string_view volume_name);

/// Where the device appears.
std::string node_path(std::string_view dm_name);

}  // namespace weft::dm
