// SPDX-License-Identifier: Apache-2.0
// Waiting until udev has done with what our ioctls caused: nodes are there, or gone, when we say that a step is done.
//
// A cookie is a System V semaphore whose key goes through the kernel's uevent to udev's 95-dm-notify.rules, which calls
// `dmsetup udevcomplete` (libdm-common.c, "Udev notification"). libdevmapper waits for it without end; a udevd that
// died or a rule that hangs would hang us. So the last wait is ours, with a limit; the protocol is: take off the count
// that the creator put on, wait for zero, remove the semaphore. One cookie serves a whole plan and is created before
// its first step: between suspend and resume nothing is allocated. Where udevd does not run, libdevmapper makes the
// nodes itself and the cookie is 0. Killed in between, a semaphore stays until `dmsetup udevcomplete_all` or a reboot;
// it holds nobody up. One thread, under the library's mutex.
#pragma once

#include <chrono>
#include <cstdint>

#include "nbd-backend/base/result.hpp"

namespace weft::dm {

class udev_cookie {
public:
    udev_cookie() = default;
    ~udev_cookie();
    udev_cookie(const udev_cookie&) = delete;
    udev_cookie& operator=(const udev_cookie&) = delete;

    /// Errors: io_failed when no semaphore can be had.
    status create();
    /// For dm_task_set_cookie.
    std::uint32_t* value() { return &cookie_; }
    /// Errors: timed_out; the devices are as asked for, only their names may be late.
    status wait(std::chrono::seconds limit);

private:
    std::uint32_t cookie_ = 0;
};

/// Waits until udev has no event left to work on, at most that long: after it, a scan of ours has ended. False when
/// time ran out or udev is not there.
bool wait_for_idle_udev(std::chrono::seconds limit);

}  // namespace weft::dm
