// SPDX-License-Identifier: Apache-2.0
#include "nbd-backend/io/wakeup.hpp"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

namespace weft::io {

wakeup::~wakeup() {
    if (fd_ >= 0) ::close(fd_);
}

status wakeup::open() {
    fd_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd_ < 0) return errno_error(errno, "eventfd");
    return ok();
}

void wakeup::ring() noexcept {
    if (rung_.exchange(true, std::memory_order_acq_rel)) return;
    const std::uint64_t one = 1;
    // Can only fail with EAGAIN, when the counter is at its top: then the poller is woken anyway.
    (void)!::write(fd_, &one, sizeof one);
}

void wakeup::answer() noexcept {
    std::uint64_t rings = 0;
    (void)!::read(fd_, &rings, sizeof rings);
    // After the read: a ring in between finds `rung_` set and may skip its write, and what it left is seen by the
    // caller, who looks after this.
    rung_.exchange(false, std::memory_order_acq_rel);
}

}  // namespace weft::io
