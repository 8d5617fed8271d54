// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/cli/fields.hpp"

namespace weft::cli {

const boost::json::value& member(const boost::json::value& object, std::string_view field) {
    static const boost::json::value nothing;
    if (!object.is_object()) return nothing;
    const boost::json::value* found = object.get_object().if_contains(field);
    return found == nullptr ? nothing : *found;
}

const boost::json::array& elements(const boost::json::value& value) {
    static const boost::json::array none;
    return value.is_array() ? value.get_array() : none;
}

std::string text_of(const boost::json::value& object, std::string_view field) {
    const auto& found = member(object, field);
    return found.is_string() ? std::string(found.get_string()) : std::string();
}

std::uint64_t number_of(const boost::json::value& object, std::string_view field) {
    const auto& found = member(object, field);
    if (found.is_uint64()) return found.get_uint64();
    return found.is_int64() && found.get_int64() > 0 ? static_cast<std::uint64_t>(found.get_int64()) : 0;
}

bool flag_of(const boost::json::value& object, std::string_view field) {
    const auto& found = member(object, field);
    return found.is_bool() && found.get_bool();
}

}  // namespace weft::cli
