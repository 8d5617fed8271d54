// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/daemon/volume_records.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace weft {

namespace {
constexpr int races_max = 64;  // every lost race means that somebody else made progress
}

result<std::optional<versioned<volume_record>>> volume_records::read(const std::string& name) {
    TRY_ASSIGN(const auto entry, store_.get(volume_key(name)));
    if (!entry) return std::optional<versioned<volume_record>>{};
    auto record = decode_volume(entry->value);
    if (record.has_error()) return record.error().within(fmt::format("record of volume {}", name));
    return std::optional<versioned<volume_record>>{{std::move(*record), entry->revision}};
}

result<versioned<volume_record>> volume_records::change(const std::string& name, const volume_id& id,
                                                        const decision& decide) {
    return change(name, id, decide, [](store_commit&) {});
}

result<versioned<volume_record>> volume_records::change(const std::string& name, const volume_id& id,
                                                        const decision& decide, const addition& also) {
    for (int race = 0; race < races_max; ++race) {
        TRY_ASSIGN(const auto held, read(name));
        if (!held || held->record.id != id)
            return error{errc::not_found, fmt::format("no such volume: '{}' (any more)", name)};
        TRY_ASSIGN(auto next, decide(held->record));
        TRY(check(next));
        store_commit change;
        change.expect = {{volume_key(name), held->revision}};
        change.puts = {{volume_key(name), encode(next)}};
        also(change);
        const auto committed = store_.commit(change);
        if (committed.has_value()) {
            for (const auto& put : change.puts) cache_.put(put.key, put.value, *committed);
            return versioned<volume_record>{std::move(next), *committed};
        }
        if (committed.error().code != errc::conflict && committed.error().code != errc::outcome_unknown)
            return committed.error();
    }
    return error{errc::conflict, fmt::format("the record of volume {} changes faster than it can be followed", name)};
}

void bury(const std::vector<replica_record>& replicas, const std::string& volume, store_commit& change) {
    for (const auto& replica : replicas)
        change.puts.push_back(
            {trash_key(replica.id), encode(trash_record{replica.id, replica.drive, replica.node, volume})});
}

result<std::chrono::milliseconds> lease_remaining(store& source, const node_name& node) {
    TRY_ASSIGN(const auto leases, source.leases());
    for (const auto& one : leases)
        if (one.name == node.str()) return std::max(one.remaining, std::chrono::milliseconds{0});
    return std::chrono::milliseconds{0};
}

}  // namespace weft
