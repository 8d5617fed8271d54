// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/api/docker_volume.hpp"

#include <boost/json.hpp>
#include <fmt/format.h>

#include <array>
#include <optional>
#include <utility>

#include "orchestrator/api/json_input.hpp"
#include "orchestrator/api/view_json.hpp"
#include "orchestrator/core/names.hpp"

namespace weft {

namespace json = boost::json;

namespace {

constexpr std::array<std::pair<std::string_view, docker_call>, 9> targets = {{
    {"/Plugin.Activate", docker_call::activate},
    {"/VolumeDriver.Capabilities", docker_call::capabilities},
    {"/VolumeDriver.Create", docker_call::create},
    {"/VolumeDriver.Remove", docker_call::remove},
    {"/VolumeDriver.Mount", docker_call::mount},
    {"/VolumeDriver.Unmount", docker_call::unmount},
    {"/VolumeDriver.Path", docker_call::path},
    {"/VolumeDriver.Get", docker_call::get},
    {"/VolumeDriver.List", docker_call::list},
}};

std::optional<docker_call> find_call(std::string_view target) {
    for (const auto& [path, call] : targets)
        if (path == target) return call;
    return std::nullopt;
}

http_response answer(const json::value& body) {
    return {200, std::string(docker_content_type), json::serialize(body), false};
}

http_response failure(const error& problem) {
    return docker_volume::refusal(500, problem.text);
}

http_response done(const status& outcome) {
    if (outcome.has_error()) return failure(outcome.error());
    return answer(json::object{{"Err", ""}});
}

http_response mounted_at(const std::string& mountpoint) {
    return answer(json::object{{"Mountpoint", mountpoint}, {"Err", ""}});
}

http_response no_such_volume(const std::string& name) {
    return docker_volume::refusal(500, fmt::format("no such volume: '{}'", printable(name, 128)));
}

json::object described(const volume_view& view) {
    json::object volume{{"Name", view.record.name}, {"Mountpoint", view.mountpoint}};
    if (!view.record.created_at.empty()) volume["CreatedAt"] = view.record.created_at;
    volume["Status"] = docker_status(view);
    return volume;
}

}  // namespace

result<docker_request> decode_docker_request(docker_call call, std::string_view body) {
    docker_request request;
    if (call == docker_call::activate || call == docker_call::capabilities || call == docker_call::list) return request;
    TRY_ASSIGN(const json::object object, json_input::parse_object(body));
    TRY_ASSIGN(request.name, json_input::required_text(object, "Name"));
    if (call == docker_call::mount || call == docker_call::unmount) {
        TRY_ASSIGN(request.mount_id, json_input::required_text(object, "ID"));
    }
    if (call == docker_call::create) {
        TRY_ASSIGN(request.options, json_input::optional_text_map(object, "Opts"));
    }
    return request;
}

http_response docker_volume::refusal(unsigned http_status, const std::string& text) {
    return {http_status, std::string(docker_content_type), json::serialize(json::object{{"Err", text}}), false};
}

http_response docker_volume::handle(const http_request& request) const {
    const auto which = find_call(request.target);
    if (!which)
        return refusal(404,
                       fmt::format("'{}' is not a call of Docker's volume plugin protocol", printable(request.target)));
    if (request.method != "POST")
        return refusal(405,
                       fmt::format("{} must be sent with POST, not {}", request.target, printable(request.method)));
    return call(*which, request.body);
}

http_response docker_volume::call(docker_call which, const std::string& body) const {
    if (which == docker_call::get && body.empty()) return http_response::dropped();
    const auto decoded = decode_docker_request(which, body);
    if (decoded.has_error()) return failure(decoded.error());
    const docker_request& request = *decoded;
    switch (which) {
        case docker_call::activate:
            service_.docker_activated();
            return answer(json::object{{"Implements", json::array{"VolumeDriver"}}});
        case docker_call::capabilities:
            return answer(json::object{{"Capabilities", json::object{{"Scope", "global"}}}});
        case docker_call::get: return get(request.name);
        case docker_call::path: return path(request.name);
        case docker_call::list: return list();
        case docker_call::create:
        case docker_call::remove:
        case docker_call::mount:
        case docker_call::unmount: break;
    }
    if (const auto named = check_volume_name(request.name); named.has_error()) return failure(named.error());
    if (which == docker_call::create) return done(service_.create_volume(request.name, request.options));
    if (which == docker_call::remove) return done(service_.remove_volume(request.name));
    if (which == docker_call::unmount) return done(service_.unmount_volume(request.name, request.mount_id));
    const auto where = service_.mount_volume(request.name, request.mount_id);
    if (where.has_error()) return failure(where.error());
    http_response mounted = mounted_at(*where);
    mounted.on_delivery = [&to = service_, request](bool delivered) {
        to.mount_answered(request.name, request.mount_id, delivered);
    };
    return mounted;
}

http_response docker_volume::get(const std::string& name) const {
    // No volume can have such a name, so its absence is certain; the Create that follows tells the user the grammar.
    if (check_volume_name(name).has_error()) return no_such_volume(name);
    const auto found = service_.get_volume(name);
    if (found.has_error()) return http_response::dropped();
    if (!found->has_value()) return no_such_volume(name);
    return answer(json::object{{"Volume", described(**found)}, {"Err", ""}});
}

http_response docker_volume::path(const std::string& name) const {
    if (check_volume_name(name).has_error()) return no_such_volume(name);
    const auto found = service_.get_volume(name);
    if (found.has_error()) return failure(found.error());
    if (!found->has_value()) return no_such_volume(name);
    return mounted_at((*found)->mountpoint);
}

http_response docker_volume::list() const {
    const auto views = service_.list_volumes();
    if (views.has_error())
        return failure(views.error());  // `docker volume ls` shows it as a warning, nothing is forgotten
    json::array volumes;
    for (const auto& view : *views)
        volumes.push_back(json::object{{"Name", view.record.name}, {"Mountpoint", view.mountpoint}});
    return answer(json::object{{"Volumes", std::move(volumes)}, {"Err", ""}});
}

}  // namespace weft
