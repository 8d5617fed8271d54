// SPDX-License-Identifier: Apache-2.0
#include "nbd-backend/io/replica_link.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "nbd-backend/base/invariant.hpp"
#include "nbd-backend/core/export_name.hpp"
#include "nbd-backend/io/threads.hpp"
#include "nbd-backend/io/tick_timer.hpp"

namespace weft::io {

replica_link::replica_link(link_settings settings, link_owner& owner)
    : settings_(std::move(settings)), owner_(owner), box_(bell_) {
    for (std::uint32_t i = 0; i < settings_.connections; ++i)
        connections_.push_back(std::make_unique<nbd_connection>(box_));
}

replica_link::~replica_link() {
    stop();
}

status replica_link::start() {
    TRY(bell_.open());
    thread_ = start_thread(settings_.name, [this] { run(); });
    return ok();
}

void replica_link::stop() {
    if (!thread_.joinable()) return;
    {
        const std::lock_guard lock(orders_mutex_);
        stopping_ = true;
    }
    bell_.ring();
    thread_.join();
}

void replica_link::post(link_order order) {
    const std::lock_guard lock(orders_mutex_);
    orders_.push_back(std::move(order));
}

void replica_link::send(const core::io_op& op) {
    // Least in flight. The counters move while they are read; the choice is a matter of balance, not of correctness.
    nbd_connection* best = connections_.front().get();
    for (const auto& one : connections_)
        if (one->in_flight() < best->in_flight()) best = one.get();
    if (best->send(op) == nbd_connection::sent::needs_poller) bell_.ring();
}

void replica_link::run() {
    box_.set_owner(std::this_thread::get_id());
    while (true) {
        wait_for_something();
        bell_.answer();
        box_.set_collecting(true);
        for (std::size_t i = 0; i < connections_.size(); ++i) connections_[i]->progress(polled_[i].revents);
        box_.set_collecting(false);
        parting_.progress(polled_.data() + connections_.size() + 1, now());
        check_connections();
        deliver();
        carry_out_orders();
        if (stop_seen_) break;
    }
    close_all();
}

void replica_link::wait_for_something() {
    bool failed = false;
    polled_.clear();
    for (const auto& one : connections_) {
        polled_.push_back(one->poll_entry());
        if (one->where() == nbd_connection::phase::failed) failed = true;
    }
    polled_.push_back({bell_.fd(), POLLIN, 0});
    parting_.append(polled_);

    timespec pause{0, 0};
    const timespec* limit = nullptr;
    if (failed) {
        limit = &pause;
    } else if (state_ == state::connecting) {
        const auto left = std::max<core::instant::rep>((deadline_ - now()).count(), 0);
        pause = {static_cast<time_t>(left / 1'000'000'000), static_cast<long>(left % 1'000'000'000)};
        limit = &pause;
    }
    if (::ppoll(polled_.data(), polled_.size(), limit, nullptr) < 0)
        for (pollfd& one : polled_) one.revents = 0;  // EINTR: look again
}

void replica_link::carry_out_orders() {
    {
        const std::lock_guard lock(orders_mutex_);
        taken_orders_.swap(orders_);
        stop_seen_ = stopping_;
    }
    if (stop_seen_) return;
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
    const nbd_target target{order.host, order.port,
                            core::render(core::export_name{order.replica, {settings_.epoch, order.session}}),
                            order.session};
    for (const auto& one : connections_) one->open(target);
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
