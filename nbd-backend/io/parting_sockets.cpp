// SPDX-License-Identifier: Apache-2.0
#include "nbd-backend/io/parting_sockets.hpp"

#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>

namespace weft::io {

namespace {

// A server that hangs longer than this is not waited for. Checked only when something else wakes the thread: an idle
// socket costs nothing.
constexpr core::instant patience = std::chrono::minutes(10);
constexpr std::size_t sockets_max = 64;

/// Throws away what can be read now. False: the server has closed, or the connection broke.
bool drain(int fd) {
    char waste[64 * 1024];
    for (int i = 0; i < 16; ++i) {
        const ssize_t n = ::recv(fd, waste, sizeof waste, MSG_DONTWAIT);
        if (n == 0) return false;
        if (n < 0) return errno == EAGAIN || errno == EINTR;
    }
    return true;
}

}  // namespace

parting_sockets::~parting_sockets() {
    for (const socket& one : sockets_) ::close(one.fd);
}

void parting_sockets::add(int fd, core::instant now) {
    if (fd < 0) return;
    if (::shutdown(fd, SHUT_WR) != 0) {  // was never connected, or is broken already
        ::close(fd);
        return;
    }
    if (sockets_.size() == sockets_max) {
        ::close(sockets_.front().fd);
        sockets_.erase(sockets_.begin());
    }
    sockets_.push_back({fd, now + patience});
}

void parting_sockets::append(std::vector<pollfd>& polled) const {
    for (const socket& one : sockets_) polled.push_back({one.fd, POLLIN, 0});
}

void parting_sockets::progress(const pollfd* polled, core::instant now) {
    std::size_t kept = 0;
    for (std::size_t i = 0; i < sockets_.size(); ++i) {
        const socket one = sockets_[i];
        const bool gone = one.until <= now || (polled[i].revents != 0 && !drain(one.fd));
        if (gone)
            ::close(one.fd);
        else
            sockets_[kept++] = one;
    }
    sockets_.resize(kept);
}

}  // namespace weft::io
