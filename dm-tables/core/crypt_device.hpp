// SPDX-License-Identifier: Apache-2.0
// The device of an encrypted volume that its file system is on: dm-crypt, made by libcryptsetup (io/luks.hpp), above
// the volume's own device.
//
//   weft-orders:crypt   UUID CRYPT-LUKS2-<LUKS UUID without '-'>-weft-orders:crypt    clear
//   weft-orders         UUID WEFT-…-volume                                            LUKS2 header, then ciphertext
//
// libcryptsetup gives the UUID, cut at 128 characters; so the beginning says which header it is, and the name, which is
// the volume device's with ":crypt" after it, whose device. A name ending in ":crypt" is no other part's (dm_name.hpp),
// and is never longer than theirs. While it is there the volume's device is open and cannot go. Pure; any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "dm-tables/core/plan.hpp"
#include "dm-tables/core/table.hpp"

namespace weft::dm {

inline constexpr std::string_view crypt_suffix = ":crypt";
static_assert(crypt_suffix.size() <= 1 + role_max);  // what dm_name.hpp keeps free after the volume's name

/// The clear device's name, from the volume device's.
std::string crypt_name(std::string_view volume_device_name);

/// What the UUID of the clear device begins with. Precondition: a UUID.
std::string crypt_uuid_prefix(std::string_view luks_uuid);

/// By its name and UUID, is it the clear device of a volume?
bool is_crypt_device(std::string_view name, std::string_view uuid);

/// The clear device above the volume device of that name, or null.
const observed_device* find_crypt(const observation& there, std::string_view volume_device_name);

/// How many sectors of the volume's device the clear one reaches over, its header included. Nothing if the table is not
/// one crypt row. Source: dm-crypt.rst, "<cipher> <key> <iv_offset> <device path> <offset> …".
std::optional<std::uint64_t> crypt_reach_sectors(const raw_table& rows);

}  // namespace weft::dm
