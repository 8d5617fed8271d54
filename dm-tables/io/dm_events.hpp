// SPDX-License-Identifier: Apache-2.0
// Waiting for device-mapper's events: a leg failed, a rebuild came to its end, a table was swapped.
//
// dm_task_wait holds a thread that nothing but a signal can free. The control node can be polled instead
// (DM_DEV_ARM_POLL, linux/dm-ioctl.h, since Linux 4.13): it is readable when any device had an event after the
// descriptor was armed. So the order is: arm, look at the event numbers (device_info::event_number), poll. An event
// between arming and looking is seen twice, none is missed. A descriptor of its own, so neither libdevmapper nor its
// mutex is in this. One thread at a time.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "nbd-backend/base/result.hpp"

namespace weft::dm {

class event_watch {
public:
    /// Errors: unavailable without device-mapper, unsupported before version 4.37 of it.
    static result<event_watch> open();
    ~event_watch();
    event_watch(event_watch&& other) noexcept;
    event_watch& operator=(event_watch&&) = delete;

    /// For poll(2) or an Asio descriptor: readable when an event came after `arm`.
    [[nodiscard]] int descriptor() const { return fd_; }
    /// Forgets past events. Errors: io_failed.
    status arm() const;

private:
    explicit event_watch(int fd) : fd_(fd) {}
    int fd_;
};

/// Waits until the device's event number is not `seen` any more; gives the new one. Errors: timed_out, not_found when
/// the device is gone, and those of event_watch and driver::info.
result<std::uint32_t> wait_for_event(const std::string& name, std::uint32_t seen, std::chrono::milliseconds limit);

}  // namespace weft::dm
