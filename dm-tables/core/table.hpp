// SPDX-License-Identifier: Apache-2.0
// A device-mapper table as a value: rows of targets, checked, and rendered to the words that the kernel takes.
//
// Invariants of a table that `check` accepts: row 0 starts at 0, every row starts where the one before it ends, no row
// is empty, and every device is an absolute path without white space (the kernel splits parameters at white space). The
// grammar of each target: Documentation/admin-guide/device-mapper/{linear,striped,dm-raid,dm-crypt}.rst; the limits
// that those leave out: drivers/md/dm-stripe.c (stripe_ctr) and drivers/md/dm-raid.c (validate_region_size,
// parse_dev_params), Linux 6.1.
// Sectors of 512 bytes are device-mapper's unit whatever the disk's block size is; bytes become sectors in
// volume_stack.cpp and nowhere else.
// There is no place in a table for a raw encryption key: a crypt target names a key of the kernel's keyring.
// Pure values; any thread.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "nbd-backend/base/result.hpp"

namespace weft::dm {

inline constexpr std::uint64_t sector_bytes = 512;

/// A run of sectors on one device.
struct linear_target {
    std::string device;  // absolute path
    std::uint64_t offset_sectors = 0;
    bool operator==(const linear_target&) const = default;
};

/// Chunks dealt out in turn to stripes of equal length.
struct striped_target {
    std::uint64_t chunk_sectors = 0;  // a power of two, at least 8 (4 KiB)
    std::vector<linear_target> stripes;
    bool operator==(const striped_target&) const = default;
};

/// One copy in a raid1 set. Both paths empty: the leg is not there ("- -").
struct raid1_leg {
    std::string meta;      // holds dm-raid's superblock and bitmap
    std::string data;      // holds the copy
    bool rebuild = false;  // what is on it counts for nothing: copy everything to it
    [[nodiscard]] bool missing() const { return meta.empty() && data.empty(); }
    bool operator==(const raid1_leg&) const = default;
};

/// What dm-raid shall believe of a set when it starts.
enum class raid1_start {
    by_superblock,  // what the superblocks say; of a new set: nothing is in sync yet
    by_bitmap,      // the legs may differ where md's bitmap has marks: made equal from the first leg, which reads are
                    // from meanwhile. Not in the table's words, the superblocks tell it (raid_superblock.hpp)
    assume_equal,   // "nosync": the legs are equal already; only right for legs that were born all holes
};

struct raid1_target {
    std::vector<raid1_leg> legs;       // 2..raid1_legs_max, at least one of them neither missing nor to be rebuilt
    std::uint64_t region_sectors = 0;  // one bit of the bitmap; a power of two
    raid1_start start = raid1_start::by_superblock;
    std::uint64_t max_recovery_kib = 0;  // KiB a second and leg for resync and rebuild; 0: the kernel's default
    bool operator==(const raid1_target&) const = default;
};

/// A key in the kernel's keyring (keyrings(7)): the only way in which a table knows a key.
struct keyring_key {
    std::uint64_t size_bytes = 0;
    std::string type = "logon";  // "logon" (user space cannot read it back) or "user"
    std::string description;     // printable, no white space
    bool operator==(const keyring_key&) const = default;
};

struct crypt_target {
    std::string cipher;  // such as aes-xts-plain64
    keyring_key key;
    std::uint64_t iv_offset = 0;
    linear_target backing;
    std::vector<std::string> options;  // such as allow_discards
    bool operator==(const crypt_target&) const = default;
};

/// Every request fails with EIO.
struct error_target {
    bool operator==(const error_target&) const = default;
};

using target = std::variant<linear_target, striped_target, raid1_target, crypt_target, error_target>;

struct table_row {
    std::uint64_t start_sectors = 0;
    std::uint64_t length_sectors = 0;
    target what;
    bool operator==(const table_row&) const = default;
};

using table = std::vector<table_row>;

inline constexpr std::size_t raid1_legs_max = 8;                            // one digit in a device's name
inline constexpr std::uint64_t raid1_regions_max = std::uint64_t{1} << 21;  // md's bitmap, validate_region_size

/// Every rule above. Errors: invalid_argument naming the row and what is wrong with it.
status check(const table& rows);

/// A row as the kernel takes and gives it ("0 2048 linear /dev/nbd0 0", split).
struct raw_row {
    std::uint64_t start_sectors = 0;
    std::uint64_t length_sectors = 0;
    std::string type;
    std::string params;
    bool operator==(const raw_row&) const = default;
};
using raw_table = std::vector<raw_row>;

/// The words for the kernel, devices by path. Precondition: `check` accepts the table.
raw_table render(const table& rows);

/// Path -> "major:minor". The kernel answers with numbers, whatever it was given.
using device_numbers = std::map<std::string, std::string, std::less<>>;

/// The same words as the kernel gives them back: devices by number. Nothing if a device has no number (is not there).
std::optional<raw_table> by_number(const raw_table& rows, const device_numbers& numbers);
std::optional<raw_table> render_by_number(const table& rows, const device_numbers& numbers);

/// "0 2048 linear /dev/nbd0 0\n…", as dmsetup(8) prints tables.
std::string to_text(const raw_table& rows);

/// Every device that the table maps, in order, once.
std::vector<std::string> devices_of(const table& rows);
std::vector<std::string> devices_of(const raw_table& rows);

/// The device numbers that a table of the kernel refers to, in order, once.
std::vector<std::string> numbers_in(const raw_table& rows);

std::uint64_t length_sectors(const table& rows);
std::uint64_t length_sectors(const raw_table& rows);

/// The region size for a raid1 set of that length: 2 MiB, more when that would be too many regions, less when the set
/// is smaller than that.
std::uint64_t choose_region_sectors(std::uint64_t length_sectors);

/// Parameters of a row as the kernel gave them, with a raw crypt key replaced by zeros of the same length: the kernel
/// shows keys to those who ask for a table (dm-crypt.c, crypt_status). A reference to the keyring stays.
std::string without_key(std::string_view type, std::string_view params);

}  // namespace weft::dm
