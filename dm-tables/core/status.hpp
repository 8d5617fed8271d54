// SPDX-License-Identifier: Apache-2.0
// What device-mapper's targets say of themselves, read strictly.
//
//   linear, crypt, error   nothing
//   striped                <#stripes> <device>… 1 <health>                                      (dm-stripe.c,
//   stripe_status) raid                   <type> <#legs> <health> <done>/<all> [<action> <mismatches> [<data offset>
//   [<journal>]]]
//                          (dm-raid.rst, "Status Output"; the bracketed ones came with versions 1.5, 1.9 and 1.10)
//
// Words after those are ignored: targets append new ones at the end. Everything else that is not as above is an error
// which names the word. Never trusts its input: no text makes it do more than refuse.
// Pure; any thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "dm-tables/core/table.hpp"
#include "nbd-backend/base/result.hpp"

namespace weft::dm {

/// linear, crypt and error have nothing to say.
struct silent_status {
    bool operator==(const silent_status&) const = default;
};

struct striped_status {
    std::vector<bool> failed;  // per stripe: an I/O error was seen there since the table was loaded
    bool operator==(const striped_status&) const = default;
};

enum class leg_health : char {
    in_sync = 'A',
    syncing = 'a',  // alive, not (yet) equal to the others
    failed = 'D',
    absent = '-',
};

enum class sync_action { idle, frozen, resync, recover, check, repair, reshape, unknown };

struct raid_status {
    std::string type;  // raid1 for ours
    std::vector<leg_health> legs;
    std::uint64_t done_sectors = 0;  // of what `action` does; never more than all_sectors
    std::uint64_t all_sectors = 0;
    sync_action action = sync_action::unknown;  // unknown: a kernel before version 1.5 of the target, or "undef"
    std::uint64_t mismatches = 0;               // sectors that differed, valid after a check

    /// Every leg alive and equal, and nothing under way.
    [[nodiscard]] bool healthy() const;
    /// 0..100, rounded down; 100 only when it is done.
    [[nodiscard]] unsigned percent() const;
    /// Of a set in which nothing is rebuilt: how much is to be looked at until the legs are equal; 0: they are. A
    /// repair looks at all of them, too: what a scrub is told to do, and what a set goes on with that was interrupted
    /// (raid_preresume).
    [[nodiscard]] std::uint64_t unequal_sectors() const;
    bool operator==(const raid_status&) const = default;
};

using target_status = std::variant<silent_status, striped_status, raid_status>;

std::string_view to_string(sync_action action);

/// Reads what a target of that type said. Errors: unsupported for a type that we do not make, corrupt naming what was
/// wrong.
result<target_status> parse_status(std::string_view type, std::string_view params);

/// Only the raid target. Errors: corrupt.
result<raid_status> parse_raid_status(std::string_view params);

/// Only the striped target. Errors: corrupt.
result<striped_status> parse_striped_status(std::string_view params);

/// As the kernel writes it: the inverse of the parsers, with all words up to <journal>.
std::string render_status(const raid_status& status);

}  // namespace weft::dm
