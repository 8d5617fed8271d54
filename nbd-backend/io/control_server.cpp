// SPDX-License-Identifier: Apache-2.0
#include "nbd-backend/io/control_server.hpp"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "nbd-backend/io/threads.hpp"
#include "nbd-backend/io/tick_timer.hpp"

namespace weft::io {

namespace {

// How often a status may be sent because of progress alone, and how often progress is looked for.
constexpr std::chrono::milliseconds progress_interval{250};

// What a weftd that does not read may cost. Several times the longest line, so that one status always fits.
constexpr std::size_t out_bytes_max = 4 * core::control_line_max;

/// What makes a status worth telling at once.
bool same_facts(const core::engine_status& a, const core::engine_status& b) {
    return a.state == b.state && a.holding == b.holding && a.waiting_for_space == b.waiting_for_space &&
           a.scrub.serial == b.scrub.serial && a.scrub.running == b.scrub.running &&
           std::equal(a.slots.begin(), a.slots.end(), b.slots.begin(), b.slots.end(),
                      [](const core::slot_status& x, const core::slot_status& y) {
                          return x.id == y.id && x.state == y.state && x.link_up == y.link_up &&
                                 x.resyncing == y.resyncing && x.recovering == y.recovering && x.full == y.full;
                      });
}

/// What makes a status worth telling once in a while.
bool same_progress(const core::engine_status& a, const core::engine_status& b) {
    return a.recovery_left_bytes == b.recovery_left_bytes && a.scrub.done_bytes == b.scrub.done_bytes &&
           a.dirty_bytes == b.dirty_bytes &&
           std::equal(a.slots.begin(), a.slots.end(), b.slots.begin(), b.slots.end(),
                      [](const core::slot_status& x, const core::slot_status& y) {
                          return x.resync_done_bytes == y.resync_done_bytes &&
                                 x.resync_copied_bytes == y.resync_copied_bytes;
                      });
}

template <typename Same>
bool all_same(const std::vector<core::engine_status>& a, const std::vector<core::engine_status>& b, Same same) {
    return std::equal(a.begin(), a.end(), b.begin(), b.end(), same);
}

/// Nothing can change without an event that says changed(): nobody is copied to, held, waited for.
bool is_calm(const core::engine_status& one) {
    if (one.state == core::engine_state::fenced || one.state == core::engine_state::lost) return true;
    if (one.state == core::engine_state::detached) return true;
    if (one.state != core::engine_state::serving || one.holding || one.recovery_left_bytes > 0 || one.scrub.running)
        return false;
    return std::all_of(one.slots.begin(), one.slots.end(), [](const core::slot_status& slot) {
        return !slot.resyncing && (slot.link_up || slot.state != replica_state::up_to_date);
    });
}

result<sockaddr_un> address_of(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.empty() || path.size() >= sizeof address.sun_path)
        return error{errc::invalid_argument,
                     fmt::format("control socket '{}': the path has {} bytes, possible are 1 to {}", path, path.size(),
                                 sizeof address.sun_path - 1)};
    std::memcpy(address.sun_path, path.data(), path.size());
    return address;
}

int unix_socket() {
    return ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

/// Removes a socket that nobody listens on any more. Errors: busy, io_failed.
status remove_stale(const std::string& path, const sockaddr_un& address) {
    struct stat found {};
    if (::lstat(path.c_str(), &found) != 0) {
        if (errno == ENOENT) return ok();
        return errno_error(errno, "control socket " + path);
    }
    if (!S_ISSOCK(found.st_mode))
        return error{errc::invalid_argument, "control socket " + path + ": something that is no socket is in the way"};
    const int probe = unix_socket();
    if (probe < 0) return errno_error(errno, "socket");
    const int connected = ::connect(probe, reinterpret_cast<const sockaddr*>(&address), sizeof address);
    const int problem = connected == 0 ? 0 : errno;
    ::close(probe);
    if (problem != ECONNREFUSED && problem != ENOENT)
        return error{errc::busy, "control socket " + path + ": another volume server listens there; stop it first"};
    if (::unlink(path.c_str()) != 0 && errno != ENOENT)
        return errno_error(errno, "remove stale control socket " + path);
    return ok();
}

}  // namespace

control_server::control_server(core::hello_message hello, std::size_t extents, control_handler& handler)
    : hello_(std::move(hello)), handler_(handler), outbox_(bell_, extents) {}

control_server::~control_server() {
    stop();
}

status control_server::listen(const std::string& path) {
    TRY_ASSIGN(const sockaddr_un address, address_of(path));
    TRY(remove_stale(path, address));
    TRY(bell_.open());
    listener_ = unix_socket();
    if (listener_ < 0) return errno_error(errno, "socket");
    const mode_t before = ::umask(0177);
    const int bound = ::bind(listener_, reinterpret_cast<const sockaddr*>(&address), sizeof address);
    const int problem = errno;
    ::umask(before);
    if (bound != 0) return errno_error(problem, "control socket " + path);
    path_ = path;
    if (::listen(listener_, 8) != 0) return errno_error(errno, "control socket " + path);
    return ok();
}

void control_server::start() {
    thread_ = start_thread("weft-control", [this] { run(); });
}

void control_server::stop() {
    if (thread_.joinable()) {
        stopping_.store(true);
        bell_.ring();
        thread_.join();
    }
    // The name goes before the descriptor: a successor that finds the name still finds us alive, and refuses.
    if (!path_.empty()) (void)::unlink(path_.c_str());
    path_.clear();
    if (listener_ >= 0) ::close(std::exchange(listener_, -1));
}

int control_server::poll_timeout_ms() const {
    const bool idle = (peer_ < 0 || calm_) && !accept_paused_;
    return idle ? -1 : static_cast<int>(progress_interval.count());
}

void control_server::run() {
    while (!stopping_.load()) {
        pollfd polled[3] = {{bell_.fd(), POLLIN, 0}, {accept_paused_ ? -1 : listener_, POLLIN, 0}, {peer_, POLLIN, 0}};
        if (!out_.empty()) polled[2].events |= POLLOUT;
        if (::poll(polled, 3, poll_timeout_ms()) < 0) continue;  // EINTR
        bell_.answer();
        accept_paused_ = false;
        if (peer_ >= 0 && (polled[2].revents & (POLLIN | POLLHUP | POLLERR)) != 0) read_peer();
        if ((polled[1].revents & POLLIN) != 0) accept_peer();
        send_news();
        write_peer();
    }
    if (peer_ >= 0) ::close(std::exchange(peer_, -1));
}

void control_server::accept_peer() {
    const int fd = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
        // Out of descriptors or memory: the caller stays in the queue, and polling for it now would spin.
        accept_paused_ = errno != EAGAIN && errno != ECONNABORTED && errno != EINTR;
        return;
    }
    if (peer_ >= 0) drop_peer("a newer one connected");
    peer_ = fd;
    proposed_ = 0;
    status_due_ = true;
    detached_told_ = false;
    send(hello_);
}

void control_server::drop_peer(const std::string& why) {
    if (peer_ < 0) return;
    ::close(std::exchange(peer_, -1));
    in_.clear();
    out_.clear();
    if (!why.empty())
        outbox_.notify({core::notice::level::warning, "control socket: weftd's connection was closed: " + why});
}

void control_server::read_peer() {
    char chunk[16 * 1024];
    const ssize_t n = ::recv(peer_, chunk, sizeof chunk, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) {
        drop_peer({});  // weftd went away: nothing unusual
        return;
    }
    in_.append(chunk, static_cast<std::size_t>(n));
    std::size_t begin = 0;
    for (auto end = in_.find('\n'); end != std::string::npos && peer_ >= 0; end = in_.find('\n', begin)) {
        const std::string line = in_.substr(begin, end - begin);
        begin = end + 1;
        handle_line(line);
        if (peer_ < 0) return;  // dropped, and the buffer with it
    }
    in_.erase(0, begin);
    if (in_.size() > core::control_line_max) drop_peer("a line without an end");
}

void control_server::handle_line(std::string_view line) {
    auto message = core::decode_control(line);
    if (message.has_error()) {
        drop_peer(message.error().text);
    } else if (std::holds_alternative<core::get_status_message>(*message)) {
        status_due_ = true;
    } else if (const auto* lease = std::get_if<core::lease_message>(&*message)) {
        handler_.on_lease(core::instant(static_cast<core::instant::rep>(lease->until_ns)));
    } else if (const auto* leg = std::get_if<core::leg_message>(&*message)) {
        handler_.on_leg(*leg);
    } else if (std::holds_alternative<core::detach_message>(*message)) {
        detached_told_ = false;
        handler_.on_detach();
    } else if (const auto* answer = std::get_if<core::result_message>(&*message)) {
        if (const auto whose = outbox_.answered(answer->id))
            handler_.on_result(whose->extent, whose->id, answer->outcome);
    } else if (const auto* members = std::get_if<core::members_message>(&*message)) {
        if (const weft::status taken = handler_.on_members(*members); taken.has_error()) drop_peer(taken.error().text);
    } else {
        drop_peer("it sent a message that only a volume server sends");
    }
}

void control_server::send(const core::control_message& message) {
    if (peer_ < 0) return;
    const std::string line = core::encode_control(message);
    if (out_.size() + line.size() + 1 > out_bytes_max) {
        drop_peer("it does not read");
        return;
    }
    out_ += line;
    out_ += '\n';
}

/// Everything that the peer does not know yet.
void control_server::send_news() {
    const bool changed = outbox_.take_changed();
    if (peer_ < 0) {
        calm_ = false;  // the next peer is told everything
        return;
    }
    notices_.clear();
    outbox_.take_notices(notices_);
    for (const core::notice& one : notices_) send(core::notice_message{one});
    proposals_.clear();
    proposed_ = outbox_.proposals_after(proposed_, proposals_);
    for (const core::propose_message& one : proposals_) send(one);

    if (calm_ && !changed && !status_due_) return;
    const auto all = handler_.status();
    calm_ = std::all_of(all.begin(), all.end(), is_calm);
    const bool facts = !all_same(all, last_, same_facts);
    const bool progress = now() - status_sent_ >= progress_interval && !all_same(all, last_, same_progress);
    if (status_due_ || facts || progress) send_status(all);
    const bool detached = std::all_of(all.begin(), all.end(), [](const core::engine_status& one) {
        return one.state == core::engine_state::detached;
    });
    if (detached && !detached_told_) {
        detached_told_ = true;
        send(core::detached_message{std::all_of(
            all.begin(), all.end(), [](const core::engine_status& one) { return one.recovery_left_bytes == 0; })});
    }
}

void control_server::send_status(const std::vector<core::engine_status>& all) {
    send(core::status_message{all});
    status_due_ = false;
    status_sent_ = now();
    last_ = all;
}

void control_server::write_peer() {
    while (peer_ >= 0 && !out_.empty()) {
        const ssize_t n = ::send(peer_, out_.data(), out_.size(), MSG_NOSIGNAL);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
        if (n <= 0) {
            drop_peer({});
            return;
        }
        out_.erase(0, static_cast<std::size_t>(n));
    }
}

}  // namespace weft::io
