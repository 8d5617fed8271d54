// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/replica_server.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "nbd-backend/base/units.hpp"

namespace weft::sim {

using core::fence_verdict;
using core::io_op;
using core::op_kind;

namespace {
bool is_change(op_kind kind) {
    return kind == op_kind::write || kind == op_kind::zero || kind == op_kind::trim;
}
}  // namespace

replica_server::replica_server(schedule& time, const trace& log, std::string name, std::uint64_t region_bytes,
                               bool all_dirty)
    : data(region_bytes, all_dirty),
      time_(time),
      log_(log),
      name_(std::move(name)),
      fence_(std::make_unique<core::fence>(core::fence_key{})) {}

void replica_server::next_step(std::uint64_t usual_us, std::function<void()> what) {
    time_.at(time_.delayed_us(usual_us), [this, process = incarnation_, what = std::move(what)] {
        if (process != incarnation_ || !alive_) return;
        if (hung_)
            frozen_.push_back(what);
        else
            what();
    });
}

void replica_server::open(core::fence_key key, std::function<void(const opened&)> told) {
    if (!alive_) return;
    next_step(50, [this, key, told = std::move(told)] {
        data.sync_page();  // as meta_keeper does at its beginning: what was loaded may be in the kernel only
        fence_->announce(key);
        wake_openers();
        try_open(key, told);
    });
}

void replica_server::wake_openers() {
    for (auto& opener : std::exchange(openers_, {})) next_step(20, std::move(opener));
}

void replica_server::try_open(core::fence_key key, const std::function<void(const opened&)>& told) {
    const auto step = fence_->next(key);
    const core::link_hello hello{boot_id(), data.change_boot == 0 ? "" : fmt::format("b{}", data.change_boot)};
    switch (step.verdict) {
        case fence_verdict::joined:
            wake_openers();
            told({false, key, step.ticket, hello});
            return;
        case fence_verdict::stale: told({true, fence_->highest(), 0, hello}); return;
        case fence_verdict::broken: return;
        case fence_verdict::wait: openers_.push_back([this, key, told] { try_open(key, told); }); return;
        case fence_verdict::persist:
            next_step(200, [this, key, told] {
                data.epoch = key.epoch;
                fence_->persisted();
                wake_openers();
                try_open(key, told);
            });
            return;
    }
}

void replica_server::receive(const std::shared_ptr<call>& what) {
    next_step(20, [this, what] {
        const io_op& op = what->op;
        if (!fence_->gate().admit(what->ticket)) {
            what->result.error = ESHUTDOWN;
            what->answer(what->result, {});
            return;
        }
        if (is_change(op.kind)) {
            begin_change(what);
        } else if (op.kind == op_kind::flush) {
            begin_flush(what);
        } else {
            next_step(50, [this, what] {
                switch (what->op.kind) {
                    case op_kind::read: read(*what); break;
                    case op_kind::block_status: tell_stretches(*what); break;
                    case op_kind::map_status: tell_dirty(*what); break;
                    default: clear(*what);
                }
            });
        }
    });
}

void replica_server::finish(call& what, int error) {
    what.result.error = error;
    if (fence_->gate().retire()) wake_openers();
    what.answer(std::move(what.result), std::move(what.payload));
}

bool replica_server::needs_space(const io_op& op) const {
    if (op.kind != op_kind::write) return false;
    for (std::uint64_t i = 0; i < op.length / block_bytes; ++i)
        if (!data.cached(op.offset / block_bytes + i).allocated) return true;
    return false;
}

void replica_server::begin_change(const std::shared_ptr<call>& what) {
    if (data.full && needs_space(what->op)) {
        finish(*what, ENOSPC);
        return;
    }
    if (data.change_boot == boot_) {
        make_dirty(what);
        return;
    }
    next_step(200, [this, what] {
        data.change_boot = boot_;
        make_dirty(what);
    });
}

void replica_server::make_dirty(const std::shared_ptr<call>& what) {
    const auto range = data.bits().touched_by(what->op.offset, what->op.length);
    if (data.bits().enter(range)) {
        apply(what);
        return;
    }
    data.bits().want(range);
    wait_for_bits_.push_back(what);
    if (!syncing_bits_) sync_bits();
}

/// The pages are written, then synced; then the changes that waited for their bits are applied.
void replica_server::sync_bits() {
    syncing_bits_ = true;
    data.bits().begin_sync();
    data.write_page();
    next_step(200, [this] {
        data.sync_page();
        data.bits().publish();
        touched = true;
        syncing_bits_ = false;
        for (const auto& what : std::exchange(wait_for_bits_, {})) {
            const auto range = data.bits().touched_by(what->op.offset, what->op.length);
            if (data.bits().all_dirty(range)) {
                apply(what);
                continue;
            }
            data.bits().want(range);
            wait_for_bits_.push_back(what);
        }
        if (!wait_for_bits_.empty()) sync_bits();
    });
}

/// Some of the blocks now, the others later.
void replica_server::apply(const std::shared_ptr<call>& what) {
    const std::uint64_t count = what->op.length / block_bytes;
    const std::uint64_t some = time_.random(count + 1);
    while (what->applied < some) apply_block(*what, what->applied++);
    next_step(some < count ? 100 : 20, [this, what, count] {
        while (what->applied < count) apply_block(*what, what->applied++);
        if (!what->op.fua) {
            end_change(*what, 0);
            return;
        }
        next_step(200, [this, what, count] {
            for (std::uint64_t i = 0; i < count; ++i) data.flush(what->op.offset / block_bytes + i);
            end_change(*what, 0);
        });
    });
}

void replica_server::apply_block(call& what, std::uint64_t i) {
    const std::uint64_t at = what.op.offset / block_bytes + i;
    block to;
    if (what.op.kind == op_kind::write) {
        std::memcpy(&to.v, what.payload.data() + i * block_bytes, sizeof to.v);
        to.allocated = true;
    }
    data.change(at, to, time_);
    touched = true;
    if (log_.watches(at))
        log_.say("  block {} of {} becomes {} (epoch {} session {})", at, name_, to.v, what.key.epoch,
                 what.key.session);
}

void replica_server::end_change(call& what, int error) {
    data.bits().leave(data.bits().touched_by(what.op.offset, what.op.length));
    finish(what, error);
}

/// It covers what was applied when it ran; it may run at any moment between its arrival and its answer.
void replica_server::begin_flush(const std::shared_ptr<call>& what) {
    const bool early = time_.one_in(2);
    if (early) data.flush();
    touched = true;
    next_step(300, [this, what, early] {
        if (!early) data.flush();
        touched = true;
        finish(*what, 0);
    });
}

void replica_server::read(call& what) {
    const std::uint64_t first = what.op.offset / block_bytes;
    what.payload.resize(what.op.length);
    for (std::uint64_t i = 0; i < what.op.length / block_bytes; ++i) {
        if (data.rotten(first + i)) {
            finish(what, EIO);
            return;
        }
        const value v = data.cached(first + i).v;
        std::memcpy(what.payload.data() + i * block_bytes, &v, sizeof v);
        if (log_.watches(first + i))
            log_.say("  block {} of {} reads as {} (epoch {} session {})", first + i, name_, v, what.key.epoch,
                     what.key.session);
    }
    finish(what, 0);
}

void replica_server::tell_stretches(call& what) {
    const std::uint64_t first = what.op.offset / block_bytes;
    for (std::uint64_t i = 0; i < what.op.length / block_bytes; ++i) {
        const bool hole = !data.cached(first + i).allocated;
        auto& told = what.result.stretches;
        if (!told.empty() && told.back().hole == hole)
            told.back().length += block_bytes;
        else
            told.push_back({block_bytes, hole});
    }
    finish(what, 0);
}

/// In whole regions, from the op's offset on.
void replica_server::tell_dirty(call& what) {
    const auto& bits = data.bits();
    const auto range = bits.touched_by(what.op.offset, what.op.length);
    for (auto region = range.first; region < range.end;) {
        const bool dirty = bits.is_dirty(region);
        const auto end = bits.run_end(region, range.end, dirty);
        const auto from = std::max(region * bits.region_bytes(), what.op.offset);
        const auto to = std::min(end * bits.region_bytes(), what.op.offset + what.op.length);
        what.result.stretches.push_back({to - from, !dirty});
        region = end;
    }
    finish(what, 0);
}

/// In memory and in the kernel's page: it reaches the drive with the next sync of the page, or by chance.
void replica_server::clear(call& what) {
    if (time_.one_in(200)) {
        finish(what, EIO);  // the checksums of the region could not be made sure: the bits stay
        return;
    }
    const auto range = data.bits().covered_by(what.op.offset, what.op.length);
    data.bits().clear(range);
    data.write_page();
    touched = true;
    log_.say("  {} clears regions {}..{} (epoch {} session {})", name_, range.first, range.end, what.key.epoch,
             what.key.session);
    finish(what, 0);
}

void replica_server::process_dies() {
    if (!alive_) return;
    alive_ = hung_ = false;
    ++incarnation_;
    fence_.reset();
    openers_.clear();
    wait_for_bits_.clear();
    syncing_bits_ = false;
    frozen_.clear();
    data.process_dies();
    touched = true;
}

void replica_server::kernel_dies() {
    process_dies();
    data.kernel_dies(time_);
    ++boot_;
    kernel_died_ = time_.tick();
    touched = true;
}

void replica_server::hang() {
    hung_ = alive_;
}

void replica_server::go_on() {
    if (!hung_) return;
    hung_ = false;
    for (auto& step : std::exchange(frozen_, {})) next_step(200, std::move(step));
}

void replica_server::start() {
    if (alive_) return;
    alive_ = true;
    ++incarnation_;
    fence_ = std::make_unique<core::fence>(core::fence_key{data.epoch, 0});
}

}  // namespace weft::sim
