// SPDX-License-Identifier: Apache-2.0
#include "dm-tables/core/dm_name.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "dm-tables/core/text.hpp"
#include "nbd-backend/base/ids.hpp"
#include "nbd-backend/base/invariant.hpp"

namespace weft::dm {

namespace {

bool is_scope_character(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.';
}

/// Takes `prefix` off the front of `text`.
bool take(std::string_view& text, std::string_view prefix) {
    if (!text.starts_with(prefix)) return false;
    text.remove_prefix(prefix.size());
    return true;
}

/// Takes a number below `end` off the front.
std::optional<unsigned> take_index(std::string_view& text, unsigned end) {
    const std::size_t size = std::min(text.find_first_not_of("0123456789"), text.size());
    const auto number = number_of(text.substr(0, size));
    if (!number || *number >= end) return std::nullopt;
    text.remove_prefix(size);
    return static_cast<unsigned>(*number);
}

std::optional<device_role> parse_role(std::string_view text) {
    if (text == "volume") return device_role{};
    if (!take(text, "s")) return std::nullopt;
    const auto segment = take_index(text, segments_max);
    if (!segment) return std::nullopt;
    if (text.empty()) return device_role{device_role::part::segment, *segment, 0};
    if (!take(text, "-leg")) return std::nullopt;
    const auto leg = take_index(text, legs_max);
    if (!leg) return std::nullopt;
    if (text == "-meta") return device_role{device_role::part::leg_meta, *segment, *leg};
    if (text == "-data") return device_role{device_role::part::leg_data, *segment, *leg};
    return std::nullopt;
}

/// "VOLUME-ROLE".
std::optional<device_identity> parse_unscoped(std::string_view text) {
    if (text.size() <= volume_id_size + 1 || text[volume_id_size] != '-') return std::nullopt;
    const std::string_view id = text.substr(0, volume_id_size);
    const auto role = parse_role(text.substr(volume_id_size + 1));
    if (!is_uuid(id) || !role) return std::nullopt;
    return device_identity{{}, std::string(id), *role};
}

std::string shortened(std::string_view volume_name, std::string_view id) {
    if (volume_name.size() <= shortened_name_max) return std::string(volume_name);
    const std::string digits = std::string(id.substr(0, 8)) + std::string(id.substr(9, 4));
    return fmt::format("{}+{}", volume_name.substr(0, shortened_name_max - 1 - digits.size()), digits);
}

}  // namespace

status check_scope(std::string_view scope) {
    if (scope.size() <= scope_max && std::all_of(scope.begin(), scope.end(), is_scope_character)) return ok();
    return error{errc::invalid_argument,
                 fmt::format("'{}' is not a scope: allowed are at most {} letters, digits, '_' and '.'", shown(scope),
                             scope_max)};
}

std::string render_role(const device_role& role) {
    switch (role.what) {
        case device_role::part::volume: return "volume";
        case device_role::part::segment: return fmt::format("s{}", role.segment);
        case device_role::part::leg_meta: return fmt::format("s{}-leg{}-meta", role.segment, role.leg);
        case device_role::part::leg_data: return fmt::format("s{}-leg{}-data", role.segment, role.leg);
    }
    INVARIANT(false, "a role that is none");
}

std::string render_uuid(const device_identity& who) {
    return fmt::format("{}{}{}{}-{}", uuid_prefix, who.scope, who.scope.empty() ? "" : "-", who.volume_id,
                       render_role(who.role));
}

result<device_identity> parse_uuid(std::string_view uuid) {
    std::string_view text = uuid;
    if (!take(text, uuid_prefix))
        return error{errc::not_found, fmt::format("'{}' does not begin with {}", shown(uuid), uuid_prefix)};
    if (auto plain = parse_unscoped(text)) return *plain;
    const std::size_t dash = text.find('-');
    if (dash != std::string_view::npos && dash > 0) {
        const std::string_view scope = text.substr(0, dash);
        auto scoped = parse_unscoped(text.substr(dash + 1));
        if (scoped && check_scope(scope).has_value()) {
            scoped->scope = scope;
            return *scoped;
        }
    }
    return error{
        errc::corrupt,
        fmt::format("'{}' begins like a UUID of ours, but what follows is no [SCOPE-]VOLUME-ROLE", shown(uuid))};
}

std::string render_name(const device_identity& who, std::string_view volume_name) {
    std::string name = std::string(name_prefix) + shortened(volume_name, who.volume_id);
    if (!who.scope.empty()) name += "@" + who.scope;
    if (who.role.what != device_role::part::volume) name += ":" + render_role(who.role);
    INVARIANT(name.size() <= dm_name_max, "device name '{}' is too long", name);
    return name;
}

std::string node_path(std::string_view dm_name) {
    return fmt::format("/dev/mapper/{}", dm_name);
}

}  // namespace weft::dm
