// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/daemon/lease_keeper.hpp"

#include "orchestrator/daemon/clock.hpp"

namespace weft {

lease_keeper::lease_keeper(store& own_connection, std::string node, std::string holder, std::chrono::milliseconds ttl,
                           std::function<void(const std::string&)> on_trouble)
    : store_(own_connection),
      node_(std::move(node)),
      holder_(std::move(holder)),
      ttl_(ttl),
      on_trouble_(std::move(on_trouble)) {}

lease_keeper::~lease_keeper() {
    stop_.stop();
    if (thread_.joinable()) thread_.join();
}

status lease_keeper::renew() {
    // From before the call: the store counts from a later moment, so what we believe ends first.
    const auto asked_at = monotonic_now();
    TRY(store_.renew_lease(node_, holder_, ttl_));
    valid_until_ = asked_at + ttl_;
    return ok();
}

void lease_keeper::start() {
    thread_ = std::thread([this] { run(); });
}

bool lease_keeper::held() const {
    return monotonic_now() < valid_until_.load();
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
