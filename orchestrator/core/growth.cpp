// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/core/growth.hpp"

#include <fmt/format.h>

#include <utility>

#include "nbd-backend/base/units.hpp"
#include "orchestrator/core/create_options.hpp"
#include "orchestrator/core/names.hpp"

namespace weft {

namespace {

error growing_already(const volume_record& record) {
    return error{errc::busy,
                 fmt::format("volume '{}' is growing already; look at `weft volume inspect`", printable(record.name))};
}

}  // namespace

result<extent_split> split_growth(const volume_record& record, std::uint64_t size_bytes, std::uint64_t extent_bytes) {
    if (size_bytes < record.size_bytes)
        return error{errc::invalid_argument,
                     fmt::format("volume '{}' has {}: a volume cannot become smaller; make a new one and copy",
                                 printable(record.name), render_size(record.size_bytes))};
    if (size_bytes > volume_size_max_bytes)
        return error{errc::invalid_argument, fmt::format("{} is more than the largest volume, {}",
                                                         render_size(size_bytes), render_size(volume_size_max_bytes))};
    if (!record.growth.stripes.empty()) return growing_already(record);
    if (size_bytes == record.size_bytes) return extent_split{};
    const std::uint32_t stripes = record.layout.stripes.back();
    const std::uint64_t unit = volume_size_unit_bytes * stripes;
    return split_extents((size_bytes - record.size_bytes + unit - 1) / unit * unit, extent_bytes, stripes,
                         record.layout.mirrored);
}

result<volume_record> begin_growth(volume_record record, std::uint64_t from_bytes, growth_record growth) {
    if (!record.growth.stripes.empty()) return growing_already(record);
    if (record.size_bytes != from_bytes)
        return error{errc::conflict,
                     fmt::format("volume '{}' was grown by somebody else meanwhile", printable(record.name))};
    record.growth = std::move(growth);
    return record;
}

given_up_growth give_up_growth(volume_record record) {
    given_up_growth done{std::move(record), {}};
    for (auto& extent : done.record.growth.extents)
        for (auto& replica : extent.replicas) done.removed.push_back(std::move(replica));
    done.record.growth = {};
    return done;
}

std::set<node_name> nodes_of(const growth_record& growth) {
    std::set<node_name> nodes;
    for (const auto& extent : growth.extents)
        for (const auto& replica : extent.replicas) nodes.insert(replica.node);
    return nodes;
}

std::set<node_name> nodes_awaited(const std::vector<extent_record>& extents) {
    std::set<node_name> nodes;
    for (const auto& extent : extents)
        for (const auto& replica : extent.replicas)
            if (!replica.created) nodes.insert(replica.node);
    return nodes;
}

}  // namespace weft
