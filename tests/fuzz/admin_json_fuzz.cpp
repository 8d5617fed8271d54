// SPDX-License-Identifier: Apache-2.0
// What comes over the admin socket: method, target with percent-encoded names and a query, JSON body.
//
// Input: "METHOD TARGET\nBODY".
// Properties: the answer is a JSON object or array with a status of API.md, an error has a code and a text; a name that
// reaches the service keeps the grammar and is what the target says, decoded exactly once (twice would let "%252e" in).
#include <algorithm>
#include <array>
#include <vector>

#include "fake_service.hpp"
#include "orchestrator/api/admin.hpp"
#include "orchestrator/core/names.hpp"
#include "tests/fuzz/fuzz.hpp"

using namespace weft;
namespace json = boost::json;

namespace {

constexpr std::array<unsigned, 11> statuses = {200, 201, 400, 404, 405, 409, 500, 501, 503, 504, 507};

/// The canary folds case: somebody else's volume would go.
http_response handle(service& served, http_request request) {
    if (fuzz::canary)
        for (char& c : request.target) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    return admin(served).handle(request);
}

void check_answer(const http_response& response) {
    PROPERTY(!response.drop, "the admin API hangs up");
    PROPERTY(std::find(statuses.begin(), statuses.end(), response.status) != statuses.end(), "{}", response.status);
    boost::system::error_code bad;
    const json::value body = json::parse(response.body, bad);
    PROPERTY(!bad, "not JSON: {}", response.body);
    if (response.status < 400) return;
    const json::value* problem = body.is_object() ? body.get_object().if_contains("error") : nullptr;
    PROPERTY(problem != nullptr && problem->is_object(), "{} without an error: {}", response.status, response.body);
    const auto text_of = [&](const char* field) {
        const json::value* value = problem->get_object().if_contains(field);
        PROPERTY(value != nullptr && value->is_string(), "no {}: {}", field, response.body);
        return std::string(value->get_string());
    };
    PROPERTY(!text_of("code").empty(), "{}", response.body);
    fuzz::check_error(error{errc::io_failed, text_of("text")}, errc::io_failed);
}

/// The third segment of /v1/volumes/NAME…, decoded once; empty when there is none.
std::string named_by(std::string_view target) {
    target = target.substr(0, target.find('?'));
    for (int i = 0; i < 3; ++i) {
        if (target.find('/') == std::string_view::npos) return {};
        target.remove_prefix(target.find('/') + 1);
    }
    const auto name = percent_decode(target.substr(0, target.find('/')));
    return name.has_value() ? *name : std::string();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    fuzz::feed input(data, size);
    http_request request;
    request.method = input.until(' ');
    request.target = input.until('\n');
    request.body = input.rest();
    testing::fake_service service;
    service.volumes.emplace("db", testing::sample_volume("db"));
    check_answer(handle(service, request));
    for (const std::string& call : service.calls()) {
        fuzz::feed words(reinterpret_cast<const std::uint8_t*>(call.data()), call.size());
        const std::string what(words.until(' '));
        const std::string name(words.until(' '));
        if (what == "create" || what == "get" || what == "remove" || what == "attach" || what == "detach") {
            PROPERTY(check_volume_name(name).has_value(), "the service was told: {}", call);
            const bool in_target = what != "create" && !(what == "get" && request.method == "POST");
            if (in_target) PROPERTY(named_by(request.target) == name, "'{}' became '{}'", request.target, name);
        }
        if (what == "add_drive")
            PROPERTY(parse_drive_path(call.substr(what.size() + 1)).has_value(), "the service was told: {}", call);
    }
    return 0;
}
