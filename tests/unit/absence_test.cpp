// SPDX-License-Identifier: Apache-2.0
// The grace period (orchestrator/core/absence.hpp): when it begins, when it ends, what does not count.
#include "orchestrator/core/absence.hpp"

#include <doctest/doctest.h>

#include "healing_view.hpp"

using namespace weft;
using namespace weft::test;
using namespace std::chrono_literals;

TEST_CASE("absence: a node is overdue when every look of the whole grace period found it away") {
    const auto view = view_of({sample_volume()}, 3);
    absence_book book;
    book.look(view, {node(1), node(3)}, {}, 100s);
    CHECK(book.overdue(109s, 10s).nodes.empty());
    book.look(view, {node(1), node(3)}, {}, 110s);
    CHECK(book.overdue(110s, 10s).nodes == std::set{node(2)});
    CHECK(book.overdue(110s, 10s).drives.empty());
}

TEST_CASE("absence: a node that was seen once in between begins anew") {
    const auto view = view_of({sample_volume()}, 3);
    absence_book book;
    book.look(view, {node(1)}, {}, 100s);
    book.look(view, {node(1), node(2)}, {}, 105s);
    book.look(view, {node(1)}, {}, 106s);
    CHECK(book.overdue(110s, 10s).nodes.empty());
    CHECK(book.overdue(116s, 10s).nodes == std::set{node(2)});
}

TEST_CASE("absence: while the store does not answer nobody is away") {
    const auto view = view_of({sample_volume()}, 3);
    absence_book book;
    book.look(view, {node(1)}, {}, 100s);
    book.forget_all();
    book.look(view, {node(1)}, {}, 200s);
    CHECK(book.overdue(200s, 10s).nodes.empty());
}

TEST_CASE("absence: a drive is away when its node says that it is down, or when it left the pool") {
    auto view = view_of({sample_volume(3)}, 3);
    view.drives[drive(2)].record.down = true;
    view.drives.erase(drive(3));
    absence_book book;
    book.look(view, {node(1), node(2), node(3)}, {}, 100s);
    CHECK(book.overdue(100s, 0s).drives == std::set{drive(2), drive(3)});
    // A record that cannot be read proves nothing.
    view.bad[drive_key(drive(3))] = "damaged";
    book.look(view, {node(1), node(2), node(3)}, {}, 101s);
    CHECK(book.overdue(101s, 0s).drives == std::set{drive(2)});
}

TEST_CASE("absence: what an engine does not reach is away until it is reached, also between two attachments") {
    const auto view = view_of({attached_volume()}, 2);
    absence_book book;
    book.look(view, all_nodes(2), {report(view, {false})}, 100s);
    book.look(view, all_nodes(2), {}, 105s);
    CHECK(book.overdue(110s, 10s).replicas == std::set{replica(2)});
    book.look(view, all_nodes(2), {report(view, {true})}, 111s);
    CHECK(book.overdue(121s, 10s).replicas.empty());
    CHECK(book.overdue(115s, 10s).reached.contains(replica(2)));
    CHECK_FALSE(book.overdue(122s, 10s).reached.contains(replica(2)));
}

TEST_CASE("absence: a replica that is not reached because its node is away waits for the node's own clock") {
    const auto view = view_of({attached_volume()}, 2);
    absence_book book;
    book.look(view, {node(1)}, {report(view, {false})}, 100s);
    CHECK(book.overdue(100s, 0s).replicas.empty());
    CHECK(book.overdue(100s, 0s).nodes == std::set{node(2)});
}

TEST_CASE("absence: a replica that the record calls failed is away whatever runs") {
    auto record = sample_volume();
    record.extents[0].replicas[1].state = replica_state::failed;
    const auto view = view_of({record}, 2);
    absence_book book;
    book.look(view, all_nodes(2), {}, 100s);
    CHECK(book.overdue(100s, 0s).replicas == std::set{replica(2)});
}
