// SPDX-License-Identifier: Apache-2.0
#include "dm-tables/core/status.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "dm-tables/core/text.hpp"
#include "nbd-backend/base/units.hpp"

namespace weft::dm {

namespace {

constexpr std::size_t devices_max = 253;  // dm-raid.c, MAX_RAID_DEVICES; stripes are fewer in practice

constexpr std::array<std::pair<std::string_view, sync_action>, 8> actions = {{
    {"idle", sync_action::idle},
    {"frozen", sync_action::frozen},
    {"resync", sync_action::resync},
    {"recover", sync_action::recover},
    {"check", sync_action::check},
    {"repair", sync_action::repair},
    {"reshape", sync_action::reshape},
    {"undef", sync_action::unknown},
}};

error bad(std::string_view target, std::string_view params, std::string_view problem) {
    return error{errc::corrupt, fmt::format("status of {} '{}': {}", target, shown(params), problem)};
}

std::optional<sync_action> action_of(std::string_view word) {
    for (const auto& [name, action] : actions)
        if (word == name) return action;
    return std::nullopt;
}

/// "done/all", done <= all.
std::optional<std::pair<std::uint64_t, std::uint64_t>> ratio_of(std::string_view word) {
    const std::size_t slash = word.find('/');
    if (slash == std::string_view::npos) return std::nullopt;
    const auto done = number_of(word.substr(0, slash));
    const auto all = number_of(word.substr(slash + 1));
    if (!done || !all || *done > *all) return std::nullopt;
    return std::pair{*done, *all};
}

bool is_device(std::string_view word) {
    return is_device_number(word) || (word.size() > 1 && word[0] == '/');
}

}  // namespace

bool raid_status::healthy() const {
    return action == sync_action::idle && done_sectors == all_sectors &&
           std::all_of(legs.begin(), legs.end(), [](leg_health leg) { return leg == leg_health::in_sync; });
}

unsigned raid_status::percent() const {
    if (done_sectors >= all_sectors) return 100;
    // Both are shifted down first, so that the multiplication cannot overflow.
    const int shift = all_sectors >> 56U != 0 ? 8 : 0;
    return static_cast<unsigned>((done_sectors >> shift) * 100 / (all_sectors >> shift));
}

std::uint64_t raid_status::unequal_sectors() const {
    // Not 0 before the action has come to its end.
    const std::uint64_t left = std::max(all_sectors - done_sectors, block_bytes / sector_bytes);
    if (action == sync_action::frozen) return std::max(all_sectors, left);
    if (action == sync_action::resync || action == sync_action::repair) return left;
    return action == sync_action::idle && done_sectors < all_sectors ? left : 0;
}

std::string_view to_string(sync_action action) {
    for (const auto& [name, value] : actions)
        if (value == action) return name;
    return "undef";
}

result<raid_status> parse_raid_status(std::string_view params) {
    const auto refuse = [params](std::string_view problem) { return bad("raid", params, problem); };
    const auto words = words_of(params);
    if (words.size() < 4) return refuse("it ends before the ratio of what is in sync");
    raid_status status;
    status.type = shown(words[0]);
    if (!words[0].starts_with("raid")) return refuse("it does not begin with a raid type");
    const auto count = number_of(words[1]);
    if (!count || *count == 0 || *count > devices_max) return refuse("the number of devices is none");
    if (words[2].size() != *count) return refuse("the health characters are not one for each device");
    for (const char c : words[2]) {
        if (c != 'A' && c != 'a' && c != 'D' && c != '-') return refuse("a health character is none of A, a, D and -");
        status.legs.push_back(static_cast<leg_health>(c));
    }
    const auto ratio = ratio_of(words[3]);
    if (!ratio) return refuse("the ratio is not DONE/ALL with DONE at most ALL");
    std::tie(status.done_sectors, status.all_sectors) = *ratio;
    if (words.size() == 4) return status;
    const auto action = action_of(words[4]);
    if (!action) return refuse("the sync action is not a known one");
    status.action = *action;
    if (words.size() < 6) return refuse("it ends before the number of mismatches");
    const auto mismatches = number_of(words[5]);
    if (!mismatches) return refuse("the number of mismatches is none");
    status.mismatches = *mismatches;
    if (words.size() > 6 && !number_of(words[6])) return refuse("the data offset is not a number");
    if (words.size() > 7 && words[7] != "-" && words[7] != "A" && words[7] != "a" && words[7] != "D")
        return refuse("the journal's character is none of -, A, a and D");
    return status;
}

result<striped_status> parse_striped_status(std::string_view params) {
    const auto refuse = [params](std::string_view problem) { return bad("striped", params, problem); };
    const auto words = words_of(params);
    if (words.empty()) return refuse("it is empty");
    const auto count = number_of(words[0]);
    if (!count || *count == 0 || *count > words.size()) return refuse("the number of stripes is none");
    const auto stripes = static_cast<std::size_t>(*count);
    if (words.size() < stripes + 3) return refuse("it ends before the health characters");
    for (std::size_t i = 1; i <= stripes; ++i)
        if (!is_device(words[i])) return refuse(fmt::format("word {} is not a device", i + 1));
    if (words[stripes + 1] != "1") return refuse("there is not one group of health characters");
    const std::string_view health = words[stripes + 2];
    if (health.size() != stripes) return refuse("the health characters are not one for each stripe");
    striped_status status;
    for (const char c : health) {
        if (c != 'A' && c != 'D') return refuse("a health character is neither A nor D");
        status.failed.push_back(c == 'D');
    }
    return status;
}

result<target_status> parse_status(std::string_view type, std::string_view params) {
    if (type == "raid") {
        TRY_ASSIGN(raid_status status, parse_raid_status(params));
        return target_status{std::move(status)};
    }
    if (type == "striped") {
        TRY_ASSIGN(striped_status status, parse_striped_status(params));
        return target_status{std::move(status)};
    }
    if (type == "linear" || type == "crypt" || type == "error") {
        if (!words_of(params).empty()) return bad(type, params, "such a target says nothing");
        return target_status{silent_status{}};
    }
    return error{errc::unsupported, fmt::format("status of a target '{}', which Weft does not make", shown(type))};
}

std::string render_status(const raid_status& status) {
    std::string health;
    for (const leg_health leg : status.legs) health += static_cast<char>(leg);
    return fmt::format("{} {} {} {}/{} {} {} 0 -", status.type, status.legs.size(), health, status.done_sectors,
                       status.all_sectors, to_string(status.action), status.mismatches);
}

}  // namespace weft::dm
