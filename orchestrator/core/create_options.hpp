// SPDX-License-Identifier: Apache-2.0
// The options of `docker volume create -o key=value` and `weft volume create`, parsed and checked.
//
//   size          bytes, or with a suffix (10GiB, 512m); default 10 GiB; rounded up to a whole MiB per stripe
//   layout        striped (default) | mirrored: device-mapper's raid1 replicates instead of Weft's engine
//   stripes       1..16, default 1: side by side over that many extents, on different drives
//   replicas      1..3, default 2
//   min-replicas  1..replicas, default 1: writes wait rather than go on with fewer up-to-date replicas
//   fs            ext4 | xfs, default ext4
//   provisioning  thin | thick, default thin: thick replicas have all their space from the start
//   checksums     on | off, default on: the replicas keep a checksum of every block
//   encrypt       on | off, default off: LUKS2 under the file system; the key is the nodes' (key_policy.hpp)
//   on-full       hold | fail, default hold: what happens to a write that finds a drive full
//   resync-rate   0 (default) or a size per second: the most that copies in the background move
//   scrub-every   never (default) or a time such as 7d: how often the replicas are compared
// Keys are matched exactly. Whether enough nodes and space exist is placement's question, not this file's. The values'
// grammar is in option_values.hpp. Pure.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "nbd-backend/base/result.hpp"
#include "nbd-backend/base/units.hpp"
#include "orchestrator/core/option_values.hpp"
#include "orchestrator/core/records.hpp"

namespace weft {

inline constexpr std::uint64_t volume_size_default_bytes = 10 * gib;
inline constexpr std::uint64_t volume_size_max_bytes = 64 * tib;
inline constexpr std::uint64_t volume_size_unit_bytes = mib;  // an extent is a multiple of it
inline constexpr std::uint64_t ext4_size_min_bytes = 16 * mib;
inline constexpr std::uint64_t luks_size_bytes = 4 * mib;  // what encryption takes of a volume: dm-tables/io/luks.hpp
inline constexpr std::uint64_t xfs_size_min_bytes = 300 * mib;  // mkfs.xfs(8) since xfsprogs 5.19 refuses less

struct create_options {
    std::uint64_t size_bytes = volume_size_default_bytes;  // multiple of volume_size_unit_bytes * stripes
    bool mirrored = false;
    std::uint32_t stripes = 1;
    std::uint32_t replicas = 2;
    std::uint32_t min_replicas = 1;
    fs_type fs = fs_type::ext4;
    bool thick = false;
    bool checksums = true;
    bool encrypt = false;
    core::full_policy on_full = core::full_policy::hold;
    std::uint64_t resync_rate = 0;    // bytes per second; 0: no limit
    std::uint64_t scrub_every_s = 0;  // 0: never
};

/// Is this the name of an option of creation?
bool is_create_option(std::string_view name) noexcept;

/// Errors: invalid_argument naming the option; an unknown one with the sorted list of those that exist.
result<create_options> parse_create_options(const std::map<std::string, std::string>& options);

}  // namespace weft
