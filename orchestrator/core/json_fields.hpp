// SPDX-License-Identifier: Apache-2.0
// Strict reading of a JSON object's fields: every field must be there, have its type, and no other field may be.
//
// An unknown field is refused rather than ignored: a record that a newer Weft wrote would lose it at the next rewrite.
// Every error is corrupt and names the field. Pure; used while decoding only.
#pragma once

#include <boost/json.hpp>

#include <cstdint>
#include <initializer_list>
#include <limits>
#include <string>
#include <string_view>

#include "nbd-backend/base/result.hpp"

namespace weft::json_fields {

inline error wrong(std::string_view field, std::string_view what) {
    return error{errc::corrupt, "field '" + std::string(field) + "' " + std::string(what)};
}

/// Parses `json`, which must be one object.
result<boost::json::object> parse_object(std::string_view json);

/// The fields of `object` are exactly `names`, in any order.
status expect_fields(const boost::json::object& object, std::initializer_list<std::string_view> names);

result<std::string> text(const boost::json::object& object, std::string_view field);
result<bool> boolean(const boost::json::object& object, std::string_view field);
result<std::int64_t> integer(const boost::json::object& object, std::string_view field);
result<const boost::json::array*> array(const boost::json::object& object, std::string_view field);
result<const boost::json::object*> object_of(const boost::json::object& object, std::string_view field);

/// A whole number, 0 <= x <= max.
result<std::uint64_t> number(const boost::json::object& object, std::string_view field,
                             std::uint64_t max = std::numeric_limits<std::uint64_t>::max());

/// A lower-case UUID.
result<std::string> uuid(const boost::json::object& object, std::string_view field);

}  // namespace weft::json_fields
