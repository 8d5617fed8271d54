// SPDX-License-Identifier: Apache-2.0
// The kernel's nbd commands over generic netlink (linux/nbd-netlink.h), one call each. The only file with libnl in it,
// beside nbd_watch.cpp. Knows nothing of volumes; what the commands mean is explained in nbd_device.hpp.
//
// The kernel handles a command inside of our sendmsg(2), under its genl mutex: when the call returns, the change is
// made, and a process killed inside of it has it made all the same. One object, one thread at a time; objects are
// cheap.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "nbd-backend/base/result.hpp"

struct nl_sock;

namespace weft {

/// The error of every call when this kernel has no nbd driver: unavailable, and says what to do.
error nbd_not_available();

class nbd_netlink {
public:
    struct connect_request {
        std::uint64_t bytes = 0;        // size of the device
        std::uint64_t block_bytes = 0;  // 512..page size, a power of two
        std::uint64_t flags = 0;        // NBD_FLAG_*
        std::string backend;
        std::chrono::seconds dead_connection{0};
        std::vector<int> sockets;  // stay the caller's; the kernel takes references of its own
    };

    /// Errors: unavailable (no driver, or no netlink).
    static result<nbd_netlink> open();

    /// NBD_CMD_CONNECT without an index: the kernel chooses a free device or makes one. The index, or nullopt when it
    /// is connected but the kernel had no memory for the answer that says where. Errors: io_failed and errno's.
    result<std::optional<int>> connect(const connect_request& what);

    /// NBD_CMD_RECONFIGURE with one socket. True: it took the place of a dead one. False: there is no dead one, and the
    /// kernel has let the socket go. Errors: busy (the device was disconnected and is still held open), not_found (no
    /// such device, or its mark is another), io_failed.
    result<bool> replace_socket(int index, const std::string& backend, int socket);

    /// NBD_CMD_RECONFIGURE with a size. Errors: as replace_socket.
    status set_size(int index, const std::string& backend, std::uint64_t bytes);

    /// NBD_CMD_DISCONNECT. Success also when nothing is connected there. Made in a child process, since it waits for as
    /// long as a server with a full socket does not read. Errors: timed_out, io_failed.
    status disconnect(int index, std::chrono::milliseconds timeout);

    /// NBD_CMD_STATUS: does the device have a configuration, that is: is it connected, or open anywhere? It is what the
    /// kernel itself asks when it looks for a free device.
    result<bool> is_configured(int index);

private:
    struct closer {
        void operator()(nl_sock* socket) const noexcept;
    };
    using socket_ptr = std::unique_ptr<nl_sock, closer>;

    nbd_netlink(socket_ptr socket, int family) : socket_(std::move(socket)), family_(family) {}

    socket_ptr socket_;
    int family_;
};

}  // namespace weft
