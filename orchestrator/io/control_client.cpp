// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/io/control_client.hpp"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include "nbd-backend/base/invariant.hpp"
#include "orchestrator/io/atomic_file.hpp"

namespace weft {

namespace {

using std::chrono::milliseconds;

constexpr milliseconds retry_min{50};
constexpr milliseconds retry_max{1000};
constexpr std::size_t unread_max = 4 * 1024 * 1024;  // bytes that the peer may leave unread
static_assert(unread_max > core::control_line_max, "one longest line must fit");

sockaddr_un address_of(const std::filesystem::path& socket) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    const std::string& text = socket.native();
    INVARIANT(text.size() < sizeof address.sun_path, "control socket path is too long: {}", text);
    std::memcpy(address.sun_path, text.data(), text.size());
    return address;
}

}  // namespace

class control_client::impl {
public:
    impl(std::filesystem::path socket, callbacks handlers)
        : directory_(socket.parent_path()),
          address_(address_of(socket)),
          handlers_(std::move(handlers)),
          wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
        INVARIANT(wake_, "control_client: eventfd: errno {}", errno);
        thread_ = std::thread{[this] { loop(); }};
    }

    ~impl() {
        INVARIANT(std::this_thread::get_id() != thread_.get_id(), "control_client destroyed by its own callback");
        retire();
        thread_.join();
    }

    void retire() {
        stopping_ = true;
        wake();
    }

    bool send(const core::control_message& message) {
        const std::string line = core::encode_control(message) + '\n';
        {
            const std::lock_guard lock{mutex_};
            if (!connected_) return false;
            if (outgoing_.size() + line.size() > unread_max) {
                // Half a conversation is worse than none: after a reconnect both sides say again what matters.
                connected_ = false;
                wake();
                return false;
            }
            outgoing_ += line;
        }
        wake();
        return true;
    }

    [[nodiscard]] bool connected() const {
        const std::lock_guard lock{mutex_};
        return connected_;
    }

private:
    void wake() const {
        const std::uint64_t one = 1;
        [[maybe_unused]] const auto n = ::write(wake_.get(), &one, sizeof one);  // full means: it will wake anyway
    }

    void swallow_wakes() const {
        std::uint64_t count = 0;
        [[maybe_unused]] const auto n = ::read(wake_.get(), &count, sizeof count);
    }

    /// A connected non-blocking socket; empty with errno set if nobody listens now.
    unique_fd try_connect() const {
        unique_fd fd{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
        if (!fd) return {};
        if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address_), sizeof address_) != 0) {
            const int failure = errno;
            fd.reset();
            errno = failure;
        }
        return fd;
    }

    /// Sleeps until something in the directory changed, the pause is over (if it may be that waiting has no event) or
    /// we stop.
    void pause(int inotify, bool until_event) {
        std::array<pollfd, 2> waiting{pollfd{wake_.get(), POLLIN, 0}, pollfd{inotify, POLLIN, 0}};
        ::poll(waiting.data(), waiting.size(), until_event ? -1 : static_cast<int>(retry_.count()));
        swallow_wakes();
        alignas(inotify_event) std::array<char, 4096> events;
        while (inotify >= 0 && ::read(inotify, events.data(), events.size()) > 0) {
        }
        if (!until_event) retry_ = std::min(retry_ * 2, retry_max);
    }

    void loop() {
        while (!stopping_) {
            // Watched before the attempt: a socket that appears in between is not missed.
            const unique_fd inotify{::inotify_init1(IN_CLOEXEC | IN_NONBLOCK)};
            const bool watching =
                inotify && ::inotify_add_watch(inotify.get(), directory_.c_str(),
                                               IN_CREATE | IN_MOVED_TO | IN_DELETE_SELF | IN_MOVE_SELF) >= 0;
            const unique_fd socket = try_connect();
            if (!socket) {
                pause(inotify.get(), watching && errno == ENOENT);
                continue;
            }
            serve(socket.get());
            if (!stopping_) pause(-1, false);  // a peer that accepts and closes at once must not make us spin
        }
    }

    void serve(int socket) {
        incoming_.clear();
        {
            const std::lock_guard lock{mutex_};
            outgoing_.clear();
            connected_ = true;
        }
        if (handlers_.on_connected) handlers_.on_connected(true);
        while (!stopping_ && exchange(socket)) {
        }
        {
            const std::lock_guard lock{mutex_};
            connected_ = false;
            outgoing_.clear();
        }
        if (handlers_.on_connected) handlers_.on_connected(false);
    }

    /// One round of waiting, reading and writing. False: the connection is over.
    bool exchange(int socket) {
        short wanted = POLLIN;
        {
            const std::lock_guard lock{mutex_};
            if (!connected_) return false;
            if (!outgoing_.empty()) wanted = POLLIN | POLLOUT;
        }
        std::array<pollfd, 2> waiting{pollfd{wake_.get(), POLLIN, 0}, pollfd{socket, wanted, 0}};
        if (::poll(waiting.data(), waiting.size(), -1) < 0) return errno == EINTR;
        if (waiting[0].revents != 0) swallow_wakes();
        if ((waiting[1].revents & POLLOUT) != 0 && !write_some(socket)) return false;
        // POLLHUP alone is read, too: what the peer said last still counts, and then read says 0.
        return (waiting[1].revents & (POLLIN | POLLHUP | POLLERR)) == 0 || read_some(socket);
    }

    bool write_some(int socket) {
        const std::lock_guard lock{mutex_};  // the socket does not block
        const ssize_t n = ::send(socket, outgoing_.data(), outgoing_.size(), MSG_NOSIGNAL);
        if (n < 0) return errno == EAGAIN || errno == EINTR;
        outgoing_.erase(0, static_cast<std::size_t>(n));
        return true;
    }

    bool read_some(int socket) {
        std::array<char, 65536> piece;
        const ssize_t n = ::read(socket, piece.data(), piece.size());
        if (n < 0) return errno == EAGAIN || errno == EINTR;
        if (n == 0) return false;
        const std::size_t searched = incoming_.size();
        incoming_.append(piece.data(), static_cast<std::size_t>(n));
        std::size_t begin = 0;
        for (auto end = incoming_.find('\n', searched); end != std::string::npos; end = incoming_.find('\n', begin)) {
            if (!take_line(std::string_view{incoming_}.substr(begin, end - begin))) return false;
            begin = end + 1;
        }
        incoming_.erase(0, begin);
        return incoming_.size() <= core::control_line_max;
    }

    bool take_line(std::string_view line) {
        if (line.size() > core::control_line_max) return false;
        auto message = core::decode_control(line);
        if (message.has_error()) return false;
        retry_ = retry_min;
        if (handlers_.on_message) handlers_.on_message(std::move(*message));
        return !stopping_;
    }

    const std::filesystem::path directory_;
    const sockaddr_un address_;
    const callbacks handlers_;
    const unique_fd wake_;
    std::atomic<bool> stopping_{false};
    mutable std::mutex mutex_;
    bool connected_ = false;          // guarded by mutex_; false also asks the thread to give the connection up
    std::string outgoing_;            // guarded by mutex_
    std::string incoming_;            // the thread's
    milliseconds retry_ = retry_min;  // the thread's
    std::thread thread_;
};

control_client::control_client(std::filesystem::path socket, callbacks handlers)
    : impl_(std::make_unique<impl>(std::move(socket), std::move(handlers))) {}
control_client::~control_client() = default;
bool control_client::send(const core::control_message& message) {
    return impl_->send(message);
}
void control_client::retire() {
    impl_->retire();
}
bool control_client::connected() const {
    return impl_->connected();
}

}  // namespace weft
