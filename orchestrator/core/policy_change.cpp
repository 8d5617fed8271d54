// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/core/policy_change.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "orchestrator/core/create_options.hpp"
#include "orchestrator/core/names.hpp"

namespace weft {

namespace {

constexpr std::string_view changeable = "min-replicas, on-full, resync-rate, scrub-every";

status apply(policy_change& change, const std::string& name, const std::string& value) {
    if (name == "min-replicas") {
        TRY_ASSIGN(change.min_replicas, parse_count(name, value));
    } else if (name == "on-full") {
        TRY_ASSIGN(change.on_full, parse_on_full(value));
    } else if (name == "resync-rate") {
        TRY_ASSIGN(change.resync_rate, parse_resync_rate(value));
    } else if (name == "scrub-every") {
        TRY_ASSIGN(change.scrub_every_s, parse_scrub_every(value));
    } else if (is_create_option(name)) {
        return bad_option(
            name, fmt::format("it is decided when a volume is created; what can be changed later: {}", changeable));
    } else {
        return error{errc::invalid_argument,
                     fmt::format("unknown option '{}'; what can be changed: {}", printable(name), changeable)};
    }
    return ok();
}

/// Up-to-date replicas of the extent that has fewest.
std::uint64_t fewest_up_to_date(const volume_record& record) {
    std::uint64_t fewest = record.replicas_wanted;
    for (const auto& extent : record.extents)
        fewest = std::min(fewest, static_cast<std::uint64_t>(std::count_if(
                                      extent.replicas.begin(), extent.replicas.end(), [](const replica_record& one) {
                                          return one.state == replica_state::up_to_date;
                                      })));
    return fewest;
}

}  // namespace

result<policy_change> parse_policy_change(const std::map<std::string, std::string>& options) {
    if (options.empty())
        return error{errc::invalid_argument,
                     fmt::format("nothing to change: write OPTION=VALUE; what can be changed: {}", changeable)};
    policy_change change;
    for (const auto& [name, value] : options) TRY(apply(change, name, value));
    return change;
}

result<volume_record> change_policy(volume_record record, const policy_change& change) {
    const std::uint32_t before = record.min_replicas;
    record.min_replicas = change.min_replicas.value_or(before);
    record.on_full = change.on_full.value_or(record.on_full);
    record.resync_rate = change.resync_rate.value_or(record.resync_rate);
    record.scrub_every_s = change.scrub_every_s.value_or(record.scrub_every_s);
    if (record.min_replicas > record.replicas_wanted)
        return bad_option("min-replicas", fmt::format("{} is more than the volume's replicas ({})", record.min_replicas,
                                                      record.replicas_wanted));
    if (record.layout.mirrored && record.min_replicas > 1)
        return bad_option("min-replicas", "the volume is mirrored by device-mapper, which goes on with one leg");
    if (record.layout.mirrored && record.on_full != core::full_policy::hold)
        return bad_option("on-full", "the volume is mirrored, and can only hold writes that find a drive full");
    const std::uint64_t good = fewest_up_to_date(record);
    if (record.min_replicas > before && good < record.min_replicas)
        return error{errc::no_quorum,
                     fmt::format("option 'min-replicas': {} replicas of volume '{}' are up to date now, with at least "
                                 "{} its writes would wait at once; wait until they are, or repair it first",
                                 good, printable(record.name), record.min_replicas)};
    return record;
}

std::string describe_policy_change(const volume_record& before, const volume_record& after) {
    std::string text;
    const auto tell = [&](std::string_view name, const std::string& now, const std::string& was) {
        if (now != was) text += fmt::format("{}{}: {} (was {})", text.empty() ? "" : ", ", name, now, was);
    };
    tell("min-replicas", fmt::format("{}", after.min_replicas), fmt::format("{}", before.min_replicas));
    tell("on-full", std::string(to_string(after.on_full)), std::string(to_string(before.on_full)));
    // The exact numbers decide, the rounded ones are shown.
    if (after.resync_rate != before.resync_rate)
        text += fmt::format("{}resync-rate: {} (was {})", text.empty() ? "" : ", ",
                            render_resync_rate(after.resync_rate), render_resync_rate(before.resync_rate));
    tell("scrub-every", render_scrub_every(after.scrub_every_s), render_scrub_every(before.scrub_every_s));
    return text;
}

}  // namespace weft
