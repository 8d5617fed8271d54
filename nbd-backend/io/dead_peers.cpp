// SPDX-License-Identifier: Apache-2.0
#include "nbd-backend/io/dead_peers.hpp"

#include <dirent.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <charconv>
#include <memory>
#include <string_view>

namespace weft::io {

namespace {

int option_of(int socket, int name) noexcept {
    int value = 0;
    socklen_t size = sizeof value;
    return ::getsockopt(socket, SOL_SOCKET, name, &value, &size) == 0 ? value : -1;
}

bool set(int socket, int level, int name, int value) noexcept {
    return ::setsockopt(socket, level, name, &value, sizeof value) == 0;
}

/// The user time-out is the same limit for a peer that owes us acknowledgements, which is not probed.
bool watch(int socket) noexcept {
    constexpr auto patience = probe_after + probe_every * probes_max;
    constexpr auto patience_ms = std::chrono::milliseconds(patience).count();
    return set(socket, IPPROTO_TCP, TCP_KEEPIDLE, static_cast<int>(probe_after.count())) &&
           set(socket, IPPROTO_TCP, TCP_KEEPINTVL, static_cast<int>(probe_every.count())) &&
           set(socket, IPPROTO_TCP, TCP_KEEPCNT, probes_max) &&
           set(socket, IPPROTO_TCP, TCP_USER_TIMEOUT, static_cast<int>(patience_ms)) &&
           set(socket, SOL_SOCKET, SO_KEEPALIVE, 1);
}

}  // namespace

int end_dead_peers() noexcept {
    const std::unique_ptr<DIR, int (*)(DIR*)> all(::opendir("/proc/self/fd"), ::closedir);
    if (!all) return 0;
    int watched = 0;
    while (const dirent* entry = ::readdir(all.get())) {
        const std::string_view name = entry->d_name;
        int fd = -1;
        if (std::from_chars(name.data(), name.data() + name.size(), fd).ec != std::errc{}) continue;
        if (option_of(fd, SO_ACCEPTCONN) == 1 && option_of(fd, SO_PROTOCOL) == IPPROTO_TCP && watch(fd)) ++watched;
    }
    return watched;
}

}  // namespace weft::io
