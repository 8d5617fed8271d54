// SPDX-License-Identifier: Apache-2.0
// The engine under device-mapper's raid1: what holds of a leg (engine_legs.cpp).
#include <bit>
#include <map>
#include <random>
#include <set>

#include "tests/unit/engine_script.hpp"

using namespace weft;
using namespace weft::test;

namespace {

constexpr auto good = replica_state::up_to_date;
constexpr std::uintptr_t first_cookies[] = {1, 2, 3, 4};
constexpr std::uint32_t block = 4096;

class legs_script : public engine_script {
public:
    explicit legs_script(std::vector<replica_state> states, bool clean = true, bool device_lives = false)
        : engine_script(legs_of(std::move(states), clean, device_lives)) {}

    static engine_config legs_of(std::vector<replica_state> states, bool clean, bool device_lives) {
        auto how = config(std::move(states), clean, 1);
        how.legs = true;
        how.device_lives = device_lives;
        return how;
    }
    void ask(const std::string& replica, op_kind kind, std::uint64_t offset, std::uintptr_t cookie) {
        request one{
            kind, false, offset, kind == op_kind::flush ? 0 : block, buffer_.data(), reinterpret_cast<void*>(cookie)};
        one.only = subject().leg(replica_id(replica));
        REQUIRE(one.only != 0);
        subject().submit(one, now, out);
        pong();
    }
    void told(const std::string& replica, leg_event what) {
        subject().on_leg(replica_id(replica), what, now, out);
        pong();
    }
    /// Runs the clock until the engine proposes something.
    proposal await_proposal() {
        for (int i = 0; i < 100 && out.propose.empty(); ++i) pass(std::chrono::milliseconds(100));
        const auto one = take_proposal();
        REQUIRE(one);
        return *one;
    }

private:
    std::vector<std::byte> buffer_ = std::vector<std::byte>(block);
};

}  // namespace

TEST_CASE("leg: a request goes to its leg alone, and the two writes of one block do not wait for each other") {
    legs_script s({good, good});
    s.up(0);
    s.up(1);
    s.ask("r0", op_kind::write, 0, 1);
    s.ask("r1", op_kind::write, 0, 2);
    CHECK(s.take(0, op_kind::write));
    const auto second = s.take(1, op_kind::write);
    REQUIRE(second);
    s.answer(*second);
    CHECK(s.completed(2) == 0);
    CHECK_FALSE(s.completed(1));
    s.ask("r1", op_kind::read, 0, 3);
    CHECK(s.take(1, op_kind::read));
    s.ask("r1", op_kind::flush, 0, 4);
    CHECK(s.take(1, op_kind::flush));
    CHECK_FALSE(s.take(0, op_kind::flush));
}

TEST_CASE("leg: a request for no leg, or for a leg of a striped volume, is refused") {
    legs_script s({good, good});
    s.up(0);
    s.up(1);
    s.submit(op_kind::write, 0, block, 1);
    CHECK(s.completed(1) == EINVAL);
    CHECK(s.subject().leg(replica_id("r7")) == 0);
    engine_script striped({good, good});
    CHECK(striped.subject().leg(replica_id("r0")) == 0);
}

TEST_CASE("R4, leg: what a lost leg owes fails only when the record says that it is outdated") {
    legs_script s({good, good});
    s.up(0);
    s.up(1);
    s.ask("r1", op_kind::write, 0, 1);
    s.ask("r1", op_kind::read, block, 2);
    s.ask("r1", op_kind::flush, 0, 3);
    s.down(1);
    s.ask("r1", op_kind::write, 2 * block, 4);
    const auto asked = s.await_proposal();
    CHECK(asked.slot == 1);
    CHECK(asked.to == replica_state::outdated);
    for (const std::uintptr_t cookie : first_cookies) CHECK_FALSE(s.completed(cookie));
    s.decide(asked, proposal_outcome::committed);
    for (const std::uintptr_t cookie : first_cookies) CHECK(s.completed(cookie) == EIO);

    SUBCASE("the other leg goes on") {
        s.ask("r0", op_kind::write, 0, 5);
        CHECK(s.answer_next(0, op_kind::write));
        CHECK(s.completed(5) == 0);
    }
    SUBCASE("and the leg fails for good, also when it can be reached again") {
        s.pass(std::chrono::seconds(10));
        s.up(1);
        s.ask("r1", op_kind::read, 0, 6);
        CHECK(s.completed(6) == EIO);
        s.told("r1", leg_event::in_sync);
        CHECK_FALSE(s.take_proposal());
    }
}

TEST_CASE("R4, leg: what a leg owes is sent again when it is back in time") {
    legs_script s({good, good});
    s.up(0);
    s.up(1);
    s.ask("r1", op_kind::write, 0, 1);
    s.ask("r1", op_kind::read, block, 2);
    CHECK(s.take(1, op_kind::write));
    CHECK(s.take(1, op_kind::read));
    s.down(1);
    s.pass(std::chrono::milliseconds(500));
    s.up(1);
    CHECK(s.answer_next(1, op_kind::write));
    CHECK(s.answer_next(1, op_kind::read));
    CHECK(s.completed(1) == 0);
    CHECK(s.completed(2) == 0);
    CHECK_FALSE(s.take_proposal());
}

TEST_CASE("E6, leg: without a sign of life from another leg nothing is proposed, and I/O holds") {
    legs_script s({good, good});
    s.up(0);
    s.up(1);
    s.ask("r1", op_kind::write, 0, 1);
    s.down(1);
    s.down(0);
    s.pass(std::chrono::seconds(60));
    CHECK_FALSE(s.take_proposal());
    CHECK_FALSE(s.completed(1));
}

TEST_CASE("leg: a block that cannot be read fails at once and demotes nobody: raid1 reads the other leg") {
    legs_script s({good, good});
    s.up(0);
    s.up(1);
    s.ask("r0", op_kind::read, 0, 1);
    CHECK(s.answer_next(0, op_kind::read, EIO));
    CHECK(s.completed(1) == EIO);
    CHECK_FALSE(s.take(1, op_kind::read));
    s.pass(std::chrono::seconds(10));
    CHECK_FALSE(s.take_proposal());
}

TEST_CASE("leg: a change that a replica refuses is recorded before raid1 hears of it") {
    legs_script s({good, good});
    s.up(0);
    s.up(1);
    s.ask("r0", op_kind::write, 0, 1);
    CHECK(s.answer_next(0, op_kind::write, EIO));
    CHECK_FALSE(s.completed(1));
    s.down(0);
    const auto asked = s.await_proposal();
    CHECK(asked.slot == 0);
    s.decide(asked, proposal_outcome::committed);
    CHECK(s.completed(1) == EIO);
}

TEST_CASE("leg: serving does not wait for one that is being rebuilt, and one that was never there is not given up") {
    legs_script s({good, replica_state::inconsistent});
    s.up(0);
    CHECK(s.status().state == engine_state::serving);
    s.down(1, link_loss::unusable);
    s.pass(std::chrono::seconds(30));
    CHECK_FALSE(s.take_proposal());
    s.up(1);
    CHECK(s.status().slots.at(1).resyncing);
    s.ask("r1", op_kind::write, 0, 1);
    CHECK(s.answer_next(1, op_kind::write));
    CHECK(s.completed(1) == 0);
}

TEST_CASE("leg: one in sync is flushed before the record is asked to trust it") {
    legs_script s({good, replica_state::inconsistent});
    s.up(0);
    s.up(1);
    s.told("r1", leg_event::in_sync);
    CHECK_FALSE(s.take_proposal());
    SUBCASE("flushed") {
        CHECK(s.answer_next(1, op_kind::flush));
        const auto asked = s.take_proposal();
        REQUIRE(asked);
        CHECK(asked->to == good);
        s.ask("r1", op_kind::write, 0, 1);
        s.decide(*asked, proposal_outcome::committed);
        CHECK(s.status().slots.at(1).state == good);
    }
    SUBCASE("lost meanwhile: it is not trusted, and its requests wait for the record") {
        CHECK(s.take(1, op_kind::flush));
        s.ask("r1", op_kind::write, 0, 1);
        s.down(1);
        const auto asked = s.await_proposal();
        CHECK(asked.to == replica_state::outdated);
        CHECK_FALSE(s.completed(1));
        s.decide(asked, proposal_outcome::committed);
        CHECK(s.completed(1) == EIO);
        s.up(1);
        s.told("r1", leg_event::in_sync);
        CHECK_FALSE(s.take(1, op_kind::flush));
        CHECK_FALSE(s.take_proposal());
    }
    SUBCASE("lost while the record is being asked: R4 as for any other") {
        CHECK(s.answer_next(1, op_kind::flush));
        const auto asked = s.take_proposal();
        REQUIRE(asked);
        s.ask("r1", op_kind::write, 0, 1);
        s.down(1);
        s.pass(std::chrono::seconds(5));
        CHECK_FALSE(s.completed(1));
        s.decide(*asked, proposal_outcome::committed);
        const auto then = s.await_proposal();
        CHECK(then.to == replica_state::outdated);
        CHECK_FALSE(s.completed(1));
        s.decide(then, proposal_outcome::committed);
        CHECK(s.completed(1) == EIO);
    }
}

TEST_CASE("leg: what is sent to a rebuilding leg whose server is gone does not hold for ever") {
    legs_script s({good, replica_state::inconsistent});
    s.up(0);
    s.down(1);
    s.ask("r1", op_kind::write, 0, 1);
    const auto asked = s.await_proposal();
    CHECK(asked.slot == 1);
    s.decide(asked, proposal_outcome::committed);
    CHECK(s.completed(1) == EIO);
}

TEST_CASE("leg: one that device-mapper gave up is outdated in the record, but never the last") {
    legs_script s({good, good});
    s.up(0);
    s.up(1);
    s.told("r1", leg_event::given_up);
    const auto asked = s.await_proposal();
    CHECK(asked.slot == 1);
    s.decide(asked, proposal_outcome::committed);
    s.told("r0", leg_event::given_up);
    s.pass(std::chrono::seconds(30));
    CHECK_FALSE(s.take_proposal());
}

TEST_CASE("leg: of hosts that all restarted under a set that is in use, one leg stays") {
    legs_script s({good, good, replica_state::inconsistent}, false, true);
    s.up(0, "b2", "b1");
    s.up(2, "b2", "b1");
    s.up(1, "b2", "b1");
    std::vector<int> outdated;
    while (const auto asked = s.take_proposal()) {
        CHECK(asked->to == replica_state::outdated);
        outdated.push_back(asked->slot);
        s.decide(*asked, proposal_outcome::committed);
    }
    std::sort(outdated.begin(), outdated.end());
    CHECK(outdated == std::vector<int>{1, 2});
    CHECK(s.status().state == engine_state::serving);
}

TEST_CASE("leg: a set that is assembled anew makes equal itself what hosts forgot") {
    legs_script s({good, good}, false, false);
    s.up(0, "b2", "b1");
    s.up(1, "b2", "b1");
    CHECK_FALSE(s.take_proposal());
    CHECK(s.status().state == engine_state::serving);
}

TEST_CASE("leg: the one whose host restarted is outdated when another has everything") {
    legs_script s({good, good}, false, true);
    s.up(0, "b2", "b1");
    s.up(1, "b1", "b1");
    const auto asked = s.await_proposal();
    CHECK(asked.slot == 0);
    s.decide(asked, proposal_outcome::committed);
    CHECK(s.status().state == engine_state::serving);
}

TEST_CASE("leg: a request for a replica that was replaced never reaches its successor") {
    legs_script s({good, good});
    s.up(0);
    s.ask("r1", op_kind::write, 0, 1);  // parked: R2 is not through
    s.down(1);
    const auto asked = s.await_proposal();
    REQUIRE(asked.slot == 1);
    // The record dropped r1 and has r2 in its place before the answer came.
    s.subject().on_membership({{replica_id("r0"), good, true}, {replica_id("r2"), replica_state::inconsistent, false}},
                              s.now, s.out);
    REQUIRE(s.subject().leg(replica_id("r2")) != 0);
    const auto slot = static_cast<slot_index>(std::countr_zero(s.subject().leg(replica_id("r2"))));
    s.up(slot);
    CHECK(s.status().state == engine_state::serving);
    CHECK_FALSE(s.take(slot, op_kind::write));
    CHECK(s.completed(1) == EIO);
}

TEST_CASE("R5, leg: a fence that one leg tells of ends all of them") {
    legs_script s({good, good});
    s.up(0);
    s.up(1);
    s.ask("r0", op_kind::write, 0, 1);
    s.ask("r1", op_kind::write, 0, 2);
    s.down(1, link_loss::fenced);
    CHECK(s.completed(2) == ESHUTDOWN);
    s.down(0);
    CHECK(s.completed(1) == ESHUTDOWN);
    CHECK_FALSE(s.take_proposal());
}

TEST_CASE("R11, leg: a detach flushes every leg that the record trusts and declares it clean") {
    legs_script s({good, good});
    s.up(0);
    s.up(1);
    s.ask("r0", op_kind::write, 0, 1);
    s.ask("r1", op_kind::write, 0, 2);
    s.answer_all();
    s.subject().detach(s.now, s.out);
    CHECK(s.answer_next(0, op_kind::flush));
    CHECK(s.answer_next(1, op_kind::flush));
    CHECK(s.take(0, op_kind::map_clear));
    CHECK(s.take(1, op_kind::map_clear));
}

namespace {

/// A record, links and a kernel that does anything that it may, at random.
class random_legs : public legs_script {
public:
    explicit random_legs(unsigned seed) : legs_script({good, good, replica_state::inconsistent}), random_(seed) {
        for (const char* id : {"r0", "r1"}) record_[id] = good;
        record_["r2"] = replica_state::inconsistent;
    }

    void step() {
        follow_links();
        switch (roll(10)) {
            case 0:
            case 1: ask_something(); break;
            case 2:
            case 3:
            case 4: answer_something(); break;
            case 5: move_a_link(); break;
            case 6: decide_something(); break;
            case 7: pass(std::chrono::milliseconds(roll(3000))); break;
            case 8: say_something(); break;
            default: replace_one(); break;
        }
        check_completions();
    }

private:
    enum class at { down, connecting, up, closing };
    using cookie_owner = std::pair<std::string, op_kind>;

    unsigned roll(unsigned below) { return static_cast<unsigned>(random_() % below); }

    void follow_links() {
        for (; seen_links_ < out.links.size(); ++seen_links_) {
            const link_command& one = out.links[seen_links_];
            at& link = links_[one.slot];
            if (one.action == link_action::connect) link = at::connecting;
            if (one.action == link_action::disconnect && link != at::down) link = at::closing;
        }
    }
    void move_a_link() {
        const auto slot = static_cast<slot_index>(roll(max_slots));
        at& link = links_[slot];
        if (link == at::connecting && roll(4) > 0) {
            link = at::up;
            up(slot);
        } else if (link != at::down && (link != at::up || roll(3) == 0)) {
            link = at::down;
            std::erase_if(out.send, [&](const io_op& op) { return op.slot == slot; });
            down(slot);
        }
    }
    void ask_something() {
        const std::string id = "r" + std::to_string(roll(next_id_));
        if (subject().leg(replica_id(id)) == 0) return;
        const op_kind kinds[] = {op_kind::read, op_kind::write, op_kind::zero, op_kind::trim, op_kind::flush};
        const op_kind kind = kinds[roll(5)];
        owners_[++cookie_] = {id, kind};
        ask(id, kind, block * roll(8), cookie_);
    }
    void answer_something() {
        if (out.send.empty()) return;
        const auto which = out.send.begin() + roll(static_cast<unsigned>(out.send.size()));
        const io_op op = *which;
        out.send.erase(which);
        if (links_[op.slot] != at::up && links_[op.slot] != at::closing) return;
        const bool asks = op.kind == op_kind::block_status || op.kind == op_kind::map_status;
        answer(op, !asks && roll(12) == 0 ? EIO : 0,
               asks ? std::vector<stretch>{{op.length, true}} : std::vector<stretch>{});
    }
    void decide_something() {
        const auto one = take_proposal();
        if (!one) return;
        const std::string id = subject().replica_in(one->slot).str();
        const auto known = record_.find(id);
        const auto others = std::count_if(record_.begin(), record_.end(),
                                          [&](const auto& entry) { return entry.first != id && entry.second == good; });
        const bool allowed = known != record_.end() && (one->to == good || known->second != good || others > 0);
        if (allowed) known->second = one->to;
        decide(*one, allowed ? proposal_outcome::committed : proposal_outcome::refused);
    }
    /// What raid1 would: a leg that is being filled is in sync one day; hardly ever one is given up.
    void say_something() {
        for (const auto& [id, state] : std::map(record_)) {
            if (state == replica_state::inconsistent && roll(4) == 0) told(id, leg_event::in_sync);
            if (roll(60) == 0) told(id, leg_event::given_up);
        }
    }
    void replace_one() {
        const auto old = std::find_if(record_.begin(), record_.end(),
                                      [](const auto& entry) { return entry.second == replica_state::outdated; });
        if (old == record_.end() || roll(2) == 0) return;
        record_.erase(old);
        record_["r" + std::to_string(next_id_++)] = replica_state::inconsistent;
        std::vector<replica_member> members;
        for (const auto& [id, state] : record_) members.push_back({replica_id(id), state, false});
        subject().on_membership(members, now, out);
        pong();
    }
    void check_completions() {
        for (; seen_completions_ < out.complete.size(); ++seen_completions_) {
            const completion& one = out.complete[seen_completions_];
            const cookie_owner& whose = owners_.at(reinterpret_cast<std::uintptr_t>(one.cookie));
            const std::string& id = whose.first;
            if (one.error == 0 || whose.second == op_kind::read) continue;
            failed_.insert(id);
            const auto known = record_.find(id);
            CAPTURE(id);
            // R4: raid1 hears of it after the record.
            CHECK((known == record_.end() || known->second != good));
        }
        CHECK(std::any_of(record_.begin(), record_.end(), [](const auto& entry) { return entry.second == good; }));
        for (const std::string& id : failed_) {
            const auto known = record_.find(id);
            CHECK((known == record_.end() || known->second != good));  // nor is it ever trusted again
        }
    }

    std::minstd_rand random_;
    std::map<std::string, replica_state> record_;
    std::map<slot_index, at> links_;
    std::map<std::uintptr_t, cookie_owner> owners_;
    std::set<std::string> failed_;  // legs of which raid1 has seen a change fail
    std::uintptr_t cookie_ = 0;
    unsigned next_id_ = 3;
    std::size_t seen_links_ = 0, seen_completions_ = 0;
};

}  // namespace

TEST_CASE("R4, leg: in random lives no change fails before the record says so, and no failed leg is trusted again") {
    std::size_t outdated = 0;
    std::size_t failures = 0;
    for (unsigned seed = 1; seed <= 400; ++seed) {
        random_legs life(seed);
        CAPTURE(seed);
        for (int i = 0; i < 400; ++i) life.step();
        for (const notice& one : life.out.notices)
            outdated += one.text.find("is outdated") != std::string::npos ? 1 : 0;
        for (const completion& one : life.out.complete) failures += one.error == EIO ? 1 : 0;
    }
    // The test can see: these lives are eventful.
    CHECK(outdated > 400);
    CHECK(failures > 400);
}
