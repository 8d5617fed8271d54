// SPDX-License-Identifier: Apache-2.0
// What libnbd's callbacks may do: leave the answer of an op here and ring the link's bell if need be. One box per link.
//
// An op in flight holds an op_context, which libnbd carries as the callback's user data; contexts are reused. A
// callback runs inside libnbd with the handle's lock held, on the link's thread or on a thread that submits, so it
// takes no lock but this box's, which is a leaf.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <mutex>
#include <utility>
#include <vector>

#include "nbd-backend/core/engine_types.hpp"
#include "nbd-backend/io/wakeup.hpp"

namespace weft::io {

class completion_box;

/// How busy a connection is. Written under the box's mutex; read by anybody, as advice.
struct connection_load {
    std::atomic<std::uint32_t> ops{0};         // in flight
    std::atomic<std::uint64_t> bytes{0};       // that they carry in either direction
    std::atomic<std::uint32_t> service_ns{0};  // mean of what its server lately took per op, from when it could begin
    core::instant last_answer{0};              // under the box's mutex
    void reset() noexcept;
};

struct op_context {
    completion_box* box = nullptr;
    connection_load* load = nullptr;  // of the connection that carries the op
    core::instant sent{0};
    std::uint32_t bytes = 0;  // of payload
    std::uint64_t id = 0;
    core::op_kind kind = core::op_kind::read;
    std::uint32_t room = 0;  // block_status: bytes that no stretch has covered yet
    std::vector<core::stretch> stretches;
};

class completion_box {
public:
    explicit completion_box(wakeup& bell) : bell_(bell) {}
    completion_box(const completion_box&) = delete;
    completion_box& operator=(const completion_box&) = delete;

    /// While one lives, its thread need not ring the bell: it lets libnbd handle replies, and takes afterwards.
    class collecting {
    public:
        explicit collecting(const completion_box& box) : before_(std::exchange(by_this_thread_, &box)) {}
        ~collecting() { by_this_thread_ = before_; }
        collecting(const collecting&) = delete;
        collecting& operator=(const collecting&) = delete;

    private:
        const completion_box* before_;
    };

    /// Any thread.
    op_context* lend(const core::io_op& op, connection_load& load, core::instant now);
    /// Any thread. The op was answered: with 0 or with the errno that the server sent.
    void answered(op_context* it, int error, core::instant now);
    /// Any thread. The op's fate is unknown (its connection ended), or it was never sent.
    void gone(op_context* it);

    /// The one who polls. Appends what was answered since.
    void take(std::vector<core::op_result>& out);
    /// The one who polls, when no connection is open: forgets every op that is still lent out.
    void reset();

private:
    [[nodiscard]] bool must_ring() const { return by_this_thread_ != this; }

    static thread_local const completion_box* by_this_thread_;

    wakeup& bell_;
    std::mutex mutex_;
    std::deque<op_context> all_;  // addresses must hold while libnbd has them
    std::vector<op_context*> free_;
    std::vector<core::op_result> answers_;
};

}  // namespace weft::io
