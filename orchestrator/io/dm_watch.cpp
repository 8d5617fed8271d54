// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/io/dm_watch.hpp"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <utility>

#include "nbd-backend/base/invariant.hpp"

namespace weft {

result<std::unique_ptr<dm_watch>> dm_watch::start(std::function<void()> on_event) {
    TRY_ASSIGN(auto events, dm::event_watch::open());
    return std::unique_ptr<dm_watch>(new dm_watch(std::move(events), std::move(on_event)));
}

dm_watch::dm_watch(dm::event_watch events, std::function<void()> on_event)
    : events_(std::move(events)), on_event_(std::move(on_event)), stop_(::eventfd(0, EFD_CLOEXEC)) {
    INVARIANT(stop_, "dm_watch: eventfd: errno {}", errno);
    thread_ = std::thread{[this] { loop(); }};
}

dm_watch::~dm_watch() {
    INVARIANT(std::this_thread::get_id() != thread_.get_id(), "dm_watch destroyed by its own callback");
    const std::uint64_t one = 1;
    [[maybe_unused]] const auto n = ::write(stop_.get(), &one, sizeof one);
    thread_.join();
}

void dm_watch::loop() {
    for (;;) {
        // Armed before the caller looks, so an event while it looks is seen afterwards.
        const bool armed = events_.arm().has_value();
        on_event_();
        std::array<pollfd, 2> waiting{pollfd{stop_.get(), POLLIN, 0}, pollfd{events_.descriptor(), POLLIN, 0}};
        if (!armed) waiting[1].fd = -1;  // the reconciler's own passes remain
        while (::poll(waiting.data(), waiting.size(), -1) < 0) INVARIANT(errno == EINTR, "poll: errno {}", errno);
        if (waiting[0].revents != 0) return;
    }
}

}  // namespace weft
