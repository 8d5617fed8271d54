// SPDX-License-Identifier: Apache-2.0
// The views of service.hpp as JSON: what the admin socket answers and `weft -o json` prints (API.md has the fields).
//
// A view that wraps a record is flat: the record's fields first, the view's after them. Sizes are bytes, times of day
// RFC 3339, durations milliseconds. Field names end in their unit. Encoding only; pure.
#pragma once

#include <boost/json.hpp>

#include "orchestrator/api/service.hpp"

namespace weft {

boost::json::value to_json(const core::engine_status& engine);
boost::json::value to_json(const device_stack& stack);
boost::json::value to_json(const volume_view& view);
boost::json::value to_json(const drive_view& view);
boost::json::value to_json(const node_view& view);
boost::json::value to_json(const event_view& view);
boost::json::value to_json(const status_view& view);
boost::json::value to_json(const attachment_view& view);
boost::json::value to_json(const restart_view& view);
boost::json::value to_json(const repair_view& view);

template <typename View>
boost::json::value to_json(const std::vector<View>& views) {
    boost::json::array list;
    list.reserve(views.size());
    for (const auto& view : views) list.push_back(to_json(view));
    return list;
}

/// Docker's free-form Status of Get: the same facts under names for people, shown by `docker volume inspect`.
boost::json::object docker_status(const volume_view& view);

}  // namespace weft
