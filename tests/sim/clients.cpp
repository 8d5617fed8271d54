// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/clients.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "nbd-backend/base/units.hpp"

namespace weft::sim {

using core::op_kind;

namespace {
constexpr std::array<std::string_view, 5> names{"read", "write", "zero", "trim", "flush"};

bool is_change(op_kind kind) {
    return kind == op_kind::write || kind == op_kind::zero || kind == op_kind::trim;
}
}  // namespace

core::request clients::draw(std::uint64_t epoch, bool deposed) {
    auto it = std::make_unique<op>();
    const auto dice = time_.random(20);
    it->request.kind = dice < 8    ? op_kind::write
                       : dice < 16 ? op_kind::read
                       : dice < 17 ? op_kind::zero
                       : dice < 18 ? op_kind::trim
                                   : op_kind::flush;
    it->epoch = epoch;
    it->deposed = deposed;
    if (it->request.kind != op_kind::flush) {
        it->first = time_.random(blocks);
        it->count = 1 + time_.random(std::min<std::uint64_t>(4, blocks - it->first));
        it->request.offset = it->first * block_bytes;
        it->request.length = static_cast<std::uint32_t>(it->count * block_bytes);
        it->buffer.resize(it->request.length);
        it->request.data = it->buffer.data();
        it->request.fua = is_change(it->request.kind) && time_.one_in(8);
    }
    const std::uint64_t id = next_op_++;
    it->request.cookie = reinterpret_cast<void*>(id);
    begin(*it, id);
    const core::request asked = it->request;
    ops_[id] = std::move(it);
    return asked;
}

std::size_t clients::open(std::uint64_t epoch) const {
    return static_cast<std::size_t>(
        std::count_if(ops_.begin(), ops_.end(), [epoch](const auto& one) { return one.second->epoch == epoch; }));
}

void clients::begin(op& it, std::uint64_t id) {
    it.begin = time_.tick();
    if (it.request.kind == op_kind::write) it.v = next_value_++;
    for (std::uint64_t i = 0; i < it.count; ++i) {
        block_history& block = history_[it.first + i];
        if (it.request.kind == op_kind::read) {
            it.reads.push_back(block.read_begins(it.begin));
            continue;
        }
        std::memcpy(it.buffer.data() + i * block_bytes, &it.v, sizeof it.v);
        block.write_begins(id, it.v, it.begin);
    }
    if (it.count > 0)
        log_.say("  epoch {}: {} #{} of blocks {}..{}{}{}", it.epoch, names[static_cast<std::size_t>(it.request.kind)],
                 id, it.first, it.first + it.count - 1, it.v != 0 ? fmt::format(" with {}", it.v) : "",
                 it.request.fua ? ", FUA" : "");
    else
        log_.say("  epoch {}: flush #{}", it.epoch, id);
}

void clients::end(op& it, std::uint64_t id, bool acknowledged) {
    const std::uint64_t now = time_.tick();
    if (is_change(it.request.kind)) {
        for (std::uint64_t i = 0; i < it.count; ++i)
            history_[it.first + i].write_ends(id, acknowledged, it.request.fua, now);
    } else if (it.request.kind == op_kind::read) {
        if (!acknowledged)
            for (std::size_t i = 0; i < it.reads.size(); ++i) history_[it.first + i].read_failed(it.reads[i]);
        else
            check_read(it);
    } else if (acknowledged) {
        flushed(it.begin);
    }
}

void clients::check_read(op& it) {
    const std::uint64_t now = time_.tick();
    for (std::uint64_t i = 0; i < it.count; ++i) {
        value v = 0;
        std::memcpy(&v, it.buffer.data() + i * block_bytes, sizeof v);
        block_history& block = history_[it.first + i];
        if (!block.read_ends(it.reads[i], v, now))
            log_.blame("law 2: epoch {} read {} from block {}; {}", it.epoch, v, it.first + i, block.explain());
    }
}

void clients::completed(const answer& what) {
    const auto id = reinterpret_cast<std::uint64_t>(what.what.cookie);
    const auto found = ops_.find(id);
    if (found == ops_.end()) log_.blame("a completion that nobody waits for");
    const std::unique_ptr<op> it = std::move(found->second);
    ops_.erase(found);
    log_.say("  epoch {}: #{} ends: {}", it->epoch, id, what.what.error);
    const bool acknowledged = what.what.error == 0;
    if (acknowledged && it->deposed)
        log_.blame("law 3: epoch {} acknowledges #{}, which was asked after a higher epoch had served", it->epoch, id);
    if (!acknowledged) check_error(*it, what);
    end(*it, id, acknowledged);
    if (acknowledged) ++acknowledged_;
}

void clients::check_error(const op& it, const answer& what) const {
    switch (what.what.error) {
        case EIO:
            if (what.may_fail_io) return;
            break;
        case ENOSPC:
            if (what.may_fail_space && is_change(it.request.kind)) return;
            break;
        case ESHUTDOWN:
            if (what.may_end) return;
            break;
        default: break;
    }
    log_.blame("epoch {}: error {} out of nothing", it.epoch, what.what.error);
}

void clients::writer_died(std::uint64_t epoch) {
    for (auto it = ops_.begin(); it != ops_.end();) {
        if (it->second->epoch != epoch) {
            ++it;
            continue;
        }
        end(*it->second, it->first, false);
        it = ops_.erase(it);
    }
}

void clients::flushed(std::uint64_t began) {
    for (block_history& block : history_) block.flushed(began);
}

void clients::lose(std::uint64_t floor) {
    const std::uint64_t now = time_.tick();
    for (block_history& block : history_) block.lose(floor, now);
}

bool clients::explains(std::uint64_t block, value v) {
    const std::uint64_t read = history_[block].read_begins(time_.tick());
    return history_[block].read_ends(read, v, time_.tick());
}

void clients::check_order() const {
    for (std::uint32_t b = 0; b < blocks; ++b)
        if (const std::string why = history_[b].zones_overlap(); !why.empty())
            log_.blame("law 2: no order explains the reads of block {}: {}", b, why);
}

}  // namespace weft::sim
