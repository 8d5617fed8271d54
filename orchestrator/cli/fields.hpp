// SPDX-License-Identifier: Apache-2.0
// Lenient reading of the API's answers: a field that is not there (an older weftd) is empty, zero or false. Pure.
#pragma once

#include <boost/json.hpp>

#include <cstdint>
#include <string>
#include <string_view>

namespace weft::cli {

/// The member, or null.
const boost::json::value& member(const boost::json::value& object, std::string_view field);
/// The member's elements; none if it is no array.
const boost::json::array& elements(const boost::json::value& value);
std::string text_of(const boost::json::value& object, std::string_view field);  // unchanged: pass it through clean
std::uint64_t number_of(const boost::json::value& object, std::string_view field);
bool flag_of(const boost::json::value& object, std::string_view field);

}  // namespace weft::cli
