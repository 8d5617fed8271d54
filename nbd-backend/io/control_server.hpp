// SPDX-License-Identifier: Apache-2.0
// The volume server's end of the control socket (core/control_message.hpp says what is spoken): listens on a unix
// socket, serves one weftd at a time, on a thread of its own.
//
// The data path never waits here: engines queue into the outbox; a weftd that stops reading fills a bounded buffer and
// is then cut off (it connects again and is told everything that matters: hello, status, unanswered proposals). A peer
// that sends what does not decode is cut off too.
//
// Status is sent at once when an engine's state, a replica's state or link, or holding changes, and while progress is
// made at most every progress_interval. While everything is calm nothing is sent and nothing wakes.
#pragma once

#include <atomic>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "nbd-backend/core/control_message.hpp"
#include "nbd-backend/io/control_outbox.hpp"
#include "nbd-backend/io/wakeup.hpp"

namespace weft::io {

/// Called on the control thread, with no lock held.
class control_handler {
public:
    virtual std::vector<core::engine_status> status() = 0;
    virtual void on_result(std::uint32_t extent, std::uint64_t proposal, core::proposal_outcome outcome) = 0;
    /// Errors: invalid_argument when the extents are not the volume's.
    virtual weft::status on_members(const core::members_message& members) = 0;
    virtual void on_detach() = 0;
    virtual void on_leg(const core::leg_message& leg) = 0;
    virtual void on_lease(core::instant until) = 0;

protected:
    ~control_handler() = default;
};

class control_server {
public:
    control_server(core::hello_message hello, std::size_t extents, control_handler& handler);
    ~control_server();
    control_server(const control_server&) = delete;
    control_server& operator=(const control_server&) = delete;

    /// Makes the socket, mode 0600. A socket that nobody listens on any more is replaced.
    /// Errors: invalid_argument (the path is too long), busy (another volume server listens there), io_failed.
    status listen(const std::string& path);
    /// Starts the thread. Precondition: listen() was well.
    void start();
    /// Joins the thread, removes the socket. Idempotent.
    void stop();

    control_outbox& out() noexcept { return outbox_; }

private:
    void run();
    void accept_peer();
    void drop_peer(const std::string& why);
    void read_peer();
    void handle_line(std::string_view line);
    void write_peer();
    void send(const core::control_message& message);
    void send_news();
    void send_status(const std::vector<core::engine_status>& all);
    [[nodiscard]] int poll_timeout_ms() const;

    const core::hello_message hello_;
    control_handler& handler_;
    wakeup bell_;
    control_outbox outbox_;
    std::string path_;
    int listener_ = -1;
    std::atomic<bool> stopping_{false};
    std::thread thread_;

    // Of the control thread alone.
    int peer_ = -1;
    bool accept_paused_ = false;
    std::string in_;
    std::string out_;
    std::uint64_t proposed_ = 0;  // highest proposal that this peer was sent
    bool status_due_ = false;     // asked for, or the peer is new
    bool detached_told_ = false;  // this peer was sent `detached`
    bool calm_ = false;           // nothing moves: no need to look again until somebody says changed()
    core::instant status_sent_{0};
    std::vector<core::engine_status> last_;
    std::vector<core::propose_message> proposals_;
    std::vector<core::notice> notices_;
};

}  // namespace weft::io
