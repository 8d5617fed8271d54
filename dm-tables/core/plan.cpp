// SPDX-License-Identifier: Apache-2.0
#include "dm-tables/core/plan.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "dm-tables/core/text.hpp"
#include "nbd-backend/base/invariant.hpp"

namespace weft::dm {

namespace {

using verb = step::verb;
using kind = report::kind;

bool is_raid(const table& rows) {
    return std::any_of(rows.begin(), rows.end(),
                       [](const table_row& row) { return std::holds_alternative<raid1_target>(row.what); });
}

const observed_device* find_uuid(const observation& there, std::string_view uuid) {
    for (const observed_device& device : there.devices)
        if (device.uuid == uuid) return &device;
    return nullptr;
}

/// The paths of what is there, so that wanted tables can be written as the kernel writes them.
device_numbers all_numbers(const observation& there) {
    device_numbers numbers = there.numbers;
    for (const observed_device& device : there.devices) numbers[node_path(device.name)] = device.number;
    return numbers;
}

/// The stack without the legs that must leave their set before they can be rebuilt (see the header); false if there are
/// none.
class leg_dropper {
public:
    leg_dropper(volume_stack& stack, const observation& there, const device_numbers& numbers)
        : stack_(stack), there_(there), numbers_(numbers) {}

    bool run() {
        std::set<std::string> dropped;
        for (dm_device& device : stack_.devices)
            for (table_row& row : device.rows)
                if (auto* set = std::get_if<raid1_target>(&row.what)) drop(device, *set, dropped);
        std::erase_if(stack_.devices, [&](const dm_device& it) {
            const bool goes = dropped.contains(node_path(it.name));
            if (goes) stack_.unwanted_uuids.push_back(it.uuid);
            return goes;
        });
        return !dropped.empty();
    }

private:
    void drop(const dm_device& device, raid1_target& set, std::set<std::string>& dropped) {
        const observed_device* seen = find_uuid(there_, device.uuid);
        if (seen == nullptr || !seen->active) return;
        const auto mapped = numbers_in(*seen->active);
        for (unsigned i = 0; i < set.legs.size(); ++i) {
            raid1_leg& leg = set.legs[i];
            if (!leg.rebuild) continue;
            const bool failed =
                std::find(seen->failed_legs.begin(), seen->failed_legs.end(), i) != seen->failed_legs.end();
            if (!exchanged(leg.meta, mapped) && !exchanged(leg.data, mapped) && !(failed && holds(leg.data, mapped)))
                continue;
            dropped.insert({leg.meta, leg.data});
            leg = raid1_leg{};
        }
    }

    [[nodiscard]] bool holds(const std::string& path, const std::vector<std::string>& mapped) const {
        const auto number = numbers_.find(path);
        return number != numbers_.end() && std::find(mapped.begin(), mapped.end(), number->second) != mapped.end();
    }

    /// True if the running set maps this device and the device's table is not the wanted one.
    [[nodiscard]] bool exchanged(const std::string& path, const std::vector<std::string>& mapped) const {
        if (!holds(path, mapped)) return false;
        const auto same = [&path](const auto& it) { return node_path(it.name) == path; };
        const auto wanted = std::find_if(stack_.devices.begin(), stack_.devices.end(), same);
        const auto seen = std::find_if(there_.devices.begin(), there_.devices.end(), same);
        return wanted != stack_.devices.end() && seen != there_.devices.end() &&
               render_by_number(wanted->rows, numbers_) != seen->active;
    }

    volume_stack& stack_;
    const observation& there_;
    const device_numbers& numbers_;
};

/// The steps that bring one volume's stack about.
class volume_planner {
public:
    volume_planner(const volume_stack& stack, const observation& there, const device_numbers& numbers, plan& out)
        : stack_(stack), there_(there), numbers_(numbers), out_(out) {}

    /// False when the volume was left alone.
    bool run() {
        for (const dm_device& device : stack_.devices) paths_.insert(node_path(device.name));
        for (const dm_device& device : stack_.devices)
            if (!can_build(device)) return false;
        if (shrinks()) return false;
        for (const dm_device& device : stack_.devices) parts_.push_back(judge(device));
        thaw_under_changes();
        for (part& it : parts_)
            if (!it.changes && !changes_below(it)) bring_up(it);
        load_early();
        for (auto it = parts_.rbegin(); it != parts_.rend(); ++it)
            if (it->changes && !it->suspended) add(verb::suspend, *it->wanted);
        for (part& it : parts_) settle(it);
        return true;
    }

private:
    /// A device of the stack, and what the kernel has of it as far as the steps until now go.
    struct part {
        const dm_device* wanted = nullptr;
        bool exists = false;
        bool has_table = false;
        bool suspended = false;
        std::optional<raw_table> inactive;
        bool changes = false;  // has an active table that is not the wanted one
        bool early = false;    // its new table was loaded before anything was suspended
        bool settled = false;
    };

    bool refuse(const dm_device& device, kind what, std::string text) {
        out_.reports.push_back({what, device.name, device.uuid, std::move(text)});
        return false;
    }

    bool can_build(const dm_device& device) {
        for (const observed_device& other : there_.devices)
            if ((other.name == device.name) != (other.uuid == device.uuid))
                return refuse(
                    device, kind::name_taken,
                    fmt::format("device {} should have UUID {}, but there is {} with UUID '{}'; find out whose it "
                                "is, and remove it with dmsetup if it is of no use",
                                device.name, device.uuid, shown(other.name), shown(other.uuid)));
        for (const std::string& path : devices_of(device.rows))
            if (!paths_.contains(path) && !numbers_.contains(path))
                return refuse(device, kind::device_missing,
                              fmt::format("device {} maps {}, which is not there; it must be connected first",
                                          device.name, path));
        return true;
    }

    bool shrinks() {
        const observed_device* seen = find_uuid(there_, stack_.top().uuid);
        if (seen == nullptr || !seen->active || length_sectors(*seen->active) <= length_sectors(stack_.top().rows))
            return false;
        refuse(
            stack_.top(), kind::would_shrink,
            fmt::format("device {} has {} sectors, its record only {}; a volume in use does not shrink, so nothing is "
                        "changed until the record is right",
                        stack_.top().name, length_sectors(*seen->active), length_sectors(stack_.top().rows)));
        return true;
    }

    [[nodiscard]] bool is_wanted(const dm_device& wanted, const std::optional<raw_table>& rows) const {
        return rows.has_value() && render_by_number(wanted.rows, numbers_) == rows;
    }

    [[nodiscard]] part judge(const dm_device& wanted) const {
        part it;
        it.wanted = &wanted;
        const observed_device* seen = find_uuid(there_, wanted.uuid);
        if (seen == nullptr) return it;
        it.exists = true;
        it.has_table = seen->active.has_value();
        it.suspended = seen->suspended;
        it.inactive = seen->inactive;
        it.changes = it.has_table && !is_wanted(wanted, seen->active);
        return it;
    }

    void add(verb what, const dm_device& device) {
        const bool with_rows = what == verb::load || what == verb::doubt;
        out_.steps.push_back({what, device.name, device.uuid, with_rows ? device.rows : table{}});
    }

    /// Before a set that does not run is loaded: it reads the superblocks then. P6.
    void doubt_legs(const part& it) {
        for (const table_row& row : it.wanted->rows) {
            const auto* set = std::get_if<raid1_target>(&row.what);
            if (set == nullptr || set->start != raid1_start::by_bitmap) continue;
            for (const raid1_leg& leg : set->legs)
                for (const dm_device& meta : stack_.devices)
                    if (node_path(meta.name) == leg.meta) add(verb::doubt, meta);
        }
    }

    /// True if any part of the stack under `it` changes.
    [[nodiscard]] bool changes_below(const part& it) const {
        const auto devices = devices_of(it.wanted->rows);
        return std::any_of(parts_.begin(), parts_.end(), [&](const part& lower) {
            return std::find(devices.begin(), devices.end(), node_path(lower.wanted->name)) != devices.end() &&
                   (lower.changes || changes_below(lower));
        });
    }

    /// A running set cannot be suspended while its legs are: its superblocks could not be written (raid_postsuspend,
    /// md's md_stop_writes). Legs that a killed daemon left suspended go on with the table that they have, wanted or
    /// not.
    void thaw_under_changes() {
        for (const part& it : parts_) {
            if (!it.changes || it.suspended || !is_raid(it.wanted->rows)) continue;
            const auto mapped = numbers_in(*find_uuid(there_, it.wanted->uuid)->active);
            for (const observed_device& leg : there_.devices)
                if (leg.suspended && leg.active && std::find(mapped.begin(), mapped.end(), leg.number) != mapped.end())
                    thaw(leg);
        }
    }

    void thaw(const observed_device& leg) {
        if (leg.inactive) out_.steps.push_back({verb::clear, leg.name, leg.uuid, {}});
        out_.steps.push_back({verb::resume, leg.name, leg.uuid, {}});
        for (part& it : parts_)
            if (it.wanted->uuid == leg.uuid) {
                it.suspended = false;
                it.inactive.reset();
            }
    }

    void clear(part& it) {
        if (it.inactive) add(verb::clear, *it.wanted);
        it.inactive.reset();
    }

    /// Loads what will be swapped in, unless a killed daemon did. Not trusted for raid: what it read may be old.
    void load(const part& it) {
        if (is_raid(it.wanted->rows) || !is_wanted(*it.wanted, it.inactive)) add(verb::load, *it.wanted);
    }

    /// A device that has no table yet, or already the right one.
    void bring_up(part& it) {
        it.settled = true;
        if (!it.exists) add(verb::create, *it.wanted);
        if (it.has_table) {
            clear(it);
        } else {
            doubt_legs(it);
            load(it);
        }
        if (!it.has_table || it.suspended) add(verb::resume, *it.wanted);
    }

    void load_early() {
        for (part& it : parts_) {
            it.early = it.changes && !is_raid(it.wanted->rows) && !changes_below(it);
            if (it.early) load(it);
        }
    }

    void settle(part& it) {
        if (it.settled) return;
        if (!it.changes) return bring_up(it);
        if (!it.early) load(it);
        add(verb::resume, *it.wanted);
    }

    const volume_stack& stack_;
    const observation& there_;
    const device_numbers& numbers_;
    plan& out_;
    std::set<std::string> paths_;
    std::vector<part> parts_;
};

/// Devices that must go, and who holds them.
class remover {
public:
    remover(const observation& there, plan& out) : there_(there), out_(out) {}

    void consider(const observed_device& device) { candidates_.push_back(&device); }

    /// Device `holder` will no longer map anything but `rows`.
    void will_map(const observed_device& holder, std::optional<raw_table> rows) { future_[&holder] = std::move(rows); }

    /// Takes from the top: a device goes when nobody has it open but devices that go too, or that let go of it.
    void run() {
        bool progress = true;
        while (progress) {
            progress = false;
            for (const observed_device*& device : candidates_) {
                if (device == nullptr || opens_left(*device) != 0) continue;
                out_.reports.push_back({kind::leftover_removed, device->name, device->uuid,
                                        fmt::format("device {} is not needed by any volume of this node: it is removed",
                                                    shown(device->name))});
                out_.steps.push_back({verb::remove, device->name, device->uuid, {}});
                future_[device] = std::nullopt;
                removed_.insert(device);
                device = nullptr;
                progress = true;
            }
        }
        for (const observed_device* device : candidates_)
            if (device != nullptr)
                out_.reports.push_back(
                    {kind::leftover_in_use, device->name, device->uuid,
                     fmt::format(
                         "device {} is not needed by any volume of this node but is in use; unmount or stop what "
                         "uses it (lsblk and fuser tell), then it is removed",
                         shown(device->name))});
    }

    [[nodiscard]] bool removes(const observed_device& device) const { return removed_.contains(&device); }

private:
    static bool maps(const std::optional<raw_table>& rows, const std::string& number) {
        if (!rows) return false;
        const auto numbers = numbers_in(*rows);
        return std::find(numbers.begin(), numbers.end(), number) != numbers.end();
    }

    /// The open count, less one for each device of ours that will have let go of it: device-mapper opens a device once
    /// for all tables of one holder (dm.c, dm_get_table_device).
    [[nodiscard]] std::uint64_t opens_left(const observed_device& device) const {
        std::uint64_t opens = device.open_count;
        for (const observed_device& holder : there_.devices) {
            const auto future = future_.find(&holder);
            const bool holds = maps(holder.active, device.number) || maps(holder.inactive, device.number);
            if (future != future_.end() && holds && !maps(future->second, device.number) && opens > 0) --opens;
        }
        return opens;
    }

    const observation& there_;
    plan& out_;
    std::vector<const observed_device*> candidates_;
    std::set<const observed_device*> removed_;
    std::map<const observed_device*, std::optional<raw_table>> future_;
};

/// What there is of a volume beside its stack: missing legs go, the rest is reported.
void remove_unwanted(const volume_stack& stack, const observation& there, const device_numbers& numbers, plan& out) {
    remover legs(there, out);
    for (const observed_device& device : there.devices) {
        const auto who = parse_uuid(device.uuid);
        if (who.has_error() || who->scope != stack.scope || who->volume_id != stack.volume_id) continue;
        const auto same = [&device](const dm_device& it) { return it.uuid == device.uuid; };
        const auto it = std::find_if(stack.devices.begin(), stack.devices.end(), same);
        const auto& unwanted = stack.unwanted_uuids;
        if (it != stack.devices.end())
            legs.will_map(device, render_by_number(it->rows, numbers));
        else if (std::find(unwanted.begin(), unwanted.end(), device.uuid) != unwanted.end())
            legs.consider(device);
        else
            out.reports.push_back({kind::not_in_stack, device.name, device.uuid,
                                   fmt::format("device {} belongs to a volume that does not need it; it is left alone, "
                                               "and goes when the volume is detached",
                                               shown(device.name))});
    }
    legs.run();
}

}  // namespace

std::string_view to_string(step::verb verb) {
    switch (verb) {
        case step::verb::create: return "create";
        case step::verb::load: return "load";
        case step::verb::doubt: return "doubt";
        case step::verb::clear: return "clear";
        case step::verb::suspend: return "suspend";
        case step::verb::resume: return "resume";
        case step::verb::remove: return "remove";
    }
    INVARIANT(false, "a verb that is none");
}

std::string_view to_string(report::kind kind) {
    switch (kind) {
        case report::kind::leftover_removed: return "leftover_removed";
        case report::kind::leftover_in_use: return "leftover_in_use";
        case report::kind::not_in_stack: return "not_in_stack";
        case report::kind::not_ours: return "not_ours";
        case report::kind::name_taken: return "name_taken";
        case report::kind::device_missing: return "device_missing";
        case report::kind::would_shrink: return "would_shrink";
    }
    INVARIANT(false, "a kind that is none");
}

plan make_plan(const std::vector<volume_stack>& wanted, const observation& everything, std::string_view scope) {
    plan out;
    std::set<std::string> volumes;
    for (const volume_stack& stack : wanted) {
        INVARIANT(stack.scope == scope, "stack of scope '{}' in a plan for '{}'", stack.scope, scope);
        INVARIANT(volumes.insert(stack.volume_id).second, "two stacks of volume {}", stack.volume_id);
    }
    // First what no volume needs, then as if it were gone: a new volume may have the name of one that was deleted.
    observation there{{}, everything.numbers};
    remover leftovers(everything, out);
    for (const observed_device& device : everything.devices)
        if (const auto who = parse_uuid(device.uuid);
            who.has_value() && who->scope == scope && !volumes.contains(who->volume_id))
            leftovers.consider(device);
        else if (who.has_error() && who.error().code == errc::corrupt)
            out.reports.push_back({kind::not_ours, device.name, device.uuid, who.error().text});
    leftovers.run();
    for (const observed_device& device : everything.devices)
        if (!leftovers.removes(device)) there.devices.push_back(device);

    const device_numbers numbers = all_numbers(there);
    for (volume_stack stack : wanted) {
        out.more = leg_dropper(stack, there, numbers).run() || out.more;
        if (volume_planner(stack, there, numbers, out).run()) remove_unwanted(stack, there, numbers, out);
    }
    return out;
}

}  // namespace weft::dm
