// SPDX-License-Identifier: Apache-2.0
#include "dm-tables/core/volume_stack.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <set>

#include "dm-tables/core/text.hpp"
#include "nbd-backend/base/ids.hpp"

namespace weft::dm {

namespace {

using part = device_role::part;

error wrong(std::string text) {
    return error{errc::invalid_argument, std::move(text)};
}

bool is_name_character(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.' ||
           c == '-';
}

/// The name's grammar lives in orchestrator/core/names.hpp; here stands what would break a device's name.
status check_identity(const volume_layout& layout) {
    if (!is_uuid(layout.volume_id)) return wrong(fmt::format("'{}' is not a volume's id", shown(layout.volume_id)));
    if (layout.volume_name.empty() ||
        !std::all_of(layout.volume_name.begin(), layout.volume_name.end(), is_name_character))
        return wrong(fmt::format("'{}' is not a volume's name", shown(layout.volume_name)));
    return check_scope(layout.scope);
}

class builder {
public:
    explicit builder(const volume_layout& layout) : layout_(layout) {}

    result<volume_stack> build() {
        TRY(check_identity(layout_));
        if (layout_.segments.empty()) return wrong("the volume has no segments");
        if (layout_.segments.size() > segments_max)
            return wrong(
                fmt::format("the volume has {} segments; possible are {}", layout_.segments.size(), segments_max));
        stack_.volume_id = layout_.volume_id;
        stack_.scope = layout_.scope;
        for (unsigned i = 0; i < layout_.segments.size(); ++i) {
            const status added = add_segment(i, layout_.segments[i]);
            if (added.has_error()) return added.error().within(fmt::format("segment {}", i));
        }
        add_device({part::volume, 0, 0}, std::move(top_));
        for (const dm_device& device : stack_.devices) {
            const status verdict = check(device.rows);
            if (verdict.has_error()) return verdict.error().within(device.name);
        }
        return std::move(stack_);
    }

private:
    status add_segment(unsigned index, const layout_segment& segment) {
        TRY(check_extents(segment));
        const std::uint64_t bytes = segment_bytes(layout_.kind, segment.extents.size(), segment.extents[0].size_bytes);
        const std::uint64_t start = length_sectors(top_);
        if (bytes / sector_bytes > std::numeric_limits<std::uint64_t>::max() / sector_bytes - start)
            return wrong("the volume becomes larger than bytes can count");
        target what = layout_.kind == layout_kind::striped ? striped_row(segment) : mirrored_row(index, segment);
        top_.push_back({start, bytes / sector_bytes, std::move(what)});
        return ok();
    }

    status check_extents(const layout_segment& segment) {
        const bool mirrored = layout_.kind == layout_kind::mirrored;
        if (segment.extents.empty()) return wrong("it has no extents");
        const std::uint64_t size = segment.extents[0].size_bytes;
        for (const extent_device& extent : segment.extents) {
            if (extent.size_bytes != size)
                return wrong(fmt::format("its extents differ in size: {} and {} bytes", size, extent.size_bytes));
            const bool missing = mirrored && extent.state == leg_state::missing;
            if (!missing && !used_.insert(extent.path).second)
                return wrong(fmt::format("device '{}' is in the volume twice", shown(extent.path)));
        }
        const bool striped = !mirrored && segment.extents.size() > 1;
        const std::uint64_t unit = striped ? layout_.chunk_bytes : block_bytes;
        if (striped && (unit < block_bytes || unit % sector_bytes != 0))
            return wrong(fmt::format("a chunk of {} bytes is not a power of two of at least {}", unit, block_bytes));
        if (size == 0 || size % unit != 0)
            return wrong(fmt::format("an extent of {} bytes is not a multiple of {}", size, unit));
        if (size > std::numeric_limits<std::uint64_t>::max() / segment.extents.size())
            return wrong(
                fmt::format("{} extents of {} bytes are more than bytes can count", segment.extents.size(), size));
        if (mirrored && size <= leg_meta_bytes)
            return wrong(fmt::format("a leg of {} bytes has no room for {} bytes of metadata and any data", size,
                                     leg_meta_bytes));
        if (mirrored && segment.extents.size() > raid1_legs_max)
            return wrong(fmt::format("it has {} legs; possible are {}", segment.extents.size(), raid1_legs_max));
        return ok();
    }

    target striped_row(const layout_segment& segment) {
        if (segment.extents.size() == 1) return linear_target{segment.extents[0].path, 0};
        striped_target row{layout_.chunk_bytes / sector_bytes, {}};
        for (const extent_device& extent : segment.extents) row.stripes.push_back({extent.path, 0});
        return row;
    }

    target mirrored_row(unsigned index, const layout_segment& segment) {
        constexpr std::uint64_t meta_sectors = leg_meta_bytes / sector_bytes;
        const std::uint64_t data_sectors = segment.extents[0].size_bytes / sector_bytes - meta_sectors;
        raid1_target set;
        set.region_sectors = choose_region_sectors(data_sectors);
        set.start = segment.start;
        set.max_recovery_kib = layout_.resync_kib_per_second;
        for (unsigned leg = 0; leg < segment.extents.size(); ++leg) {
            const extent_device& extent = segment.extents[leg];
            const device_role meta{part::leg_meta, index, leg};
            const device_role data{part::leg_data, index, leg};
            if (extent.state == leg_state::missing) {
                set.legs.emplace_back();
                stack_.unwanted_uuids.push_back(render_uuid({layout_.scope, layout_.volume_id, data}));
                stack_.unwanted_uuids.push_back(render_uuid({layout_.scope, layout_.volume_id, meta}));
                continue;
            }
            const bool rebuild = extent.state == leg_state::rebuild;
            if (rebuild && set.start == raid1_start::assume_equal) set.start = raid1_start::by_superblock;
            const std::string meta_path = add_device(meta, {{0, meta_sectors, linear_target{extent.path, 0}}});
            const std::string data_path =
                add_device(data, {{0, data_sectors, linear_target{extent.path, meta_sectors}}});
            set.legs.push_back({meta_path, data_path, rebuild});
        }
        return linear_target{add_device({part::segment, index, 0}, {{0, data_sectors, std::move(set)}}), 0};
    }

    std::string add_device(const device_role& role, table rows) {
        const device_identity who{layout_.scope, layout_.volume_id, role};
        stack_.devices.push_back({render_name(who, layout_.volume_name), render_uuid(who), role, std::move(rows)});
        return node_path(stack_.devices.back().name);
    }

    const volume_layout& layout_;
    volume_stack stack_;
    table top_;
    std::set<std::string> used_;
};

}  // namespace

std::uint64_t segment_bytes(layout_kind kind, std::size_t extents, std::uint64_t extent_bytes) {
    if (kind == layout_kind::striped) return extent_bytes * extents;
    return extent_bytes > leg_meta_bytes ? extent_bytes - leg_meta_bytes : 0;
}

result<volume_stack> make_volume_stack(const volume_layout& layout) {
    return builder(layout).build();
}

}  // namespace weft::dm
