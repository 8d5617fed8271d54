// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/cli/run.hpp"

#include <boost/json.hpp>
#include <fmt/format.h>

#include <algorithm>

#include "nbd-backend/base/units.hpp"
#include "orchestrator/api/admin.hpp"
#include "orchestrator/cli/fields.hpp"
#include "orchestrator/cli/progress.hpp"
#include "orchestrator/cli/render.hpp"

namespace weft::cli {

namespace json = boost::json;

namespace {

constexpr std::chrono::milliseconds watch_interval{500};
constexpr std::chrono::seconds watch_patience{30};  // how long a watch outlives a weftd that is away (its restart)

/// What came of a request: the answer's JSON, or why there is none and how to exit.
struct asked {
    std::string raw;
    json::value body;
    std::string problem;  // empty: fine
    int exit = exit_done;
};

int exit_of_transport(errc code) {
    return code == errc::timed_out || code == errc::outcome_unknown ? exit_not_now : exit_unreachable;
}

asked ask(const surroundings& world, const http_request& request) {
    const auto answer = world.ask(request);
    if (answer.has_error()) return {"", nullptr, answer.error().text, exit_of_transport(answer.error().code)};
    boost::system::error_code failed;
    json::value body = json::parse(answer->body, failed);
    if (failed)
        return {"", nullptr, fmt::format("weftd answered {} with something that is not JSON", answer->status),
                exit_refused};
    if (answer->status < 300) return {answer->body, std::move(body), "", exit_done};
    const json::value& problem = member(body, "error");
    std::string text = text_of(problem, "text");
    if (text.empty()) text = fmt::format("weftd refused with HTTP status {} and no reason", answer->status);
    return {"", nullptr, text, exit_of(text_of(problem, "code"))};
}

http_request request_of(const invocation& command) {
    const std::string name = percent_encode(command.argument);
    json::object options;
    for (const auto& [key, value] : command.options) options[key] = value;
    switch (command.what) {
        case verb::node_ls: return {"GET", "/v1/nodes", ""};
        case verb::node_forget:
            return {"POST", "/v1/nodes/" + name + "/forget", json::serialize(json::object{{"force", command.force}})};
        case verb::drive_ls: return {"GET", "/v1/drives", ""};
        case verb::drive_inspect: return {"GET", "/v1/drives/" + name, ""};
        case verb::drive_add: {
            json::object wanted{{"path", command.argument}};
            if (!command.erase.empty()) wanted["erase"] = command.erase;
            return {"POST", "/v1/drives", json::serialize(wanted)};
        }
        case verb::drive_rm: return {"DELETE", "/v1/drives/" + name, ""};
        case verb::volume_ls: return {"GET", "/v1/volumes", ""};
        case verb::volume_create:
            return {"POST", "/v1/volumes",
                    json::serialize(json::object{{"name", command.argument}, {"options", std::move(options)}})};
        case verb::volume_inspect: return {"GET", "/v1/volumes/" + name, ""};
        case verb::volume_rm: return {"DELETE", "/v1/volumes/" + name, ""};
        case verb::volume_set:
            return {"PATCH", "/v1/volumes/" + name, json::serialize(json::object{{"options", std::move(options)}})};
        case verb::volume_scrub: return {"POST", "/v1/volumes/" + name + "/scrub", "{}"};
        case verb::volume_grow:
            return {"POST", "/v1/volumes/" + name + "/grow", json::serialize(json::object{{"size", command.size}})};
        case verb::volume_attach:
            return {"POST", "/v1/volumes/" + name + "/attach", json::serialize(json::object{{"force", command.force}})};
        case verb::volume_detach: return {"POST", "/v1/volumes/" + name + "/detach", "{}"};
        case verb::volume_restart: return {"POST", "/v1/volumes/" + name + "/restart", "{}"};
        case verb::volume_repair: return {"POST", "/v1/volumes/" + name + "/repair", "{}"};
        case verb::volume_recover:
            return {
                "POST", "/v1/volumes/" + name + "/recover",
                json::serialize(json::object{{"from", command.from}, {"accept_data_loss", command.accept_data_loss}})};
        case verb::status: return {"GET", "/v1/status", ""};
        case verb::events: return {"GET", fmt::format("/v1/events?n={}", command.newest), ""};
    }
    return {};
}

/// Addresses make the picture complete; without them it is still worth showing.
json::value drives_of(const surroundings& world) {
    return ask(world, {"GET", "/v1/drives", ""}).body;
}

std::string render_answer(const invocation& command, const surroundings& world, const json::value& body) {
    const std::string name = clean(command.argument);
    switch (command.what) {
        case verb::node_ls: return render_nodes(world.how, body);
        case verb::drive_ls: return render_drives(world.how, body);
        case verb::drive_inspect: return render_drive(world.how, body);
        case verb::drive_add:
            return fmt::format("drive {} added: {}\n", clean(text_of(body, "id")), clean(drive_name(body)));
        case verb::drive_rm: return fmt::format("drive {} removed\n", name);
        case verb::volume_ls: return render_volumes(world.how, body);
        case verb::volume_create: {
            const std::uint64_t bytes = number_of(body, "size_bytes");
            return fmt::format("volume {} created{}\n", name, bytes == 0 ? "" : ", " + render_size(bytes));
        }
        case verb::volume_inspect: {
            resync_meter meter;
            return render_volume(world.how, body, drives_of(world), meter.observe(world.now(), body));
        }
        case verb::volume_rm: return fmt::format("volume {} removed\n", name);
        case verb::volume_set: return fmt::format("volume {} changed: {}\n", name, render_policies(body));
        case verb::volume_scrub:
            return fmt::format("scrub {} of volume {} is asked for\n", number_of(body, "scrub_wanted"), name);
        case verb::volume_grow:
            return fmt::format("volume {} has {} from now on\n", name, render_size(number_of(body, "size_bytes")));
        case verb::volume_attach:
            return fmt::format("volume {} attached with epoch {}: {}\n", name, number_of(body, "epoch"),
                               clean(text_of(body, "nbd_uri")));
        case verb::volume_detach: return fmt::format("volume {} detached\n", name);
        case verb::volume_restart:
            return fmt::format("volume {} goes on over another volume server, epoch {}\n", name,
                               number_of(body, "epoch"));
        case verb::volume_repair:
        case verb::volume_recover: return render_repair(body, "volume " + name);
        case verb::node_forget: return render_repair(body, "node " + name);
        case verb::status: return render_status(world.how, body);
        case verb::events: return render_events(world.how, body);
    }
    return "";
}

int complain(const surroundings& world, const asked& what) {
    world.err(fmt::format("weft: {}\n", clean(what.problem)));
    return what.exit;
}

/// Draws over what it drew before. Lines that would wrap are cut, lines that would scroll are left out, because both
/// would break the way back to the first one.
class screen {
public:
    explicit screen(const surroundings& world) : world_(world) {}

    void draw(const std::string& text) {
        std::string frame = drawn_ == 0 ? "" : fmt::format("\x1b[{}A\r\x1b[J", drawn_);
        drawn_ = 0;
        std::string_view rest = text;
        const std::size_t most = world_.lines > 1 ? world_.lines - 1 : 1000;
        while (!rest.empty() && drawn_ < most) {
            const std::size_t end = std::min(rest.find('\n'), rest.size());
            frame += cut_to(rest.substr(0, end), world_.columns) + "\n";
            ++drawn_;
            rest.remove_prefix(std::min(end + 1, rest.size()));
        }
        world_.out(frame);
    }

private:
    const surroundings& world_;
    std::size_t drawn_ = 0;
};

int watch(const invocation& command, const surroundings& world) {
    const http_request request = request_of(command);
    resync_meter meter;
    screen terminal(world);
    std::string last_line;
    json::value drives;
    std::chrono::nanoseconds heard = world.now();  // when weftd answered last
    for (bool first = true;; first = false) {
        if (!first) world.wait(watch_interval);
        const asked seen = ask(world, request);
        const auto now = world.now();
        if (!seen.problem.empty()) {
            const bool lasting = first || (seen.exit != exit_unreachable && seen.exit != exit_not_now);
            if (lasting || now - heard > watch_patience) return complain(world, seen);
            continue;
        }
        heard = now;
        const progress_map progress = meter.observe(now, seen.body);
        if (world.columns > 0) {
            if (!drives.is_array()) drives = drives_of(world);
            terminal.draw(render_volume(world.how, seen.body, drives, progress));
        } else if (std::string line = render_progress_line(seen.body, progress); line != last_line) {
            world.out(line);
            last_line = std::move(line);
        }
        if (is_settled(seen.body)) return exit_done;
    }
}

/// Until the scrub that `begun` (the answer to asking for it) tells of has ended. Progress goes to standard error where
/// standard output is for a program.
int await_scrub(const invocation& command, const surroundings& world, const json::value& begun) {
    const std::uint64_t serial = number_of(begun, "scrub_wanted");
    const auto& progress = command.format == output_format::json ? world.err : world.out;
    const http_request look{"GET", "/v1/volumes/" + percent_encode(command.argument), ""};
    std::string last_line;
    std::chrono::nanoseconds heard = world.now();
    while (true) {
        const asked seen = ask(world, look);
        if (!seen.problem.empty()) {
            const bool passing = seen.exit == exit_unreachable || seen.exit == exit_not_now;
            if (!passing || world.now() - heard > watch_patience) return complain(world, seen);
        } else {
            heard = world.now();
            if (number_of(seen.body, "scrub_finished") >= serial) {
                world.out(command.format == output_format::json
                              ? seen.raw + "\n"
                              : fmt::format("scrub {} of volume {}: {}\n", serial, clean(command.argument),
                                            clean(text_of(seen.body, "scrub_report"))));
                return exit_done;
            }
            std::string line = render_scrub_line(seen.body);
            if (line != last_line) progress(line);
            last_line = std::move(line);
        }
        world.wait(watch_interval);
    }
}

/// One after the other, and all of them: one that is refused keeps no other from going on over the new code. The exit
/// status is that of the first that was refused.
int restart_all(const invocation& command, const surroundings& world) {
    const asked cluster = ask(world, {"GET", "/v1/status", ""});
    if (!cluster.problem.empty()) return complain(world, cluster);
    const asked volumes = ask(world, {"GET", "/v1/volumes", ""});
    if (!volumes.problem.empty()) return complain(world, volumes);
    json::array done;
    int outcome = exit_done;
    for (const auto& volume : elements(volumes.body)) {
        if (text_of(volume, "writer") != text_of(cluster.body, "node") || flag_of(volume, "maintenance")) continue;
        invocation one = command;
        one.argument = text_of(volume, "name");
        const asked answer = ask(world, request_of(one));
        if (!answer.problem.empty()) {
            const int exit = complain(world, answer);
            if (outcome == exit_done) outcome = exit;
            if (exit == exit_unreachable) break;
            continue;
        }
        done.push_back(answer.body);
        if (command.format == output_format::table) world.out(render_answer(one, world, answer.body));
    }
    if (command.format == output_format::json)
        world.out(json::serialize(done) + "\n");
    else if (done.empty() && outcome == exit_done)
        world.out("no volume is attached on this node\n");
    return outcome;
}

}  // namespace

int exit_of(std::string_view code) {
    if (code == "not_found") return exit_not_found;
    if (code == "busy") return exit_busy;
    if (code == "already_exists") return exit_exists;
    for (const errc passing : {errc::unavailable, errc::timed_out, errc::no_quorum, errc::shutting_down, errc::conflict,
                               errc::outcome_unknown})
        if (code == to_string(passing)) return exit_not_now;
    return exit_refused;
}

int run(const invocation& command, const surroundings& world) {
    if (command.watch) return watch(command, world);
    if (command.all) return restart_all(command, world);
    const asked answer = ask(world, request_of(command));
    if (!answer.problem.empty()) return complain(world, answer);
    if (command.wait) return await_scrub(command, world, answer.body);
    world.out(command.format == output_format::json ? answer.raw + "\n" : render_answer(command, world, answer.body));
    return exit_done;
}

}  // namespace weft::cli
