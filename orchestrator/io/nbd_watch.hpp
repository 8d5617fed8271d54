// SPDX-License-Identifier: Apache-2.0
// Hears from the kernel that a connection of an nbd device died, so that it gets a new one at once.
//
// NBD_CMD_LINK_DEAD comes on the multicast group "nbd_mc_group" (nbd_mark_nsock_dead, nbd_mcast_index) once per socket
// that ends while its device is connected; not for sockets that a disconnect ends. It names the device's index and
// nothing else: whose it is, find_nbd() says. A hint and no promise: the kernel drops it when it has no memory or our
// socket is full. So the caller looks at the devices themselves: once at the start, and whenever it is told.
#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "nbd-backend/base/result.hpp"

namespace weft {

class nbd_watch {
public:
    /// Runs on the watch's own thread, one call at a time; must not destroy the watch. `index`: the device that lost a
    /// connection, ours or not; nullopt: events were lost, look at all of them.
    using callback = std::function<void(std::optional<int> index)>;

    /// Starts listening, then calls back once with nullopt. Errors: unavailable (no nbd driver: load it and try again).
    static result<std::unique_ptr<nbd_watch>> start(callback on_link_dead);
    /// No callback runs afterwards.
    ~nbd_watch();
    nbd_watch(const nbd_watch&) = delete;
    nbd_watch& operator=(const nbd_watch&) = delete;

private:
    class impl;
    explicit nbd_watch(std::unique_ptr<impl> made);
    std::unique_ptr<impl> impl_;
};

}  // namespace weft
