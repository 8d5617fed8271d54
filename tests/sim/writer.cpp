// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/writer.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

namespace weft::sim {

using namespace core;

namespace {
constexpr milliseconds connect_timeout{30};
constexpr std::uint64_t retransmit_us = 4000;
}  // namespace

std::vector<replica_member> members_of(const volume_record& record, std::uint32_t node) {
    std::vector<replica_member> all;
    for (const replica_record& one : record.extents.front().replicas)
        all.push_back({one.id, one.state, one.node == node_of(node), one.recovering});
    return all;
}

writer::writer(cluster& world, std::uint32_t node, std::uint64_t epoch, std::uint64_t gaps, engine_config config)
    : world_(world),
      node_(node),
      epoch_(epoch),
      may_refuse_(config.policy.on_full == full_policy::fail),
      engine_(std::make_unique<engine>(std::move(config))),
      entitled_(gaps) {}

void writer::start() {
    happen([this](actions& out) { engine_->start(world_.time.now(), out); });
}

void writer::happen(event what) {
    if (dead_) return;
    if (hung_)
        waiting_.push_back(std::move(what));
    else
        run(what);
}

void writer::run(const event& what) {
    actions out;
    what(out);
    perform(out);
    look_at_state();
    arm();
}

void writer::perform(actions& what) {
    for (const notice& n : what.notices) world_.log.say("epoch {}: {}", epoch_, n.text);
    for (const link_command& command : what.links) connect(command);
    for (const io_op& op : what.send) send(op);
    for (const proposal& one : what.propose) propose(one);
    for (const completion& one : what.complete) completed(one);
}

void writer::look_at_state() {
    const engine_state now = engine_->state();
    if (now == last_state_) return;
    last_state_ = now;
    world_.log.say("epoch {} is {}", epoch_, core::to_string(now));
    if (now == engine_state::serving) {
        served_ = true;
        world_.rules->on_serving(epoch_);
    }
    const bool a_kernel_died = std::any_of(world_.servers.begin(), world_.servers.end(),
                                           [](const auto& one) { return one->kernel_died() != 0; });
    if (now == engine_state::lost && !a_kernel_died)
        world_.log.blame("epoch {} gives everything up although every kernel lives", epoch_);
    if (now == engine_state::detached) commit_release();
}

void writer::arm() {
    const instant next = std::max(engine_->next_tick(), world_.time.now() + microseconds(1));
    if (engine_->next_tick() == instant::max() || armed_ <= next) return;
    armed_ = next;
    world_.time.at(next, [this, next] {
        if (armed_ == next) armed_ = instant::max();
        if (dead_) return;
        if (!hung_ && engine_->next_tick() > world_.time.now()) {
            arm();
            return;
        }
        happen([this](actions& out) { engine_->on_tick(world_.time.now(), out); });
    });
}

bool writer::over() const {
    return dead_ || released_ || state() == engine_state::fenced || state() == engine_state::lost;
}

void writer::submit_one() {
    const request asked = world_.apps.draw(epoch_, world_.rules->deposed(epoch_));
    happen([this, asked](actions& out) { engine_->submit(asked, world_.time.now(), out); });
}

void writer::completed(const completion& what) {
    clients::answer told;
    told.what = what;
    const engine_state now = engine_->state();
    told.may_end = now != engine_state::fencing && now != engine_state::serving;
    told.may_fail_io = now == engine_state::lost;
    for (const auto& server : world_.servers) {
        told.may_fail_io = told.may_fail_io || server->data.ever_rotten;
        told.may_fail_space = told.may_fail_space || (may_refuse_ && server->data.was_full);
    }
    world_.apps.completed(told);
}

void writer::change_policy(const engine_policy& policy) {
    may_refuse_ = may_refuse_ || policy.on_full == full_policy::fail;
    happen([this, policy](actions& out) { engine_->on_policy(policy, world_.time.now(), out); });
}

// --- links ---

void writer::connect(const link_command& command) {
    const auto known = links_.find(command.slot);
    if (command.action == link_action::disconnect) {
        if (known != links_.end() && known->second->session == command.session)
            close(known->second, link_loss::dropped, world_.time.within_us(200));
        return;
    }
    world_.log.say("  epoch {} connects to {}, session {}", epoch_, engine_->replica_in(command.slot).str(),
                   command.session);
    auto it = std::make_shared<link>();
    it->slot = command.slot;
    it->session = command.session;
    it->server = server_of(engine_->replica_in(command.slot));
    links_[command.slot] = it;
    world_.time.at(world_.time.now() + connect_timeout, [this, it] {
        if (!it->up) close(it, link_loss::dropped, world_.time.within_us(10));
    });
    travel(it, direction::to_server, world_.time.delayed_us(300), [this, it] { reach(it); });
}

void writer::reach(const link_ptr& it) {
    replica_server& to = *world_.servers[it->server];
    const auto refused = to.data.gone ? link_loss::unusable : link_loss::dropped;
    if (!to.alive() || to.data.gone) {
        travel(it, direction::from_server, world_.time.delayed_us(100),
               [this, it, refused] { close(it, refused, world_.time.within_us(10)); });
        return;
    }
    it->incarnation = to.incarnation();
    it->since = world_.time.tick();
    to.open({epoch_, it->session}, [this, it](const opened& said) {
        travel(it, direction::from_server, world_.time.delayed_us(100), [this, it, said] { welcome(it, said); });
    });
}

void writer::welcome(const link_ptr& it, const opened& said) {
    if (world_.servers[it->server]->incarnation() != it->incarnation) {
        close(it, link_loss::dropped, world_.time.within_us(10));
        return;
    }
    if (said.fenced) {
        // A higher session of our own epoch can only be an attempt of ours that was given up.
        close(it, said.highest.epoch > epoch_ ? link_loss::fenced : link_loss::dropped, world_.time.within_us(10));
        return;
    }
    it->up = true;
    it->ticket = said.ticket;
    happen([this, it, hello = said.hello](actions& out) {
        if (it->open) engine_->on_link_up(it->slot, it->session, hello, world_.time.now(), out);
    });
}

void writer::close(const link_ptr& it, link_loss loss, instant when) {
    if (!std::exchange(it->open, false)) return;
    world_.log.say("  epoch {} loses r{}, session {}", epoch_, it->server, it->session);
    world_.time.at(when, [this, it, loss] {
        happen([this, it, loss](actions& out) {
            engine_->on_link_down(it->slot, it->session, loss, world_.time.now(), out);
        });
    });
}

void writer::lose_links(std::size_t server, bool noticed_only_on_open_way) {
    if (dead_) return;
    for (const auto& [slot, it] : links_) {
        if (it->server != server || !it->open || it->incarnation == 0) continue;
        if (noticed_only_on_open_way)
            travel(it, direction::from_server, world_.time.within_us(2000),
                   [this, it = it] { close(it, link_loss::dropped, world_.time.within_us(10)); });
        else
            close(it, link_loss::dropped, world_.time.within_us(2000));
    }
}

/// To the server: when the link was given up meanwhile it is lost, or comes all the same, perhaps much later (a network
/// goes on with what it has taken). From the server: only while the link is open.
void writer::travel(const link_ptr& it, direction way, instant when, std::function<void()> then, bool orphan) {
    world_.time.at(when, [this, it, way, orphan, then = std::move(then)] {
        if (!it->open && way == direction::from_server) return;
        if (!it->open && !orphan) {
            if (world_.time.one_in(2)) travel(it, way, world_.time.delayed_us(1000), then, true);
            return;
        }
        if (world_.net.open(node_, static_cast<std::uint32_t>(it->server), way))
            then();
        else
            travel(it, way, world_.time.within_us(retransmit_us), then, orphan);
    });
}

/// The payload is taken when it is sent: a socket's buffer.
void writer::send(const io_op& op) {
    const auto known = links_.find(op.slot);
    if (known == links_.end() || known->second->session != op.session || !known->second->open) return;
    const link_ptr it = known->second;
    auto what = std::make_shared<call>();
    what->op = op;
    what->op.data = nullptr;
    what->ticket = it->ticket;
    what->key = {epoch_, it->session};
    what->result.id = op.id;
    if (op.kind == op_kind::write) what->payload.assign(op.data, op.data + op.length);
    what->answer = [this, it, op](op_result result, std::vector<std::byte> payload) {
        answered(it, op, std::move(result), std::move(payload));
    };
    travel(it, direction::to_server, world_.time.delayed_us(150), [this, it, what] {
        replica_server& to = *world_.servers[it->server];
        if (to.alive() && to.incarnation() == it->incarnation) to.receive(what);
    });
}

void writer::answered(const link_ptr& it, const io_op& op, op_result result, std::vector<std::byte> payload) {
    auto carried =
        std::make_shared<std::pair<op_result, std::vector<std::byte>>>(std::move(result), std::move(payload));
    travel(it, direction::from_server, world_.time.delayed_us(150), [this, it, op, carried] {
        happen([this, it, op, carried](actions& out) {
            if (!it->open) return;
            if (op.kind == op_kind::read && carried->first.error == 0)
                std::memcpy(op.data, carried->second.data(), op.length);
            engine_->on_op_done(std::move(carried->first), world_.time.now(), out);
        });
    });
}

// --- weftd ---

void writer::propose(const proposal& what) {
    const replica_id id = engine_->replica_in(what.slot);
    const auto known = links_.find(what.slot);
    if (what.to == replica_state::up_to_date && known != links_.end())
        world_.rules->proposed_up_to_date(id, known->second->since);
    world_.log.say("epoch {} proposes {} -> {}{}: {}", epoch_, id.str(), weft::to_string(what.to),
                   what.recovering ? ", recovering" : "", what.reason);
    world_.record.commit(
        node_,
        [this, id, what](volume_record now) {
            return set_replica_state(std::move(now), node_of(node_), epoch_, id, what.to, what.recovering);
        },
        [this, id, what](const result<volume_record>& made) {
            proposal_outcome outcome = proposal_outcome::committed;
            if (made.has_error())
                outcome = made.error().code == errc::stale_epoch ? proposal_outcome::fenced : proposal_outcome::refused;
            world_.log.say("record: {} -> {} by epoch {}: {}", id.str(), weft::to_string(what.to), epoch_,
                           outcome == proposal_outcome::committed ? "committed" : made.error().text);
            world_.time.at(world_.time.delayed_us(100), [this, proposal = what.id, outcome] {
                happen([this, proposal, outcome](actions& out) {
                    engine_->on_proposal_result(proposal, outcome, world_.time.now(), out);
                });
            });
        });
}

void writer::hear_of_record() {
    if (dead_) return;
    world_.time.at(world_.time.delayed_us(1000), [this] {
        if (dead_) return;
        if (!world_.record.up() || !world_.net.store_open(node_)) {
            hear_of_record();
            return;
        }
        const volume_record& now = world_.record.record();
        if (now.epoch != epoch_) {
            happen([this](actions& out) { engine_->on_fenced(world_.time.now(), out); });
            return;
        }
        happen([this, members = members_of(now, node_)](actions& out) {
            engine_->on_membership(members, world_.time.now(), out);
        });
    });
}

void writer::hear_of_lease() {
    if (over()) return;
    const std::uint64_t gaps = world_.leased.gaps(node_);
    if (entitled_ == gaps) {
        happen([this, until = world_.leased.until(node_)](actions&) { engine_->on_lease(until); });
        return;
    }
    if (std::exchange(confirming_, true)) return;
    world_.record.commit(
        node_,
        [this](volume_record now) -> result<volume_record> {
            if (now.epoch != epoch_ || now.writer != node_of(node_)) return error{errc::stale_epoch, "deposed"};
            return now;
        },
        [this, gaps](const result<volume_record>& made) {
            confirming_ = false;
            if (made.has_value()) entitled_ = gaps;
        });
}

void writer::detach() {
    if (std::exchange(detach_asked_, true)) return;
    world_.log.say("epoch {} detaches", epoch_);
    detach_began_ = world_.time.tick();
    happen([this](actions& out) { engine_->detach(world_.time.now(), out); });
}

/// R11: clean only if the replicas were left equal.
void writer::commit_release() {
    if (std::exchange(release_asked_, true)) return;
    if (served_) world_.apps.flushed(detach_began_);  // else nothing was flushed, and nothing needed it
    const bool equal = status().recovery_left_bytes == 0;
    world_.record.commit(
        node_,
        [this, equal](volume_record now) {
            return equal ? release(std::move(now), node_of(node_), epoch_)
                         : abandon(std::move(now), node_of(node_), epoch_);
        },
        [this, equal](const result<volume_record>& made) {
            world_.log.say("epoch {} is released{}{}", epoch_, equal ? ", clean" : "",
                           made.has_error() ? " (was already)" : "");
            released_ = true;
        });
}

void writer::hang() {
    world_.log.say("epoch {}: writer hangs", epoch_);
    hung_ = true;
}

void writer::go_on() {
    if (!hung_) return;
    world_.log.say("epoch {}: writer goes on", epoch_);
    hung_ = false;
    while (!waiting_.empty() && !dead_ && !hung_) {
        const event next = std::move(waiting_.front());
        waiting_.pop_front();
        run(next);
    }
}

void writer::die() {
    world_.log.say("epoch {}: writer dies", epoch_);
    dead_ = true;
    waiting_.clear();
    for (const auto& [slot, it] : links_) it->open = false;
    world_.apps.writer_died(epoch_);
}

}  // namespace weft::sim
