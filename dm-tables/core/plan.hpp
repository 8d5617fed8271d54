// SPDX-License-Identifier: Apache-2.0
// What to do next: the wanted stacks, and what the kernel has, become ordered steps.
//
// Level-triggered and without memory: everything is decided from the two arguments, so a daemon that was killed between
// any two steps plans again and goes on. The laws, checked over all prefixes by tests/unit/dm_plan_test.cpp:
//   P1  plan and carry out, as long as `more` says so: two rounds at most, then the plan has no steps
//   P2  after any prefix of the steps, planning again leads to that same state
//   P3  a raid1 set never runs over a leg that it takes for equal and that holds something else
//   P4  nothing that somebody has open is removed; nothing that is not ours, or of another scope, is touched
//   P5  no volume shrinks: a record read half is no reason to cut off data
//   P6  a set of legs that may differ (by_bitmap) is never started without being told so
//
// Order. From below: what is missing is made, loaded and resumed. Then what changes: tables that can be loaded
// beforehand are (a suspended device holds its users' I/O, so that time is kept short), then suspended from the top
// down, then swapped and resumed from below. A raid table is loaded while its set is suspended and its legs are
// resumed: dm-raid reads the superblocks as it is loaded (raid_ctr), and what the running set writes after that would
// be lost on the new one. An inactive table that a killed daemon left is cleared before a resume would swap it in.
//
// A leg that is to be rebuilt on another device, or that its set has given up, is dropped from the set in one round and
// taken in again in the next. Done in one go, a daemon killed half-way would leave a table with "rebuild" over the new
// device that says nothing of whether it was loaded before or after the exchange.
//
// Removal by rule. Reported, and removed from the top down if nobody but what is removed with it has it open: devices
// of our scope whose volume is not wanted, and the legs that a wanted stack names missing. Reported and left alone:
// other devices of a wanted volume that its stack does not have, devices in use, UUIDs that begin like ours and are
// not. Pure; any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "dm-tables/core/table.hpp"
#include "dm-tables/core/volume_stack.hpp"

namespace weft::dm {

/// One device as the kernel has it.
struct observed_device {
    std::string name;
    std::string uuid;
    std::string number;                 // "major:minor"
    std::optional<raw_table> active;    // devices by number
    std::optional<raw_table> inactive;  // loaded, not yet swapped in
    bool suspended = false;
    std::uint64_t open_count = 0;       // by other device-mapper devices too
    std::vector<unsigned> failed_legs;  // of a raid1 set: those with leg_health::failed
    raw_table status = {};              // what the targets of the active table say, `params` for parse_status
};

/// What is there. `devices`: all whose UUID begins with WEFT-, and others whose name is in a wanted stack.
struct observation {
    std::vector<observed_device> devices;
    /// The numbers of the block devices that wanted stacks name by path, those that exist.
    device_numbers numbers;
};

struct step {
    enum class verb {
        create,   // name and UUID, no table yet
        load,     // `rows` becomes the inactive table, in place of one that is there
        doubt,    // of a leg's metadata device: its superblock says that the legs may differ where the bitmap has
                  // marks (raid_superblock.hpp); `rows` says where it is. Only while no set reads it
        clear,    // forget the inactive table
        suspend,  // new I/O waits; I/O under way is waited for
        resume,   // swap in the inactive table if there is one, let I/O go on
        remove,
    };
    verb what = verb::create;
    std::string name;
    std::string uuid;
    table rows;  // only for load and doubt

    bool operator==(const step&) const = default;
};

struct report {
    enum class kind {
        leftover_removed,  // of a volume that is not wanted; the plan removes it
        leftover_in_use,   // the same, but somebody has it open: left alone
        not_in_stack,      // a device of a wanted volume that its stack does not have: left alone
        not_ours,          // the UUID begins like ours but is malformed: left alone
        name_taken,        // a wanted name belongs to another UUID, or the other way round: the volume is left alone
        device_missing,    // a path that a wanted stack maps has no device: the volume is left alone
        would_shrink,      // the wanted volume is smaller than the one in use: the volume is left alone
    };
    kind what = kind::not_ours;
    std::string name;  // of the device-mapper device
    std::string uuid;
    std::string text;  // a sentence for people, with what to do
};

struct plan {
    std::vector<step> steps;
    std::vector<report> reports;
    bool more = false;  // when the steps are done: observe and plan again
};

std::string_view to_string(step::verb verb);
std::string_view to_string(report::kind kind);

/// Every stack in `wanted` must have that scope; the observation's devices of other scopes are not looked at.
/// Precondition: the stacks come from make_volume_stack, one per volume.
plan make_plan(const std::vector<volume_stack>& wanted, const observation& everything, std::string_view scope);

}  // namespace weft::dm
