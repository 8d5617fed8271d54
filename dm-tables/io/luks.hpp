// SPDX-License-Identifier: Apache-2.0
// LUKS2 by libcryptsetup: format, open, resize. luks.cpp is the only file with libcryptsetup.h. Closing is a removal of
// the device like any other (dm_driver.hpp): the header is not needed for it.
//
// Every call reads or writes the device, which waits for as long as the volume holds (R4), and keeps `library_mutex`
// meanwhile, since libcryptsetup uses libdevmapper. So a daemon with more than one volume makes these calls in a
// process of their own (orchestrator/io/luks_process.hpp).
//
// What is chosen, and why:
//   PBKDF2, sha512, 1000 iterations   the least that libcryptsetup takes. Slowing down guesses is for passwords; a key
//                                     here is at least 32 bytes that nobody thought of, and guessing those is as
//                                     hopeless without it. argon2id would want up to 1 GiB for each open (its benchmark
//                                     decides), in a daemon that others' writes wait for, and seconds of a mount.
//   aes-xts-plain64, 512 bits         cryptsetup's default with 256-bit AES.
//   sectors of 4096 bytes             the unit of replication and of our nbd devices; fewer IVs, less work.
//   4 MiB before the data             cryptsetup's default is 16 MiB, which a format writes in full, on every replica.
//                                     15 key slots fit.
//   discards pass                     a deleted file gives its space back to the pool. The price: replicas show which
//                                     blocks are in use, though not what is in them.
//   the kernel's keyring              the volume key does not appear in the device's table; the price is that a resize
//                                     needs the key again.
//   no no_read_workqueue, …           they move the cipher into the caller, which helps fast local disks; a request
//   here
//                                     crosses the network.
#pragma once

#include <string>
#include <string_view>

#include "nbd-backend/base/result.hpp"
#include "nbd-backend/base/units.hpp"

namespace weft::dm {

inline constexpr std::uint64_t luks_header_bytes = 4 * mib;  // in front of the data

struct luks_volume {
    std::string device;  // path of what holds the header, such as /dev/mapper/weft-orders
    std::string uuid;    // of the header: lower-case
    std::string name;    // of the clear device in device-mapper
};

/// Writes a new header, with a new volume key that `key` opens, over whatever is there. Killed in between, the device
/// looks empty or has a header with this UUID. Errors: busy (the device is in use), io_failed with the library's words.
status luks_format(const luks_volume& volume, std::string_view key);

/// Makes the clear device. Errors: corrupt (no LUKS2 header, or another UUID), unavailable (the key does not open it),
/// already_exists (the name), io_failed.
status luks_open(const luks_volume& volume, std::string_view key);

/// Lets the open clear device reach to the end of its device; nothing happens when it does. Errors: unavailable (the
/// key does not open it), not_found (it is not open), io_failed.
status luks_resize(const luks_volume& volume, std::string_view key);

}  // namespace weft::dm
