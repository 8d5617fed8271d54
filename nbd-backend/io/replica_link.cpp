// SPDX-License-Identifier: Apache-2.0
#include "nbd-backend/io/replica_link.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "nbd-backend/base/invariant.hpp"
#include "nbd-backend/core/export_name.hpp"
#include "nbd-backend/io/tick_timer.hpp"

namespace weft::io {

namespace {

// When an op may share a connection with others although another one is idle. A server works on one request of a
// connection at a time, so sharing is only good while the requests are short: a server that answers from its page cache
// takes some 15 us for 4 KiB, and then the wake-up of one more of its threads is what costs most.
constexpr std::uint32_t packed_ops_max = 16;
constexpr std::uint32_t packed_wait_ns = 400'000;      // what the ops before it may take together
constexpr std::uint64_t packed_bytes_max = 64 * 1024;  // a longer copy is better made by two threads

}  // namespace

replica_link::replica_link(link_settings settings, link_owner& owner, wakeup& bell)
    : settings_(settings), owner_(owner), bell_(bell), box_(bell) {
    for (std::uint32_t i = 0; i < settings_.connections + 1; ++i)
        connections_.push_back(std::make_unique<nbd_connection>(box_));
}

replica_link::~replica_link() {
    close_all();
}

void replica_link::post(link_order order) {
    const std::lock_guard lock(orders_mutex_);
    orders_.push_back(std::move(order));
}

/// The first connection that has room: few busy connections cost fewer wake-ups at both ends than many idle ones. Else
/// the one with the fewest in flight. The counters move while they are read: this is balance, not correctness.
nbd_connection& replica_link::choose(const core::io_op& op) {
    if (op.kind == core::op_kind::map_status || op.kind == core::op_kind::map_clear) return *connections_.back();
    nbd_connection* best = connections_.front().get();
    std::uint32_t fewest = ~std::uint32_t{0};
    for (std::uint32_t i = 0; i < settings_.connections; ++i) {
        const auto& one = connections_[i];
        const connection_load& load = one->load();
        const std::uint32_t ops = load.ops.load(std::memory_order_relaxed);
        if (ops == 0) return *one;
        const std::uint32_t service_ns = std::max(load.service_ns.load(std::memory_order_relaxed), 1U);
        const bool small = load.bytes.load(std::memory_order_relaxed) + op.length <= packed_bytes_max;
        if (ops < packed_ops_max && ops < packed_wait_ns / service_ns && small) return *one;
        if (ops < fewest) {
            fewest = ops;
            best = one.get();
        }
    }
    return *best;
}

void replica_link::send(const core::io_op& op) {
    nbd_connection* best = &choose(op);
    if (best->send(op) == nbd_connection::sent::needs_poller) bell_.ring();
}

std::uint32_t replica_link::in_flight() const noexcept {
    std::uint32_t all = 0;
    for (const auto& one : connections_) all += one->load().ops.load();
    return all;
}

core::instant replica_link::append(std::vector<pollfd>& polled) {
    bool failed = false;
    for (const auto& one : connections_) {
        polled.push_back(one->poll_entry());
        if (one->where() == nbd_connection::phase::failed) failed = true;
    }
    parting_.append(polled);
    if (failed) return core::instant{0};  // to be looked at now
    return state_ == state::connecting ? deadline_ : core::instant::max();
}

void replica_link::progress(const pollfd* polled) {
    {
        const completion_box::collecting here(box_);
        for (std::size_t i = 0; i < connections_.size(); ++i) connections_[i]->progress(polled[i].revents);
    }
    parting_.progress(polled + connections_.size(), now());
    check_connections();
    deliver();
    carry_out_orders();
}

void replica_link::carry_out_orders() {
    {
        const std::lock_guard lock(orders_mutex_);
        taken_orders_.swap(orders_);
    }
    for (const link_order& order : taken_orders_) {
        if (order.action == core::link_action::connect)
            connect(order);
        else if (state_ != state::idle && session_ == order.session)
            become_down(core::link_loss::dropped, {});
        // else: it had died by itself, and its `down` is delivered already.
        deliver();
    }
    taken_orders_.clear();
}

void replica_link::connect(const link_order& order) {
    INVARIANT(state_ == state::idle, "session {} is opened before session {} is down", order.session, session_);
    session_ = order.session;
    state_ = state::connecting;
    deadline_ = now() + settings_.connect_timeout;
    if (order.port == 0) {
        become_down(core::link_loss::dropped, "its address is not known");
        return;
    }
    for (const auto& one : connections_) {
        const bool is_map = one == connections_.back();
        one->open({order.host, order.port,
                   core::render(core::export_name{order.replica, {settings_.epoch, order.session}, is_map}),
                   order.session, is_map});
    }
    check_connections();
}

void replica_link::check_connections() {
    if (state_ == state::idle) return;
    std::size_t ready = 0;
    for (const auto& one : connections_) {
        if (one->where() == nbd_connection::phase::failed) {
            const error why = one->why();
            const bool refused = why.code == errc::not_found && why.os_errno != ESHUTDOWN;
            become_down(refused ? core::link_loss::unusable : core::link_loss::dropped, why.text);
            return;
        }
        if (one->where() == nbd_connection::phase::ready) ++ready;
    }
    if (state_ != state::connecting) return;
    if (ready == connections_.size())
        become_up();
    else if (now() >= deadline_)
        become_down(core::link_loss::dropped,
                    fmt::format("did not answer within {} ms", settings_.connect_timeout.count()));
}

void replica_link::become_up() {
    for (const auto& one : connections_) {
        if (const status able = one->check_abilities(); able.has_error()) {
            become_down(core::link_loss::unusable, able.error().text);
            return;
        }
        if (one->size_bytes() != settings_.size_bytes) {
            become_down(core::link_loss::unusable, fmt::format("the replica has {} bytes, the record says {}",
                                                               one->size_bytes(), settings_.size_bytes));
            return;
        }
        const auto said = core::parse_export_description(one->description());
        if (said.has_error()) {
            become_down(core::link_loss::unusable, said.error().text);
            return;
        }
        if (said->fenced) {
            // A higher session of our own epoch can only be an attempt of ours that was given up: try again above it.
            const bool for_good = said->current.epoch > settings_.epoch;
            become_down(for_good ? core::link_loss::fenced : core::link_loss::dropped,
                        fmt::format("fenced by epoch {}, session {}", said->current.epoch, said->current.session));
            return;
        }
        events_.hello = {said->boot_id, said->prior_boot_id};
    }
    for (const auto& one : connections_) one->admit();
    state_ = state::up;
    events_.what = link_events::change::up;
    events_.session = session_;
}

void replica_link::become_down(core::link_loss loss, std::string detail) {
    box_.take(events_.answers);  // what the server did answer before the end counts
    close_all();
    state_ = state::idle;
    deadline_ = core::instant::max();
    events_.what = link_events::change::down;
    events_.session = session_;
    events_.loss = loss;
    events_.detail = std::move(detail);
}

void replica_link::close_all() {
    for (const auto& one : connections_) parting_.add(one->close(), now());
    box_.reset();
}

void replica_link::deliver() {
    if (state_ == state::up) box_.take(events_.answers);
    if (events_.empty()) return;
    owner_.on_link_events(settings_.slot, events_);
    events_.clear();
}

}  // namespace weft::io
