// SPDX-License-Identifier: Apache-2.0
#include "nbd-backend/io/completion_box.hpp"

#include <utility>

namespace weft::io {

op_context* completion_box::lend(const core::io_op& op, std::atomic<std::uint32_t>& in_flight) {
    const std::lock_guard lock(mutex_);
    if (free_.empty()) {
        all_.emplace_back();
        free_.push_back(&all_.back());
    }
    op_context* it = free_.back();
    free_.pop_back();
    it->box = this;
    it->in_flight = &in_flight;
    it->id = op.id;
    it->kind = op.kind;
    it->room = op.length;
    it->stretches.clear();
    in_flight.fetch_add(1, std::memory_order_relaxed);
    return it;
}

void completion_box::answered(op_context* it, int error) {
    it->in_flight->fetch_sub(1, std::memory_order_relaxed);
    bool first = false;
    {
        const std::lock_guard lock(mutex_);
        first = answers_.empty();
        answers_.push_back({it->id, error, std::exchange(it->stretches, {})});
        free_.push_back(it);
    }
    if (first && must_ring()) bell_.ring();
}

void completion_box::gone(op_context* it) {
    it->in_flight->fetch_sub(1, std::memory_order_relaxed);
    {
        const std::lock_guard lock(mutex_);
        free_.push_back(it);
    }
    if (must_ring()) bell_.ring();  // a connection ended: the owner must look at it
}

void completion_box::take(std::vector<core::op_result>& out) {
    const std::lock_guard lock(mutex_);
    if (out.empty())
        out.swap(answers_);
    else
        for (core::op_result& one : answers_) out.push_back(std::move(one));
    answers_.clear();
}

void completion_box::reset() {
    const std::lock_guard lock(mutex_);
    free_.clear();
    for (op_context& one : all_) free_.push_back(&one);
    answers_.clear();
}

}  // namespace weft::io
