// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/core/nbd_identity.hpp"

#include <fmt/format.h>

#include <charconv>

#include "orchestrator/core/names.hpp"

namespace weft {

namespace {

error not_ours(std::string_view text, std::string_view why) {
    return {errc::invalid_argument,
            fmt::format("'{}' is not the mark of an nbd device of Weft: {}", printable(text, 200), why)};
}

/// Cuts the text up to the next colon off; npos-safe: without a colon everything.
std::string_view cut_field(std::string_view& text) {
    const auto colon = text.find(':');
    const std::string_view field = text.substr(0, colon);
    text.remove_prefix(colon == std::string_view::npos ? text.size() : colon + 1);
    return field;
}

}  // namespace

result<std::string> nbd_identity_prefix(const std::string& scope, const volume_id& volume) {
    if (auto named = check_node_name(scope); named.has_error()) return named.error().within("nbd device's scope");
    if (volume.empty()) return fmt::format("{}{}:", nbd_identity_mark, scope);
    if (!is_uuid(volume.str())) return not_ours(volume.str(), "its volume id is no UUID");
    return fmt::format("{}{}:{}:", nbd_identity_mark, scope, volume.str());
}

result<std::string> encode_nbd_identity(const nbd_identity& identity) {
    if (!is_uuid(identity.volume.str())) return not_ours(identity.volume.str(), "its volume id is no UUID");
    TRY_ASSIGN(std::string text, nbd_identity_prefix(identity.scope, identity.volume));
    text += std::to_string(identity.extent);
    if (identity.leg.empty()) return text;
    if (!is_uuid(identity.leg.str())) return not_ours(identity.leg.str(), "its replica id is no UUID");
    return text + ":" + identity.leg.str();
}

result<nbd_identity> decode_nbd_identity(std::string_view text) {
    if (!text.starts_with(nbd_identity_mark)) return not_ours(text, "it does not begin with 'weft:'");
    std::string_view rest = text.substr(nbd_identity_mark.size());
    nbd_identity identity;
    identity.scope = cut_field(rest);
    identity.volume = volume_id{std::string(cut_field(rest))};
    const std::string_view extent = cut_field(rest);
    const char* const end = extent.data() + extent.size();
    const auto [stop, failure] = std::from_chars(extent.data(), end, identity.extent);
    identity.leg = replica_id{std::string(rest)};
    if (failure != std::errc{} || stop != end) return not_ours(text, "its extent is no number below 65536");
    TRY_ASSIGN(const std::string again, encode_nbd_identity(identity));
    if (again != text) return not_ours(text, fmt::format("it would be written '{}'", again));
    return identity;
}

}  // namespace weft
