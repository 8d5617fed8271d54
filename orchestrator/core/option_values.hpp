// SPDX-License-Identifier: Apache-2.0
// The grammar of single option values, shared by creating a volume and changing one. Pure.
//
//   counts        1..replicas_max, decimal
//   stripes       1..stripes_max, decimal
//   layout        striped | mirrored
//   provisioning  thin | thick
//   checksums     on | off
//   encrypt       on | off
//   on-full       hold | fail
//   resync-rate   0 (no limit), or a size per second from resync_rate_min to resync_rate_max: 100MiB or 100MiB/s
//   scrub-every   never, or a whole number with s, m, h, d or w, from scrub_every_min_s to scrub_every_max_s: 7d, 12h
// Values are matched exactly, in lower case (sizes as parse_size has them). Every error is invalid_argument, names the
// option and shows the offending text through `printable`.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "nbd-backend/base/result.hpp"
#include "nbd-backend/base/units.hpp"
#include "nbd-backend/core/engine_types.hpp"

namespace weft {

inline constexpr std::uint32_t replicas_max = 3;
inline constexpr std::uint64_t resync_rate_min = mib;  // bytes per second; slower, and a large volume is never whole
inline constexpr std::uint64_t resync_rate_max = tib;
inline constexpr std::uint64_t scrub_every_min_s = 10;
inline constexpr std::uint64_t scrub_every_max_s = 3650ULL * 86400;

/// "option 'size': …", invalid_argument.
error bad_option(std::string_view option, std::string_view problem);

result<std::uint32_t> parse_count(std::string_view option, std::string_view text);
result<std::uint32_t> parse_stripes(std::string_view text);
/// True for mirrored.
result<bool> parse_layout(std::string_view text);
/// True for thick.
result<bool> parse_provisioning(std::string_view text);
/// True for on.
result<bool> parse_checksums(std::string_view text);
/// True for on.
result<bool> parse_encrypt(std::string_view text);
result<core::full_policy> parse_on_full(std::string_view text);
/// Bytes per second; 0: no limit.
result<std::uint64_t> parse_resync_rate(std::string_view text);
/// Seconds; 0: never.
result<std::uint64_t> parse_scrub_every(std::string_view text);

/// "100 MiB/s", "no limit".
std::string render_resync_rate(std::uint64_t bytes_per_second);
/// As parse_scrub_every takes it, in the largest unit that fits: "7d" is "1w", "90m"; "never".
std::string render_scrub_every(std::uint64_t seconds);

}  // namespace weft
