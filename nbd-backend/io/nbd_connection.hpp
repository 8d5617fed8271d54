// SPDX-License-Identifier: Apache-2.0
// One libnbd handle: connects without blocking, carries ops, tells server errors from a broken transport.
//
//   closed ──open──▶ connecting ──▶ ready ──▶ failed
//                        └─────────────────────▲
//
// Facts about libnbd 1.14 that this relies on (its source, generator/states*.c and lib/handle.c):
//   - nbd_aio_notify_read may only be called when the socket has something to read: on EAGAIN its state machine stays
//   in
//     a state that nothing leads out of. One call handles one reply.
//   - When a connection dies, libnbd calls the completion of every command with ENOTCONN, which no server can send;
//     nbd_close calls none, and touches no buffer afterwards.
//   - A command is sent from the submitting thread when nothing stands before it in the queue; if the socket takes only
//     a part of it, nbd_aio_get_direction says so and somebody has to poll for POLLOUT.
//   - TCP_NODELAY is set by nbd_aio_connect_tcp.
//
// Short requests travel together. A replica server works on one request of a connection at a time, so a request behind
// another one need not be there before that one's answer is. A short request behind one that is under way stays in the
// socket, which is corked then, and what gathered there is pushed when answers have come: one segment, one wake-up of
// the server. Anything else goes at once. tcp(7): a cork holds partial segments only; setting TCP_NODELAY pushes what
// is queued without ending it (Linux, __tcp_sock_set_nodelay).
//
// Thread rule: send() and load() from any thread; the rest from the link's thread. Only the link's thread opens
// and closes, and it does so under `mutex_`, so a submitting thread that holds it has a handle or knows that there is
// none.
#pragma once

#include <poll.h>

#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>

#include "nbd-backend/base/result.hpp"
#include "nbd-backend/core/engine_types.hpp"
#include "nbd-backend/io/completion_box.hpp"

struct nbd_handle;

namespace weft::io {

struct nbd_target {
    std::string host;  // an IP address, so that no name is ever resolved
    std::uint16_t port = 0;
    std::string export_name;
    std::uint64_t session = 0;
    bool is_map = false;  // the export is a replica's bitmap: it can be asked and cleared, not written
};

class nbd_connection {
public:
    enum class phase : std::uint8_t { closed, connecting, ready, failed };
    enum class sent : std::uint8_t { yes, needs_poller, no };

    explicit nbd_connection(completion_box& box) : box_(box) {}
    ~nbd_connection();
    nbd_connection(const nbd_connection&) = delete;
    nbd_connection& operator=(const nbd_connection&) = delete;

    /// Begins to connect; progress() goes on. Precondition: closed.
    void open(const nbd_target& target);
    /// Frees the handle: no callback runs and no buffer is touched after it. Returns a descriptor of the socket, for
    /// parting_sockets, or -1 when the connection is over already or has carried no op yet.
    [[nodiscard]] int close();

    /// What to poll for; fd -1 when there is nothing. May find out that the connection failed.
    pollfd poll_entry();
    /// Handles what poll(2) said; bounded work.
    void progress(short revents);

    [[nodiscard]] phase where() const noexcept { return phase_; }
    /// Why it failed, and whether it was the server that refused the export.
    [[nodiscard]] const error& why() const noexcept { return why_; }

    /// When ready: what the server said. Errors: unsupported, naming what the server lacks.
    status check_abilities();
    [[nodiscard]] std::uint64_t size_bytes();
    [[nodiscard]] std::string description();
    /// From here on ops of the target's session are sent.
    void admit();

    /// Sends an op. `no`: this connection is not of the op's session (any more); the op is dropped.
    sent send(const core::io_op& op);
    [[nodiscard]] const connection_load& load() const noexcept { return load_; }

private:
    void fail(error why);
    void fail_call();
    void look_at_state();
    static int on_answer(void* context, int* error);
    static int on_extents(void* context, const char* name, std::uint64_t offset, std::uint32_t* entries,
                          std::size_t count, int* error);
    static int on_go(void* connection, int* error);
    void prepare_to_gather(const core::io_op& op);
    void push();
    void push_gathered();
    std::int64_t issue(const core::io_op& op, op_context* context);

    completion_box& box_;
    std::mutex mutex_;  // what follows, up to corked_, against send()
    nbd_handle* handle_ = nullptr;
    std::uint64_t session_ = 0;  // 0: not admitted, refuses every op
    std::uint64_t target_session_ = 0;
    std::uint32_t gathered_ = 0;  // ops in flight that may still be in the socket; above 0 only while it is corked
    bool corked_ = false;
    bool is_map_ = false;
    phase phase_ = phase::closed;
    bool going_ = false;  // NBD_OPT_GO was asked
    int refused_ = 0;     // errno of a refused NBD_OPT_GO
    error why_;
    std::atomic<bool> polls_for_write_{false};
    connection_load load_;
};

}  // namespace weft::io
