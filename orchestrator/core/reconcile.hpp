// SPDX-License-Identifier: Apache-2.0
// What a node has to do now: the records compared with what it sees on itself, as a list of actions. Pure, level-
// triggered: the same input gives the same list, an action that was carried out disappears from the next one, and one
// that was cut off by a kill -9 comes back.
//
// Laws:
//   - Epochs only grow, so a record that is older than an attachment (lower epoch) proves nothing about it: it is an
//   old
//     copy. A record with a higher epoch, or with our epoch and another writer, proves that we are not the writer (R5),
//     however old the copy is.
//   - What is absent from the records proves something only when they are current (the store answered).
//   - An attachment that only repairs is not detached because nobody uses it: that is what it is for.
//   - A stack that another mount namespace holds is never taken apart; only its volume server may be killed (R5).
//   - A damaged record is neither present nor absent: nothing is done to anything that it might be about.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "orchestrator/core/cluster_view.hpp"
#include "orchestrator/core/mirror.hpp"

namespace weft {

/// What is left of one attachment on this node: running, half made or half taken apart.
struct observed_attachment {
    volume_id id;
    std::uint64_t epoch = 0;                   // 0: not known any more (nothing but remains)
    bool server_alive = false;                 // the volume server's process
    bool failed = false;                       // its engine said fenced or lost: it serves nothing any more
    bool wanted = false;                       // a container of the present dockerd or an administrator uses it
    bool held = false;                         // another mount namespace holds its file system
    bool waits = false;                        // its block device waits for the next volume server instead of failing
    std::uint64_t device_bytes = 0;            // of its block device, if that can grow while it is used
    std::optional<leg_table> legs;             // mirrored: those that the set was given; none: not known
    std::uint64_t legs_rate = 0;               // mirrored: resync_rate that the set was given with them
    std::vector<core::engine_status> engines;  // as its volume server said last
    bool at_work = false;  // a call works on it at this moment: it is here, and nothing else is known
};

struct observed_node {
    node_name me;
    bool records_current = false;   // the store answered the latest look
    std::vector<drive_id> serving;  // drives whose replica server runs, or is to be started again by its keeper
    std::vector<observed_attachment> attachments;
    std::vector<drive_id> away = {};  // own drives whose device is not mounted: nothing can be done on them
};

/// A replica server is missing.
struct start_server {
    drive_record drive;
};
/// A replica server runs for a drive that is not ours any more.
struct stop_server {
    drive_id drive;
};
/// A replica of ours whose files are not known to exist.
struct create_replica {
    std::string volume;
    volume_id id;
    drive_id drive;
    replica_record replica;
    std::uint64_t size_bytes = 0;
    bool thick = false;
    bool checksums = true;
};
/// Files that nobody needs. `drive_known` is false when the drive was removed: then only the key is left to erase.
struct delete_replica {
    trash_record trash;
    bool drive_known = true;
};
/// R11: alive, ours and not used.
struct detach_unused {
    volume_id id;
    std::string volume;
};
/// R5: somebody else is the writer now (or nobody). Kill the server at once; take the rest apart when nobody holds it.
struct tear_down_fenced {
    volume_id id;
    std::uint64_t epoch = 0;  // of what is to be torn down: a newer attachment must not be hit
    std::string why;
};
/// The volume server is gone, nobody uses the volume: take the rest apart and give the writer up (abandon).
struct tear_down_dead {
    volume_id id;
    std::string volume;
};
/// The volume server is gone, the volume is used, and its device waits: start another one (R1: with the next epoch).
struct replace_server {
    volume_id id;
    std::string volume;
};
/// The volume is larger than its block device.
struct grow_device {
    volume_id id;
    std::string volume;
};
/// Mirrored: device-mapper's set has other legs, or another limit for their resync, than the record says.
struct follow_legs {
    volume_id id;
    std::string volume;
};
/// The record names us as the writer and nothing is here: a reboot, or a kill between the record and the deed.
struct abandon_writer {
    std::string volume;
    volume_id id;
    std::uint64_t epoch = 0;
};

using action = std::variant<start_server, stop_server, create_replica, delete_replica, detach_unused, tear_down_fenced,
                            tear_down_dead, replace_server, grow_device, follow_legs, abandon_writer>;

/// May a new volume server of this node take the place of the one that had `epoch` here? Not when there was, or could
/// have been, another writer since: then the device's users have read what is not true any more. The record is one
/// epoch ahead when a replacement was cut off.
bool replaces(const volume_record& record, const node_name& me, std::uint64_t epoch);

/// The order is the order of urgency: fenced attachments first, then servers, then everything else.
std::vector<action> plan_actions(const cluster_view& view, const observed_node& observed);

/// One line for the log.
std::string describe(const action& what);

}  // namespace weft
