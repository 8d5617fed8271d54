// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/core/json_fields.hpp"

#include <algorithm>

#include "nbd-backend/base/ids.hpp"
#include "orchestrator/core/names.hpp"

namespace weft::json_fields {

namespace json = boost::json;

result<json::object> parse_object(std::string_view text) {
    boost::system::error_code ec;
    json::value value = json::parse(text, ec);
    if (ec) return error{errc::corrupt, "not JSON: " + ec.message() + " in '" + printable(text) + "'"};
    if (!value.is_object()) return error{errc::corrupt, "not a JSON object: '" + printable(text) + "'"};
    return std::move(value.get_object());
}

status expect_fields(const json::object& object, std::initializer_list<std::string_view> names) {
    for (const auto name : names)
        if (!object.contains(name)) return wrong(name, "is missing");
    for (const auto& member : object) {
        const std::string_view key = member.key();
        if (std::find(names.begin(), names.end(), key) == names.end())
            return wrong(printable(key), "is unknown (written by a newer version of Weft?)");
    }
    return ok();
}

result<std::string> text(const json::object& object, std::string_view field) {
    const auto* value = object.if_contains(field);
    if (value == nullptr || !value->is_string()) return wrong(field, "is not a text");
    return std::string(value->get_string());
}

result<bool> boolean(const json::object& object, std::string_view field) {
    const auto* value = object.if_contains(field);
    if (value == nullptr || !value->is_bool()) return wrong(field, "is neither true nor false");
    return value->get_bool();
}

result<std::int64_t> integer(const json::object& object, std::string_view field) {
    const auto* value = object.if_contains(field);
    if (value == nullptr || !value->is_int64()) return wrong(field, "is not a whole number");
    return value->get_int64();
}

result<const json::array*> array(const json::object& object, std::string_view field) {
    const auto* value = object.if_contains(field);
    if (value == nullptr || !value->is_array()) return wrong(field, "is not a list");
    return &value->get_array();
}

result<const json::object*> object_of(const json::object& object, std::string_view field) {
    const auto* value = object.if_contains(field);
    if (value == nullptr || !value->is_object()) return wrong(field, "is not an object");
    return &value->get_object();
}

result<std::uint64_t> number(const json::object& object, std::string_view field, std::uint64_t max) {
    const auto* value = object.if_contains(field);
    std::uint64_t found = 0;
    if (value != nullptr && value->is_uint64()) {
        found = value->get_uint64();
    } else if (value != nullptr && value->is_int64() && value->get_int64() >= 0) {
        found = static_cast<std::uint64_t>(value->get_int64());
    } else {
        return wrong(field, "is not a whole number >= 0");
    }
    if (found > max) return wrong(field, "is larger than " + std::to_string(max));
    return found;
}

result<std::string> uuid(const json::object& object, std::string_view field) {
    TRY_ASSIGN(std::string found, text(object, field));
    if (!is_uuid(found)) return wrong(field, "is not a lower-case UUID: '" + printable(found) + "'");
    return found;
}

}  // namespace weft::json_fields
