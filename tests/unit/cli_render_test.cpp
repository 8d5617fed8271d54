// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include "fake_service.hpp"
#include "golden.hpp"
#include "orchestrator/api/view_json.hpp"
#include "orchestrator/cli/render.hpp"

using namespace weft;
using namespace weft::cli;
using namespace weft::testing;
using namespace std::chrono_literals;

namespace {

const style plain_text{false, true};

std::string pretty_json(const boost::json::value& value, const std::string& indent = "") {
    const std::string deeper = indent + "  ";
    std::string text;
    const auto item = [&](const std::string& what) { text += (text.empty() ? "\n" : ",\n") + deeper + what; };
    if (value.is_object() && !value.as_object().empty()) {
        for (const auto& [key, entry] : value.as_object())
            item(boost::json::serialize(key) + ": " + pretty_json(entry, deeper));
        return "{" + text + "\n" + indent + "}";
    }
    if (value.is_array() && !value.as_array().empty()) {
        for (const auto& entry : value.as_array()) item(pretty_json(entry, deeper));
        return "[" + text + "\n" + indent + "]";
    }
    return boost::json::serialize(value);
}

volume_view two_extents_detached() {
    volume_view view = sample_volume("archive-2026");
    view.record.extents.push_back(view.record.extents[0]);
    view.record.extents[1].replicas[0].state = replica_state::outdated;
    view.record.extents[1].replicas[1].created = false;
    view.record.formatted = false;
    view.record.writer = node_name{};
    view.mountpoint.clear();
    view.live.reset();
    view.live_extents.clear();
    view.health = "degraded";
    view.from_cache = true;
    return view;
}

/// Two looks at the sample resync, a second apart: 100 MB copied, 200 MB dealt with.
progress_map sample_progress(boost::json::value& latest) {
    resync_meter meter;
    auto view = sample_resync("db");
    meter.observe(10s, to_json(view));
    view.live_extents[0].slots[1].resync_done_bytes += 200'000'000;
    view.live_extents[0].slots[1].resync_copied_bytes += 100'000'000;
    latest = to_json(view);
    return meter.observe(11s, latest);
}

}  // namespace

TEST_CASE("cli_render: tables of nodes, drives, volumes, events and the status as golden files") {
    check_golden("cli_node_ls.txt", render_nodes(plain_text, to_json(sample_nodes())));
    check_golden("cli_drive_ls.txt", render_drives(plain_text, to_json(sample_drives())));
    check_golden("cli_drive_inspect.txt", render_drive(plain_text, to_json(sample_drives()[2])));
    check_golden("cli_volume_ls.txt",
                 render_volumes(plain_text, to_json(std::vector<volume_view>{sample_volume("db"), sample_resync("web"),
                                                                             two_extents_detached()})));
    check_golden("cli_events.txt", render_events(plain_text, to_json(sample_events())));
    check_golden("cli_status.txt", render_status(plain_text, to_json(sample_status())));
    auto away = sample_status();
    away.store_available = false;
    away.store_problem = "open '/srv/weft.db': Permission denied";
    check_golden("cli_status_store_away.txt", render_status(plain_text, to_json(away)));
}

TEST_CASE("cli_render: empty lists still have their headings") {
    CHECK(render_volumes(plain_text, boost::json::array{}) ==
          "VOLUME  SIZE  HEALTH  REPLICAS  WRITER  FS  MOUNTPOINT  NOTE\n");
}

TEST_CASE("cli_render: a volume's stack as golden files") {
    const auto drives = to_json(sample_drives());
    check_golden("cli_volume_inspect.txt", render_volume(plain_text, to_json(sample_volume("db")), drives, {}));
    check_golden("cli_volume_inspect_ascii.txt",
                 render_volume({false, false}, to_json(sample_volume("db")), drives, {}));
    check_golden("cli_volume_inspect_detached.txt",
                 render_volume(plain_text, to_json(two_extents_detached()), nullptr, {}));
    boost::json::value resync;
    const auto progress = sample_progress(resync);
    check_golden("cli_volume_resync.txt", render_volume(plain_text, resync, drives, progress));
    check_golden("cli_volume_resync_colour.txt", render_volume({true, true}, resync, drives, progress));
    check_golden("cli_volume_resync_line.txt", render_progress_line(resync, progress));
    auto holding = sample_resync("db");
    holding.live_extents[0].holding = true;
    holding.live_extents[0].held_for = 75s;
    holding.live_extents[0].slots[1].link_up = false;
    holding.live_extents[0].slots[1].resyncing = false;
    holding.writer_alive = false;
    check_golden("cli_volume_holding.txt", render_volume(plain_text, to_json(holding), drives, {}));
}

TEST_CASE("view_json: the API's answers as golden files") {
    check_golden("api_volume.json", pretty_json(to_json(sample_resync("db"))) + "\n");
    check_golden("api_drives.json", pretty_json(to_json(sample_drives())) + "\n");
    check_golden("api_status.json", pretty_json(to_json(sample_status())) + "\n");
    check_golden("api_events.json", pretty_json(to_json(sample_events())) + "\n");
    check_golden("docker_status.json", pretty_json(docker_status(sample_resync("db"))) + "\n");
}

TEST_CASE("cli_render: an answer without its fields is shown as far as it goes") {
    const boost::json::value odd = boost::json::parse(R"([{}, 5, null, {"name":7,"extents":{"a":1}}])");
    CHECK(render_volumes(plain_text, odd).find("VOLUME") == 0);
    CHECK(render_nodes(plain_text, "nonsense").find("NODE") == 0);
    CHECK(render_volume(plain_text, boost::json::object{}, nullptr, {}).find("volume ") == 0);
    CHECK(render_status(plain_text, nullptr).find("cluster") == 0);
}

TEST_CASE("cli_progress: rate and time left come from successive looks") {
    boost::json::value latest;
    const auto progress = sample_progress(latest);
    REQUIRE(progress.size() == 1);
    const auto& one = progress.begin()->second;
    CHECK(*one.bytes_per_second == doctest::Approx(100e6));
    const double left = static_cast<double>(one.size_bytes - one.done_bytes) / 200e6;
    CHECK(one.time_left->count() == doctest::Approx(left * 1000).epsilon(0.001));
}

TEST_CASE("cli_progress: the first look has no rate, a standstill no time left, a new start forgets the old one") {
    resync_meter meter;
    auto view = sample_resync("db");
    auto first = meter.observe(1s, to_json(view)).begin()->second;
    CHECK_FALSE(first.bytes_per_second.has_value());
    CHECK(first.part() == doctest::Approx(0.42));
    auto still = meter.observe(2s, to_json(view)).begin()->second;
    CHECK(*still.bytes_per_second == 0);
    CHECK_FALSE(still.time_left.has_value());
    view.live_extents[0].slots[1].resync_done_bytes = 1;
    CHECK_FALSE(meter.observe(3s, to_json(view)).begin()->second.bytes_per_second.has_value());
}

TEST_CASE("cli_progress: old looks do not slow down a new rate") {
    resync_meter meter;
    auto view = sample_resync("db");
    auto& slot = view.live_extents[0].slots[1];
    slot.resync_done_bytes = slot.resync_copied_bytes = 0;
    progress_map seen;
    for (int second = 0; second < 60; ++second) {
        if (second > 30) slot.resync_done_bytes = slot.resync_copied_bytes += 50'000'000;
        seen = meter.observe(std::chrono::seconds(second), to_json(view));
    }
    CHECK(*seen.begin()->second.bytes_per_second == doctest::Approx(50e6));
}

TEST_CASE("cli_progress: a volume is settled when every replica is up to date and none is resynced") {
    CHECK(is_settled(to_json(sample_volume("db"))));
    CHECK_FALSE(is_settled(to_json(sample_resync("db"))));
    auto nearly = sample_volume("db");
    nearly.live_extents[0].slots[1].resyncing = true;
    CHECK_FALSE(is_settled(to_json(nearly)));
}

TEST_CASE("cli_text: durations, bars, widths and cuts") {
    CHECK(render_duration(0ms) == "0 ms");
    CHECK(render_duration(999ms) == "999 ms");
    CHECK(render_duration(8250ms) == "8.2 s");
    CHECK(render_duration(59s) == "59 s");
    CHECK(render_duration(200s) == "3 min 20 s");
    CHECK(render_duration(7500s) == "2 h 5 min");
    CHECK(render_duration(100h) == "4 d 4 h");
    CHECK(render_bar(plain_text, 0.5, 4) == "██░░");
    CHECK(render_bar({false, false}, 2.0, 4) == "####");
    CHECK(render_bar({false, false}, -1.0, 4) == "----");
    CHECK(width_of("█\x1b[32mab\x1b[0m") == 3);
    CHECK(cut_to("abcdef", 3) == "abc");
    CHECK(cut_to("\x1b[32m██ab\x1b[0m", 3) == "\x1b[32m██a\x1b[0m");
    CHECK(clean("a\x1b[31mb\nc") == "a\\x1b[31mb\\nc");
}

TEST_CASE("cli_render: a volume that waits for space while it is scrubbed, as a golden file") {
    auto view = sample_volume("db");
    view.record.thick = true;
    view.record.resync_rate = 100 * mib;
    view.record.scrub_every_s = 7 * 86400;
    view.record.scrub_wanted = 3;
    view.record.scrub_finished = 2;
    view.health = "holding";
    view.problem = "writes wait for space: drive /srv/weft/disk1 on node n2 (0 B of 100 GiB free) is full";
    auto& engine = view.live_extents[0];
    engine.waiting_for_space = true;
    engine.slots[1].full = true;
    engine.scrub = {3, true, 4 * gib, 0, 0, 0};
    check_golden("cli_volume_space.txt", render_volume(plain_text, to_json(view), to_json(sample_drives()), {}));
    auto after = sample_volume("web");
    after.record.scrub_wanted = after.record.scrub_finished = 1;
    after.record.scrubbed_at = "2026-11-21T04:10:00.000Z";
    after.record.scrub_report = "10 GiB compared, no difference";
    CHECK(render_volume(plain_text, to_json(after), nullptr, {})
              .find("scrub       2026-11-21T04:10:00.000Z: 10 GiB compared, no difference\n") != std::string::npos);
    check_golden("cli_volume_ls_notes.txt",
                 render_volumes(plain_text, to_json(std::vector<volume_view>{view, after, sample_resync("third")})));
}

TEST_CASE("cli_render: drives that fill up are marked in their list and in the status") {
    auto drives = sample_drives();
    drives[0].record.free_bytes = 15 * gib;
    drives[0].record.filled_past = 80;
    drives[1].record.filled_past = 90;
    drives[2].record.device.missing = drives[2].record.down = true;
    CHECK(render_drives(plain_text, to_json(drives)).find("-        missing") != std::string::npos);
    const auto text = render_drives(plain_text, to_json(drives));
    CHECK(text.find("over 80 % full ") != std::string::npos);
    CHECK(text.find("draining, over 90 % full") != std::string::npos);
    auto cluster = sample_status();
    cluster.problems = {"drive /srv/weft/disk1 on node n1 is 85 % full", "volume db: writes wait\x1b[31m"};
    const auto shown = render_status(plain_text, to_json(cluster));
    CHECK(shown.find("  problem     drive /srv/weft/disk1 on node n1 is 85 % full\n") != std::string::npos);
    CHECK(shown.find('\x1b') == std::string::npos);
}
