// SPDX-License-Identifier: Apache-2.0
#include "nbd-backend/io/control_outbox.hpp"

#include <fmt/format.h>

#include <utility>

namespace weft::io {

void control_outbox::propose(std::uint32_t extent, const replica_id& replica, const core::proposal& what) {
    const std::lock_guard lock(mutex_);
    const std::uint64_t id = next_id_++;
    pending_.emplace(id, pending{{id, extent, replica, what.to, what.reason, what.recovering}, what.id});
}

void control_outbox::notify(std::uint32_t extent, const core::notice& what) {
    if (extents_ == 1)
        notify(what);
    else
        notify(core::notice{what.severity, fmt::format("extent {}: {}", extent, what.text)});
}

void control_outbox::notify(core::notice what) {
    const std::lock_guard lock(mutex_);
    if (notices_.size() == notices_max) {
        notices_.pop_front();
        ++dropped_notices_;
    }
    notices_.push_back(std::move(what));
}

void control_outbox::changed() {
    const std::lock_guard lock(mutex_);
    changed_ = true;
}

std::uint64_t control_outbox::proposals_after(std::uint64_t after, std::vector<core::propose_message>& out) const {
    const std::lock_guard lock(mutex_);
    for (auto it = pending_.upper_bound(after); it != pending_.end(); ++it) {
        out.push_back(it->second.message);
        after = it->first;
    }
    return after;
}

void control_outbox::take_notices(std::vector<core::notice>& out) {
    const std::lock_guard lock(mutex_);
    if (dropped_notices_ > 0)
        out.push_back({core::notice::level::warning,
                       fmt::format("{} older notices were dropped while weftd was away", dropped_notices_)});
    dropped_notices_ = 0;
    for (core::notice& one : notices_) out.push_back(std::move(one));
    notices_.clear();
}

bool control_outbox::take_changed() {
    const std::lock_guard lock(mutex_);
    return std::exchange(changed_, false);
}

std::optional<control_outbox::addressee> control_outbox::answered(std::uint64_t id) {
    const std::lock_guard lock(mutex_);
    const auto it = pending_.find(id);
    if (it == pending_.end()) return std::nullopt;
    const addressee whose{it->second.message.extent, it->second.engine_id};
    pending_.erase(it);
    return whose;
}

}  // namespace weft::io
