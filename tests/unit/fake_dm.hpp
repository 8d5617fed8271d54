// SPDX-License-Identifier: Apache-2.0
// Device-mapper as a value, for tests of plans: carries out steps as the kernel would, refuses what it would refuse or
// hang on, and watches law P3 of dm-tables/core/plan.hpp.
//
// Every block device below has a content, a number. A running raid1 set wants the same content on all legs that it
// reads; a leg with "rebuild" gets it as the set is resumed. What was under way when the power was cut lies beside it:
// legs on which that differs are made equal only by a set whose superblocks, all of them, say that they may differ.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "dm-tables/core/plan.hpp"

namespace weft::testing {

struct fake_disk {
    std::string number;
    std::uint64_t sectors = 0;
    int content = 0;
    int under_way = 0;     // what became of the last writes
    bool doubted = false;  // the superblock says that legs may differ
};

struct fake_device {
    std::string name, uuid, number;
    std::optional<dm::table> active, inactive;
    bool suspended = false;
    std::uint64_t opens = 0;  // by users
    std::set<unsigned> dead;  // legs that the running set has given up
    bool doubts = false;      // what the superblocks said when the inactive table was loaded
};

class fake_dm {
public:
    std::map<std::string, fake_disk> disks;  // by path
    std::vector<fake_device> devices;

    void plug(const std::string& path, std::uint64_t sectors, int content) {
        disks[path] = {fmt::format("43:{}", disks.size()), sectors, content, 0, false};
    }

    fake_device* find(const std::string& name) {
        for (fake_device& it : devices)
            if (it.name == name) return &it;
        return nullptr;
    }

    /// What is wrong with carrying the step out; empty when it was.
    std::string apply(const dm::step& step) {
        std::string problem = act(step);
        return problem.empty() ? unlawful() : step_text(step) + ": " + problem;
    }

    static std::string step_text(const dm::step& step) { return fmt::format("{} {}", to_string(step.what), step.name); }

    dm::observation observe() {
        dm::observation there;
        for (const auto& [path, disk] : disks) there.numbers[path] = disk.number;
        dm::device_numbers numbers = there.numbers;
        for (const fake_device& it : devices) numbers[dm::node_path(it.name)] = it.number;
        for (const fake_device& it : devices) {
            dm::observed_device seen{it.name, it.uuid, it.number, {}, {}, it.suspended, open_count(it), {}};
            if (it.active) seen.active = *dm::render_by_number(*it.active, numbers);
            if (it.inactive) seen.inactive = *dm::render_by_number(*it.inactive, numbers);
            seen.failed_legs.assign(it.dead.begin(), it.dead.end());
            there.devices.push_back(seen);
        }
        return there;
    }

    /// The disk's path under a leg's device, through its active table.
    std::string disk_under(const std::string& node) {
        const fake_device* device = by_node(node);
        if (device == nullptr || !device->active) return {};
        return dm::devices_of(*device->active).at(0);
    }

private:
    fake_device* by_node(const std::string& node) {
        for (fake_device& it : devices)
            if (dm::node_path(it.name) == node) return &it;
        return nullptr;
    }

    static bool maps(const std::optional<dm::table>& rows, const std::string& path) {
        if (!rows) return false;
        const auto all = dm::devices_of(*rows);
        return std::find(all.begin(), all.end(), path) != all.end();
    }

    std::uint64_t open_count(const fake_device& it) {
        std::uint64_t count = it.opens;
        for (const fake_device& holder : devices)
            count += maps(holder.active, dm::node_path(it.name)) || maps(holder.inactive, dm::node_path(it.name));
        return count;
    }

    static const dm::raid1_target* set_in(const std::optional<dm::table>& rows) {
        return rows && rows->size() == 1 ? std::get_if<dm::raid1_target>(&rows->front().what) : nullptr;
    }

    std::uint64_t sectors_of(const std::string& path) {
        if (const auto disk = disks.find(path); disk != disks.end()) return disk->second.sectors;
        const fake_device* device = by_node(path);
        return device != nullptr && device->active ? dm::length_sectors(*device->active) : 0;
    }

    std::string act(const dm::step& step) {
        using verb = dm::step::verb;
        fake_device* device = find(step.name);
        if (step.what == verb::create) {
            if (device != nullptr) return "the name exists";
            for (const fake_device& it : devices)
                if (it.uuid == step.uuid) return "the UUID exists";
            devices.push_back({step.name, step.uuid, fmt::format("253:{}", next_++), {}, {}, false, 0, {}});
            return {};
        }
        if (device == nullptr || device->uuid != step.uuid) return "no such device";
        switch (step.what) {
            case verb::load: return load(*device, step.rows);
            case verb::doubt: return doubt(*device, step.rows);
            case verb::clear: device->inactive.reset(); return {};
            case verb::suspend: return suspend(*device);
            case verb::resume: return resume(*device);
            case verb::remove:
                if (open_count(*device) != 0) return "it is open";
                std::erase_if(devices, [&](const fake_device& it) { return it.name == step.name; });
                return {};
            case verb::create: break;
        }
        return "no such verb";
    }

    std::string load(fake_device& device, const dm::table& rows) {
        if (const auto verdict = dm::check(rows); verdict.has_error()) return verdict.error().text;
        for (const std::string& path : dm::devices_of(rows))
            if (sectors_of(path) == 0) return path + " is not there or has no table";
        for (const dm::table_row& row : rows)
            if (const auto* area = std::get_if<dm::linear_target>(&row.what))
                if (area->offset_sectors + row.length_sectors > sectors_of(area->device))
                    return area->device + " is too small";
        if (set_in(rows) != nullptr) {
            if (device.active && !device.suspended) return "a set is loaded while one with the same superblocks runs";
            for (const std::string& path : dm::devices_of(rows))
                if (by_node(path)->suspended) return "a set's superblocks cannot be read from the suspended " + path;
            device.doubts = all_doubted(*set_in(rows));
        }
        device.inactive = rows;
        return {};
    }

    std::string doubt(const fake_device& device, const dm::table& rows) {
        const auto path = dm::devices_of(rows).at(0);
        if (!disks.contains(path)) return path + " is not there";
        for (const fake_device& holder : devices)
            if (set_in(holder.active) != nullptr && maps(holder.active, dm::node_path(device.name)))
                return "a set is running that keeps this superblock in memory";
        disks[path].doubted = true;
        return {};
    }

    std::string suspend(fake_device& device) {
        if (!device.active || device.suspended) return "nothing to suspend";
        if (set_in(device.active) != nullptr)
            for (const std::string& path : dm::devices_of(*device.active))
                if (by_node(path)->suspended) return "a set cannot write its superblocks to the suspended " + path;
        device.suspended = true;
        return {};
    }

    std::string resume(fake_device& device) {
        if (!device.active && !device.inactive) return "no table";
        const bool begins = device.inactive.has_value();
        if (begins) {
            device.active = std::exchange(device.inactive, std::nullopt);
            device.dead.clear();
            device.suspended = true;
        }
        if (!device.suspended) return "it runs";
        for (const std::string& path : dm::devices_of(*device.active))
            if (const fake_device* lower = by_node(path); lower != nullptr && lower->suspended && set_in(device.active))
                return "a set reads its bitmap from the suspended " + path;
        device.suspended = false;
        if (const dm::raid1_target* set = set_in(device.active); set != nullptr && begins)
            synchronise(*set, device.doubts);
        return {};
    }

    /// A table that rebuilds a leg does not look for differences.
    bool all_doubted(const dm::raid1_target& set) {
        return std::all_of(set.legs.begin(), set.legs.end(), [this](const dm::raid1_leg& leg) {
            return leg.missing() || (!leg.rebuild && disks[disk_under(leg.data)].doubted);
        });
    }

    void synchronise(const dm::raid1_target& set, bool doubts) {
        const auto good = std::find_if(set.legs.begin(), set.legs.end(),
                                       [](const dm::raid1_leg& leg) { return !leg.missing() && !leg.rebuild; });
        const fake_disk first = disks[disk_under(good->data)];
        for (const dm::raid1_leg& leg : set.legs) {
            if (leg.missing()) continue;
            fake_disk& disk = disks[disk_under(leg.data)];
            if (leg.rebuild) disk.content = first.content;
            if (leg.rebuild || doubts) disk.under_way = first.under_way;
            disk.doubted = false;
        }
    }

    /// P3, P6.
    std::string unlawful() {
        for (const fake_device& device : devices) {
            const dm::raid1_target* set = set_in(device.active);
            if (set == nullptr || device.suspended) continue;
            std::set<std::pair<int, int>> contents;
            for (unsigned i = 0; i < set->legs.size(); ++i) {
                if (set->legs[i].missing() || device.dead.contains(i)) continue;
                const fake_disk& disk = disks[disk_under(set->legs[i].data)];
                contents.insert({disk.content, disk.under_way});
            }
            if (contents.size() != 1) return fmt::format("{} runs over legs that differ", device.name);
        }
        return {};
    }

    int next_ = 0;
};

}  // namespace weft::testing
