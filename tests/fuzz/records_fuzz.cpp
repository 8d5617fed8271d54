// SPDX-License-Identifier: Apache-2.0
// The cluster store's records: volume, drive, node, trash, cluster, event.
//
// Input: a letter that chooses the kind, then JSON.
// Properties: an accepted record encodes to a text that is accepted and encodes to itself, and says what the input
// said; a volume record keeps its invariants through every transition (attach, demote, promote, release) that it
// allows, and no transition leaves an extent that was usable without an up_to_date replica; what is refused is
// `corrupt`.
#include <boost/json.hpp>

#include <algorithm>
#include <type_traits>

#include "orchestrator/core/event_record.hpp"
#include "orchestrator/core/records.hpp"
#include "orchestrator/core/transitions.hpp"
#include "tests/fuzz/fuzz.hpp"

using namespace weft;

namespace {

/// The canary keeps epochs in three bits: after the wrap an old writer would be fenced no more.
result<volume_record> decode_any_volume(std::string_view text) {
    auto record = decode_volume(text);
    if (fuzz::canary && record.has_value()) record->epoch &= 7;
    return record;
}

/// A volume's record of the first Weft knew neither layout nor growth; what it means then is said in its next text.
bool says_all(std::string_view text) {
    const auto object = boost::json::parse(text).get_object();
    return object.contains("stripes") && object.contains("growth");
}

template <typename Record>
void check_codec(std::string_view text, result<Record> (*decode)(std::string_view)) {
    const auto record = decode(text);
    if (record.has_error()) return fuzz::check_error(record.error(), errc::corrupt);
    const std::string once = encode(*record);
    if (!std::is_same_v<Record, volume_record> || says_all(text)) fuzz::check_says_the_same(text, once);
    const auto again = decode(once);
    PROPERTY(again.has_value(), "its own text is refused: {}: {}", again.error().text, once);
    PROPERTY(encode(*again) == once, "{} became {}", once, encode(*again));
}

bool usable(const volume_record& record) {
    return std::all_of(record.extents.begin(), record.extents.end(), [](const extent_record& extent) {
        return std::any_of(extent.replicas.begin(), extent.replicas.end(),
                           [](const replica_record& it) { return it.state == replica_state::up_to_date; });
    });
}

/// What a transition made must be a record that everybody can read.
void check_made(const result<volume_record>& made) {
    if (made.has_error()) {
        PROPERTY(!made.error().text.empty(), "refused without a reason");
        return;
    }
    const auto read = decode_volume(encode(*made));
    PROPERTY(read.has_value(), "a transition made what nobody can read: {}: {}", read.error().text, encode(*made));
}

void check_transitions(const volume_record& record) {
    const node_name me("n1");
    const auto attached = attach(record, me, writer_liveness::expired, false);
    check_made(attached);
    if (attached.has_error()) return;
    PROPERTY(attached->epoch == record.epoch + 1 && usable(*attached), "epoch {}", attached->epoch);
    volume_record now = *attached;
    for (const auto& extent : attached->extents)
        for (const auto& replica : extent.replicas)
            for (const auto to : {replica_state::outdated, replica_state::inconsistent, replica_state::failed}) {
                const auto changed = set_replica_state(now, me, now.epoch, replica.id, to);
                check_made(changed);
                if (changed.has_value()) now = *changed;
                PROPERTY(usable(now), "the last up_to_date replica was demoted: {}", encode(now));
            }
    PROPERTY(release(now, me, now.epoch + 1).has_error(), "released by another epoch");
    check_made(release(now, me, now.epoch));
    check_made(abandon(now, me, now.epoch));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    fuzz::feed input(data, size);
    const char kind = static_cast<char>(input.byte());
    const std::string_view text = input.rest();
    switch (kind) {
        case 'd': check_codec<drive_record>(text, decode_drive); break;
        case 'n': check_codec<node_record>(text, decode_node); break;
        case 't': check_codec<trash_record>(text, decode_trash); break;
        case 'c': check_codec<cluster_record>(text, decode_cluster); break;
        case 'e': check_codec<event_record>(text, decode_event); break;
        default:
            check_codec<volume_record>(text, decode_any_volume);
            if (const auto record = decode_volume(text); record.has_value()) check_transitions(*record);
    }
    return 0;
}
