// SPDX-License-Identifier: Apache-2.0
// Reading JSON that strangers send to our sockets: every error is invalid_argument with a text for the sender.
//
// Bounded before it is parsed (request_body_max) and while it is parsed (depth), so that no input costs more than a
// small multiple of its size. Which unknown fields are refused is the caller's business. Pure; any thread.
#pragma once

#include <boost/json.hpp>

#include <cstddef>
#include <initializer_list>
#include <map>
#include <string>
#include <string_view>

#include "nbd-backend/base/result.hpp"

namespace weft::json_input {

inline constexpr std::size_t request_body_max = 1024 * 1024;  // bytes; the longest honest request has some 10 KiB
inline constexpr std::size_t request_depth_max = 32;          // levels; the deepest honest request has 2

/// The body as one JSON object. Empty, cut off, nested too deep, too long, not JSON and not an object have texts of
/// their own.
result<boost::json::object> parse_object(std::string_view body);

/// A string field. Missing, null, empty and of another type are errors that name the field.
result<std::string> required_text(const boost::json::object& object, std::string_view field);

/// true or false; `otherwise` if the field is missing.
result<bool> optional_boolean(const boost::json::object& object, std::string_view field, bool otherwise);

/// An object whose values are all strings; missing and null are an empty map.
result<std::map<std::string, std::string>> optional_text_map(const boost::json::object& object, std::string_view field);

/// Refuses a field that is not in `known`, by name and with the list of the known ones.
status refuse_unknown(const boost::json::object& object, std::initializer_list<std::string_view> known);

}  // namespace weft::json_input
