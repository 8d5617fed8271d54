// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/api/json_input.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "orchestrator/core/names.hpp"

namespace weft::json_input {

namespace json = boost::json;

namespace {

error bad(std::string text) {
    return error{errc::invalid_argument, std::move(text)};
}

std::string_view kind_name(const json::value& value) {
    switch (value.kind()) {
        case json::kind::null: return "null";
        case json::kind::bool_: return "a boolean";
        case json::kind::int64:
        case json::kind::uint64:
        case json::kind::double_: return "a number";
        case json::kind::string: return "a string";
        case json::kind::array: return "an array";
        case json::kind::object: return "an object";
    }
    return "something else";
}

error wrong_kind(std::string_view field, std::string_view wanted, const json::value& value) {
    return bad(fmt::format("field '{}' must be {}, not {}", field, wanted, kind_name(value)));
}

/// The parser says where it stopped only through its return value, not in the error code.
error parse_problem(const boost::system::error_code& failed, std::size_t at) {
    if (failed == json::error::incomplete) return bad("the request's JSON is cut off: it ends in the middle");
    if (failed == json::error::too_deep)
        return bad(fmt::format("the request's JSON is nested deeper than {} levels", request_depth_max));
    if (failed == json::error::extra_data)
        return bad(fmt::format("the request has something after its JSON object, at byte {}", at));
    return bad(fmt::format("the request is not JSON: {} at byte {}", failed.message(), at));
}

}  // namespace

result<json::object> parse_object(std::string_view body) {
    if (body.empty()) return bad("the request has no body; it must be a JSON object");
    if (body.size() > request_body_max)
        return bad(
            fmt::format("the request's body has {} bytes; at most {} are accepted", body.size(), request_body_max));
    json::parse_options options;
    options.max_depth = request_depth_max;
    json::stream_parser parser({}, options);
    boost::system::error_code failed;
    const std::size_t consumed = parser.write_some(body.data(), body.size(), failed);
    std::size_t at = consumed;
    if (!failed && consumed < body.size()) failed = json::error::extra_data;
    if (!failed) parser.finish(failed);
    if (failed) return parse_problem(failed, at);
    json::value value = parser.release();
    if (!value.is_object()) return bad(fmt::format("the request must be a JSON object, not {}", kind_name(value)));
    return std::move(value.as_object());
}

result<std::string> required_text(const json::object& object, std::string_view field) {
    const json::value* value = object.if_contains(field);
    if (value == nullptr || value->is_null()) return bad(fmt::format("field '{}' is missing", field));
    if (!value->is_string()) return wrong_kind(field, "a string", *value);
    if (value->as_string().empty()) return bad(fmt::format("field '{}' must not be empty", field));
    return std::string(value->as_string());
}

result<bool> optional_boolean(const json::object& object, std::string_view field, bool otherwise) {
    const json::value* value = object.if_contains(field);
    if (value == nullptr) return otherwise;
    if (!value->is_bool()) return wrong_kind(field, "true or false", *value);
    return value->as_bool();
}

result<std::map<std::string, std::string>> optional_text_map(const json::object& object, std::string_view field) {
    std::map<std::string, std::string> map;
    const json::value* value = object.if_contains(field);
    if (value == nullptr || value->is_null()) return map;
    if (!value->is_object()) return wrong_kind(field, "an object of strings", *value);
    for (const auto& [key, entry] : value->as_object()) {
        if (!entry.is_string())
            return bad(fmt::format("option '{}' in '{}' must be a string, not {}", printable(std::string_view(key)),
                                   field, kind_name(entry)));
        map.emplace(std::string(key), std::string(entry.as_string()));
    }
    return map;
}

status refuse_unknown(const json::object& object, std::initializer_list<std::string_view> known) {
    for (const auto& [key, value] : object) {
        if (std::find(known.begin(), known.end(), std::string_view(key)) != known.end()) continue;
        const std::string list = known.size() == 0 ? "none" : fmt::format("{}", fmt::join(known, ", "));
        return bad(fmt::format("unknown field '{}'; the known ones are: {}", printable(std::string_view(key)), list));
    }
    return ok();
}

}  // namespace weft::json_input
