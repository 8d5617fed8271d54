// SPDX-License-Identifier: Apache-2.0
// dm-tables as a program for the scenarios in guests: what weftd will do with a plan, by hand, and killable at any
// step.
//
//   dm_tool version
//   dm_tool settle [SCOPE] [--kill-at N]   volumes' layouts on stdin, a JSON object a line; plans and carries out until
//                                          nothing is left to do; with N it kills itself (SIGKILL) before step N
//   dm_tool plan [SCOPE]                   the same, but only tells the steps
//   dm_tool nodes                          what a daemon does at its start where udevd does not run
//   dm_tool status NAME                    what the targets say, read
//   dm_tool wait NAME EVENT MS             until the device's event number is not EVENT any more
//   dm_tool check NAME                     asks a raid set to compare its legs
//
// A layout: {"id": UUID, "name":, "kind": "striped"|"mirrored", "chunk": bytes, "nosync": bool,
//            "segments": [[{"path":, "size": bytes, "state": "up_to_date"|"rebuild"|"missing"}, …], …]}
// Answers are JSON on stdout. Code 1 and a sentence on stderr when something was refused.
#include <boost/json.hpp>
#include <fmt/format.h>

#include <csignal>
#include <cstdio>
#include <iostream>
#include <string>
#include <vector>

#include "dm-tables/io/dm_driver.hpp"
#include "dm-tables/io/dm_events.hpp"

namespace json = boost::json;
using namespace weft;
using namespace weft::dm;

namespace {

leg_state state_of(const json::object& extent) {
    const json::value* state = extent.if_contains("state");
    if (state == nullptr || state->as_string() == "up_to_date") return leg_state::up_to_date;
    return state->as_string() == "rebuild" ? leg_state::rebuild : leg_state::missing;
}

result<volume_stack> stack_of(const std::string& line, const std::string& scope) {
    const json::object it = json::parse(line).as_object();
    volume_layout layout;
    layout.volume_id = it.at("id").as_string();
    layout.volume_name = it.at("name").as_string();
    layout.scope = scope;
    layout.kind = it.at("kind").as_string() == "mirrored" ? layout_kind::mirrored : layout_kind::striped;
    if (const auto* chunk = it.if_contains("chunk")) layout.chunk_bytes = chunk->to_number<std::uint64_t>();
    const auto* nosync = it.if_contains("nosync");
    const bool by_bitmap = it.contains("start") && it.at("start").as_string() == "by_bitmap";
    for (const json::value& segment : it.at("segments").as_array()) {
        layout.segments.emplace_back();
        if (by_bitmap) layout.segments.back().start = raid1_start::by_bitmap;
        if (nosync != nullptr && nosync->as_bool()) layout.segments.back().start = raid1_start::assume_equal;
        for (const json::value& extent : segment.as_array())
            layout.segments.back().extents.push_back({std::string(extent.at("path").as_string()),
                                                      extent.at("size").to_number<std::uint64_t>(),
                                                      state_of(extent.as_object())});
    }
    return make_volume_stack(layout);
}

result<std::vector<volume_stack>> read_stacks(const std::string& scope) {
    std::vector<volume_stack> stacks;
    for (std::string line; std::getline(std::cin, line);) {
        TRY_ASSIGN(volume_stack stack, stack_of(line, scope));
        stacks.push_back(std::move(stack));
    }
    return stacks;
}

/// Tells what was done, or is to be.
void tell(const plan& next, json::array& steps, json::array& reports) {
    for (const step& it : next.steps) steps.emplace_back(fmt::format("{} {}", to_string(it.what), it.name));
    for (const report& it : next.reports)
        reports.emplace_back(json::object{{"kind", to_string(it.what)}, {"name", it.name}, {"text", it.text}});
}

status carry_out(const plan& next, long& until_killed) {
    TRY_ASSIGN(const auto steps, render(next.steps));
    if (until_killed < 0) return driver::apply(steps);
    for (const raw_step& it : steps) {
        if (until_killed-- == 0) (void)std::raise(SIGKILL);
        TRY(driver::apply({it}));
    }
    return ok();
}

status settle(const std::string& scope, long kill_at, bool only_plan) {
    TRY_ASSIGN(const auto stacks, read_stacks(scope));
    json::array steps;
    json::array reports;
    bool more = true;
    for (int round = 0; more; ++round) {
        if (round == 3) return error{errc::io_failed, "the plan does not come to an end"};
        TRY_ASSIGN(const observation there, driver::observe(stacks));
        const plan next = make_plan(stacks, there, scope);
        tell(next, steps, reports);
        more = next.more && !only_plan;
        if (!only_plan) TRY(carry_out(next, kill_at));
    }
    if (!only_plan) TRY(driver::make_nodes());
    fmt::print("{}\n", json::serialize(json::object{{"steps", steps}, {"reports", reports}}));
    return ok();
}

json::object told(const raid_status& set) {
    std::string health;
    for (const leg_health leg : set.legs) health += static_cast<char>(leg);
    return {{"health", health},         {"action", to_string(set.action)},
            {"percent", set.percent()}, {"mismatches", set.mismatches},
            {"healthy", set.healthy()}, {"rendered", render_status(set)}};
}

status show_status(const std::string& name) {
    TRY_ASSIGN(const auto info, driver::info(name));
    TRY_ASSIGN(const raw_table rows, driver::status_rows(name));
    TRY_ASSIGN(const auto lower, driver::dependencies(name));
    json::array said;
    for (const raw_row& row : rows) {
        TRY_ASSIGN(const target_status read, parse_status(row.type, row.params));
        json::object one{{"type", row.type}, {"params", row.params}};
        if (const auto* set = std::get_if<raid_status>(&read)) one["raid"] = told(*set);
        if (const auto* stripes = std::get_if<striped_status>(&read)) one["stripes"] = stripes->failed.size();
        said.emplace_back(std::move(one));
    }
    fmt::print("{}\n", json::serialize(json::object{{"event", info->event_number},
                                                    {"number", info->number},
                                                    {"open", info->open_count},
                                                    {"lower", json::value_from(lower)},
                                                    {"rows", said}}));
    return ok();
}

status act(const std::vector<std::string>& words) {
    const std::string verb = words.empty() ? "" : words[0];
    if (verb == "version") {
        TRY_ASSIGN(const std::string version, driver::version());
        fmt::print("{}\n", version);
        return ok();
    }
    if (verb == "settle" || verb == "plan") {
        const bool scoped = words.size() > 1 && words[1] != "--kill-at";
        const bool kills = words.size() > (scoped ? 3 : 2);
        return settle(scoped ? words[1] : "", kills ? std::stol(words.back()) : -1, verb == "plan");
    }
    if (verb == "nodes") return driver::make_nodes();
    if (verb == "status" && words.size() == 2) return show_status(words[1]);
    if (verb == "check" && words.size() == 2) return driver::message(words[1], 0, "check");
    if (verb == "wait" && words.size() == 4) {
        TRY_ASSIGN(const auto number, wait_for_event(words[1], static_cast<std::uint32_t>(std::stoul(words[2])),
                                                     std::chrono::milliseconds(std::stol(words[3]))));
        fmt::print("{}\n", number);
        return ok();
    }
    return error{errc::invalid_argument, "known: version, settle, plan, nodes, status, wait, check"};
}

}  // namespace

int main(int count, char** words) {
    try {
        const status outcome = act({words + 1, words + count});
        if (!outcome.has_error()) return 0;
        fmt::print(stderr, "dm_tool: {}: {}\n", to_string(outcome.error().code), outcome.error().text);
    } catch (const std::exception& problem) {
        fmt::print(stderr, "dm_tool: {}\n", problem.what());
    }
    return 1;
}
