// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/daemon/control_link.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <tuple>

namespace weft {

control_link::control_link(const volume_paths& paths, volume_id id, std::uint64_t epoch, hooks handlers)
    : id_(std::move(id)), epoch_(epoch), hooks_(std::move(handlers)) {
    const std::lock_guard lock(mutex_);  // the first callback must not see client_ half made: each takes mutex_ first
    client_ = std::make_unique<control_client>(
        paths.control_socket,
        control_client::callbacks{[this](bool connected) { on_connected(connected); },
                                  [this](core::control_message message) { on_message(std::move(message)); }});
}

std::vector<core::engine_status> control_link::latest() const {
    const std::lock_guard lock(mutex_);
    auto told = status_;
    for (std::size_t i = 0; i < std::min(told.size(), leg_scrubs_.size()); ++i) told[i].scrub = leg_scrubs_[i];
    for (std::size_t i = 0; i < std::min(told.size(), legs_unequal_.size()); ++i)
        told[i].recovery_left_bytes += legs_unequal_[i];
    for (auto& extent : told)
        for (auto& slot : extent.slots)
            if (const auto done = leg_progress_.find(slot.id); slot.resyncing && done != leg_progress_.end())
                slot.resync_done_bytes = slot.resync_copied_bytes = done->second;
    return told;
}

control_link::stage control_link::stage_now() const {
    if (detached_) return stage::detached;
    bool all_serving = !status_.empty();
    bool all_detached = !status_.empty();
    for (const auto& extent : status_) {
        if (extent.state == core::engine_state::fenced) return stage::fenced;
        if (extent.state == core::engine_state::lost) return stage::lost;
        if (extent.state == core::engine_state::fencing) all_serving = false;
        if (extent.state != core::engine_state::detached) all_detached = false;
    }
    if (all_detached) return stage::detached;
    return all_serving ? stage::serving : stage::fencing;
}

bool control_link::failed() const {
    const std::lock_guard lock(mutex_);
    return wrong_server_ || stage_now() == stage::fenced || stage_now() == stage::lost;
}

bool control_link::detaching() const {
    const std::lock_guard lock(mutex_);
    const bool begun = std::any_of(status_.begin(), status_.end(), [](const core::engine_status& extent) {
        return extent.state == core::engine_state::detaching || extent.state == core::engine_state::detached;
    });
    return detach_asked_ || detached_ || begun;
}

void control_link::set_members(core::members_message message, std::uint64_t revision) {
    const std::lock_guard ordered(order_mutex_);
    if (revision < told_revision_) return;
    told_revision_ = revision;
    std::string encoded = core::encode_control(message);
    bool differs = false;
    {
        const std::lock_guard lock(mutex_);
        differs = encoded != members_sent_;
        members_sent_ = std::move(encoded);
        members_ = message;
    }
    if (differs) client_->send(message);  // not connected: on_connected sends them
}

void control_link::reaffirmed(std::uint64_t tenure) {
    const std::lock_guard lock(mutex_);
    reaffirmed_in_ = tenure;
}

std::uint64_t control_link::reaffirmed_in() const {
    const std::lock_guard lock(mutex_);
    return reaffirmed_in_;
}

void control_link::set_lease(std::uint64_t tenure, std::chrono::nanoseconds until) {
    {
        const std::lock_guard lock(mutex_);
        if (tenure != reaffirmed_in_) return;
        lease_until_ = until;
    }
    client_->send(core::lease_message{static_cast<std::uint64_t>(until.count())});  // else on_connected sends it
}

void control_link::answer(const core::result_message& message, std::uint64_t revision) {
    const std::lock_guard ordered(order_mutex_);
    told_revision_ = std::max(told_revision_, revision);
    client_->send(message);
}

void control_link::on_connected(bool connected) {
    if (!connected) return;
    const std::lock_guard ordered(order_mutex_);
    core::members_message members;
    core::lease_message lease;
    bool detach_again = false;
    {
        const std::lock_guard lock(mutex_);
        members = members_;
        lease.until_ns = static_cast<std::uint64_t>(lease_until_.count());
        detach_again = detach_asked_ && !detached_;
    }
    if (!members.extents.empty()) client_->send(members);
    client_->send(lease);
    client_->send(core::get_status_message{});
    if (detach_again) client_->send(core::detach_message{});
}

void control_link::on_message(core::control_message message) {
    if (auto* proposal = std::get_if<core::propose_message>(&message)) {
        hooks_.on_proposal(std::move(*proposal));
    } else if (auto* said = std::get_if<core::notice_message>(&message)) {
        hooks_.on_notice(std::move(said->what));
    } else if (const auto* hello = std::get_if<core::hello_message>(&message)) {
        on_hello(*hello);
    } else if (const auto* status_now = std::get_if<core::status_message>(&message)) {
        on_status(*status_now);
    } else if (const auto* left = std::get_if<core::detached_message>(&message)) {
        {
            const std::lock_guard lock(mutex_);
            detached_ = true;
            left_equal_ = left->equal;
        }
        changed_.notify_all();
    }
    // The remaining kinds only travel the other way.
}

void control_link::on_hello(const core::hello_message& hello) {
    {
        const std::lock_guard lock(mutex_);
        wrong_server_ = hello.id != id_ || hello.epoch != epoch_;
        // A volume server listens to one weftd at a time: we would take its own link's place.
        if (wrong_server_) client_->retire();
    }
    changed_.notify_all();
}

void control_link::on_status(const core::status_message& message) {
    bool news = false;
    {
        const std::lock_guard lock(mutex_);
        const auto facts = [this] {
            return std::make_tuple(stage_now(), waiting_for_space(), scrubs_running(), rebuilding());
        };
        const auto before = facts();
        status_ = message.extents;
        news = facts() != before;
    }
    changed_.notify_all();
    if (news) hooks_.on_change();
}

std::size_t control_link::rebuilding() const {
    std::size_t count = 0;
    for (const auto& extent : status_)
        for (const auto& slot : extent.slots) count += slot.link_up && slot.resyncing ? 1 : 0;
    return count;
}

void control_link::tell_leg(const core::leg_message& leg) {
    client_->send(leg);
}

void control_link::set_leg_progress(std::map<replica_id, std::uint64_t> done_bytes) {
    const std::lock_guard lock(mutex_);
    leg_progress_ = std::move(done_bytes);
}

void control_link::set_leg_scrubs(std::vector<core::scrub_status> scrubs) {
    const std::lock_guard lock(mutex_);
    leg_scrubs_ = std::move(scrubs);
}

void control_link::set_legs_unequal(std::vector<std::uint64_t> bytes) {
    const std::lock_guard lock(mutex_);
    legs_unequal_ = std::move(bytes);
}

bool control_link::legs_unequal() const {
    const std::lock_guard lock(mutex_);
    return std::any_of(legs_unequal_.begin(), legs_unequal_.end(), [](std::uint64_t bytes) { return bytes > 0; });
}

bool control_link::waiting_for_space() const {
    return std::any_of(status_.begin(), status_.end(),
                       [](const core::engine_status& extent) { return extent.waiting_for_space; });
}

std::size_t control_link::scrubs_running() const {
    return static_cast<std::size_t>(std::count_if(
        status_.begin(), status_.end(), [](const core::engine_status& extent) { return extent.scrub.running; }));
}

std::string control_link::waiting_for() const {
    if (status_.empty()) return "its volume server has not reported yet";
    std::string text;
    for (std::size_t i = 0; i < status_.size(); ++i)
        for (const auto& slot : status_[i].slots)
            if (slot.state == replica_state::up_to_date && !slot.link_up)
                text +=
                    fmt::format("{}replica {} of extent {}", text.empty() ? "waiting for " : ", ", slot.id.str(), i);
    return text.empty() ? "its replicas are being fenced" : text;
}

status control_link::wait_for_stage(std::chrono::milliseconds time, const std::function<bool(stage)>& reached) {
    std::unique_lock lock(mutex_);
    const auto over = [this] {
        const stage now = stage_now();
        return exited_ || giving_up_ || wrong_server_ || now == stage::fenced || now == stage::lost;
    };
    changed_.wait_for(lock, time, [&] { return over() || reached(stage_now()); });
    if (reached(stage_now())) return ok();
    if (wrong_server_) return error{errc::stale_epoch, "the volume server that answers is of another epoch"};
    if (stage_now() == stage::fenced) return error{errc::stale_epoch, "another node has become the writer"};
    if (stage_now() == stage::lost)
        return error{errc::unavailable, "the volume server lost writes that no replica has and stopped"};
    if (exited_) return error{errc::unavailable, "the volume server exited"};
    if (giving_up_) return error{errc::shutting_down, "weftd is stopping"};
    return error{errc::timed_out, waiting_for()};
}

status control_link::wait_serving(std::chrono::milliseconds time) {
    return wait_for_stage(time, [](stage now) { return now == stage::serving; });
}

result<bool> control_link::detach(std::chrono::milliseconds time) {
    {
        const std::lock_guard lock(mutex_);
        detach_asked_ = true;
    }
    client_->send(core::detach_message{});  // not connected: on_connected sends it
    // The message itself, not the stage: only it says whether the replicas were left equal.
    TRY(wait_for_stage(time, [this](stage now) { return now == stage::detached && detached_; }));
    const std::lock_guard lock(mutex_);
    return left_equal_;
}

void control_link::server_exited() {
    {
        const std::lock_guard lock(mutex_);
        exited_ = true;
    }
    client_->retire();  // the next server listens at the same place, and is another link's
    changed_.notify_all();
}

bool control_link::exited() const {
    const std::lock_guard lock(mutex_);
    return exited_;
}

void control_link::give_up() {
    {
        const std::lock_guard lock(mutex_);
        giving_up_ = true;
    }
    changed_.notify_all();
}

}  // namespace weft
