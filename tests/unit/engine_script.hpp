// SPDX-License-Identifier: Apache-2.0
// Drives one engine by hand: every event is a call, every action is kept until the test looks at it.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "nbd-backend/core/engine.hpp"

namespace weft::test {

using namespace core;

class engine_script {
public:
    static constexpr std::uint64_t chunk = 32 * 1024;
    static constexpr std::uint64_t extent = 4 * chunk;

    explicit engine_script(std::vector<replica_state> states, bool clean = true, std::uint32_t min_replicas = 1)
        : engine_script(config(std::move(states), clean, min_replicas)) {}
    explicit engine_script(engine_config how) : engine_(how) {
        for (slot_index i = 0; i < max_slots; ++i)
            clean_[i] = i < how.members.size() && how.clean && how.members[i].state == replica_state::up_to_date;
        engine_.on_lease(instant::max());
        engine_.start(now, out);
    }

    static engine_config config(std::vector<replica_state> states, bool clean, std::uint32_t min_replicas) {
        engine_config c;
        c.size_bytes = extent;
        c.clean = clean;
        c.min_replicas = min_replicas;
        c.chunk_bytes = chunk;
        c.piece_bytes = 16 * 1024;
        c.copies_max = 1;
        c.busy_rate = 0;
        c.busy_window = std::chrono::milliseconds(0);
        for (std::size_t i = 0; i < states.size(); ++i)
            c.members.push_back({replica_id("r" + std::to_string(i)), states[i], i == 0});
        return c;
    }

    // Events.
    void up(slot_index slot, const std::string& boot = "b1", const std::string& prior = "") {
        engine_.on_link_up(slot, session(slot), {boot, prior}, now, out);
        if (answers_maps) tell_map(slot);
        pong();
    }
    /// Gives the engine the signs of life that it asks for (E6, E7).
    void pong() {
        const auto ping = [](const io_op& op) {
            return op.kind == op_kind::block_status && op.offset == 0 && op.length == block_bytes;
        };
        while (answers_pings) {
            const auto found = std::find_if(out.send.begin(), out.send.end(), ping);
            if (found == out.send.end()) return;
            const io_op op = *found;
            out.send.erase(found);
            engine_.on_op_done({op.id, 0, {{op.length, false}}}, now, out);
        }
    }
    /// Answers the question for the slot's bitmap: with `maps`, else everything is dirty unless the replica is
    /// up_to_date after a clean end.
    void tell_map(slot_index slot) {
        const auto op = take(slot, op_kind::map_status);
        if (!op) return;
        const auto told = maps.find(slot);
        answer(*op, 0, told != maps.end() ? told->second : std::vector<stretch>{{extent, clean_.at(slot)}});
    }
    void down(slot_index slot, link_loss loss = link_loss::dropped) {
        engine_.on_link_down(slot, session(slot), loss, now, out);
        pong();
    }
    void submit(op_kind kind, std::uint64_t offset, std::uint32_t length, std::uintptr_t cookie, bool fua = false) {
        engine_.submit({kind, fua, offset, length, buffer_.data(), reinterpret_cast<void*>(cookie)}, now, out);
        pong();
    }
    /// Time passes, and the engine is called whenever it wants to be.
    void pass(std::chrono::milliseconds time) {
        const instant end = now + time;
        for (int calls = 0; engine_.next_tick() < end && calls < 1000; ++calls) {
            now = std::max(now, engine_.next_tick());
            engine_.on_tick(now, out);
            pong();
        }
        now = end;
        engine_.on_tick(now, out);
        pong();
    }
    void answer(const io_op& op, int error = 0, std::vector<stretch> stretches = {}) {
        engine_.on_op_done({op.id, error, std::move(stretches)}, now, out);
        pong();
    }
    void policy(const engine_policy& to) {
        engine_.on_policy(to, now, out);
        pong();
    }
    void decide(const proposal& one, proposal_outcome outcome) {
        engine_.on_proposal_result(one.id, outcome, now, out);
        pong();
    }

    // What came out.
    /// The oldest op of that kind for that slot that nobody took yet.
    std::optional<io_op> take(slot_index slot, op_kind kind) {
        const auto found = std::find_if(out.send.begin(), out.send.end(),
                                        [&](const io_op& op) { return op.slot == slot && op.kind == kind; });
        if (found == out.send.end()) return std::nullopt;
        const io_op op = *found;
        out.send.erase(found);
        return op;
    }
    bool answer_next(slot_index slot, op_kind kind, int error = 0) {
        const auto op = take(slot, kind);
        if (!op) return false;
        answer(*op, error,
               kind == op_kind::block_status ? std::vector<stretch>{{op->length, false}} : std::vector<stretch>{});
        return true;
    }
    /// Answers everything that the engine sends, until it sends no more.
    void answer_all() {
        while (!out.send.empty()) {
            const io_op op = out.send.front();
            out.send.erase(out.send.begin());
            const bool asks = op.kind == op_kind::block_status || op.kind == op_kind::map_status;
            answer(op, 0, asks ? std::vector<stretch>{{op.length, false}} : std::vector<stretch>{});
        }
    }
    std::optional<proposal> take_proposal() {
        if (out.propose.empty()) return std::nullopt;
        const proposal one = out.propose.front();
        out.propose.erase(out.propose.begin());
        return one;
    }
    /// The error that a request was completed with, or nothing if it was not.
    std::optional<int> completed(std::uintptr_t cookie) const {
        for (const completion& one : out.complete)
            if (one.cookie == reinterpret_cast<void*>(cookie)) return one.error;
        return std::nullopt;
    }
    /// Was the slot's newest link told to close?
    bool closing(slot_index slot) const {
        return std::any_of(out.links.begin(), out.links.end(), [&](const link_command& c) {
            return c.slot == slot && c.action == link_action::disconnect && c.session == session(slot);
        });
    }
    std::uint64_t session(slot_index slot) const {
        std::uint64_t newest = 0;
        for (const link_command& c : out.links)
            if (c.slot == slot && c.action == link_action::connect) newest = std::max(newest, c.session);
        return newest;
    }
    bool noticed(const std::string& part) const {
        return std::any_of(out.notices.begin(), out.notices.end(),
                           [&](const notice& n) { return n.text.find(part) != std::string::npos; });
    }
    engine_status status() const { return engine_.status(now); }
    engine& subject() { return engine_; }

    instant now{std::chrono::seconds(1)};
    actions out;  // never cleared: tests look back
    std::map<slot_index, std::vector<stretch>> maps;
    bool answers_maps = true;
    bool answers_pings = true;

private:
    std::map<slot_index, bool> clean_;
    std::vector<std::byte> buffer_ = std::vector<std::byte>(extent);
    engine engine_;
};

}  // namespace weft::test
