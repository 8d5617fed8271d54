// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/world.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>

namespace weft::sim {

using namespace core;
using std::chrono::microseconds;

void block_history::write_ends(std::uint64_t op, bool acknowledged) {
    const value v = pending_.at(op);
    pending_.erase(op);
    if (acknowledged) {
        possible_ = {v};
        for (const auto& [other, theirs] : pending_) possible_.insert(theirs);
    } else {
        possible_.insert(v);  // may or may not have happened
    }
    for (auto& [id, read] : reads_) {
        read.may.insert(v);
        read.ended.insert(v);
    }
}

std::uint64_t block_history::read_begins() {
    open_read& read = reads_[next_read_];
    read.may = possible_;
    for (const auto& [op, v] : pending_) read.may.insert(v);
    return next_read_++;
}

bool block_history::read_ends(std::uint64_t id, value v) {
    open_read read = std::move(reads_.at(id));
    reads_.erase(id);
    for (const auto& [op, theirs] : pending_) read.may.insert(theirs);
    if (read.may.count(v) == 0) return false;
    // Who reads from here on sees this value or a write that is still open (added when he begins) or ended beside it.
    possible_ = std::move(read.ended);
    possible_.insert(v);
    return true;
}

std::string block_history::explain() const {
    std::string text = "possible:";
    for (const value v : possible_) text += fmt::format(" {}", v);
    text += " pending:";
    for (const auto& [op, v] : pending_) text += fmt::format(" {}", v);
    return text;
}

world::world(std::uint64_t seed, std::size_t replicas, std::uint32_t min_replicas, std::uint64_t watched)
    : watched_(watched),
      rng_(seed),
      servers_(replicas),
      record_(replicas, replica_state::up_to_date),
      min_replicas_(min_replicas) {
    say(fmt::format("seed {}, {} replicas, min {}", seed, replicas, min_replicas));
}

void world::say(const std::string& what) {
    trace_ += fmt::format("{:>9.3f} ms  {}\n", static_cast<double>(now_.count()) / 1e6, what);
}

void world::blame(const std::string& what) {
    say("VIOLATION " + what);
    throw std::runtime_error(what);
}

void world::at(instant when, std::function<void()> what) {
    queue_.push({when, order_++, std::move(what)});
}

void world::attach() {
    // R1, R12: nobody attaches without an up_to_date replica; the engine never lets the record come to that.
    auto who = std::make_unique<writer>();
    who->epoch = ++record_epoch_;
    engine_config config;
    config.size_bytes = blocks * block_bytes;
    config.min_replicas = min_replicas_;
    config.clean = record_clean_;
    config.chunk_bytes = 8 * block_bytes;
    config.piece_bytes = 2 * block_bytes;
    config.copies_max = 2;
    config.request_timeout = ms(50);
    config.reconnect_window = ms(20);
    config.attach_timeout = ms(50);
    config.retry_min = ms(1);
    config.retry_max = ms(20);
    for (std::size_t i = 0; i < servers_.size(); ++i)
        config.members.push_back({replica_id(fmt::format("r{}", i)), record_[i], i == 0});
    record_clean_ = false;
    say(fmt::format("epoch {} attaches", who->epoch));
    who->engine = std::make_unique<engine>(std::move(config));
    writers_.push_back(std::move(who));
    writer& me = *writers_.back();
    call(me, [&](actions& out) { me.engine->start(now_, out); });
}

void world::call(writer& who, const std::function<void(actions&)>& tell) {
    if (who.dead) return;
    actions out;
    tell(out);
    perform(who, out);
    arm(who);
}

void world::arm(writer& who) {
    const instant next = who.engine->next_tick();
    if (next == instant::max()) return;
    at(std::max(next, now_ + microseconds(1)), [this, &who] {
        if (!who.dead && who.engine->next_tick() <= now_)
            call(who, [&](actions& out) { who.engine->on_tick(now_, out); });
    });
}

void world::perform(writer& who, actions& what) {
    for (const notice& n : what.notices) say(fmt::format("epoch {}: {}", who.epoch, n.text));
    for (const link_command& command : what.links) connect(who, command);
    for (const io_op& op : what.send) deliver(who, op);
    for (const proposal& one : what.propose) propose(who, one);
    for (const completion& one : what.complete) completed(who, one);
}

void world::connect(writer& who, const link_command& command) {
    const slot_index slot = command.slot;
    const std::uint64_t session = command.session;
    if (command.action == link_action::disconnect) {
        if (who.links[slot].first == session && !who.links[slot].second)
            link_lost(who, slot, session, link_loss::dropped, soon(200));
        return;
    }
    who.links[slot] = {session, false};
    at(soon(500), [this, &who, slot, session] {
        server& to = servers_[slot];
        if (who.dead || who.links[slot] != std::pair(session, false)) return;
        if (!to.alive || to.hung) {
            link_lost(who, slot, session, link_loss::dropped, soon(to.hung ? 30000 : 300));
            return;
        }
        if (std::pair(who.epoch, session) < std::pair(to.epoch, to.session)) {
            link_lost(who, slot, session, link_loss::fenced, soon(10));
            return;
        }
        to.epoch = who.epoch;
        to.session = session;
        who.peer[slot] = to.incarnation;
        link_hello hello{fmt::format("b{}", to.boot), to.change_boot == 0 ? "" : fmt::format("b{}", to.change_boot)};
        const std::uint64_t incarnation = to.incarnation;
        at(soon(100), [this, &who, slot, session, hello, incarnation] {
            if (who.dead || who.links[slot] != std::pair(session, false)) return;
            if (servers_[slot].incarnation != incarnation) {
                link_lost(who, slot, session, link_loss::dropped, soon(10));
                return;
            }
            call(who, [&](actions& out) { who.engine->on_link_up(slot, session, hello, now_, out); });
        });
    });
}

void world::link_lost(writer& who, slot_index slot, std::uint64_t session, link_loss loss, instant when) {
    who.links[slot].second = true;
    at(when, [this, &who, slot, session, loss] {
        if (who.links[slot] != std::pair(session, true)) return;
        who.links[slot] = {0, true};
        call(who, [&](actions& out) { who.engine->on_link_down(slot, session, loss, now_, out); });
    });
}

/// An op on its way: the payload is taken when it is sent; it arrives later or never, and its answer later or never.
struct world::flight {
    io_op op;
    std::vector<std::byte> payload;
    std::byte* destination = nullptr;
    std::uint64_t incarnation = 0;
    std::uint64_t epoch = 0;
    op_result answer;
};

void world::deliver(writer& who, const io_op& op) {
    auto what = std::make_shared<flight>();
    what->op = op;
    what->destination = op.data;
    what->incarnation = who.peer[op.slot];  // a connection never reaches a later process
    what->epoch = who.epoch;
    what->answer.id = op.id;
    if (op.kind == op_kind::write) what->payload.assign(op.data, op.data + op.length);
    if (op.kind == op_kind::read) what->payload.resize(op.length);
    what->op.data = what->payload.empty() ? nullptr : what->payload.data();
    at(soon(random(20) == 0 ? 5000 : 300), [this, &who, what] { arrive(who, what); });
}

void world::arrive(writer& who, const std::shared_ptr<flight>& what) {
    server& to = servers_[what->op.slot];
    if (to.incarnation != what->incarnation || !to.alive) return;
    if (to.hung) {
        at(soon(2000), [this, &who, what] { arrive(who, what); });
        return;
    }
    what->answer.error = apply(to, what->op, what->epoch, what->answer);
    at(soon(300), [this, &who, what] {
        const io_op& op = what->op;
        if (who.dead || servers_[op.slot].incarnation != what->incarnation) return;
        if (who.links[op.slot] != std::pair(op.session, false)) return;
        if (op.kind == op_kind::read && what->answer.error == 0)
            std::memcpy(what->destination, what->payload.data(), op.length);
        call(who, [&](actions& out) { who.engine->on_op_done(what->answer, now_, out); });
    });
}

int world::apply(server& to, const io_op& op, std::uint64_t epoch, op_result& answer) {
    if (std::pair(epoch, op.session) < std::pair(to.epoch, to.session)) return ESHUTDOWN;
    if (op.kind == op_kind::write || op.kind == op_kind::zero || op.kind == op_kind::trim) to.change_boot = to.boot;
    const std::uint64_t first = op.offset / block_bytes;
    const std::uint64_t count = op.length / block_bytes;
    for (std::uint64_t i = 0; i < count; ++i) {
        std::byte* at_block = op.data == nullptr ? nullptr : op.data + i * block_bytes;
        value& block = to.cache.at(first + i);
        if (op.kind == op_kind::write) std::memcpy(&block, at_block, sizeof block);
        if (op.kind == op_kind::zero || op.kind == op_kind::trim) block = 0;
        if (op.kind == op_kind::read) std::memcpy(at_block, &block, sizeof block);
        if (op.kind == op_kind::block_status) answer.stretches.push_back({block_bytes, block == 0});
        if (op.fua) to.stable[first + i] = block;
        if (first + i == watched_ && op.kind != op_kind::block_status)
            say(fmt::format("  block {} of r{}: epoch {} session {} {} {}", watched_, op.slot, epoch, op.session,
                            op.kind == op_kind::read ? "reads" : "becomes", block));
    }
    if (op.kind == op_kind::flush) to.stable = to.cache;
    return 0;
}

/// The record's own rules (orchestrator/core/transitions.hpp), and a store that may be slow, away, or silent after the
/// change was made. The shell asks again until it is answered.
void world::propose(writer& who, const proposal& what) {
    demotions_asked_ += what.to < replica_state::up_to_date ? 1 : 0;
    at(soon(2000), [this, &who, what] {
        demotions_asked_ -= what.to < replica_state::up_to_date ? 1 : 0;
        if (who.dead) return;
        if (!store_up_) {
            propose(who, what);
            return;
        }
        proposal_outcome outcome = proposal_outcome::committed;
        if (who.epoch != record_epoch_) {
            outcome = proposal_outcome::fenced;
        } else if (record_[what.slot] == replica_state::up_to_date && what.to < replica_state::up_to_date &&
                   std::count(record_.begin(), record_.end(), replica_state::up_to_date) <= min_replicas_) {
            outcome = proposal_outcome::refused;
        } else {
            record_[what.slot] = what.to;
        }
        if (outcome == proposal_outcome::committed && random(4) == 0) {
            propose(who, what);  // made, but the answer is lost
            return;
        }
        say(fmt::format("record: r{} -> {} by epoch {} ({}): {}", what.slot, weft::to_string(what.to), who.epoch,
                        what.reason,
                        outcome == proposal_outcome::committed ? "committed"
                        : outcome == proposal_outcome::refused ? "refused"
                                                               : "fenced"));
        at(soon(500), [this, &who, what, outcome] {
            call(who, [&](actions& out) { who.engine->on_proposal_result(what.id, outcome, now_, out); });
        });
    });
}

void world::completed(writer& who, const completion& what) {
    auto found = who.ops.find(what.cookie);
    if (found == who.ops.end()) blame("a completion that nobody waits for");
    const client_op& op = *found->second;
    // Law 3: an epoch that the servers have fenced gets no acknowledgement for a change made after that. Checked
    // through the values: a change acknowledged by an old epoch after a takeover would be missing from reads.
    for (std::uint64_t i = 0; i < op.count; ++i) {
        block_history& block = history_[op.first + i];
        if (op.request.kind == op_kind::read) {
            value v = 0;
            std::memcpy(&v, op.buffer.data() + i * block_bytes, sizeof v);
            if (what.error == 0 && !block.read_ends(op.reads[i], v))
                blame(fmt::format("epoch {} read {} from block {}; {}", who.epoch, v, op.first + i, block.explain()));
        } else {
            block.write_ends(op.id, what.error == 0);
        }
    }
    if (what.error == 0) ++acknowledged_;
    if (what.error == EIO && who.engine->state() != engine_state::lost) blame("an I/O error out of nothing");
    // Buffers die with the completion: a later use of it is a bug that the address sanitizer sees (E5).
    who.ops.erase(found);
}

void world::client_step() {
    for (const auto& who : writers_) {
        if (who->dead || who->ops.size() >= 6 || random(3) == 0) continue;
        auto op = std::make_unique<client_op>();
        const auto dice = random(10);
        op->request.kind = dice < 4   ? op_kind::write
                           : dice < 8 ? op_kind::read
                           : dice < 9 ? op_kind::zero
                                      : op_kind::flush;
        op->id = next_op_++;
        if (op->request.kind != op_kind::flush) {
            op->first = random(blocks);
            op->count = 1 + random(std::min<std::uint64_t>(4, blocks - op->first));
            op->request.offset = op->first * block_bytes;
            op->request.length = static_cast<std::uint32_t>(op->count * block_bytes);
            op->buffer.resize(op->request.length);
            op->request.data = op->buffer.data();
            op->request.fua = op->request.kind != op_kind::read && random(8) == 0;
        }
        op->v = op->request.kind == op_kind::write ? next_value_++ : 0;
        for (std::uint64_t i = 0; i < op->count; ++i) {
            block_history& block = history_[op->first + i];
            if (op->request.kind == op_kind::read) {
                op->reads.push_back(block.read_begins());
            } else {
                std::memcpy(op->buffer.data() + i * block_bytes, &op->v, sizeof op->v);
                block.write_begins(op->id, op->v);
            }
        }
        op->request.cookie = op.get();
        const request asked = op->request;
        who->ops[op.get()] = std::move(op);
        call(*who, [&](actions& out) { who->engine->submit(asked, now_, out); });
    }
}

void world::drop_links_of(std::size_t index) {
    for (const auto& who : writers_) {
        const auto slot = static_cast<slot_index>(index);
        const auto link = who->links.find(slot);
        if (!who->dead && link != who->links.end() && !link->second.second)
            link_lost(*who, slot, link->second.first, link_loss::dropped, soon(2000));
    }
}

/// What was not flushed may be gone, block by block. At most one kernel dies per run, only while the record has another
/// up_to_date replica, and not while a demotion of that one is on its way: else law 1 promises nothing.
void world::crash_kernel(std::size_t index) {
    server& it = servers_[index];
    // Not with min_replicas 2: a replica that may not be demoted is recovered in place, and a second failure during
    // that leaves no durable trace of which one was behind. The write-intent bitmap (R6) is that trace.
    if (kernel_faults_ > 0 || demotions_asked_ > 0 || min_replicas_ > 1) return;
    for (std::size_t i = 0; i < servers_.size(); ++i)
        if (i != index && record_[i] == replica_state::up_to_date) kernel_faults_ = 1;
    if (kernel_faults_ == 0) return;
    say(fmt::format("r{}: kernel dies", index));
    for (std::uint32_t b = 0; b < blocks; ++b) {
        if (random(2) == 0) it.cache[b] = it.stable[b];
        it.stable[b] = it.cache[b];
    }
    ++it.boot;
    it.session = 0;
    it.alive = it.hung = false;
    ++it.incarnation;
    drop_links_of(index);
}

void world::fault_step() {
    const std::size_t index = random(servers_.size());
    server& it = servers_[index];
    switch (random(10)) {
        case 0:
        case 1:
            if (!it.alive) break;
            say(fmt::format("r{}: process dies", index));
            it.alive = it.hung = false;
            ++it.incarnation;
            it.session = 0;
            drop_links_of(index);
            break;
        case 2:
        case 3:
        case 4:
            if (!it.alive) say(fmt::format("r{}: is back", index));
            if (it.hung) say(fmt::format("r{}: goes on", index));
            it.alive = true;
            it.hung = false;
            break;
        case 5:
            say(fmt::format("r{}: hangs", index));
            it.hung = it.alive;
            break;
        case 6:
            say(fmt::format("r{}: connections cut", index));
            drop_links_of(index);
            break;
        case 7:
            store_up_ = !store_up_;
            say(store_up_ ? "store is back" : "store is away");
            break;
        case 8: crash_kernel(index); break;
        default:
            if (random(3) != 0) break;
            if (random(2) == 0 && !writers_.back()->dead) {
                say(fmt::format("epoch {}: writer dies", writers_.back()->epoch));
                writers_.back()->dead = true;
                for (auto& [cookie, op] : writers_.back()->ops)
                    if (op->request.kind != op_kind::read && op->request.kind != op_kind::flush)
                        for (std::uint64_t i = 0; i < op->count; ++i) history_[op->first + i].write_ends(op->id, false);
            }
            attach();
    }
}

bool world::run_until(instant limit, const std::function<bool()>& done) {
    if (done && done()) return true;
    while (!queue_.empty() && queue_.top().when <= limit) {
        const event next = queue_.top();
        queue_.pop();
        now_ = next.when;
        next.what();
        if (done && done()) return true;
    }
    now_ = limit;
    return false;
}

void world::run(std::uint32_t steps) {
    attach();
    for (std::uint32_t i = 0; i < steps; ++i) {
        client_step();
        if (random(12) == 0) fault_step();
        run_until(soon(random(10) == 0 ? 60000 : 1500), {});
        if (writers_.back()->engine->state() == engine_state::lost) return;  // said so, failed all I/O: allowed
    }
    heal_and_check();
}

/// Waits until the last writer has brought every replica up to date, and detaches it. False if there is none that
/// serves, or if it said that it leaves the replicas unequal.
bool world::detach_equal() {
    writer& last = *writers_.back();
    if (last.dead || last.engine->state() == engine_state::fenced || last.engine->state() == engine_state::lost)
        return false;
    const auto well = [&] {
        const bool all =
            std::all_of(record_.begin(), record_.end(), [](replica_state s) { return s == replica_state::up_to_date; });
        return last.engine->state() == engine_state::serving && last.ops.empty() && all &&
               last.engine->status(now_).recovery_left_bytes == 0;
    };
    if (!run_until(now_ + ms(120000), [&] { return well() || last.engine->state() == engine_state::lost; })) {
        const engine_status status = last.engine->status(now_);
        for (const slot_status& slot : status.slots)
            say(fmt::format("{} {} link {} resyncing {} done {}", slot.id.str(), weft::to_string(slot.state),
                            slot.link_up ? "up" : "down", slot.resyncing, slot.resync_done_bytes));
        blame(fmt::format("not healed after two minutes: {}, {} requests, {} bytes to recover, {}",
                          core::to_string(status.state), last.ops.size(), status.recovery_left_bytes,
                          status.holding ? "holding" : "not holding"));
    }
    if (last.engine->state() == engine_state::lost) return false;
    call(last, [&](actions& out) { last.engine->detach(now_, out); });
    if (!run_until(now_ + ms(60000), [&] { return last.engine->state() != engine_state::detaching; }))
        blame("does not detach");
    if (last.engine->state() != engine_state::detached) return false;
    return last.engine->status(now_).recovery_left_bytes == 0;
}

/// Everything heals: the last writer must serve, answer every request, bring every replica up to date, and leave them
/// equal (law 4), holding only values that the clients' history allows.
void world::heal_and_check() {
    say("everything heals");
    store_up_ = true;
    for (server& it : servers_) it.alive = true, it.hung = false;
    for (int round = 0; !detach_equal(); ++round) {
        if (writers_.back()->engine->state() == engine_state::lost) return;
        if (round == 5) blame("no writer can leave the replicas equal");
        attach();
    }
    for (std::uint32_t b = 0; b < blocks; ++b) check_block(b);
}

/// Law 4 and law 1: what every replica that the record trusts has on its disk is the same, and explained by history.
void world::check_block(std::uint32_t b) {
    const std::uint64_t read = history_[b].read_begins();
    bool first = true;
    value expected = 0;
    for (std::size_t i = 0; i < servers_.size(); ++i) {
        if (record_[i] != replica_state::up_to_date) continue;
        const value stable = servers_[i].stable[b];
        if (first && !history_[b].read_ends(read, stable))
            blame(fmt::format("block {} ended as {} on r{}; {}", b, stable, i, history_[b].explain()));
        if (!first && stable != expected)
            blame(fmt::format("block {} differs: {} and {} on r{}", b, expected, stable, i));
        expected = stable;
        first = false;
    }
    if (first) blame("the record has no up_to_date replica");
}

}  // namespace weft::sim
