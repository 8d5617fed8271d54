// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/core/cluster_view.hpp"

#include <boost/json.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace weft {

namespace {

/// Puts a decoded record under its map key, or notes in `bad` why that is not possible.
template <typename Map, typename Record, typename Key>
void keep(cluster_view& view, Map& map, std::string_view key, result<Record> decoded, Key key_of,
          std::uint64_t revision) {
    if (decoded.has_error()) {
        view.bad[std::string(key)] = decoded.error().text;
        return;
    }
    view.bad.erase(std::string(key));
    auto id = key_of(*decoded);
    map[std::move(id)] = {std::move(*decoded), revision};
}

std::optional<std::string> after(std::string_view key, std::string_view prefix) {
    if (!key.starts_with(prefix)) return std::nullopt;
    return std::string(key.substr(prefix.size()));
}

/// A record whose own id is not the one in its key would be found under one name and committed under another.
template <typename Record, typename Id>
result<Record> matching(result<Record> decoded, const Id& of_record, std::string_view of_key) {
    if (decoded.has_error() || of_record(*decoded) == of_key) return decoded;
    return error{errc::corrupt, fmt::format("the record calls itself '{}'", of_record(*decoded))};
}

}  // namespace

void put_entry(cluster_view& view, std::string_view key, std::string_view value, std::uint64_t revision) {
    erase_entry(view, key);
    if (const auto name = after(key, "volumes/")) {
        keep(
            view, view.volumes, key,
            matching(
                decode_volume(value), [](const volume_record& r) { return r.name; }, *name),
            [](const volume_record& r) { return r.name; }, revision);
    } else if (const auto node = after(key, "nodes/")) {
        keep(
            view, view.nodes, key,
            matching(
                decode_node(value), [](const node_record& r) { return r.name.str(); }, *node),
            [](const node_record& r) { return r.name; }, revision);
    } else if (const auto drive = after(key, "drives/")) {
        keep(
            view, view.drives, key,
            matching(
                decode_drive(value), [](const drive_record& r) { return r.id.str(); }, *drive),
            [](const drive_record& r) { return r.id; }, revision);
    } else if (const auto trash = after(key, "trash/")) {
        keep(
            view, view.trash, key,
            matching(
                decode_trash(value), [](const trash_record& r) { return r.id.str(); }, *trash),
            [](const trash_record& r) { return r.id; }, revision);
    } else if (key == "cluster") {
        auto decoded = decode_cluster(value);
        if (decoded.has_error())
            view.bad[std::string(key)] = decoded.error().text;
        else
            view.cluster = versioned<cluster_record>{std::move(*decoded), revision};
    }
}

void erase_entry(cluster_view& view, std::string_view key) {
    view.bad.erase(std::string(key));
    if (const auto name = after(key, "volumes/"))
        view.volumes.erase(*name);
    else if (const auto node = after(key, "nodes/"))
        view.nodes.erase(node_name(*node));
    else if (const auto drive = after(key, "drives/"))
        view.drives.erase(drive_id(*drive));
    else if (const auto trash = after(key, "trash/"))
        view.trash.erase(replica_id(*trash));
    else if (key == "cluster")
        view.cluster.reset();
}

namespace {
template <typename Map, typename Key>
std::uint64_t revision_in(const Map& map, const Key& key) {
    const auto found = map.find(key);
    return found == map.end() ? 0 : found->second.revision;
}
}  // namespace

std::uint64_t entry_revision(const cluster_view& view, std::string_view key) {
    if (const auto name = after(key, "volumes/")) return revision_in(view.volumes, *name);
    if (const auto node = after(key, "nodes/")) return revision_in(view.nodes, node_name(*node));
    if (const auto drive = after(key, "drives/")) return revision_in(view.drives, drive_id(*drive));
    if (const auto trash = after(key, "trash/")) return revision_in(view.trash, replica_id(*trash));
    return key == "cluster" && view.cluster ? view.cluster->revision : 0;
}

const versioned<volume_record>* find_volume(const cluster_view& view, const volume_id& id) {
    for (const auto& [name, volume] : view.volumes)
        if (volume.record.id == id) return &volume;
    return nullptr;
}

std::chrono::milliseconds lease_left(const cluster_view& view, const node_name& node, std::chrono::nanoseconds now) {
    const auto found = view.leases.find(node);
    if (found == view.leases.end()) return std::chrono::milliseconds{0};
    const auto passed = std::chrono::duration_cast<std::chrono::milliseconds>(now - found->second.seen_at);
    return std::max(std::chrono::milliseconds{0}, found->second.remaining - passed);
}

std::set<node_name> living_nodes(const cluster_view& view, std::chrono::nanoseconds now) {
    std::set<node_name> alive;
    for (const auto& [name, lease] : view.leases)
        if (lease_left(view, name, now).count() > 0) alive.insert(name);
    return alive;
}

std::uint64_t replicas_on(const cluster_view& view, const drive_id& drive) {
    std::uint64_t count = 0;
    for (const auto& [name, volume] : view.volumes)
        for (const auto* extent : all_extents(volume.record))
            for (const auto& replica : extent->replicas)
                if (replica.drive == drive) ++count;
    for (const auto& [id, trash] : view.trash)
        if (trash.record.drive == drive) ++count;
    return count;
}

namespace {

template <typename Map, typename KeyOf>
void append(boost::json::array& entries, const Map& map, KeyOf key_of) {
    for (const auto& [id, held] : map)
        entries.push_back({{"key", key_of(id)}, {"value", encode(held.record)}, {"revision", held.revision}});
}

}  // namespace

std::string encode(const cluster_view& view) {
    boost::json::array entries;
    if (view.cluster)
        entries.push_back(
            {{"key", "cluster"}, {"value", encode(view.cluster->record)}, {"revision", view.cluster->revision}});
    append(entries, view.volumes, [](const std::string& name) { return volume_key(name); });
    append(entries, view.nodes, [](const node_name& name) { return node_key(name); });
    append(entries, view.drives, [](const drive_id& id) { return drive_key(id); });
    append(entries, view.trash, [](const replica_id& id) { return trash_key(id); });
    return boost::json::serialize(boost::json::object{{"version", 1}, {"entries", std::move(entries)}});
}

result<cluster_view> decode_cluster_view(std::string_view json) {
    boost::system::error_code failed;
    const auto parsed = boost::json::parse({json.data(), json.size()}, failed);
    if (failed) return error{errc::corrupt, fmt::format("not JSON: {}", failed.message())};
    const auto* document = parsed.if_object();
    const auto* version = document ? document->if_contains("version") : nullptr;
    const auto* entries = document ? document->if_contains("entries") : nullptr;
    if (!version || !entries || !entries->is_array())
        return error{errc::corrupt, "field 'version' or 'entries' is missing"};
    if (!version->is_int64() || version->get_int64() != 1) return error{errc::corrupt, "field 'version' is not 1"};
    cluster_view view;
    for (const auto& item : entries->get_array()) {
        const auto* entry = item.if_object();
        const auto* key = entry ? entry->if_contains("key") : nullptr;
        const auto* value = entry ? entry->if_contains("value") : nullptr;
        const auto* at = entry ? entry->if_contains("revision") : nullptr;
        if (!key || !value || !at || !key->is_string() || !value->is_string())
            return error{errc::corrupt, "field 'entries' holds something that is not an entry"};
        boost::system::error_code bad_number;
        const auto number = at->to_number<std::uint64_t>(bad_number);
        if (bad_number) return error{errc::corrupt, "field 'revision' of an entry is not a number"};
        put_entry(view, std::string_view(key->get_string()), std::string_view(value->get_string()), number);
        view.revision = std::max(view.revision, number);
    }
    return view;
}

}  // namespace weft
