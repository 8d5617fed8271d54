// SPDX-License-Identifier: Apache-2.0
#include "nbd-backend/core/export_name.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>

#include "nbd-backend/base/invariant.hpp"

namespace weft::core {

namespace {

constexpr std::string_view no_boot_id = "-";
constexpr std::string_view map_suffix = "/dirty";

/// Decimal without sign or leading zeros.
std::optional<std::uint64_t> parse_number(std::string_view text) {
    if (text.empty() || (text.size() > 1 && text[0] == '0')) return std::nullopt;
    std::uint64_t number = 0;
    const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (problem != std::errc{} || end != text.data() + text.size()) return std::nullopt;
    return number;
}

/// The beginning of a peer's text, fit for a log line.
std::string excerpt(std::string_view text) {
    std::string shown(text.substr(0, 64));
    for (char& c : shown)
        if (c < ' ' || c > '~') c = '?';
    return text.size() > 64 ? shown + "…" : shown;
}

error bad_name(std::string_view text) {
    return error{errc::invalid_argument,
                 fmt::format("'{}' is not the name of an export: expected <replica uuid>/<epoch>/<session>, or "
                             "<replica uuid> for a read-only look, with {} behind it for the bitmap",
                             excerpt(text), map_suffix)};
}

error bad_description(std::string_view field, std::string_view text) {
    return error{errc::corrupt, fmt::format("replica description: {}: '{}'", field, excerpt(text))};
}

/// Takes the next word off the front of `rest`; words are separated by exactly one space.
std::string_view next_word(std::string_view& rest) {
    const auto end = std::min(rest.find(' '), rest.size());
    const std::string_view word = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    return word;
}

/// The value of the next word, which must be `key=value`.
std::optional<std::string_view> next_value(std::string_view& rest, std::string_view key) {
    std::string_view word = next_word(rest);
    if (!word.starts_with(key) || word.size() <= key.size() || word[key.size()] != '=') return std::nullopt;
    return word.substr(key.size() + 1);
}

}  // namespace

result<export_name> parse_export_name(std::string_view text) {
    export_name name;
    name.is_map = text.ends_with(map_suffix);
    const std::string_view path = text.substr(0, text.size() - (name.is_map ? map_suffix.size() : 0));
    const std::string_view id = path.substr(0, path.find('/'));
    if (!is_uuid(id)) return bad_name(text);
    name.replica = replica_id{std::string(id)};
    if (id.size() == path.size()) return name;

    const std::string_view numbers = path.substr(id.size() + 1);
    const auto slash = numbers.find('/');
    if (slash == std::string_view::npos) return bad_name(text);
    const auto epoch = parse_number(numbers.substr(0, slash));
    const auto session = parse_number(numbers.substr(slash + 1));
    if (!epoch || !session || *epoch == 0 || *session == 0) return bad_name(text);
    name.key = fence_key{*epoch, *session};
    return name;
}

std::string render(const export_name& name) {
    INVARIANT(is_uuid(name.replica.str()), "'{}' is not a replica's id", excerpt(name.replica.str()));
    const std::string_view suffix = name.is_map ? map_suffix : std::string_view();
    if (!name.is_writer()) return fmt::format("{}{}", name.replica.str(), suffix);
    INVARIANT(name.key.session != 0, "a writer of epoch {} without a session", name.key.epoch);
    return fmt::format("{}/{}/{}{}", name.replica.str(), name.key.epoch, name.key.session, suffix);
}

bool is_boot_id(std::string_view text) noexcept {
    const auto is_alphanumeric = [](char c) {
        return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    };
    return !text.empty() && text.size() <= boot_id_max && is_alphanumeric(text[0]) &&
           std::all_of(text.begin(), text.end(), [&](char c) { return is_alphanumeric(c) || c == '-'; });
}

result<export_description> parse_export_description(std::string_view text) {
    std::string_view rest = text;
    if (next_word(rest) != "weft-replica") return bad_description("not a Weft replica", text);
    const auto version = next_value(rest, "v");
    if (!version) return bad_description("no version", text);
    if (*version != "1")
        return error{errc::unsupported, fmt::format("replica description: version '{}' is not known here, only 1: {}",
                                                    excerpt(*version), "upgrade this node")};
    export_description description;
    const auto state = next_value(rest, "status");
    if (state != "ok" && state != "fenced") return bad_description("status", text);
    description.fenced = state == "fenced";

    const auto boot = next_value(rest, "boot");
    if (!boot || !is_boot_id(*boot)) return bad_description("boot", text);
    description.boot_id = *boot;

    const auto epoch = parse_number(next_value(rest, "epoch").value_or(""));
    if (!epoch) return bad_description("epoch", text);
    const auto session = parse_number(next_value(rest, "session").value_or(""));
    if (!session) return bad_description("session", text);
    description.current = fence_key{*epoch, *session};

    const auto prior = next_value(rest, "prior");
    if (!prior || (*prior != no_boot_id && !is_boot_id(*prior))) return bad_description("prior", text);
    if (*prior != no_boot_id) description.prior_boot_id = *prior;
    return description;
}

std::string render(const export_description& description) {
    INVARIANT(is_boot_id(description.boot_id), "'{}' is not a boot id", excerpt(description.boot_id));
    return fmt::format("weft-replica v=1 status={} boot={} epoch={} session={} prior={}",
                       description.fenced ? "fenced" : "ok", description.boot_id, description.current.epoch,
                       description.current.session,
                       description.prior_boot_id.empty() ? no_boot_id : std::string_view(description.prior_boot_id));
}

}  // namespace weft::core
