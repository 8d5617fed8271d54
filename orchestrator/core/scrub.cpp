// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/core/scrub.hpp"

#include <fmt/format.h>

#include "nbd-backend/base/units.hpp"
#include "orchestrator/core/names.hpp"

namespace weft {

volume_record want_scrub(volume_record record) {
    if (record.scrub_wanted == record.scrub_finished) record.scrub_wanted += 1;
    return record;
}

std::optional<scrub_result> scrub_result_of(const volume_record& record,
                                            const std::vector<core::engine_status>& extents) {
    if (record.scrub_wanted == record.scrub_finished || extents.size() != record.extents.size()) return std::nullopt;
    scrub_result sum{record.scrub_wanted, 0, 0, 0, 0};
    for (std::size_t i = 0; i < extents.size(); ++i) {
        const auto& scrub = extents[i].scrub;
        // One that was cut off by a detach or a fence is not running either, but did not see everything.
        if (extents[i].state != core::engine_state::serving || scrub.serial != record.scrub_wanted || scrub.running ||
            scrub.done_bytes != record.extents[i].size_bytes)
            return std::nullopt;
        sum.compared_bytes += scrub.done_bytes;
        sum.differing_bytes += scrub.differing_bytes;
        sum.repaired_bytes += scrub.repaired_bytes;
        sum.undecided_bytes += scrub.undecided_bytes;
    }
    return sum;
}

result<volume_record> finish_scrub(volume_record record, const node_name& me, std::uint64_t epoch,
                                   const scrub_result& outcome, std::string time) {
    if (record.writer != me || record.epoch != epoch)
        return error{errc::stale_epoch, fmt::format("volume '{}' is at epoch {}; node {} at epoch {} may not say that "
                                                    "its scrub has ended",
                                                    printable(record.name), record.epoch, printable(me.str()), epoch)};
    if (outcome.serial != record.scrub_wanted || record.scrub_finished == record.scrub_wanted)
        return error{errc::conflict,
                     fmt::format("volume '{}': scrub {} ended, but {} is asked for and {} has finished",
                                 printable(record.name), outcome.serial, record.scrub_wanted, record.scrub_finished)};
    record.scrub_finished = outcome.serial;
    record.scrubbed_at = std::move(time);
    record.scrub_report = describe(outcome);
    return record;
}

bool is_scrub_due(const volume_record& record, std::int64_t unix_ms) {
    if (record.scrub_every_s == 0 || record.scrub_wanted != record.scrub_finished) return false;
    const auto last = parse_time(record.scrubbed_at.empty() ? record.created_at : record.scrubbed_at);
    if (last.has_error()) return true;  // its end writes a time that can be read
    return unix_ms >= *last && static_cast<std::uint64_t>(unix_ms - *last) / 1000 >= record.scrub_every_s;
}

std::string describe(const scrub_result& outcome) {
    const std::string compared = render_size(outcome.compared_bytes) + " compared, ";
    if (outcome.differing_bytes == 0) return compared + "no difference";
    std::string text = fmt::format("{}{} differed between replicas or could not be read on one, {} were repaired",
                                   compared, render_size(outcome.differing_bytes), render_size(outcome.repaired_bytes));
    if (outcome.undecided_bytes > 0)
        text += fmt::format("; for {} nothing said which replica was right: check the data there against a backup",
                            render_size(outcome.undecided_bytes));
    return text;
}

severity severity_of(const scrub_result& outcome) {
    if (outcome.undecided_bytes > 0) return severity::error;
    return outcome.differing_bytes > 0 ? severity::warning : severity::info;
}

}  // namespace weft
