// SPDX-License-Identifier: Apache-2.0
#include "nbd-backend/io/nbd_connection.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <libnbd.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "nbd-backend/base/invariant.hpp"
#include "nbd-backend/io/tick_timer.hpp"

namespace weft::io {

namespace {

// Replies handled per connection and round, so that one busy connection cannot keep the others of its link waiting.
constexpr int replies_per_round = 256;

constexpr const char* allocation = LIBNBD_CONTEXT_BASE_ALLOCATION;

// A longer request is not kept back: the server is better reading it than waiting for it.
constexpr std::uint32_t gathered_bytes_max = 16 * 1024;

void set_tcp_option(int fd, int option, bool on) {
    const int value = on ? 1 : 0;
    // Where it is not TCP nothing is ever kept back, so there is nothing to do.
    (void)::setsockopt(fd, IPPROTO_TCP, option, &value, sizeof value);
}

/// Is there a byte (or the end) to read right now? See the header for why this must be known.
bool readable(int fd) {
    char byte = 0;
    const ssize_t n = ::recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    return n >= 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR);
}

}  // namespace

void nbd_connection::fail(error why) {
    phase_ = phase::failed;
    why_ = std::move(why);
    const std::lock_guard lock(mutex_);
    session_ = 0;
}

/// After a libnbd call of this thread failed.
void nbd_connection::fail_call() {
    const char* text = nbd_get_error();
    fail({errc::unavailable, nbd_get_errno(), text != nullptr ? text : "libnbd failed"});
}

void nbd_connection::open(const nbd_target& target) {
    INVARIANT(phase_ == phase::closed, "a connection is opened twice");
    phase_ = phase::connecting;
    going_ = false;
    refused_ = 0;
    load_.reset();
    nbd_handle* made = nbd_create();
    {
        const std::lock_guard lock(mutex_);
        handle_ = made;
        target_session_ = target.session;
    }
    is_map_ = target.is_map;
    // Option mode: a refused export is then an answer and not a broken connection. The strict checks repeat what
    // check_abilities() and the engine have made sure of; initializing read buffers would write every byte twice.
    if (made == nullptr || nbd_set_opt_mode(made, true) == -1 || nbd_set_full_info(made, true) == -1 ||
        nbd_set_export_name(made, target.export_name.c_str()) == -1 || nbd_add_meta_context(made, allocation) == -1 ||
        nbd_set_strict_mode(made, 0) == -1 || nbd_set_pread_initialize(made, false) == -1 ||
        nbd_aio_connect_tcp(made, target.host.c_str(), std::to_string(target.port).c_str()) == -1) {
        fail_call();
        return;
    }
    look_at_state();
}

nbd_connection::~nbd_connection() {
    if (const int rest = close(); rest >= 0) ::close(rest);
}

int nbd_connection::close() {
    nbd_handle* old = nullptr;
    {
        const std::lock_guard lock(mutex_);
        old = std::exchange(handle_, nullptr);
        session_ = 0;
    }
    const int fd = phase_ == phase::ready ? nbd_aio_get_fd(old) : -1;
    const int rest = fd >= 0 ? ::fcntl(fd, F_DUPFD_CLOEXEC, 0) : -1;
    nbd_close(old);
    phase_ = phase::closed;
    load_.reset();
    polls_for_write_.store(false);
    return rest;
}

pollfd nbd_connection::poll_entry() {
    if (phase_ != phase::connecting && phase_ != phase::ready) return {-1, 0, 0};
    // The order matters: whoever makes the direction "write" after this line finds polls_for_write_ false and rings.
    const unsigned direction = nbd_aio_get_direction(handle_);
    const bool write = (direction & LIBNBD_AIO_DIRECTION_WRITE) != 0;
    polls_for_write_.store(write);
    short events = 0;
    if ((direction & LIBNBD_AIO_DIRECTION_READ) != 0) events |= POLLIN;
    if (write) events |= POLLOUT;
    const int fd = nbd_aio_get_fd(handle_);
    if (fd < 0) look_at_state();  // a submitting thread found the connection dead meanwhile
    return {fd, events, 0};
}

void nbd_connection::progress(short revents) {
    if (phase_ != phase::connecting && phase_ != phase::ready) return;
    polls_for_write_.store(false);
    const bool woken = revents != 0;
    for (int i = 0; i < replies_per_round; ++i) {
        const unsigned direction = nbd_aio_get_direction(handle_);
        const int fd = nbd_aio_get_fd(handle_);
        if (fd < 0) break;
        int problem = 0;
        if ((direction & LIBNBD_AIO_DIRECTION_READ) != 0 && (revents & (POLLIN | POLLHUP | POLLERR)) != 0 &&
            (i == 0 || readable(fd))) {
            problem = nbd_aio_notify_read(handle_);
        } else if ((direction & LIBNBD_AIO_DIRECTION_WRITE) != 0 && (revents & (POLLOUT | POLLHUP | POLLERR)) != 0) {
            revents &= static_cast<short>(~(POLLOUT | POLLHUP | POLLERR));  // once: it goes on until it would block
            problem = nbd_aio_notify_write(handle_);
        } else {
            break;
        }
        if (problem == -1) {
            fail_call();
            return;
        }
        if (phase_ == phase::connecting) break;  // the handshake: its states and directions change at every step
    }
    if (phase_ == phase::ready && woken) push_gathered();
    look_at_state();
}

/// Moves on when libnbd has: asks for the export, becomes ready, or notices the end.
void nbd_connection::look_at_state() {
    if (nbd_aio_is_dead(handle_) == 1 || nbd_aio_is_closed(handle_) == 1) {
        fail({errc::unavailable, "the connection ended"});
        return;
    }
    if (phase_ != phase::connecting) return;
    if (nbd_aio_is_negotiating(handle_) == 1) {
        if (refused_ != 0) {
            fail({errc::not_found, refused_, "the server refused the export"});
        } else if (!going_) {
            going_ = true;
            if (nbd_aio_opt_go(handle_, nbd_completion_callback{on_go, this, nullptr}) == -1)
                fail_call();
            else
                look_at_state();
        }
        return;
    }
    if (going_ && nbd_aio_is_ready(handle_) == 1) phase_ = phase::ready;
}

int nbd_connection::on_go(void* connection, int* error) {
    static_cast<nbd_connection*>(connection)->refused_ = *error;
    return 1;
}

status nbd_connection::check_abilities() {
    const std::pair<int, const char*> needed[] = {
        {nbd_is_read_only(handle_) == 0 ? 1 : 0, "writing"},
        {nbd_can_flush(handle_), "flush"},
        {is_map_ ? 1 : nbd_can_fua(handle_), "FUA"},
        {is_map_ ? 1 : nbd_can_zero(handle_), "zero"},
        {nbd_can_trim(handle_), "trim"},
        {nbd_can_multi_conn(handle_), "several connections"},
        {nbd_can_meta_context(handle_, allocation), "block status"},
    };
    for (const auto& [able, what] : needed)
        if (able != 1) return error{errc::unsupported, fmt::format("the server does not offer {}", what)};
    return ok();
}

std::uint64_t nbd_connection::size_bytes() {
    const std::int64_t size = nbd_get_size(handle_);
    return size < 0 ? 0 : static_cast<std::uint64_t>(size);
}

std::string nbd_connection::description() {
    char* text = nbd_get_export_description(handle_);
    std::string copy = text != nullptr ? text : "";
    std::free(text);
    return copy;
}

void nbd_connection::admit() {
    const std::lock_guard lock(mutex_);
    gathered_ = 0;
    corked_ = false;
    session_ = target_session_;
}

/// With the mutex, before an op is lent: is it to stay in the socket?
void nbd_connection::prepare_to_gather(const core::io_op& op) {
    // Whoever handles the answer of an op under way takes the mutex afterwards to push.
    const bool under_way = load_.ops.load() > gathered_;
    const bool is_short = op.kind != core::op_kind::write || op.length <= gathered_bytes_max;
    const bool gather = under_way && is_short;
    if (gather)
        ++gathered_;
    else
        gathered_ = 0;
    if (gather == corked_) return;
    set_tcp_option(nbd_aio_get_fd(handle_), TCP_CORK, gather);  // its end pushes
    corked_ = gather;
}

/// With the mutex: sends what the cork keeps back.
void nbd_connection::push() {
    gathered_ = 0;
    set_tcp_option(nbd_aio_get_fd(handle_), TCP_NODELAY, true);
}

/// Answers have come, or the socket took what it had no room for.
void nbd_connection::push_gathered() {
    const std::lock_guard lock(mutex_);
    if (session_ != 0 && gathered_ > 0) push();
}

int nbd_connection::on_answer(void* context, int* error) {
    auto* it = static_cast<op_context*>(context);
    const bool asks = it->kind == core::op_kind::block_status || it->kind == core::op_kind::map_status;
    const bool silent = asks && it->stretches.empty();
    if (*error == ENOTCONN)
        it->box->gone(it);
    else
        it->box->answered(it, *error == 0 && silent ? EIO : *error, now());
    return 1;  // libnbd forgets the command
}

int nbd_connection::on_extents(void* context, const char* name, std::uint64_t, std::uint32_t* entries,
                               std::size_t count, int*) {
    if (std::strcmp(name, allocation) != 0) return 0;
    constexpr std::uint32_t empty = LIBNBD_STATE_HOLE | LIBNBD_STATE_ZERO;
    auto* it = static_cast<op_context*>(context);
    for (std::size_t i = 0; i + 1 < count && it->room > 0; i += 2) {
        const std::uint32_t length = std::min(entries[i], it->room);  // the last one may reach beyond what was asked
        it->room -= length;
        if (length > 0) it->stretches.push_back({length, (entries[i + 1] & empty) == empty});
    }
    return 0;
}

std::int64_t nbd_connection::issue(const core::io_op& op, op_context* context) {
    const nbd_completion_callback answer{on_answer, context, nullptr};
    const std::uint32_t flags = op.fua ? LIBNBD_CMD_FLAG_FUA : 0;
    switch (op.kind) {
        case core::op_kind::read: return nbd_aio_pread(handle_, op.data, op.length, op.offset, answer, 0);
        case core::op_kind::write: return nbd_aio_pwrite(handle_, op.data, op.length, op.offset, answer, flags);
        case core::op_kind::zero: return nbd_aio_zero(handle_, op.length, op.offset, answer, flags);
        case core::op_kind::trim:
        case core::op_kind::map_clear: return nbd_aio_trim(handle_, op.length, op.offset, answer, flags);
        case core::op_kind::flush: return nbd_aio_flush(handle_, answer, 0);
        case core::op_kind::block_status:
        case core::op_kind::map_status:
            return nbd_aio_block_status(handle_, op.length, op.offset,
                                        nbd_extent_callback{on_extents, context, nullptr}, answer, 0);
    }
    return -1;
}

nbd_connection::sent nbd_connection::send(const core::io_op& op) {
    const std::lock_guard lock(mutex_);
    if (handle_ == nullptr || session_ != op.session) return sent::no;
    prepare_to_gather(op);
    op_context* context = box_.lend(op, load_, now());
    if (issue(op, context) == -1) {
        // Not queued, so no callback comes. A dead handle refuses everything: then the link's thread ends the link.
        if (nbd_aio_is_dead(handle_) == 1 || nbd_aio_is_closed(handle_) == 1)
            box_.gone(context);
        else
            box_.answered(context, EIO, now());
        return sent::yes;
    }
    const bool unsent = (nbd_aio_get_direction(handle_) & LIBNBD_AIO_DIRECTION_WRITE) != 0;
    return unsent && !polls_for_write_.load() ? sent::needs_poller : sent::yes;
}

}  // namespace weft::io
