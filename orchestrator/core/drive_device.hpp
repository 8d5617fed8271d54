// SPDX-License-Identifier: Apache-2.0
// May this block device become a drive, and what on it may be erased for that? Pure.
//
// Laws:
//   - A device with anything on it is refused unless the operator names *all* that would be lost, each by its type and
//     by an id that no other device has (erase_names). So neither a wrong device name nor a wrong option alone can
//     erase anything: both would have to be wrong in the same way.
//   - Blank means that nothing is recognised *and* that the first and the last MiB are zeros: what nothing recognises
//     (a database on the bare device, plain dm-crypt) is data, too. Its id is a checksum of those bytes.
//   - What is in use is refused, whatever was named. So is what a cluster record calls a drive.
//   - A claim is this node's note that it was allowed to make a drive of a device, written before the first byte is
//     changed. What bears the claim's UUID (as a mark, then as a file system) is an attempt that was cut off: it goes
//     on. Only a claim that is still `formatting` permits formatting; it stops being that before the drive's record
//     exists, hence before any replica can be there.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "nbd-backend/base/units.hpp"
#include "orchestrator/core/cluster_view.hpp"

namespace weft {

/// mkfs.xfs (5.19 and later) refuses less than 300 MiB; below this the log and the reserve would take most of it.
inline constexpr std::uint64_t drive_device_min_bytes = 512 * mib;
static_assert(drive_device_min_bytes > 300 * mib);

/// Something that blkid(8) recognises.
struct device_signature {
    std::string type;  // "ext4", "xfs", "swap", "LVM2_member", "gpt", …
    std::string id;    // UUID of the file system, partition table, …; empty: it has none
    std::string label;
};

struct device_facts {
    std::string name;  // the kernel's: "/dev/vdb"
    std::uint64_t size_bytes = 0;
    bool read_only = false;
    bool of_weft = false;                      // a device of an attached volume
    std::vector<std::string> partitions;       // "vdb1"
    std::vector<std::string> users;            // "mounted at /srv", "used as swap", "held by dm-0": it or a partition
    std::vector<device_signature> signatures;  // in the order in which they were found
    std::string mark;            // UUID in the mark of an unfinished attempt (drive_format.hpp); empty: none
    bool data = false;           // bytes other than zero, no signature, no mark
    std::uint32_t checksum = 0;  // of the first and the last MiB
    std::string model, serial;   // for people; empty if not known
};

enum class claim_phase : std::uint8_t {
    formatting,  // nothing on the device is anybody's
    formatted,   // it may hold replicas
};
struct drive_claim {
    drive_id drive;
    std::string filesystem;  // UUID
    claim_phase phase = claim_phase::formatting;
    std::string device;  // "/dev/vdb" then
};
/// One line of text, without the file system's UUID, which is the file's name. decode errors: corrupt.
std::string encode(const drive_claim& claim);
result<drive_claim> decode_claim(const std::string& filesystem, std::string_view text);

/// What --erase has to name, as TYPE:ID each; empty exactly for a blank device.
std::vector<std::string> erase_names(const device_facts& device);

/// What is on it, in words: "an ext4 file system or the like (UUID …, label 'x')".
std::string describe_content(const device_facts& device);

/// nullopt: it may be formatted under a new claim. A claim: that attempt goes on. `erase`: TYPE:ID[,TYPE:ID…] or empty.
/// Errors, each saying what was found and what to do: already_exists (it is a drive), busy (in use), invalid_argument
/// (not blank and not all of it named; names what is not there; read-only; too small).
result<std::optional<drive_claim>> admit_device(const device_facts& device, std::string_view erase,
                                                const std::vector<drive_claim>& claims, const cluster_view& view);

}  // namespace weft
