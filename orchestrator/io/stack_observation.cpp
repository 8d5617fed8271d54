// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/io/stack_observation.hpp"

#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <filesystem>

#include "dm-tables/core/status.hpp"
#include "dm-tables/core/text.hpp"
#include "dm-tables/io/dm_driver.hpp"
#include "orchestrator/core/nbd_identity.hpp"
#include "orchestrator/io/nbd_sysfs.hpp"
#include "orchestrator/io/portable_attach.hpp"

namespace weft {

namespace {

/// Longer than any look of ours at device-mapper takes; far shorter than a person waits for an answer.
constexpr std::chrono::milliseconds library_patience{500};

std::string render_number(const device_number& number) {
    return fmt::format("{}:{}", number.major, number.minor);
}

void add_note(seen_stack& seen, const std::string& what, const error& why) {
    seen.note += fmt::format("{}{} not shown: {}", seen.note.empty() ? "" : "; ", what, why.text);
}

void look_at_nbd(seen_stack& seen, const kernel_scope& scope, const volume_id& id) {
    const auto prefix = nbd_identity_prefix(scope.node, id);
    auto found = prefix.has_value() ? find_nbd(*prefix) : result<std::vector<nbd_device>>(prefix.error());
    if (found.has_error()) return add_note(seen, "nbd devices are", found.error());
    for (const auto& device : *found) {
        const auto who = decode_nbd_identity(device.backend);
        if (who.has_value())
            seen.nbds.push_back({device.device, render_number(device.numbers), device.bytes, who->extent, who->leg});
    }
}

leg_condition condition_of(dm::leg_health health) {
    switch (health) {
        case dm::leg_health::in_sync: return leg_condition::in_sync;
        case dm::leg_health::syncing: return leg_condition::syncing;
        case dm::leg_health::failed: return leg_condition::failed;
        case dm::leg_health::absent: break;
    }
    return leg_condition::missing;
}

/// dm-raid's words "<#legs> <meta> <data> …", each "-" where a leg is not there, are the last of its parameters
/// (dm-raid.rst, "<#raid_devs> <metadata_dev0> <dev0>").
void read_legs(seen_row& row, const dm::raw_row& table, const dm::raw_row* status) {
    const auto said = status == nullptr ? result<dm::raid_status>(error{errc::not_found, "no status"})
                                        : dm::parse_raid_status(status->params);
    if (said.has_error()) return;
    const auto words = dm::words_of(table.params);
    const std::size_t legs = said->legs.size();
    if (words.size() < 2 * legs) return;
    row.action = dm::to_string(said->action);
    row.done_bytes = said->done_sectors * dm::sector_bytes;
    row.all_bytes = said->all_sectors * dm::sector_bytes;
    for (std::size_t i = 0; i < legs; ++i) {
        const std::string_view data = words[words.size() - 2 * legs + 2 * i + 1];
        const bool there = dm::is_device_number(data);
        row.legs.push_back(
            {there ? condition_of(said->legs[i]) : leg_condition::missing, there ? std::string(data) : std::string()});
    }
}

seen_row row_of(const dm::raw_row& table, const dm::raw_row* status) {
    seen_row row;
    row.type = table.type;
    row.size_bytes = table.length_sectors * dm::sector_bytes;
    const auto words = dm::words_of(table.params);
    if (table.type == "raid") {
        read_legs(row, table, status);
        return row;
    }
    row.mapped = dm::numbers_in({table});
    if (table.type == "striped" && words.size() > 1)
        row.chunk_bytes = dm::number_of(words[1]).value_or(0) * dm::sector_bytes;
    if (table.type == "crypt" && !words.empty()) row.cipher = words[0];
    return row;
}

seen_mapper mapper_of(const dm::observed_device& device) {
    seen_mapper one;
    one.name = device.name;
    one.number = device.number;
    one.suspended = device.suspended;
    const auto who = dm::parse_uuid(device.uuid);
    one.is_volume = who.has_value() && who->role.what == dm::device_role::part::volume;
    if (!device.active) return one;
    for (std::size_t i = 0; i < device.active->size(); ++i)
        one.rows.push_back(row_of((*device.active)[i], i < device.status.size() ? &device.status[i] : nullptr));
    return one;
}

bool is_clear_device(const seen_mapper& one, const seen_mapper& volume) {
    return one.rows.size() == 1 && one.rows[0].type == "crypt" &&
           one.rows[0].mapped == std::vector<std::string>{volume.number};
}

/// Its own devices by their UUID; that of an encrypted volume's clear text, which bears another, by what it maps.
void look_at_mapper(seen_stack& seen, const kernel_scope& scope, const volume_id& id) {
    std::error_code failed;
    if (!std::filesystem::exists("/sys/class/misc/device-mapper", failed)) return;
    const auto found = dm::driver::observe({}, library_patience);
    if (found.has_error()) return add_note(seen, "device-mapper's devices are", found.error());
    std::vector<seen_mapper> others;
    for (const auto& device : found->devices) {
        const auto who = dm::parse_uuid(device.uuid);
        if (who.has_error())
            others.push_back(mapper_of(device));
        else if (who->volume_id == id.str() && who->scope == scope.scope)
            seen.mappers.push_back(mapper_of(device));
    }
    const auto volume =
        std::find_if(seen.mappers.begin(), seen.mappers.end(), [](const seen_mapper& one) { return one.is_volume; });
    if (volume == seen.mappers.end()) return;
    const auto clear = std::find_if(others.begin(), others.end(),
                                    [&](const seen_mapper& one) { return is_clear_device(one, *volume); });
    if (clear != others.end()) seen.mappers.push_back(*clear);
}

void look_at_portable(seen_stack& seen, const volume_paths& paths) {
    const auto found = observe_portable(paths);
    if (found.has_error()) return add_note(seen, "the loop device is", found.error());
    for (const auto& loop : found->loops) seen.loops.push_back({loop.device, render_number(loop.numbers)});
    if (found->nbdfuse) seen.nbdfuse_pid = found->nbdfuse->pid;
    seen.whole_socket = paths.nbd_socket.string();
}

void look_at_mounts(seen_stack& seen) {
    const auto mounts = read_own_mounts();
    if (mounts.has_error()) return add_note(seen, "mounts are", mounts.error());
    for (const auto& mount : *mounts) {
        const std::string number = render_number(mount.device);
        const bool ours = std::any_of(seen.mappers.begin(), seen.mappers.end(),
                                      [&](const seen_mapper& one) { return one.number == number; }) ||
                          std::any_of(seen.loops.begin(), seen.loops.end(),
                                      [&](const seen_loop& one) { return one.number == number; });
        if (ours) seen.mounts.push_back({number, mount.type, mount.mount_point});
    }
}

/// udev's link (udev-rules). Asks for the node's number, does not open it.
void look_at_link(seen_stack& seen, const std::string& name) {
    struct stat node {};
    std::string link = "/dev/weft/" + name;
    if (::stat(link.c_str(), &node) != 0 || !S_ISBLK(node.st_mode)) return;
    seen.link = std::move(link);
    seen.link_number = fmt::format("{}:{}", major(node.st_rdev), minor(node.st_rdev));
}

}  // namespace

seen_stack observe_stack(const kernel_scope& scope, const volume_paths& paths, const volume_id& id,
                         const std::string& name) {
    seen_stack seen;
    look_at_nbd(seen, scope, id);
    look_at_mapper(seen, scope, id);
    if (seen.nbds.empty() && seen.mappers.empty()) look_at_portable(seen, paths);
    look_at_mounts(seen);
    look_at_link(seen, name);
    return seen;
}

}  // namespace weft
