// SPDX-License-Identifier: Apache-2.0
// The status lines of device-mapper's targets and the UUIDs of its devices: text that the kernel passes on, a device's
// UUID from whoever made it.
//
// An input is "TYPE PARAMS", or "uuid TEXT". Properties: what is refused is corrupt or unsupported, for a UUID also
// not_found; an accepted raid line, written out again, reads the same and its progress stays within 0 and 100; an
// accepted UUID is written exactly as it was read, so that one text names one device.
#include <algorithm>

#include "dm-tables/core/dm_name.hpp"
#include "dm-tables/core/status.hpp"
#include "tests/fuzz/fuzz.hpp"

using namespace weft;
using namespace weft::dm;

namespace {

/// The canary keeps the number of mismatches in a byte.
result<raid_status> parse(std::string_view params) {
    auto status = parse_raid_status(params);
    if (fuzz::canary && status.has_value()) status->mismatches &= 0xffU;
    return status;
}

std::string_view health_word(std::string_view params) {
    for (int i = 0; i < 2; ++i) {
        params.remove_prefix(std::min(params.find_first_not_of(' '), params.size()));
        params.remove_prefix(std::min(params.find(' '), params.size()));
    }
    params.remove_prefix(std::min(params.find_first_not_of(' '), params.size()));
    return params.substr(0, params.find(' '));
}

void check_raid(std::string_view params) {
    const auto status = parse(params);
    if (status.has_error()) return fuzz::check_error(status.error(), errc::corrupt);
    PROPERTY(status->percent() <= 100, "{} percent", status->percent());
    PROPERTY(status->done_sectors <= status->all_sectors, "more than all");
    const std::string_view health = health_word(params);
    PROPERTY(health.size() == status->legs.size(), "{} legs of '{}'", status->legs.size(), health);
    for (std::size_t i = 0; i < health.size(); ++i)
        PROPERTY(static_cast<char>(status->legs[i]) == health[i], "leg {} of '{}'", i, health);
    for (const std::uint64_t number : {status->done_sectors, status->all_sectors, status->mismatches})
        PROPERTY(number == 0 || params.find(std::to_string(number)) != params.npos, "{} in '{}'", number, params);
    const auto again = parse_raid_status(render_status(*status));
    PROPERTY(again.has_value(), "'{}' is refused", render_status(*status));
    PROPERTY(*again == *status, "'{}' became '{}'", params, render_status(*again));
}

void check_uuid(std::string_view text) {
    const auto who = parse_uuid(text);
    if (who.has_error()) {
        const errc code = who.error().code;
        PROPERTY(code == errc::corrupt || code == errc::not_found, "another error");
        return fuzz::check_error(who.error(), code);
    }
    PROPERTY(render_uuid(*who) == text, "'{}' became '{}'", text, render_uuid(*who));
    PROPERTY(text.size() <= dm_uuid_max, "a UUID of {} characters", text.size());
    PROPERTY(render_name(*who, std::string(128, 'n')).size() <= dm_name_max, "a name too long");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    const std::string_view type = text.substr(0, text.find(' '));
    const std::string_view rest = text.substr(std::min(type.size() + 1, text.size()));
    if (type == "uuid") {
        check_uuid(rest);
        return 0;
    }
    if (type == "raid") check_raid(rest);
    const auto status = parse_status(type, rest);
    if (status.has_error()) {
        const errc code = status.error().code;
        PROPERTY(code == errc::corrupt || code == errc::unsupported, "another error");
        fuzz::check_error(status.error(), code);
    }
    return 0;
}
