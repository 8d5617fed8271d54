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
#include <thread>
#include <vector>

#include "nbd-backend/core/engine_types.hpp"
#include "nbd-backend/io/wakeup.hpp"

namespace weft::io {

class completion_box;

struct op_context {
    completion_box* box = nullptr;
    std::atomic<std::uint32_t>* in_flight = nullptr;  // of the connection that carries the op
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

    /// The thread that takes. While it collects (lets libnbd handle replies, before it takes) it need not ring itself.
    void set_owner(std::thread::id owner) { owner_ = owner; }
    void set_collecting(bool collecting) { collecting_ = collecting; }

    /// Any thread.
    op_context* lend(const core::io_op& op, std::atomic<std::uint32_t>& in_flight);
    /// Any thread. The op was answered: with 0 or with the errno that the server sent.
    void answered(op_context* it, int error);
    /// Any thread. The op's fate is unknown (its connection ended), or it was never sent.
    void gone(op_context* it);

    /// The owner. Appends what was answered since.
    void take(std::vector<core::op_result>& out);
    /// The owner, when no connection is open: forgets every op that is still lent out.
    void reset();

private:
    [[nodiscard]] bool must_ring() const { return std::this_thread::get_id() != owner_ || !collecting_; }

    wakeup& bell_;
    std::thread::id owner_;
    bool collecting_ = false;  // read and written by the owner alone
    std::mutex mutex_;
    std::deque<op_context> all_;  // addresses must hold while libnbd has them
    std::vector<op_context*> free_;
    std::vector<core::op_result> answers_;
};

}  // namespace weft::io
