// SPDX-License-Identifier: Apache-2.0
// Strong identifiers: a node's name cannot be passed where a replica's id is wanted.
//
// Each is a string validated elsewhere (grammar in orchestrator/core/names.hpp and `is_uuid` below). Values; any
// thread.
#pragma once

#include <compare>
#include <functional>
#include <string>
#include <string_view>
#include <utility>

namespace weft {

template <typename Tag>
class string_id {
public:
    string_id() = default;
    explicit string_id(std::string text) : text_(std::move(text)) {}
    [[nodiscard]] const std::string& str() const noexcept { return text_; }
    [[nodiscard]] bool empty() const noexcept { return text_.empty(); }
    friend auto operator<=>(const string_id&, const string_id&) = default;

private:
    std::string text_;
};

using replica_id = string_id<struct replica_id_tag>;  // UUID, lower case with dashes
using volume_id = string_id<struct volume_id_tag>;    // UUID
using drive_id = string_id<struct drive_id_tag>;      // UUID
using node_name = string_id<struct node_name_tag>;    // as the administrator configured it

/// True for the 36-character lower-case form, e.g. "3f0a2c1e-...": what may become a path component or an export name.
bool is_uuid(std::string_view text) noexcept;

/// A random (version 4) UUID from getrandom(2).
std::string make_uuid();

}  // namespace weft

template <typename Tag>
struct std::hash<weft::string_id<Tag>> {
    std::size_t operator()(const weft::string_id<Tag>& id) const noexcept { return std::hash<std::string>{}(id.str()); }
};
