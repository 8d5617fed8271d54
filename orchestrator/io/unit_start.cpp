// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/io/unit_start.hpp"

#include <boost/json.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>

#include "orchestrator/io/child_setup.hpp"

namespace weft {

namespace {

std::atomic<bool> as_units{false};

/// Longer than the units' TimeoutStartSec= and TimeoutStopSec=, so that it is systemd who says what happened.
constexpr std::chrono::milliseconds job_timeout{25000};

constexpr std::array<std::string_view, 3> our_templates{"weft-replica@", "weft-volume@", "weft-nbdfuse@"};

result<std::string> systemctl(std::vector<std::string> arguments) {
    run_request what;
    what.argv = {"systemctl", "--no-ask-password"};
    what.argv.insert(what.argv.end(), arguments.begin(), arguments.end());
    what.timeout = job_timeout;
    TRY_ASSIGN(const auto outcome, run(what));
    if (outcome.exit_code != 0)
        return error{errc::unavailable, fmt::format("systemctl {} failed ({}): {}", fmt::join(arguments, " "),
                                                    outcome.exit_code, outcome.output)};
    return outcome.output;
}

std::filesystem::path start_file(const std::filesystem::path& identity_file) {
    return std::filesystem::path(identity_file).replace_extension(".start");
}

}  // namespace

void start_servers_as_units() {
    as_units = true;
}

bool servers_are_units() noexcept {
    return as_units;
}

std::string encode_start(const spawn_request& what) {
    boost::json::array argv(what.argv.begin(), what.argv.end());
    return boost::json::serialize(boost::json::object{{"argv", std::move(argv)},
                                                      {"log", what.log_file.string()},
                                                      {"data_path", what.data_path},
                                                      {"stack_bytes", what.stack_bytes}}) +
           "\n";
}

result<spawn_request> decode_start(std::string_view text) {
    const auto bad = [&] {
        return error{errc::corrupt, fmt::format("'{}' does not say what to start", text.substr(0, 200))};
    };
    boost::system::error_code failed;
    const auto parsed = boost::json::parse({text.data(), text.size()}, failed);
    if (failed || !parsed.is_object()) return bad();
    const auto& object = parsed.get_object();
    const auto* argv = object.if_contains("argv");
    const auto* log = object.if_contains("log");
    const auto* data_path = object.if_contains("data_path");
    const auto* stack = object.if_contains("stack_bytes");
    if (argv == nullptr || !argv->is_array() || argv->get_array().empty() || log == nullptr || !log->is_string() ||
        data_path == nullptr || !data_path->is_bool() || stack == nullptr)
        return bad();
    spawn_request what;
    for (const auto& word : argv->get_array()) {
        if (!word.is_string()) return bad();
        what.argv.emplace_back(word.get_string());
    }
    what.log_file = std::string(log->get_string());
    what.data_path = data_path->get_bool();
    what.stack_bytes = stack->to_number<std::uint64_t>(failed);
    if (failed) return bad();
    return what;
}

std::vector<std::string> server_units_in(std::string_view list_jobs) {
    std::vector<std::string> found;
    while (!list_jobs.empty()) {
        std::string_view line = list_jobs.substr(0, list_jobs.find('\n'));
        list_jobs.remove_prefix(std::min(line.size() + 1, list_jobs.size()));
        while (!line.empty()) {
            line.remove_prefix(std::min(line.find_first_not_of(' '), line.size()));
            const auto word = line.substr(0, line.find(' '));
            line.remove_prefix(word.size());
            if (std::any_of(our_templates.begin(), our_templates.end(),
                            [&](std::string_view ours) { return word.starts_with(ours); }))
                found.emplace_back(word);
        }
    }
    return found;
}

status stop_unfinished_starts() {
    TRY_ASSIGN(const auto jobs, systemctl({"list-jobs", "--plain", "--no-legend"}));
    auto units = server_units_in(jobs);
    if (units.empty()) return ok();
    units.insert(units.begin(), "stop");
    const auto stopped = systemctl(std::move(units));
    if (stopped.has_error()) return stopped.error();
    return ok();
}

result<process_identity> spawn_as_unit(const spawn_request& what) {
    spawn_request complete = what;
    TRY_ASSIGN(complete.argv.front(), find_program(what.argv));
    TRY_ASSIGN(const auto lock, lock_identity(what.identity_file.string()));
    // Also one whose identity was lost, or that an earlier weftd was starting when it was killed.
    TRY(systemctl({"stop", what.unit}));
    TRY(remove_file(what.identity_file));
    TRY(write_file_atomically(start_file(what.identity_file), encode_start(complete)));
    TRY(systemctl({"start", what.unit}));
    TRY_ASSIGN(const auto text, read_file(what.identity_file, 4096));
    if (!text)
        return error{errc::io_failed, fmt::format("{} started, but did not write {}: does the unit name another "
                                                  "directory than runtime-dir?",
                                                  what.unit, what.identity_file.string())};
    return decode_identity(*text);
}

}  // namespace weft
