// SPDX-License-Identifier: Apache-2.0
// What dockerd, or somebody who pretends to be it, sends to the plugin socket: target and JSON body.
//
// Input: a line with the target's name (VolumeDriver.Get), then the body. '!' at the end of the line: the store does
// not answer; '?': the method is GET. Properties (docker_volume.hpp's laws): the answer is JSON, or the connection is
// dropped; an error has a text; an existing volume is never answered to be absent, not even by a service that fails; no
// name reaches the service that breaks the grammar; an empty body never is a volume.
#include <algorithm>
#include <array>

#include "fake_service.hpp"
#include "orchestrator/api/docker_volume.hpp"
#include "orchestrator/core/names.hpp"
#include "tests/fuzz/fuzz.hpp"

using namespace weft;
namespace json = boost::json;

namespace {

constexpr std::array<std::string_view, 2> existing = {"db", "web-1"};

/// The canary takes a store that does not answer for one that has no such volume.
class forgetful : public testing::fake_service {
public:
    result<std::optional<volume_view>> get_volume(const std::string& name) override {
        auto found = fake_service::get_volume(name);
        if (fuzz::canary && found.has_error()) return std::optional<volume_view>{};
        return found;
    }
};

void check_answer(const http_response& response) {
    PROPERTY(response.content_type == docker_content_type, "{}", response.content_type);
    boost::system::error_code bad;
    const json::value body = json::parse(response.body, bad);
    PROPERTY(!bad && body.is_object(), "not a JSON object: {}", response.body);
    const json::value* problem = body.get_object().if_contains("Err");
    if (response.status == 200) {
        PROPERTY(problem == nullptr || problem->as_string().empty(), "200 with {}", response.body);
        return;
    }
    PROPERTY(response.status == 404 || response.status == 405 || response.status == 500, "{}", response.status);
    PROPERTY(problem != nullptr && problem->is_string(), "no Err: {}", response.body);
    fuzz::check_error(error{errc::io_failed, std::string(problem->get_string())}, errc::io_failed);
}

/// The name of a volume that a Get asks for; empty: it asks for none.
std::string name_asked(std::string_view body) {
    const auto request = decode_docker_request(docker_call::get, body);
    return request.has_value() && check_volume_name(request->name).has_value() ? request->name : std::string();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    fuzz::feed input(data, size);
    std::string target = "/" + std::string(input.until('\n'));
    const bool fails = target.ends_with('!');
    const bool asks = target.ends_with('?');
    if (fails || asks) target.pop_back();
    forgetful service;
    for (const auto name : existing) service.volumes.emplace(name, testing::sample_volume(std::string(name)));
    const std::string body(input.rest());
    // Of a store that does not answer any volume may be there.
    const std::string asked = name_asked(body);
    if (fails) service.failures["get"] = error{errc::unavailable, "the store does not answer"};
    if (fails && !asked.empty()) service.volumes.emplace(asked, testing::sample_volume(asked));
    const http_response response = docker_volume(service).handle({asks ? "GET" : "POST", target, body});
    if (!response.drop) check_answer(response);
    for (const std::string& call : service.calls()) {
        const std::string name = call.find(' ') == std::string::npos ? "" : call.substr(call.find(' ') + 1);
        if (!name.empty())
            PROPERTY(check_volume_name(name.substr(0, name.find(' '))).has_value(), "the service was told: {}", call);
    }
    const bool get = target == "/VolumeDriver.Get" && !asks;
    if (get && body.empty()) PROPERTY(response.drop, "an empty Get was answered: {}", response.body);
    if (get && !asked.empty() && service.volumes.contains(asked))
        PROPERTY(response.drop || response.status == 200, "dockerd would forget it: {}", response.body);
    return 0;
}
