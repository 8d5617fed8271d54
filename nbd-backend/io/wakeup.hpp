// SPDX-License-Identifier: Apache-2.0
// A bell: any thread rings it, one thread polls its descriptor (eventfd(2)).
//
// Rings between two answers cost one system call together: `rung_` remembers that the bell is ringing. The poller must
// call answer() *before* it looks at what the ringers left, so that what is left afterwards rings again.
#pragma once

#include <atomic>

#include "nbd-backend/base/result.hpp"

namespace weft::io {

class wakeup {
public:
    wakeup() = default;
    ~wakeup();
    wakeup(const wakeup&) = delete;
    wakeup& operator=(const wakeup&) = delete;

    /// Once, before any other call. Errors: io_failed (out of descriptors or memory).
    status open();
    /// Any thread; does not block.
    void ring() noexcept;
    /// The polling thread.
    void answer() noexcept;
    [[nodiscard]] int fd() const noexcept { return fd_; }

private:
    int fd_ = -1;
    std::atomic<bool> rung_{false};
};

}  // namespace weft::io
