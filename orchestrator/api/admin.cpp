// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/api/admin.hpp"

#include <boost/json.hpp>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <charconv>
#include <utility>
#include <vector>

#include "orchestrator/api/json_input.hpp"
#include "orchestrator/api/view_json.hpp"
#include "orchestrator/core/event_record.hpp"
#include "orchestrator/core/names.hpp"

namespace weft {

namespace json = boost::json;

namespace {

constexpr std::size_t events_default = 50;
constexpr std::size_t erase_length_max = 2000;  // bytes

struct route_input {
    const std::vector<std::string>& path;  // decoded segments after "v1"
    const std::string& query;              // after '?', still encoded
    const std::string& body;
};

http_response answer(unsigned http_status, const json::value& body) {
    return {http_status, "application/json", json::serialize(body), false};
}

template <typename View>
http_response answer_view(const result<View>& view, unsigned http_status = 200) {
    return view.has_error() ? admin::failure(view.error()) : answer(http_status, to_json(*view));
}

status refuse_query(const route_input& input) {
    if (input.query.empty()) return ok();
    return error{errc::invalid_argument,
                 fmt::format("this route takes no query parameters, but got '{}'", printable(input.query))};
}

/// A body is optional where no field is required; one that is there must be an object.
result<json::object> optional_object(const std::string& body) {
    if (body.empty()) return json::object{};
    return json_input::parse_object(body);
}

result<http_response> get_status(service& served, const route_input&) {
    return answer_view(served.cluster_status());
}
result<http_response> get_nodes(service& served, const route_input&) {
    return answer_view(served.list_nodes());
}
result<http_response> get_drives(service& served, const route_input&) {
    return answer_view(served.list_drives());
}
result<http_response> get_volumes(service& served, const route_input&) {
    return answer_view(served.list_volumes());
}

result<std::size_t> parse_events_query(const std::string& query) {
    if (query.empty()) return events_default;
    const std::size_t equals = query.find('=');
    if (query.substr(0, equals) != "n" || equals == std::string::npos)
        return error{errc::invalid_argument,
                     fmt::format("unknown query parameter '{}'; the known ones are: n", printable(query))};
    const char* begin = query.data() + equals + 1;
    const char* end = query.data() + query.size();
    std::size_t newest = 0;
    const auto parsed = std::from_chars(begin, end, newest);
    if (parsed.ec != std::errc{} || parsed.ptr != end || newest < 1 || newest > events_kept)
        return error{errc::invalid_argument,
                     fmt::format("query parameter 'n' must be a whole number from 1 to {}, not '{}'", events_kept,
                                 printable(std::string_view(begin, static_cast<std::size_t>(end - begin))))};
    return newest;
}

result<http_response> get_events(service& served, const route_input& input) {
    TRY_ASSIGN(const std::size_t newest, parse_events_query(input.query));
    return answer_view(served.list_events(newest));
}

/// TYPE:ID[,TYPE:ID…]; what it has to name is for the service to compare.
result<std::string> parse_erase(const json::object& object) {
    if (!object.contains("erase")) return std::string();
    TRY_ASSIGN(const std::string erase, json_input::required_text(object, "erase"));
    constexpr std::string_view allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:,";
    if (erase.size() <= erase_length_max && erase.find(':') != std::string::npos &&
        erase.find_first_not_of(allowed) == std::string::npos)
        return erase;
    return error{errc::invalid_argument,
                 fmt::format("field 'erase' must name what may be lost as TYPE:ID, several with commas between them, "
                             "as the refusal without it says; not '{}'",
                             printable(erase))};
}

result<http_response> post_drive(service& served, const route_input& input) {
    TRY_ASSIGN(const json::object object, json_input::parse_object(input.body));
    TRY(json_input::refuse_unknown(object, {"path", "erase"}));
    TRY_ASSIGN(const std::string text, json_input::required_text(object, "path"));
    TRY_ASSIGN(const std::string path, parse_drive_path(text));
    TRY_ASSIGN(const std::string erase, parse_erase(object));
    return answer_view(served.add_drive(path, erase), 201);
}

/// A drive's id, a prefix of it, or its path: what may reach the service.
result<std::string> parse_drive_argument(const std::string& text) {
    if (!text.empty() && text[0] == '/') return parse_drive_path(text);
    const bool id_like = text.find_first_not_of("0123456789abcdef-") == std::string::npos;
    if (text.size() >= 4 && text.size() <= 36 && id_like) return text;
    return error{errc::invalid_argument,
                 fmt::format("'{}' does not name a drive: give its id, at least the first 4 characters of it, or the "
                             "absolute path of its directory",
                             printable(text))};
}

/// By id, the beginning of one, or on this node by directory or device.
result<http_response> get_drive(service& served, const route_input& input) {
    TRY_ASSIGN(const std::string wanted, parse_drive_argument(input.path[1]));
    TRY_ASSIGN(const auto all, served.list_drives());
    TRY_ASSIGN(const auto cluster, served.cluster_status());
    const drive_view* found = nullptr;
    for (const auto& one : all) {
        const drive_record& drive = one.record;
        const bool named = drive.node.str() == cluster.node && (drive.path == wanted || drive.device.name == wanted);
        if (!named && !drive.id.str().starts_with(wanted)) continue;
        if (found != nullptr)
            return error{errc::invalid_argument,
                         fmt::format("'{}' fits several drives; give more of the id", printable(wanted))};
        found = &one;
    }
    if (found == nullptr) return error{errc::not_found, fmt::format("there is no drive '{}'", printable(wanted))};
    return answer(200, to_json(*found));
}

result<http_response> delete_drive(service& served, const route_input& input) {
    TRY_ASSIGN(const std::string drive, parse_drive_argument(input.path[1]));
    TRY(served.remove_drive(drive));
    return answer(200, json::object{{"removed", drive}});
}

error no_such_volume(const std::string& name) {
    return error{errc::not_found, fmt::format("no such volume: '{}'", name)};
}

result<http_response> get_volume(service& served, const route_input& input) {
    TRY(check_volume_name(input.path[1]));
    TRY_ASSIGN(const auto found, served.inspect_volume(input.path[1]));
    if (!found) return no_such_volume(input.path[1]);
    return answer(200, to_json(*found));
}

result<http_response> post_volume(service& served, const route_input& input) {
    TRY_ASSIGN(const json::object object, json_input::parse_object(input.body));
    TRY(json_input::refuse_unknown(object, {"name", "options"}));
    TRY_ASSIGN(const std::string name, json_input::required_text(object, "name"));
    TRY(check_volume_name(name));
    TRY_ASSIGN(const volume_options options, json_input::optional_text_map(object, "options"));
    // Docker's Create must succeed for a volume that exists; a person who creates one wants to hear of it. Two
    // creations at the same instant may both pass this: then they made one volume, as two docker commands would have.
    TRY_ASSIGN(const auto existing, served.get_volume(name));
    if (existing) return error{errc::already_exists, fmt::format("volume '{}' exists already", name)};
    TRY(served.create_volume(name, options));
    const auto made = served.get_volume(name);
    if (made.has_error() || !made->has_value()) return answer(201, json::object{{"name", name}});
    return answer(201, to_json(**made));
}

result<http_response> delete_volume(service& served, const route_input& input) {
    TRY(check_volume_name(input.path[1]));
    TRY(served.remove_volume(input.path[1]));
    return answer(200, json::object{{"removed", input.path[1]}});
}

result<http_response> post_attach(service& served, const route_input& input) {
    TRY(check_volume_name(input.path[1]));
    TRY_ASSIGN(const json::object object, optional_object(input.body));
    TRY(json_input::refuse_unknown(object, {"force"}));
    TRY_ASSIGN(const bool force, json_input::optional_boolean(object, "force", false));
    return answer_view(served.attach_volume(input.path[1], force));
}

result<http_response> post_detach(service& served, const route_input& input) {
    TRY(check_volume_name(input.path[1]));
    TRY_ASSIGN(const json::object object, optional_object(input.body));
    TRY(json_input::refuse_unknown(object, {}));
    TRY(served.detach_volume(input.path[1]));
    return answer(200, json::object{{"detached", input.path[1]}});
}

result<http_response> post_restart(service& served, const route_input& input) {
    TRY(check_volume_name(input.path[1]));
    TRY_ASSIGN(const json::object object, optional_object(input.body));
    TRY(json_input::refuse_unknown(object, {}));
    return answer_view(served.restart_volume(input.path[1]));
}

result<http_response> post_repair(service& served, const route_input& input) {
    TRY(check_volume_name(input.path[1]));
    TRY_ASSIGN(const json::object object, optional_object(input.body));
    TRY(json_input::refuse_unknown(object, {}));
    return answer_view(served.repair_volume(input.path[1]));
}

result<http_response> post_recover(service& served, const route_input& input) {
    TRY(check_volume_name(input.path[1]));
    TRY_ASSIGN(const json::object object, json_input::parse_object(input.body));
    TRY(json_input::refuse_unknown(object, {"from", "accept_data_loss"}));
    TRY_ASSIGN(const std::string from, json_input::required_text(object, "from"));
    TRY_ASSIGN(const bool accepted, json_input::optional_boolean(object, "accept_data_loss", false));
    return answer_view(served.recover_volume(input.path[1], from, accepted));
}

result<http_response> post_forget(service& served, const route_input& input) {
    TRY(check_node_name(input.path[1]));
    TRY_ASSIGN(const json::object object, optional_object(input.body));
    TRY(json_input::refuse_unknown(object, {"force"}));
    TRY_ASSIGN(const bool force, json_input::optional_boolean(object, "force", false));
    return answer_view(served.forget_node(input.path[1], force));
}

result<http_response> patch_volume(service& served, const route_input& input) {
    TRY(check_volume_name(input.path[1]));
    TRY_ASSIGN(const json::object object, json_input::parse_object(input.body));
    TRY(json_input::refuse_unknown(object, {"options"}));
    TRY_ASSIGN(const volume_options options, json_input::optional_text_map(object, "options"));
    return answer_view(served.set_volume(input.path[1], options));
}

result<http_response> post_scrub(service& served, const route_input& input) {
    TRY(check_volume_name(input.path[1]));
    TRY_ASSIGN(const json::object object, optional_object(input.body));
    TRY(json_input::refuse_unknown(object, {}));
    return answer_view(served.scrub_volume(input.path[1]));
}

result<http_response> post_grow(service& served, const route_input& input) {
    TRY(check_volume_name(input.path[1]));
    TRY_ASSIGN(const json::object object, json_input::parse_object(input.body));
    TRY(json_input::refuse_unknown(object, {"size"}));
    TRY_ASSIGN(const std::string size, json_input::required_text(object, "size"));
    return answer_view(served.grow_volume(input.path[1], size));
}

struct route {
    std::string_view method;
    std::vector<std::string_view> path;  // after "v1"; "*" is any one segment
    bool has_query;
    result<http_response> (*handle)(service&, const route_input&);
};

const std::vector<route>& routes() {
    static const std::vector<route> table = {
        {"GET", {"status"}, false, get_status},
        {"GET", {"nodes"}, false, get_nodes},
        {"GET", {"drives"}, false, get_drives},
        {"GET", {"drives", "*"}, false, get_drive},
        {"POST", {"drives"}, false, post_drive},
        {"DELETE", {"drives", "*"}, false, delete_drive},
        {"GET", {"volumes"}, false, get_volumes},
        {"POST", {"volumes"}, false, post_volume},
        {"GET", {"volumes", "*"}, false, get_volume},
        {"DELETE", {"volumes", "*"}, false, delete_volume},
        {"PATCH", {"volumes", "*"}, false, patch_volume},
        {"POST", {"volumes", "*", "scrub"}, false, post_scrub},
        {"POST", {"volumes", "*", "grow"}, false, post_grow},
        {"POST", {"volumes", "*", "attach"}, false, post_attach},
        {"POST", {"volumes", "*", "detach"}, false, post_detach},
        {"POST", {"volumes", "*", "restart"}, false, post_restart},
        {"POST", {"volumes", "*", "repair"}, false, post_repair},
        {"POST", {"volumes", "*", "recover"}, false, post_recover},
        {"POST", {"nodes", "*", "forget"}, false, post_forget},
        {"GET", {"events"}, true, get_events},
    };
    return table;
}

bool matches(const route& one, const std::vector<std::string>& path) {
    if (one.path.size() != path.size()) return false;
    for (std::size_t i = 0; i < path.size(); ++i)
        if (one.path[i] != "*" && one.path[i] != path[i]) return false;
    return true;
}

/// "/v1/volumes/a%2Fb" -> {"v1", "volumes", "a/b"}.
result<std::vector<std::string>> split_path(std::string_view path) {
    std::vector<std::string> segments;
    if (path.empty() || path[0] != '/') return segments;
    while (!path.empty()) {
        path.remove_prefix(1);  // the slash
        const std::string_view segment = path.substr(0, path.find('/'));
        TRY_ASSIGN(std::string decoded, percent_decode(segment));
        segments.push_back(std::move(decoded));
        path.remove_prefix(segment.size());
    }
    return segments;
}

http_response dispatch(service& served, const http_request& request, std::vector<std::string> path,
                       const std::string& query) {
    const bool versioned = !path.empty() && path[0] == "v1";
    if (versioned) path.erase(path.begin());
    std::vector<std::string_view> methods;
    for (const route& one : routes()) {
        if (!versioned || !matches(one, path)) continue;
        methods.push_back(one.method);
        if (one.method != request.method) continue;
        const route_input input{path, query, request.body};
        if (!one.has_query)
            if (const auto none = refuse_query(input); none.has_error()) return admin::failure(none.error());
        auto response = one.handle(served, input);
        return response.has_error() ? admin::failure(response.error()) : std::move(*response);
    }
    if (methods.empty())
        return admin::refusal(404, fmt::format("there is no '{}' in this API; see API.md", printable(request.target)));
    return admin::refusal(405, fmt::format("'{}' takes {}, not {}", printable(request.target),
                                           fmt::join(methods, " and "), printable(request.method)));
}

json::object error_body(std::string_view code, std::string_view text) {
    return json::object{{"error", json::object{{"code", code}, {"text", text}}}};
}

}  // namespace

unsigned http_status_of(errc code) noexcept {
    switch (code) {
        case errc::invalid_argument: return 400;
        case errc::not_found: return 404;
        case errc::already_exists: return 409;
        case errc::busy: return 409;
        case errc::conflict: return 409;
        case errc::stale_epoch: return 409;
        case errc::no_space: return 507;
        case errc::no_quorum: return 503;
        case errc::unavailable: return 503;
        case errc::shutting_down: return 503;
        case errc::timed_out: return 504;
        case errc::unsupported: return 501;
        case errc::io_failed: return 500;
        case errc::corrupt: return 500;
        case errc::outcome_unknown: return 500;
    }
    return 500;
}

http_response admin::failure(const error& problem) {
    return answer(http_status_of(problem.code), error_body(to_string(problem.code), problem.text));
}

http_response admin::refusal(unsigned http_status, const std::string& text) {
    const errc code = http_status == 404   ? errc::not_found
                      : http_status == 405 ? errc::unsupported
                                           : errc::invalid_argument;
    return answer(http_status, error_body(to_string(code), text));
}

http_response admin::handle(const http_request& request) const {
    const std::size_t mark = request.target.find('?');
    const std::string query = mark == std::string::npos ? std::string() : request.target.substr(mark + 1);
    auto path = split_path(std::string_view(request.target).substr(0, mark));
    if (path.has_error()) return failure(path.error());
    return dispatch(service_, request, std::move(*path), query);
}

}  // namespace weft
