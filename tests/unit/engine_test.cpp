// SPDX-License-Identifier: Apache-2.0
// The engine's rules, one scripted story each. The storms are in tests/sim.
#include "nbd-backend/core/engine.hpp"

#include <cerrno>

#include "tests/unit/engine_script.hpp"

using namespace weft;
using namespace weft::core;
using std::chrono::milliseconds;
using weft::test::engine_script;

namespace {
constexpr auto good = replica_state::up_to_date;
constexpr auto stale = replica_state::outdated;
}  // namespace

TEST_CASE("engine: R2 not one byte is served before every up_to_date replica is fenced") {
    engine_script s({good, good});
    s.submit(op_kind::write, 0, 4096, 1);
    s.submit(op_kind::read, 8192, 4096, 2);
    s.up(0);
    CHECK(s.out.send.empty());
    s.up(1);
    CHECK(s.subject().state() == engine_state::serving);
    CHECK(s.take(0, op_kind::write));
    CHECK(s.take(1, op_kind::write));
    CHECK(s.take(0, op_kind::read));
}

TEST_CASE("engine: R2 a replica that cannot be reached at attach is demoted before serving") {
    engine_script s({good, good});
    s.up(0);
    s.down(1);
    CHECK_FALSE(s.take_proposal());
    s.pass(milliseconds(5000));
    const auto demotion = s.take_proposal();
    REQUIRE(demotion);
    CHECK(demotion->slot == 1);
    CHECK(demotion->to == stale);
    CHECK(s.subject().state() == engine_state::fencing);
    s.decide(*demotion, proposal_outcome::committed);
    CHECK(s.subject().state() == engine_state::serving);
}

TEST_CASE("engine: R3 a write is acknowledged when every up_to_date replica has acknowledged it, not before") {
    engine_script s({good, good, good});
    for (slot_index i = 0; i < 3; ++i) s.up(i);
    s.submit(op_kind::write, 0, 4096, 1);
    CHECK(s.answer_next(0, op_kind::write));
    CHECK(s.answer_next(2, op_kind::write));
    CHECK_FALSE(s.completed(1));
    CHECK(s.answer_next(1, op_kind::write));
    CHECK(s.completed(1) == 0);
}

TEST_CASE("engine: R3 flush and FUA reach every up_to_date replica") {
    engine_script s({good, good});
    s.up(0);
    s.up(1);
    s.submit(op_kind::flush, 0, 0, 1);
    CHECK(s.answer_next(0, op_kind::flush));
    CHECK_FALSE(s.completed(1));
    CHECK(s.answer_next(1, op_kind::flush));
    CHECK(s.completed(1) == 0);
    s.submit(op_kind::write, 0, 4096, 2, true);
    for (slot_index i = 0; i < 2; ++i) {
        const auto op = s.take(i, op_kind::write);
        REQUIRE(op);
        CHECK(op->fua);
    }
}

TEST_CASE("engine: R4 a request of a lost replica is held until the demotion is committed") {
    engine_script s({good, good});
    s.up(0);
    s.up(1);
    s.submit(op_kind::write, 0, 4096, 1);
    s.answer_next(0, op_kind::write);
    s.down(1);
    CHECK(s.status().holding);
    s.pass(milliseconds(1999));
    CHECK_FALSE(s.take_proposal());
    s.pass(milliseconds(1));
    const auto demotion = s.take_proposal();
    REQUIRE(demotion);
    s.pass(milliseconds(60000));  // the store does not answer
    CHECK_FALSE(s.completed(1));
    CHECK_FALSE(s.take_proposal());  // one question at a time
    s.decide(*demotion, proposal_outcome::committed);
    CHECK(s.completed(1) == 0);
    CHECK_FALSE(s.status().holding);
    CHECK(s.status().longest_hold == milliseconds(62000));
}

TEST_CASE("engine: R4 a replica that is back within the window under the same kernel gets what it is owed") {
    engine_script s({good, good});
    s.up(0);
    s.up(1);
    s.submit(op_kind::write, 0, 4096, 1);
    s.answer_next(0, op_kind::write);
    s.take(1, op_kind::write);
    s.down(1);
    s.pass(milliseconds(200));
    s.up(1);
    CHECK(s.session(1) == 2);
    CHECK(s.answer_next(1, op_kind::write));
    CHECK(s.completed(1) == 0);
    CHECK_FALSE(s.take_proposal());
}

TEST_CASE("engine: R4 a replica that is back under another kernel with unflushed writes is demoted, not trusted") {
    engine_script s({good, good});
    s.up(0);
    s.up(1);
    s.submit(op_kind::write, 0, 4096, 1);
    s.answer_all();
    REQUIRE(s.completed(1) == 0);
    s.down(1);
    s.pass(milliseconds(200));
    s.up(1, "b2");
    const auto demotion = s.take_proposal();
    REQUIRE(demotion);
    CHECK(demotion->slot == 1);
    CHECK(demotion->to == stale);
}

TEST_CASE("engine: R4 a restart of the host after a flush loses nothing and demotes nobody") {
    engine_script s({good, good});
    s.up(0);
    s.up(1);
    s.submit(op_kind::write, 0, 4096, 1);
    s.answer_all();
    s.submit(op_kind::flush, 0, 0, 2);
    s.answer_all();
    s.down(1);
    s.pass(milliseconds(200));
    s.up(1, "b2");
    CHECK_FALSE(s.take_proposal());
}

TEST_CASE("engine: R4 the last up_to_date replica is never demoted; I/O waits for it") {
    engine_script s({good});
    s.up(0);
    s.submit(op_kind::write, 0, 4096, 1);
    s.take(0, op_kind::write);
    s.down(0);
    s.pass(milliseconds(60000));
    CHECK_FALSE(s.take_proposal());
    CHECK_FALSE(s.completed(1));
    s.up(0);
    CHECK(s.answer_next(0, op_kind::write));
    CHECK(s.completed(1) == 0);
}

TEST_CASE("engine: R4 min_replicas replicas are never demoted") {
    engine_script s({good, good}, true, 2);
    s.up(0);
    s.up(1);
    s.submit(op_kind::write, 0, 4096, 1);
    s.answer_next(0, op_kind::write);
    s.down(1);
    s.pass(milliseconds(60000));
    CHECK_FALSE(s.take_proposal());
    CHECK_FALSE(s.completed(1));
}

TEST_CASE("engine: R4 min_replicas that is lowered lets a replica be demoted that had to be waited for") {
    engine_script s({good, good}, true, 2);
    s.up(0);
    s.up(1);
    s.submit(op_kind::write, 0, 4096, 1);
    s.answer_next(0, op_kind::write);
    s.down(1);
    s.pass(milliseconds(60000));
    engine_policy policy;
    policy.on_full = full_policy::fail;
    s.policy(policy);  // says nothing about min_replicas
    CHECK_FALSE(s.take_proposal());
    policy.min_replicas = 1;
    s.policy(policy);
    const auto demotion = s.take_proposal();
    REQUIRE(demotion);
    CHECK(demotion->slot == 1);
    s.decide(*demotion, proposal_outcome::committed);
    CHECK(s.completed(1) == 0);
}

TEST_CASE("engine: R4 when both replicas are lost, neither is demoted on the strength of the other") {
    engine_script s({good, good});
    s.up(0);
    s.up(1);
    s.submit(op_kind::write, 0, 4096, 1);
    s.down(0);
    s.down(1);
    s.pass(milliseconds(60000));
    CHECK_FALSE(s.take_proposal());
    s.up(0);
    const auto demotion = s.take_proposal();
    REQUIRE(demotion);
    CHECK(demotion->slot == 1);
}

TEST_CASE("engine: R4 a replica that hangs is failed after the time-out") {
    engine_script s({good, good});
    s.up(0);
    s.up(1);
    s.submit(op_kind::write, 0, 4096, 1);
    s.answer_next(0, op_kind::write);
    s.pass(milliseconds(4999));
    CHECK_FALSE(s.closing(1));
    s.pass(milliseconds(1));
    CHECK(s.closing(1));
    const auto demotion = s.take_proposal();
    REQUIRE(demotion);
    s.decide(*demotion, proposal_outcome::committed);
    CHECK_FALSE(s.completed(1));  // E5: the op may still use the application's buffer
    s.down(1);
    CHECK(s.completed(1) == 0);
}

TEST_CASE("engine: R4 a replica that refuses a write is failed at once") {
    engine_script s({good, good});
    s.up(0);
    s.up(1);
    s.submit(op_kind::write, 0, 4096, 1);
    s.answer_next(0, op_kind::write);
    s.answer_next(1, op_kind::write, EIO);
    CHECK_FALSE(s.completed(1));
    s.down(1);
    const auto demotion = s.take_proposal();
    REQUIRE(demotion);
    s.decide(*demotion, proposal_outcome::committed);
    CHECK(s.completed(1) == 0);
}

TEST_CASE("engine: R5 a refused proposal of a stale epoch fails all I/O for good") {
    engine_script s({good, good});
    s.up(0);
    s.up(1);
    s.submit(op_kind::write, 0, 4096, 1);
    s.answer_next(0, op_kind::write);
    s.down(1);
    s.pass(milliseconds(2000));
    s.decide(*s.take_proposal(), proposal_outcome::fenced);
    CHECK(s.completed(1) == ESHUTDOWN);
    CHECK(s.subject().state() == engine_state::fenced);
    s.submit(op_kind::read, 0, 4096, 2);
    CHECK(s.completed(2) == ESHUTDOWN);
}

TEST_CASE("engine: R5 an answered ESHUTDOWN is not yet a fence: the server may only be stopping") {
    engine_script s({good, good});
    s.up(0);
    s.up(1);
    s.submit(op_kind::write, 0, 4096, 1);
    s.answer_next(0, op_kind::write);
    s.answer_next(1, op_kind::write, ESHUTDOWN);
    CHECK(s.subject().state() == engine_state::serving);
    CHECK_FALSE(s.completed(1));
    s.down(1);
    SUBCASE("it was stopping, and is back") {
        s.pass(milliseconds(200));
        s.up(1);
        CHECK(s.answer_next(1, op_kind::write));
        CHECK(s.completed(1) == 0);
    }
    SUBCASE("a higher epoch has it") {
        s.pass(milliseconds(200));
        s.down(1, link_loss::fenced);
        CHECK(s.completed(1) == ESHUTDOWN);
        CHECK(s.subject().state() == engine_state::fenced);
    }
}

TEST_CASE("engine: R8 a returning replica is called inconsistent before its first byte is overwritten") {
    engine_script s({good, stale});
    s.up(0);
    s.up(1);
    const auto begin = s.take_proposal();
    REQUIRE(begin);
    CHECK(begin->to == replica_state::inconsistent);
    CHECK_FALSE(s.take(1, op_kind::write));
    CHECK_FALSE(s.take(0, op_kind::block_status));
    s.decide(*begin, proposal_outcome::committed);
    CHECK(s.take(0, op_kind::block_status));
}

TEST_CASE("engine: R8 a resync copies everything, then flushes, then asks for up_to_date") {
    engine_script s({good, stale});
    s.up(0);
    s.up(1);
    s.decide(*s.take_proposal(), proposal_outcome::committed);
    std::uint64_t copied = 0;
    bool flushed = false;
    while (!s.out.send.empty()) {
        const io_op op = s.out.send.front();
        s.out.send.erase(s.out.send.begin());
        if (op.slot == 1 && op.kind == op_kind::write) copied += op.length;
        if (op.slot == 1 && op.kind == op_kind::flush) {
            flushed = true;
            CHECK(copied == engine_script::extent);
            CHECK_FALSE(s.take_proposal());
        }
        s.answer(op, 0,
                 op.kind == op_kind::block_status ? std::vector<stretch>{{op.length, false}} : std::vector<stretch>{});
    }
    CHECK(flushed);
    const auto promotion = s.take_proposal();
    REQUIRE(promotion);
    CHECK(promotion->to == good);
    s.submit(op_kind::read, 0, 4096, 7);
    CHECK_FALSE(s.take(1, op_kind::read));
    s.decide(*promotion, proposal_outcome::committed);
    CHECK(s.status().slots[1].state == good);
}

TEST_CASE("engine: R8 holes stay holes") {
    engine_script s({good, stale});
    s.up(0);
    s.up(1);
    s.decide(*s.take_proposal(), proposal_outcome::committed);
    const auto query = s.take(0, op_kind::block_status);
    REQUIRE(query);
    s.answer(*query, 0, {{8192, true}, {query->length - 8192, false}});
    const auto hole = s.take(1, op_kind::zero);
    REQUIRE(hole);
    CHECK(hole->offset == 0);
    CHECK(hole->length == 8192);
    CHECK_FALSE(s.take(0, op_kind::read));
}

TEST_CASE("engine: R8 a new write goes to the resyncing replica too, and not under the copy of its range") {
    engine_script s({good, stale});
    s.up(0);
    s.up(1);
    s.decide(*s.take_proposal(), proposal_outcome::committed);
    s.submit(op_kind::write, 0, 4096, 1);  // in the chunk that is being copied
    CHECK_FALSE(s.take(0, op_kind::write));
    s.submit(op_kind::write, engine_script::chunk * 3, 4096, 2);
    CHECK(s.take(0, op_kind::write));
    CHECK(s.take(1, op_kind::write));
}

TEST_CASE("engine: R8 a resyncing replica that is lost holds nothing up") {
    engine_script s({good, stale});
    s.up(0);
    s.up(1);
    s.decide(*s.take_proposal(), proposal_outcome::committed);
    s.submit(op_kind::write, engine_script::chunk * 3, 4096, 2);
    s.answer_next(0, op_kind::write);
    CHECK_FALSE(s.completed(2));
    s.down(1);
    CHECK(s.completed(2) == 0);
    CHECK_FALSE(s.status().holding);
}

TEST_CASE("engine: R8 a replica whose promotion is on its way is required until the answer is known") {
    engine_script s({good, stale});
    s.up(0);
    s.up(1);
    s.decide(*s.take_proposal(), proposal_outcome::committed);
    s.answer_all();
    const auto promotion = s.take_proposal();
    REQUIRE(promotion);
    s.submit(op_kind::write, 0, 4096, 1);
    s.answer_next(0, op_kind::write);
    s.down(1);
    CHECK_FALSE(s.completed(1));
    SUBCASE("it was committed: it is demoted like any other") {
        s.decide(*promotion, proposal_outcome::committed);
        CHECK_FALSE(s.completed(1));
        s.pass(milliseconds(2000));
        const auto demotion = s.take_proposal();
        REQUIRE(demotion);
        CHECK(demotion->to == stale);
        s.decide(*demotion, proposal_outcome::committed);
        CHECK(s.completed(1) == 0);
    }
    SUBCASE("it was refused: nobody counts on it") {
        s.decide(*promotion, proposal_outcome::refused);
        CHECK(s.completed(1) == 0);
    }
}

// Bug guarded against: the restart was ignored because a proposal was pending, and the commit made it trusted.
TEST_CASE("engine: R8 a host that restarts while its promotion is on its way is not trusted with what it forgot") {
    engine_script s({good, stale});
    s.up(0);
    s.up(1);
    s.decide(*s.take_proposal(), proposal_outcome::committed);
    s.answer_all();
    const auto promotion = s.take_proposal();
    s.submit(op_kind::write, 0, 4096, 1);
    s.answer_all();
    s.down(1);
    s.pass(milliseconds(200));
    s.up(1, "b2");
    s.decide(*promotion, proposal_outcome::committed);
    const auto demotion = s.take_proposal();
    REQUIRE(demotion);
    CHECK(demotion->slot == 1);
    CHECK(demotion->to == stale);
}

TEST_CASE("engine: R7 after an unclean end nothing is read before it was made equal") {
    engine_script s({good, good}, false);
    s.up(0);
    s.up(1);
    s.submit(op_kind::read, engine_script::chunk * 3, 4096, 1);
    CHECK_FALSE(s.take(0, op_kind::read));
    CHECK(s.status().recovery_left_bytes == engine_script::extent);
    s.answer_all();
    CHECK(s.status().recovery_left_bytes == 0);
    CHECK(s.completed(1) == 0);
}

// Bug guarded against: the zero of a hole went to the target of the piece before it, not to everybody but its source.
TEST_CASE("engine: R7 a hole of the source becomes a hole on the other replica, also after a piece read elsewhere") {
    engine_script s({good, good}, false);
    s.up(0);
    s.up(1);
    auto query = s.take(0, op_kind::block_status);
    slot_index source = 0;
    if (!query) {
        query = s.take(1, op_kind::block_status);
        source = 1;
    }
    REQUIRE(query);
    s.answer(*query, 0, {{8192, false}, {query->length - 8192, true}});
    const slot_index other = source == 0 ? 1 : 0;
    // The data's first source drops out; the other one serves it.
    const auto fetch = s.take(source, op_kind::read);
    REQUIRE(fetch);
    s.answer(*fetch, EIO);
    REQUIRE(s.answer_next(other, op_kind::read));
    REQUIRE(s.answer_next(source, op_kind::write));
    CHECK(s.take(other, op_kind::zero));
    CHECK_FALSE(s.take(source, op_kind::zero));
}

// Bug guarded against: a reconnect while fencing compared the new kernel with itself and trusted it again.
TEST_CASE("engine: R7 a restart seen at attach is remembered over a reconnect") {
    engine_script s({good, good}, false);
    s.up(0, "b2", "b1");
    s.down(0);
    s.pass(milliseconds(200));
    s.up(0, "b2", "b1");
    s.up(1, "b1", "b1");
    const auto demotion = s.take_proposal();
    REQUIRE(demotion);
    CHECK(demotion->slot == 0);
    CHECK(s.subject().state() == engine_state::fencing);
}

// Bug guarded against: only this writer's own unflushed changes counted.
TEST_CASE("engine: R7 a host that restarts after a takeover may have forgotten what the last writer acknowledged") {
    engine_script s({good, good}, false);
    s.up(0);
    s.up(1);
    s.answer_all();
    s.down(0);
    s.pass(milliseconds(200));
    s.up(0, "b2", "b1");
    const auto demotion = s.take_proposal();
    REQUIRE(demotion);
    CHECK(demotion->slot == 0);
}

TEST_CASE("engine: R9 overlapping changes are sent one after the other") {
    engine_script s({good});
    s.up(0);
    s.submit(op_kind::write, 0, 8192, 1);
    s.submit(op_kind::write, 4096, 8192, 2);
    const auto first = s.take(0, op_kind::write);
    REQUIRE(first);
    CHECK_FALSE(s.take(0, op_kind::write));
    s.answer(*first);
    CHECK(s.completed(1) == 0);
    CHECK(s.answer_next(0, op_kind::write));
    CHECK(s.completed(2) == 0);
}

TEST_CASE("engine: R10 reads go to the local replica, and elsewhere when it is lost") {
    engine_script s({good, good});
    s.up(0);
    s.up(1);
    s.submit(op_kind::read, 0, 4096, 1);
    REQUIRE(s.take(0, op_kind::read));
    s.down(0);
    CHECK(s.answer_next(1, op_kind::read));
    CHECK(s.completed(1) == 0);
}

TEST_CASE("engine: R10 a media error is served from another replica and repaired in place") {
    engine_script s({good, good});
    s.up(0);
    s.up(1);
    s.submit(op_kind::read, 0, 4096, 1);
    s.answer_next(0, op_kind::read, EIO);
    CHECK(s.answer_next(1, op_kind::read));
    CHECK(s.completed(1) == 0);
    REQUIRE(s.answer_next(1, op_kind::read));
    const auto repair = s.take(0, op_kind::write);
    REQUIRE(repair);
    CHECK(repair->offset == 0);
    CHECK(repair->length == 4096);
}

TEST_CASE("engine: R10 a media error on the only replica is an error, not silence") {
    engine_script s({good});
    s.up(0);
    s.submit(op_kind::read, 0, 4096, 1);
    s.answer_next(0, op_kind::read, EIO);
    CHECK(s.completed(1) == EIO);
}

TEST_CASE("engine: R11 detach drains, flushes every replica, and takes no new requests") {
    engine_script s({good, good});
    s.up(0);
    s.up(1);
    s.submit(op_kind::write, 0, 4096, 1);
    s.subject().detach(s.now, s.out);
    s.submit(op_kind::write, 0, 4096, 2);
    CHECK(s.completed(2) == ESHUTDOWN);
    CHECK_FALSE(s.take(0, op_kind::flush));
    s.answer_next(0, op_kind::write);
    s.answer_next(1, op_kind::write);
    CHECK(s.completed(1) == 0);
    CHECK(s.answer_next(0, op_kind::flush));
    CHECK(s.subject().state() == engine_state::detaching);
    CHECK(s.answer_next(1, op_kind::flush));
    CHECK(s.subject().state() == engine_state::detaching);
    CHECK(s.answer_next(0, op_kind::map_clear));  // what was written is declared clean after the flush, never before
    CHECK(s.answer_next(1, op_kind::map_clear));
    CHECK(s.subject().state() == engine_state::detached);
}

TEST_CASE("engine: the last kernel forgets acknowledged writes: all I/O fails, so that no flush can claim them") {
    engine_script s({good});
    s.up(0);
    s.submit(op_kind::write, 0, 4096, 1);
    s.answer_all();
    s.down(0);
    s.pass(milliseconds(200));
    s.up(0, "b2");
    CHECK(s.subject().state() == engine_state::lost);
    s.submit(op_kind::flush, 0, 0, 2);
    CHECK(s.completed(2) == EIO);
}

TEST_CASE("engine: requests that make no sense are refused with EINVAL") {
    engine_script s({good});
    s.up(0);
    s.submit(op_kind::read, 1, 4096, 1);
    s.submit(op_kind::read, 0, 100, 2);
    s.submit(op_kind::read, 0, 0, 3);
    s.submit(op_kind::read, engine_script::extent, 4096, 4);
    s.submit(op_kind::write, ~std::uint64_t{0} - 4095, 4096, 5);
    s.submit(op_kind::block_status, 0, 4096, 6);
    for (std::uintptr_t i = 1; i <= 6; ++i) CHECK(s.completed(i) == EINVAL);
    CHECK(s.out.send.empty());
}

TEST_CASE("engine: a replica added to the record is filled, one removed from it is forgotten") {
    engine_script s({good});
    s.up(0);
    s.subject().on_membership({{replica_id("r0"), good, true}, {replica_id("new"), replica_state::inconsistent, false}},
                              s.now, s.out);
    REQUIRE(s.session(1) == 1);
    s.up(1);
    s.answer_all();
    const auto promotion = s.take_proposal();
    REQUIRE(promotion);
    CHECK(promotion->to == good);
    s.decide(*promotion, proposal_outcome::committed);
    s.subject().on_membership({{replica_id("new"), good, false}}, s.now, s.out);
    CHECK(s.closing(0));
    s.submit(op_kind::write, 0, 4096, 9);
    CHECK_FALSE(s.take(0, op_kind::write));
    CHECK(s.take(1, op_kind::write));
}
