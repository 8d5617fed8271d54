// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/core/scrub.hpp"

#include <doctest/doctest.h>

#include "orchestrator/core/maintenance.hpp"
#include "tests/unit/sample_records.hpp"

using namespace weft;

namespace {

volume_record wanted_volume() {
    auto record = test::attached_volume();
    record.extents.push_back(record.extents[0]);
    record.extents[1].size_bytes = 2 * gib;
    record.scrub_wanted = 4;
    record.scrub_finished = 3;
    return record;
}

/// Both extents of the above, compared to the end.
std::vector<core::engine_status> ended() {
    std::vector<core::engine_status> extents(2);
    for (auto& extent : extents) extent.state = core::engine_state::serving;
    extents[0].scrub = {4, false, 10 * gib, 8192, 8192, 0};
    extents[1].scrub = {4, false, 2 * gib, 4096, 4096, 4096};
    return extents;
}

}  // namespace

TEST_CASE("scrub: asked for twice before it has ended, it is one scrub") {
    auto record = want_scrub(test::sample_volume());
    CHECK(record.scrub_wanted == 1);
    CHECK(want_scrub(record).scrub_wanted == 1);
    record.scrub_finished = 1;
    CHECK(want_scrub(record).scrub_wanted == 2);
}

TEST_CASE("scrub: it has ended when every extent has compared everything under its serial") {
    const auto sum = scrub_result_of(wanted_volume(), ended());
    REQUIRE(sum.has_value());
    CHECK(sum->serial == 4);
    CHECK(sum->compared_bytes == 12 * gib);
    CHECK(sum->differing_bytes == 12288);
    CHECK(sum->repaired_bytes == 12288);
    CHECK(sum->undecided_bytes == 4096);
}

TEST_CASE("scrub: an extent that runs, that was cut off, of another serial or without a status has not ended") {
    const auto record = wanted_volume();
    const auto not_ended = [&](auto spoil) {
        auto extents = ended();
        spoil(extents);
        return !scrub_result_of(record, extents).has_value();
    };
    CHECK(not_ended([](auto& extents) { extents[1].scrub.running = true; }));
    CHECK(not_ended([](auto& extents) { extents[0].scrub.done_bytes -= 4096; }));
    CHECK(not_ended([](auto& extents) { extents[1].scrub.serial = 3; }));
    CHECK(not_ended([](auto& extents) { extents[0].state = core::engine_state::detaching; }));
    CHECK(not_ended([](auto& extents) { extents.pop_back(); }));
    CHECK(not_ended([](auto& extents) { extents.clear(); }));
    auto finished = record;
    finished.scrub_finished = 4;
    CHECK_FALSE(scrub_result_of(finished, ended()).has_value());
}

TEST_CASE("scrub: its end is noted once, by the writer of the epoch alone (R5)") {
    const auto record = wanted_volume();
    const auto outcome = *scrub_result_of(record, ended());
    const std::string time = "2024-05-02T12:00:00.000Z";
    const auto noted = finish_scrub(record, test::node(1), 5, outcome, time);
    REQUIRE(noted.has_value());
    CHECK(noted->scrub_finished == 4);
    CHECK(noted->scrubbed_at == time);
    CHECK(noted->scrub_report == describe(outcome));
    CHECK(finish_scrub(record, test::node(2), 5, outcome, time).error().code == errc::stale_epoch);
    CHECK(finish_scrub(record, test::node(1), 4, outcome, time).error().code == errc::stale_epoch);
    CHECK(finish_scrub(*noted, test::node(1), 5, outcome, time).error().code == errc::conflict);
    auto later = outcome;
    later.serial = 5;
    CHECK(finish_scrub(record, test::node(1), 5, later, time).error().code == errc::conflict);
}

TEST_CASE("scrub: the schedule counts from the last end, or from the volume's birth") {
    auto record = test::sample_volume();  // created 2024-05-01T12:00:00
    const std::int64_t born = 1714564800000;
    CHECK_FALSE(is_scrub_due(record, born + 1000LL * 86400 * 365));
    record.scrub_every_s = 3600;
    CHECK_FALSE(is_scrub_due(record, born + 3599'999));
    CHECK(is_scrub_due(record, born + 3600'000));
    CHECK_FALSE(is_scrub_due(record, born - 1));  // the clock was set back
    record.scrubbed_at = "2024-05-01T12:30:00.000Z";
    CHECK_FALSE(is_scrub_due(record, born + 3600'000));
    CHECK(is_scrub_due(record, born + 5400'000));
    record.scrub_wanted = 1;
    CHECK_FALSE(is_scrub_due(record, born + 5400'000));
    record.scrub_finished = 1;
    record.scrubbed_at = "yesterday";
    CHECK(is_scrub_due(record, born));
}

TEST_CASE("scrub: the report says what was found, its severity what to make of it") {
    CHECK(describe({1, 10 * gib, 0, 0, 0}) == "10 GiB compared, no difference");
    CHECK(severity_of({1, 10 * gib, 0, 0, 0}) == severity::info);
    CHECK(describe({1, 10 * gib, 8192, 8192, 0}) ==
          "10 GiB compared, 8 KiB differed between replicas or could not be read on one, 8 KiB were repaired");
    CHECK(severity_of({1, 10 * gib, 8192, 8192, 0}) == severity::warning);
    CHECK(describe({1, 10 * gib, 8192, 8192, 4096}).find("for 4 KiB nothing said which replica was right") !=
          std::string::npos);
    CHECK(severity_of({1, 10 * gib, 8192, 8192, 4096}) == severity::error);
}

TEST_CASE("scrub: a volume that nobody uses is attached for the scrub that is asked for, and until it has ended") {
    auto record = test::sample_volume();
    record.epoch = 3;
    cluster_view view;
    for (unsigned i = 1; i <= 2; ++i) {
        drive_record drive;
        drive.id = test::drive(i);
        drive.node = test::node(i);
        view.drives[drive.id] = {drive, 7};
        view.nodes[test::node(i)] = {node_record{test::node(i), "127.0.0.1", "0.1.0"}, 7};
    }
    const std::set<node_name> alive = {test::node(1), test::node(2)};
    const maintenance_look look{view, alive};
    CHECK(needs_maintenance(record, look).empty());
    const auto before = repair_signature(record, view, alive);
    record.scrub_wanted = 1;
    CHECK(needs_maintenance(record, look) == "scrub 1 is asked for");
    CHECK(repair_signature(record, view, alive) != before);
    std::vector<core::engine_status> extents(1);
    extents[0].state = core::engine_state::serving;
    record.writer = test::node(1);
    record.maintenance = true;
    CHECK(repair_state_of(record, extents, view, alive).stage == repair_stage::working);
    record.scrub_finished = 1;
    CHECK(repair_state_of(record, extents, view, alive).stage == repair_stage::finished);
}
