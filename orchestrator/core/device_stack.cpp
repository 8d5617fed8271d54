// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/core/device_stack.hpp"

#include <algorithm>
#include <set>
#include <utility>

namespace weft {

namespace {

/// Device-mapper knows no loops among devices, but what was seen at different moments may have one.
constexpr int depth_max = 8;

class stack_builder {
public:
    stack_builder(const volume_record& record, const seen_stack& seen) : record_(record), seen_(seen) {}

    device_stack build() {
        device_stack made;
        made.note = seen_.note;
        const auto top = std::find_if(seen_.mappers.begin(), seen_.mappers.end(),
                                      [](const seen_mapper& one) { return one.is_volume; });
        if (!seen_.mappers.empty() || !seen_.nbds.empty())
            made.attach = "kernel";
        else if (!seen_.loops.empty() || seen_.nbdfuse_pid != 0)
            made.attach = "portable";
        if (top != seen_.mappers.end())
            made.tree.push_back(mounted(under_crypt(volume(*top), top->number)));
        else if (made.attach == "portable")
            made.tree = portable();
        else
            made.tree = extents();
        return made;
    }

private:
    stack_node replica(const replica_record& which) {
        shown_.insert(which.id);
        stack_node node;
        node.what = stack_layer::replica;
        node.name = which.id.str();
        node.replica = which;
        return node;
    }

    /// Those that are not in the tree yet.
    void add_replicas(std::uint32_t extent, std::vector<stack_node>& to) {
        if (extent >= record_.extents.size()) return;
        for (const auto& one : record_.extents[extent].replicas)
            if (!shown_.contains(one.id)) to.push_back(replica(one));
    }

    stack_node nbd(const seen_nbd& device) {
        stack_node node;
        node.what = stack_layer::nbd;
        node.name = device.device;
        node.number = device.number;
        node.size_bytes = device.size_bytes;
        if (device.leg.empty()) {
            node.extent = device.extent;
            add_replicas(device.extent, node.below);
            return node;
        }
        if (const auto* found = find_replica(device.extent, device.leg)) {
            node.below.push_back(replica(*found));
        } else {
            stack_node gone;
            gone.name = device.leg.str();
            node.below.push_back(std::move(gone));
        }
        return node;
    }

    [[nodiscard]] const replica_record* find_replica(std::uint32_t extent, const replica_id& id) const {
        if (extent >= record_.extents.size()) return nullptr;
        for (const auto& one : record_.extents[extent].replicas)
            if (one.id == id) return &one;
        return nullptr;
    }

    [[nodiscard]] const seen_mapper* find_mapper(const std::string& number) const {
        for (const auto& one : seen_.mappers)
            if (one.number == number) return &one;
        return nullptr;
    }

    /// The device of that number, and what is under it. A device-mapper device that only passes a part of another one
    /// on, which is what a leg's data device does, is left out of the picture.
    stack_node device(const std::string& number, int depth) {
        for (const auto& one : seen_.nbds)
            if (one.number == number) return nbd(one);
        stack_node node;
        node.number = number;
        const auto* mapper = find_mapper(number);
        if (mapper == nullptr || depth >= depth_max) return node;
        if (mapper->rows.size() == 1 && mapper->rows[0].type == "linear" && mapper->rows[0].mapped.size() == 1)
            return device(mapper->rows[0].mapped[0], depth + 1);
        node.name = mapper->name;
        node.suspended = mapper->suspended;
        for (const auto& row : mapper->rows)
            for (const auto& lower : row.mapped) node.below.push_back(device(lower, depth + 1));
        return node;
    }

    stack_node leg(std::uint32_t extent, std::uint32_t place, const seen_leg& seen) {
        stack_node node;
        node.what = stack_layer::leg;
        node.index = place;
        node.condition = seen.condition;
        if (!seen.data.empty()) {
            node.below.push_back(device(seen.data, 0));
            return node;
        }
        if (extent < record_.extents.size())
            for (const auto& one : record_.extents[extent].replicas)
                if (one.leg == place && !shown_.contains(one.id)) node.below.push_back(replica(one));
        return node;
    }

    void add_set(stack_node& node, const seen_mapper& set) {
        const seen_row& row = set.rows[0];
        node.type = "raid1";
        node.name = set.name;
        node.number = set.number;
        node.suspended = set.suspended;
        node.action = row.action;
        node.done_bytes = row.done_bytes;
        node.all_bytes = row.all_bytes;
        node.extent = node.index;  // each segment of a mirrored volume is one extent
        for (std::uint32_t place = 0; place < row.legs.size(); ++place)
            node.below.push_back(leg(*node.extent, place, row.legs[place]));
        add_replicas(*node.extent, node.below);
    }

    stack_node segment(std::uint32_t index, const seen_row& row) {
        stack_node node;
        node.what = stack_layer::segment;
        node.index = index;
        node.type = row.type;
        node.size_bytes = row.size_bytes;
        node.chunk_bytes = row.chunk_bytes;
        node.stripes = row.type == "striped" ? static_cast<std::uint32_t>(row.mapped.size()) : 0;
        if (row.type == "linear" && row.mapped.size() == 1)
            if (const auto* set = find_mapper(row.mapped[0]);
                set != nullptr && set->rows.size() == 1 && set->rows[0].type == "raid") {
                add_set(node, *set);
                return node;
            }
        for (const auto& lower : row.mapped) node.below.push_back(device(lower, 0));
        return node;
    }

    stack_node volume(const seen_mapper& top) {
        stack_node node;
        node.what = stack_layer::volume;
        node.name = top.name;
        node.number = top.number;
        node.suspended = top.suspended;
        for (std::uint32_t i = 0; i < top.rows.size(); ++i) {
            node.size_bytes += top.rows[i].size_bytes;
            node.below.push_back(segment(i, top.rows[i]));
        }
        for (auto& extent : extents())
            if (!extent.below.empty()) node.below.push_back(std::move(extent));
        return with_link(std::move(node));
    }

    stack_node under_crypt(stack_node volume, const std::string& number) {
        for (const auto& one : seen_.mappers) {
            if (one.is_volume || one.rows.size() != 1 || one.rows[0].type != "crypt") continue;
            if (one.rows[0].mapped != std::vector<std::string>{number}) continue;
            stack_node node;
            node.what = stack_layer::crypt;
            node.name = one.name;
            node.number = one.number;
            node.type = one.rows[0].cipher;
            node.size_bytes = one.rows[0].size_bytes;
            node.suspended = one.suspended;
            node.below.push_back(std::move(volume));
            return with_link(std::move(node));
        }
        return volume;
    }

    stack_node with_link(stack_node node) const {
        if (node.number == seen_.link_number) node.link = seen_.link;
        return node;
    }

    /// With the file system on it over it, if it is mounted.
    stack_node mounted(stack_node device) const {
        stack_node node;
        node.what = stack_layer::file_system;
        for (const auto& mount : seen_.mounts) {
            if (mount.number != device.number) continue;
            node.type = mount.type;
            node.mount_points.push_back(mount.mount_point);
        }
        if (node.mount_points.empty()) return device;
        node.below.push_back(std::move(device));
        return node;
    }

    std::vector<stack_node> portable() {
        stack_node whole;
        whole.what = stack_layer::whole;
        whole.name = seen_.whole_socket;
        whole.size_bytes = record_.size_bytes;
        whole.below = extents();
        std::vector<stack_node> below;
        below.push_back(std::move(whole));
        if (seen_.nbdfuse_pid != 0) {
            stack_node fuse;
            fuse.what = stack_layer::nbdfuse;
            fuse.pid = seen_.nbdfuse_pid;
            fuse.below = std::exchange(below, {});
            below.push_back(std::move(fuse));
        }
        std::vector<stack_node> tree;
        for (const auto& loop : seen_.loops) {
            stack_node node;
            node.what = stack_layer::loop;
            node.name = loop.device;
            node.number = loop.number;
            node.below = std::exchange(below, {});
            tree.push_back(mounted(std::move(node)));
        }
        return tree.empty() ? below : tree;
    }

    std::vector<stack_node> extents() {
        std::vector<stack_node> all;
        for (std::uint32_t i = 0; i < record_.extents.size(); ++i) {
            stack_node node;
            node.what = stack_layer::extent;
            node.extent = i;
            node.size_bytes = record_.extents[i].size_bytes;
            add_replicas(i, node.below);
            all.push_back(std::move(node));
        }
        return all;
    }

    const volume_record& record_;
    const seen_stack& seen_;
    std::set<replica_id> shown_;
};

}  // namespace

std::string_view to_string(stack_layer layer) noexcept {
    switch (layer) {
        case stack_layer::file_system: return "file_system";
        case stack_layer::crypt: return "crypt";
        case stack_layer::volume: return "volume";
        case stack_layer::segment: return "segment";
        case stack_layer::leg: return "leg";
        case stack_layer::nbd: return "nbd";
        case stack_layer::loop: return "loop";
        case stack_layer::nbdfuse: return "nbdfuse";
        case stack_layer::whole: return "whole";
        case stack_layer::extent: return "extent";
        case stack_layer::replica: return "replica";
        case stack_layer::other: break;
    }
    return "other";
}

std::string_view to_string(leg_condition condition) noexcept {
    switch (condition) {
        case leg_condition::in_sync: return "in_sync";
        case leg_condition::syncing: return "syncing";
        case leg_condition::failed: return "failed";
        case leg_condition::missing: break;
    }
    return "missing";
}

device_stack make_stack(const volume_record& record, const seen_stack& seen) {
    return stack_builder(record, seen).build();
}

}  // namespace weft
