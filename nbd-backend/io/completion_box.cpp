// SPDX-License-Identifier: Apache-2.0
#include "nbd-backend/io/completion_box.hpp"

#include <algorithm>
#include <utility>

namespace weft::io {

namespace {

// A new sample weighs an eighth. A sample is cut at a second: a server that hung is slow, not slow for ever.
constexpr int service_weight_shift = 3;
constexpr core::instant service_max = std::chrono::seconds(1);

bool carries_data(core::op_kind kind) {
    return kind == core::op_kind::read || kind == core::op_kind::write;
}

/// With the box's mutex.
void ended(op_context& it) {
    it.load->ops.fetch_sub(1, std::memory_order_relaxed);
    it.load->bytes.fetch_sub(it.bytes, std::memory_order_relaxed);
}

/// With the box's mutex. A server works on one request of a connection at a time, so it began this one when it had
/// answered the one before.
void learn(op_context& it, core::instant now) {
    connection_load& load = *it.load;
    const core::instant took = std::clamp(now - std::max(it.sent, load.last_answer), core::instant{0}, service_max);
    const std::int64_t mean = load.service_ns.load(std::memory_order_relaxed);
    const std::int64_t step = (took.count() - mean) / (1 << service_weight_shift);
    load.service_ns.store(static_cast<std::uint32_t>(mean + step), std::memory_order_relaxed);
    load.last_answer = now;
}

}  // namespace

thread_local const completion_box* completion_box::by_this_thread_ = nullptr;

void connection_load::reset() noexcept {
    ops.store(0, std::memory_order_relaxed);
    bytes.store(0, std::memory_order_relaxed);
}

op_context* completion_box::lend(const core::io_op& op, connection_load& load, core::instant now) {
    const std::lock_guard lock(mutex_);
    if (free_.empty()) {
        all_.emplace_back();
        free_.push_back(&all_.back());
    }
    op_context* it = free_.back();
    free_.pop_back();
    it->box = this;
    it->load = &load;
    it->sent = now;
    it->bytes = carries_data(op.kind) ? op.length : 0;
    it->id = op.id;
    it->kind = op.kind;
    it->room = op.length;
    it->stretches.clear();
    load.ops.fetch_add(1);  // sequentially consistent: link_poller's second law
    load.bytes.fetch_add(it->bytes, std::memory_order_relaxed);
    return it;
}

void completion_box::answered(op_context* it, int error, core::instant now) {
    bool first = false;
    {
        const std::lock_guard lock(mutex_);
        ended(*it);
        learn(*it, now);
        first = answers_.empty();
        answers_.push_back({it->id, error, std::exchange(it->stretches, {})});
        free_.push_back(it);
    }
    if (first && must_ring()) bell_.ring();
}

void completion_box::gone(op_context* it) {
    {
        const std::lock_guard lock(mutex_);
        ended(*it);
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
