// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/daemon/lease_keeper.hpp"

#include "orchestrator/daemon/clock.hpp"

namespace weft {

lease_keeper::lease_keeper(store& own_connection, std::string node, std::string holder, std::chrono::milliseconds ttl,
                           std::function<void(const std::string&)> on_trouble, std::function<void()> on_renewed)
    : store_(own_connection),
      node_(std::move(node)),
      holder_(std::move(holder)),
      ttl_(ttl),
      on_trouble_(std::move(on_trouble)),
      on_renewed_(std::move(on_renewed)) {}

lease_keeper::~lease_keeper() {
    stop_.stop();
    if (thread_.joinable()) thread_.join();
}

status lease_keeper::renew() {
    // From before the call: the store counts from a later moment, so what we believe ends first.
    const auto asked_at = awake_or_asleep_now();
    TRY(store_.renew_lease(node_, holder_, ttl_));
    {
        const std::lock_guard lock(mutex_);
        if (awake_or_asleep_now() >= holding_.until) ++holding_.tenure;
        holding_.until = asked_at + ttl_;
    }
    on_renewed_();
    return ok();
}

void lease_keeper::start() {
    thread_ = std::thread([this] { run(); });
}

bool lease_keeper::held() const {
    return awake_or_asleep_now() < current().until;
}

lease_keeper::holding lease_keeper::current() const {
    const std::lock_guard lock(mutex_);
    return holding_;
}

void lease_keeper::run() {
    bool troubled = false;
    while (!stop_.wait_for(ttl_ / 3)) {
        const auto renewed = renew();
        if (renewed.has_error() && !troubled) on_trouble_(renewed.error().text);
        if (renewed.has_value() && troubled) on_trouble_("");
        troubled = renewed.has_error();
    }
}

}  // namespace weft
