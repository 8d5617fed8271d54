// SPDX-License-Identifier: Apache-2.0
// Waiting until something holds that the kernel announces with an event, instead of asking again and again.
//
// The kernel's own uevents (NETLINK_KOBJECT_UEVENT, group 1), not udevd's copies: they come without udevd, too. The
// listener is opened before the change is asked for and the question is put after each event, so nothing is missed
// between the two; if events were dropped (the socket was full), that counts as one. Blocking; one thread at a time.
#pragma once

#include <chrono>
#include <functional>

#include "nbd-backend/base/result.hpp"
#include "orchestrator/io/atomic_file.hpp"

namespace weft {

class uevent_wait {
public:
    /// Listens from here on. Errors: io_failed.
    static result<uevent_wait> open();

    /// True as soon as `holds` says so; it is asked at once and after every event. False at the deadline, after it was
    /// asked one last time. An error that `holds` returns ends the wait.
    result<bool> until(const std::function<result<bool>()>& holds, std::chrono::steady_clock::time_point deadline);

private:
    explicit uevent_wait(unique_fd socket) : socket_(std::move(socket)) {}
    unique_fd socket_;
};

}  // namespace weft
