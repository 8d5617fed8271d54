// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/core/option_values.hpp"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <utility>

#include "nbd-backend/core/volume_layout.hpp"
#include "orchestrator/core/names.hpp"

namespace weft {

namespace {

constexpr std::array<std::pair<char, std::uint64_t>, 5> duration_units = {
    {{'w', 7 * 86400}, {'d', 86400}, {'h', 3600}, {'m', 60}, {'s', 1}}};

/// One of two words.
result<bool> parse_either(std::string_view option, std::string_view text, std::string_view no, std::string_view yes) {
    if (text == yes) return true;
    if (text == no) return false;
    return bad_option(option, fmt::format("'{}' is neither {} nor {}", printable(text), no, yes));
}

/// A number from 1 to `max`.
result<std::uint32_t> parse_up_to(std::string_view option, std::string_view text, std::uint32_t max) {
    const char* const end = text.data() + text.size();
    std::uint32_t number = 0;
    const auto parsed = std::from_chars(text.data(), end, number);
    if (parsed.ec != std::errc{} || parsed.ptr != end || number < 1 || number > max)
        return bad_option(option, fmt::format("'{}' is not a number from 1 to {}", printable(text), max));
    return number;
}

}  // namespace

error bad_option(std::string_view option, std::string_view problem) {
    return error{errc::invalid_argument, fmt::format("option '{}': {}", option, problem)};
}

result<std::uint32_t> parse_count(std::string_view option, std::string_view text) {
    return parse_up_to(option, text, replicas_max);
}

result<std::uint32_t> parse_stripes(std::string_view text) {
    return parse_up_to("stripes", text, core::stripes_max);
}

result<bool> parse_layout(std::string_view text) {
    return parse_either("layout", text, "striped", "mirrored");
}

result<bool> parse_provisioning(std::string_view text) {
    return parse_either("provisioning", text, "thin", "thick");
}

result<bool> parse_checksums(std::string_view text) {
    return parse_either("checksums", text, "off", "on");
}

result<bool> parse_encrypt(std::string_view text) {
    return parse_either("encrypt", text, "off", "on");
}

result<core::full_policy> parse_on_full(std::string_view text) {
    TRY_ASSIGN(const bool fail, parse_either("on-full", text, "hold", "fail"));
    return fail ? core::full_policy::fail : core::full_policy::hold;
}

result<std::uint64_t> parse_resync_rate(std::string_view text) {
    const std::string_view size = text.ends_with("/s") ? text.substr(0, text.size() - 2) : text;
    const auto rate = parse_size(size);
    if (rate.has_error())
        return bad_option("resync-rate", fmt::format("'{}' is not a rate: write a size per second, such as 100MiB or "
                                                     "100MiB/s, or 0 for no limit",
                                                     printable(text)));
    if (*rate != 0 && (*rate < resync_rate_min || *rate > resync_rate_max))
        return bad_option("resync-rate",
                          fmt::format("{} is not between {} and {}; 0 is no limit", render_resync_rate(*rate),
                                      render_resync_rate(resync_rate_min), render_resync_rate(resync_rate_max)));
    return *rate;
}

result<std::uint64_t> parse_scrub_every(std::string_view text) {
    if (text == "never") return std::uint64_t{0};
    const auto bad = [&] {
        return bad_option("scrub-every", fmt::format("'{}' is not a time: write never, or a whole number with s, m, h, "
                                                     "d or w, such as 7d or 12h",
                                                     printable(text)));
    };
    std::uint64_t number = 0;
    const char* const end = text.data() + text.size();
    const auto parsed = std::from_chars(text.data(), end, number);
    if (parsed.ec != std::errc{} || end - parsed.ptr != 1) return bad();
    for (const auto& [letter, seconds] : duration_units) {
        if (letter != *parsed.ptr) continue;
        if (number > scrub_every_max_s / seconds || number * seconds < scrub_every_min_s)
            return bad_option("scrub-every", fmt::format("'{}' is not between {} and {}", printable(text),
                                                         render_scrub_every(scrub_every_min_s), "3650d"));
        return number * seconds;
    }
    return bad();
}

std::string render_resync_rate(std::uint64_t bytes_per_second) {
    return bytes_per_second == 0 ? "no limit" : render_size(bytes_per_second) + "/s";
}

std::string render_scrub_every(std::uint64_t seconds) {
    if (seconds == 0) return "never";
    for (const auto& [letter, unit] : duration_units)
        if (seconds % unit == 0) return fmt::format("{}{}", seconds / unit, letter);
    return {};  // not reached: every number is a multiple of 1
}

}  // namespace weft
