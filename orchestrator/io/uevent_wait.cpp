// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/io/uevent_wait.hpp"

#include <linux/netlink.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>

namespace weft {

namespace {

constexpr unsigned kernel_group = 1;  // udevd re-sends to group 2 (its own design, libudev's monitor "udev")
using clock = std::chrono::steady_clock;

void drain(int socket) {
    std::array<char, 8192> event;
    while (::recv(socket, event.data(), event.size(), MSG_DONTWAIT) >= 0 || errno == ENOBUFS || errno == EINTR) {
    }
}

}  // namespace

result<uevent_wait> uevent_wait::open() {
    unique_fd socket{::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_KOBJECT_UEVENT)};
    if (!socket) return errno_error(errno, "open a socket for the kernel's device events");
    sockaddr_nl group{};
    group.nl_family = AF_NETLINK;
    group.nl_groups = kernel_group;
    if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&group), sizeof group) != 0)
        return errno_error(errno, "listen to the kernel's device events");
    return uevent_wait{std::move(socket)};
}

result<bool> uevent_wait::until(const std::function<result<bool>()>& holds, clock::time_point deadline) {
    for (;;) {
        TRY_ASSIGN(const bool done, holds());
        if (done) return true;
        const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - clock::now()).count();
        if (left <= 0) return false;
        pollfd waiting{socket_.get(), POLLIN, 0};
        if (::poll(&waiting, 1, static_cast<int>(std::min<std::int64_t>(left, 1 << 30))) < 0 && errno != EINTR)
            return errno_error(errno, "wait for the kernel's device events");
        drain(socket_.get());
    }
}

}  // namespace weft
