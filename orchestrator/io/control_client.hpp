// SPDX-License-Identifier: Apache-2.0
// weftd's end of a volume server's control socket (nbd-backend/core/control_message.hpp): connects, reads, reconnects.
//
// One thread per client, asleep in poll unless something happens: while the socket does not exist it waits for inotify
// on the directory; while connections are refused it retries with a pause of 50 ms doubling up to 1 s.
// Callbacks run on that thread, never two at a time: on_connected(true), messages, on_connected(false), ...
// A line that does not decode closes the connection (a peer that speaks nonsense is not ours) and counts as a loss.
// Delivery: a message is delivered at most once; after a reconnect the volume server repeats what is unanswered, and so
// must the owner with `members` and `detach`.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>

#include "nbd-backend/core/control_message.hpp"

namespace weft {

class control_client {
public:
    struct callbacks {
        std::function<void(bool connected)> on_connected;
        std::function<void(core::control_message)> on_message;
    };

    /// Starts at once; the socket need not exist yet. Its path must fit sockaddr_un (INVARIANT: < 108 bytes).
    control_client(std::filesystem::path socket, callbacks handlers);
    /// Closes and joins; no callback runs afterwards. Must not be called from a callback.
    ~control_client();
    control_client(const control_client&) = delete;
    control_client& operator=(const control_client&) = delete;

    /// Queues a message; never waits for the peer. False when not connected or when the peer has left 4 MiB unread (the
    /// message is then dropped, the connection closed and opened anew). Any thread, callbacks included.
    bool send(const core::control_message& message);

    /// Closes and never connects again. Does not wait; callbacks may still run. Any thread, callbacks included.
    void retire();

    [[nodiscard]] bool connected() const;

private:
    class impl;
    std::unique_ptr<impl> impl_;
};

}  // namespace weft
