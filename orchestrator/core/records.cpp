// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/core/records.hpp"

#include <boost/json.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <set>

#include "nbd-backend/base/units.hpp"
#include "orchestrator/core/json_fields.hpp"
#include "orchestrator/core/names.hpp"

namespace weft {

namespace json = boost::json;
namespace fields = json_fields;

namespace {

constexpr std::size_t replicas_per_extent_max = 8;  // the engine's slots
constexpr std::uint32_t replicas_wanted_max = 3;

template <typename Integer>
constexpr std::uint64_t max_of = std::numeric_limits<Integer>::max();

/// The text of `field`, refused unless `check` accepts it; its complaint is repeated.
template <typename Check>
result<std::string> checked_text(const json::object& object, std::string_view field, Check check) {
    TRY_ASSIGN(std::string found, fields::text(object, field));
    if (const auto good = check(found); good.has_error()) return fields::wrong(field, "is wrong: " + good.error().text);
    return found;
}

json::object to_json(const replica_record& replica) {
    return {{"id", replica.id.str()},           {"node", replica.node.str()},
            {"drive", replica.drive.str()},     {"state", to_string(replica.state)},
            {"created", replica.created},       {"born_equal", replica.born_equal},
            {"recovering", replica.recovering}, {"leg", replica.leg}};
}

json::object to_json(const extent_record& extent) {
    json::array replicas;
    for (const auto& replica : extent.replicas) replicas.push_back(to_json(replica));
    return {{"size_bytes", extent.size_bytes}, {"replicas", std::move(replicas)}};
}

json::object to_json(const growth_record& growth) {
    json::array extents;
    for (const auto& extent : growth.extents) extents.push_back(to_json(extent));
    return {{"stripes", json::value_from(growth.stripes)}, {"extents", std::move(extents)}};
}

result<replica_record> decode_replica(const json::value& value) {
    if (!value.is_object()) return fields::wrong("replicas", "has an element that is not an object");
    json::object object = value.get_object();
    if (!object.contains("leg")) object["leg"] = 0;  // of a Weft that could not mirror
    TRY(fields::expect_fields(object, {"id", "node", "drive", "state", "created", "born_equal", "recovering", "leg"}));
    replica_record replica;
    TRY_ASSIGN(std::string id, fields::uuid(object, "id"));
    replica.id = replica_id{std::move(id)};
    TRY_ASSIGN(std::string node, checked_text(object, "node", check_node_name));
    replica.node = node_name{std::move(node)};
    TRY_ASSIGN(std::string drive, fields::uuid(object, "drive"));
    replica.drive = drive_id{std::move(drive)};
    TRY_ASSIGN(const std::string state, fields::text(object, "state"));
    TRY_ASSIGN(replica.state, parse_replica_state(state));
    TRY_ASSIGN(replica.created, fields::boolean(object, "created"));
    TRY_ASSIGN(replica.born_equal, fields::boolean(object, "born_equal"));
    TRY_ASSIGN(replica.recovering, fields::boolean(object, "recovering"));
    TRY_ASSIGN(const auto leg, fields::number(object, "leg", replicas_per_extent_max - 1));
    replica.leg = static_cast<std::uint32_t>(leg);
    return replica;
}

result<extent_record> decode_extent(const json::value& value) {
    if (!value.is_object()) return fields::wrong("extents", "has an element that is not an object");
    const auto& object = value.get_object();
    TRY(fields::expect_fields(object, {"size_bytes", "replicas"}));
    extent_record extent;
    TRY_ASSIGN(extent.size_bytes, fields::number(object, "size_bytes"));
    TRY_ASSIGN(const auto* replicas, fields::array(object, "replicas"));
    for (const auto& element : *replicas) {
        TRY_ASSIGN(auto replica, decode_replica(element));
        extent.replicas.push_back(std::move(replica));
    }
    return extent;
}

result<std::vector<std::uint32_t>> decode_stripes(const json::object& object) {
    TRY_ASSIGN(const auto* stripes, fields::array(object, "stripes"));
    std::vector<std::uint32_t> all;
    for (const auto& element : *stripes) {
        if (!element.is_int64() || element.get_int64() < 1 || element.get_int64() > core::stripes_max)
            return fields::wrong("stripes", fmt::format("has an element that is not 1 to {}", core::stripes_max));
        all.push_back(static_cast<std::uint32_t>(element.get_int64()));
    }
    return all;
}

result<std::vector<extent_record>> decode_extents(const json::object& object) {
    TRY_ASSIGN(const auto* extents, fields::array(object, "extents"));
    std::vector<extent_record> all;
    for (const auto& element : *extents) {
        TRY_ASSIGN(auto extent, decode_extent(element));
        all.push_back(std::move(extent));
    }
    return all;
}

result<growth_record> decode_growth(const json::object& within) {
    TRY_ASSIGN(const auto* object, fields::object_of(within, "growth"));
    TRY(fields::expect_fields(*object, {"stripes", "extents"}));
    growth_record growth;
    TRY_ASSIGN(growth.stripes, decode_stripes(*object));
    TRY_ASSIGN(growth.extents, decode_extents(*object));
    return growth;
}

/// The part of decode_volume that concerns the file system and the writer.
status decode_use(const json::object& object, volume_record& record) {
    TRY_ASSIGN(const std::string fs, fields::text(object, "fs"));
    const auto type = parse_fs_type(fs);
    if (type.has_error()) return fields::wrong("fs", "is wrong: " + type.error().text);
    record.fs = *type;
    TRY_ASSIGN(record.fs_uuid, fields::uuid(object, "fs_uuid"));
    TRY_ASSIGN(record.formatted, fields::boolean(object, "formatted"));
    TRY_ASSIGN(record.encrypt, fields::boolean(object, "encrypt"));
    if (record.encrypt) {
        TRY_ASSIGN(record.luks_uuid, fields::uuid(object, "luks_uuid"));
    } else {
        TRY_ASSIGN(record.luks_uuid, fields::text(object, "luks_uuid"));
    }
    TRY_ASSIGN(record.epoch, fields::number(object, "epoch"));
    TRY_ASSIGN(std::string writer, checked_text(object, "writer", [](const std::string& name) {
                   return name.empty() ? ok() : check_node_name(name);
               }));
    record.writer = node_name{std::move(writer)};
    TRY_ASSIGN(record.clean, fields::boolean(object, "clean"));
    TRY_ASSIGN(record.maintenance, fields::boolean(object, "maintenance"));
    return ok();
}

/// The part of decode_volume that says how the volume is to be kept.
status decode_policy(const json::object& object, volume_record& record) {
    TRY_ASSIGN(record.thick, fields::boolean(object, "thick"));
    TRY_ASSIGN(record.checksums, fields::boolean(object, "checksums"));
    TRY_ASSIGN(const std::string on_full, fields::text(object, "on_full"));
    if (on_full != to_string(core::full_policy::hold) && on_full != to_string(core::full_policy::fail))
        return fields::wrong("on_full", "is neither hold nor fail");
    record.on_full = on_full == to_string(core::full_policy::hold) ? core::full_policy::hold : core::full_policy::fail;
    TRY_ASSIGN(record.resync_rate, fields::number(object, "resync_rate"));
    TRY_ASSIGN(record.scrub_every_s, fields::number(object, "scrub_every_s"));
    TRY_ASSIGN(record.scrub_wanted, fields::number(object, "scrub_wanted"));
    TRY_ASSIGN(record.scrub_finished, fields::number(object, "scrub_finished"));
    TRY_ASSIGN(record.scrubbed_at, fields::text(object, "scrubbed_at"));
    TRY_ASSIGN(record.scrub_report, fields::text(object, "scrub_report"));
    return ok();
}

/// A record of a Weft that could not stripe or mirror says nothing of a layout: every extent was a segment by itself,
/// and none was about to come.
json::object with_layout(json::object object) {
    if (!object.contains("growth")) object["growth"] = to_json(growth_record{});
    if (!object.contains("mirrored")) object["mirrored"] = false;
    if (!object.contains("encrypt") && !object.contains("luks_uuid")) {  // nor did it know of encryption
        object["encrypt"] = false;
        object["luks_uuid"] = "";
    }
    if (object.contains("stripes") || object.contains("chunk_bytes")) return object;
    const auto* extents = object.if_contains("extents");
    if (extents == nullptr || !extents->is_array()) return object;
    const std::size_t count = extents->get_array().size();  // an insertion moves the members
    object["chunk_bytes"] = core::chunk_default_bytes;
    object["stripes"] = json::array(count, 1);
    return object;
}

result<volume_record> decode_volume_object(const json::object& stored) {
    const json::object object = with_layout(stored);
    TRY(fields::expect_fields(object, {"name",          "id",           "size_bytes",      "fs",
                                       "fs_uuid",       "formatted",    "replicas_wanted", "min_replicas",
                                       "epoch",         "writer",       "clean",           "maintenance",
                                       "thick",         "checksums",    "on_full",         "resync_rate",
                                       "scrub_every_s", "scrub_wanted", "scrub_finished",  "scrubbed_at",
                                       "scrub_report",  "created_at",   "chunk_bytes",     "stripes",
                                       "extents",       "growth",       "mirrored",        "encrypt",
                                       "luks_uuid"}));
    volume_record record;
    TRY_ASSIGN(record.name, checked_text(object, "name", check_volume_name));
    TRY_ASSIGN(std::string id, fields::uuid(object, "id"));
    record.id = volume_id{std::move(id)};
    TRY_ASSIGN(record.size_bytes, fields::number(object, "size_bytes"));
    TRY_ASSIGN(const auto wanted, fields::number(object, "replicas_wanted", max_of<std::uint32_t>));
    record.replicas_wanted = static_cast<std::uint32_t>(wanted);
    TRY_ASSIGN(const auto min_replicas, fields::number(object, "min_replicas", max_of<std::uint32_t>));
    record.min_replicas = static_cast<std::uint32_t>(min_replicas);
    TRY(decode_use(object, record));
    TRY(decode_policy(object, record));
    TRY_ASSIGN(record.created_at, fields::text(object, "created_at"));
    TRY_ASSIGN(record.layout.chunk_bytes, fields::number(object, "chunk_bytes"));
    TRY_ASSIGN(record.layout.stripes, decode_stripes(object));
    TRY_ASSIGN(record.layout.mirrored, fields::boolean(object, "mirrored"));
    TRY_ASSIGN(record.extents, decode_extents(object));
    TRY_ASSIGN(record.growth, decode_growth(object));
    TRY(check(record));
    return record;
}

json::value to_json(const drive_device& device) {
    if (device.filesystem.empty()) return nullptr;
    return json::object{{"filesystem", device.filesystem}, {"name", device.name},
                        {"model", device.model},           {"serial", device.serial},
                        {"size_bytes", device.size_bytes}, {"missing", device.missing}};
}

result<drive_device> decode_device(const json::object& within) {
    const auto* found = within.if_contains("device");
    if (found == nullptr || found->is_null()) return drive_device{};
    TRY_ASSIGN(const auto* object, fields::object_of(within, "device"));
    TRY(fields::expect_fields(*object, {"filesystem", "name", "model", "serial", "size_bytes", "missing"}));
    drive_device device;
    TRY_ASSIGN(device.filesystem, fields::uuid(*object, "filesystem"));
    TRY_ASSIGN(device.name, checked_text(*object, "name", parse_drive_path));
    TRY_ASSIGN(device.model, fields::text(*object, "model"));
    TRY_ASSIGN(device.serial, fields::text(*object, "serial"));
    TRY_ASSIGN(device.size_bytes, fields::number(*object, "size_bytes"));
    TRY_ASSIGN(device.missing, fields::boolean(*object, "missing"));
    return device;
}

result<drive_record> decode_drive_object(const json::object& stored) {
    json::object object = stored;
    if (!object.contains("device")) object["device"] = nullptr;  // of a Weft that had only directories
    TRY(fields::expect_fields(object, {"id", "node", "path", "host", "port", "size_bytes", "free_bytes", "draining",
                                       "down", "filled_past", "device"}));
    drive_record record;
    TRY_ASSIGN(std::string id, fields::uuid(object, "id"));
    record.id = drive_id{std::move(id)};
    TRY_ASSIGN(std::string node, checked_text(object, "node", check_node_name));
    record.node = node_name{std::move(node)};
    TRY_ASSIGN(record.path, checked_text(object, "path", parse_drive_path));
    TRY_ASSIGN(record.host, checked_text(object, "host", check_host));
    TRY_ASSIGN(const auto port, fields::number(object, "port", max_of<std::uint16_t>));
    record.port = static_cast<std::uint16_t>(port);
    TRY_ASSIGN(record.size_bytes, fields::number(object, "size_bytes"));
    TRY_ASSIGN(record.free_bytes, fields::number(object, "free_bytes"));
    TRY_ASSIGN(record.draining, fields::boolean(object, "draining"));
    TRY_ASSIGN(record.down, fields::boolean(object, "down"));
    TRY_ASSIGN(const auto filled_past, fields::number(object, "filled_past", 100));
    record.filled_past = static_cast<std::uint32_t>(filled_past);
    TRY_ASSIGN(record.device, decode_device(object));
    return record;
}

result<node_record> decode_node_object(const json::object& object) {
    TRY(fields::expect_fields(object, {"name", "host", "version"}));
    node_record record;
    TRY_ASSIGN(std::string name, checked_text(object, "name", check_node_name));
    record.name = node_name{std::move(name)};
    TRY_ASSIGN(record.host, checked_text(object, "host", check_host));
    TRY_ASSIGN(record.version, fields::text(object, "version"));
    return record;
}

result<trash_record> decode_trash_object(const json::object& object) {
    TRY(fields::expect_fields(object, {"id", "drive", "node", "volume"}));
    trash_record record;
    TRY_ASSIGN(std::string id, fields::uuid(object, "id"));
    record.id = replica_id{std::move(id)};
    TRY_ASSIGN(std::string drive, fields::uuid(object, "drive"));
    record.drive = drive_id{std::move(drive)};
    TRY_ASSIGN(std::string node, checked_text(object, "node", check_node_name));
    record.node = node_name{std::move(node)};
    TRY_ASSIGN(record.volume, checked_text(object, "volume", check_volume_name));
    return record;
}

result<cluster_record> decode_cluster_object(const json::object& object) {
    TRY(fields::expect_fields(object, {"id"}));
    cluster_record record;
    TRY_ASSIGN(record.id, fields::uuid(object, "id"));
    return record;
}

/// Parses and decodes; errors say which kind of record it was.
template <typename Record>
result<Record> decode(std::string_view kind, std::string_view text, result<Record> (*from)(const json::object&)) {
    auto object = fields::parse_object(text);
    if (object.has_error()) return object.error().within(kind);
    auto record = from(*object);
    if (record.has_error()) return record.error().within(kind);
    return record;
}

status check_extent(const extent_record& extent, std::size_t index) {
    const auto broken = [&](std::string_view what) {
        return error{errc::corrupt, fmt::format("extent {} {}", index, what)};
    };
    if (extent.size_bytes == 0 || extent.size_bytes % block_bytes != 0)
        return broken(
            fmt::format("has {} bytes, which is not a positive multiple of {}", extent.size_bytes, block_bytes));
    for (const auto& replica : extent.replicas)
        if (replica.recovering && replica.state != replica_state::up_to_date)
            return broken(fmt::format("has a replica that is recovering and {}", to_string(replica.state)));
    if (extent.replicas.empty() || extent.replicas.size() > replicas_per_extent_max)
        return broken(fmt::format("has {} replicas, not 1 to {}", extent.replicas.size(), replicas_per_extent_max));
    std::set<drive_id> drives;
    for (const auto& replica : extent.replicas)
        if (!drives.insert(replica.drive).second)
            return broken(fmt::format("has two replicas on drive {}", printable(replica.drive.str())));
    return ok();
}

/// Of a mirrored volume: each replica has a place of its own in the set.
status check_legs(const extent_record& extent, std::size_t index, std::uint32_t legs) {
    std::set<std::uint32_t> taken;
    for (const auto& replica : extent.replicas)
        if (replica.leg >= legs || !taken.insert(replica.leg).second)
            return error{errc::corrupt, fmt::format("extent {}: leg {} of {} is out of range or taken twice", index,
                                                    replica.leg, legs)};
    return ok();
}

}  // namespace

std::string_view to_string(fs_type fs) noexcept {
    switch (fs) {
        case fs_type::ext4: return "ext4";
        case fs_type::xfs: return "xfs";
    }
    return "unknown";
}

result<fs_type> parse_fs_type(std::string_view text) {
    if (text == "ext4") return fs_type::ext4;
    if (text == "xfs") return fs_type::xfs;
    return error{errc::invalid_argument,
                 fmt::format("'{}' is not a file system that Weft makes: write ext4 or xfs", printable(text))};
}

bool volume_record::ready() const {
    return std::all_of(extents.begin(), extents.end(), [](const extent_record& extent) {
        return std::all_of(extent.replicas.begin(), extent.replicas.end(), [](const replica_record& replica) {
            return replica.created || replica.state != replica_state::up_to_date;
        });
    });
}

std::string encode(const volume_record& record) {
    json::array extents;
    for (const auto& extent : record.extents) extents.push_back(to_json(extent));
    return json::serialize(json::object{{"name", record.name},
                                        {"id", record.id.str()},
                                        {"size_bytes", record.size_bytes},
                                        {"fs", to_string(record.fs)},
                                        {"fs_uuid", record.fs_uuid},
                                        {"formatted", record.formatted},
                                        {"replicas_wanted", record.replicas_wanted},
                                        {"min_replicas", record.min_replicas},
                                        {"encrypt", record.encrypt},
                                        {"luks_uuid", record.luks_uuid},
                                        {"epoch", record.epoch},
                                        {"writer", record.writer.str()},
                                        {"clean", record.clean},
                                        {"maintenance", record.maintenance},
                                        {"thick", record.thick},
                                        {"checksums", record.checksums},
                                        {"on_full", to_string(record.on_full)},
                                        {"resync_rate", record.resync_rate},
                                        {"scrub_every_s", record.scrub_every_s},
                                        {"scrub_wanted", record.scrub_wanted},
                                        {"scrub_finished", record.scrub_finished},
                                        {"scrubbed_at", record.scrubbed_at},
                                        {"scrub_report", record.scrub_report},
                                        {"created_at", record.created_at},
                                        {"chunk_bytes", record.layout.chunk_bytes},
                                        {"stripes", json::value_from(record.layout.stripes)},
                                        {"mirrored", record.layout.mirrored},
                                        {"extents", std::move(extents)},
                                        {"growth", to_json(record.growth)}});
}

std::string encode(const drive_record& record) {
    return json::serialize(json::object{{"id", record.id.str()},
                                        {"node", record.node.str()},
                                        {"path", record.path},
                                        {"host", record.host},
                                        {"port", record.port},
                                        {"size_bytes", record.size_bytes},
                                        {"free_bytes", record.free_bytes},
                                        {"draining", record.draining},
                                        {"down", record.down},
                                        {"filled_past", record.filled_past},
                                        {"device", to_json(record.device)}});
}

std::string encode(const node_record& record) {
    return json::serialize(
        json::object{{"name", record.name.str()}, {"host", record.host}, {"version", record.version}});
}

std::string encode(const trash_record& record) {
    return json::serialize(json::object{{"id", record.id.str()},
                                        {"drive", record.drive.str()},
                                        {"node", record.node.str()},
                                        {"volume", record.volume}});
}

std::string encode(const cluster_record& record) {
    return json::serialize(json::object{{"id", record.id}});
}

result<volume_record> decode_volume(std::string_view text) {
    return decode<volume_record>("volume record", text, decode_volume_object);
}
result<drive_record> decode_drive(std::string_view text) {
    return decode<drive_record>("drive record", text, decode_drive_object);
}
result<node_record> decode_node(std::string_view text) {
    return decode<node_record>("node record", text, decode_node_object);
}
result<trash_record> decode_trash(std::string_view text) {
    return decode<trash_record>("trash record", text, decode_trash_object);
}
result<cluster_record> decode_cluster(std::string_view text) {
    return decode<cluster_record>("cluster record", text, decode_cluster_object);
}

// That an extent has an up_to_date replica is not checked here: a record without one must stay readable, because it is
// what the operator's decision (R12) starts from. The transitions see to it that nothing else leads there.
status check(const volume_record& record) {
    const auto broken = [&](std::string_view what) {
        return error{errc::corrupt, fmt::format("volume '{}': {}", printable(record.name), what)};
    };
    if (record.min_replicas < 1 || record.min_replicas > record.replicas_wanted ||
        record.replicas_wanted > replicas_wanted_max)
        return broken(fmt::format("1 <= min_replicas ({}) <= replicas_wanted ({}) <= {} does not hold",
                                  record.min_replicas, record.replicas_wanted, replicas_wanted_max));
    if (record.layout.mirrored && (record.replicas_wanted < 2 || record.min_replicas > 1))
        return broken(
            fmt::format("it is mirrored, with {} legs and at least {}", record.replicas_wanted, record.min_replicas));
    if (record.layout.mirrored && record.on_full != core::full_policy::hold)
        return broken("it is mirrored, and its writes fail on a full drive");
    if (record.extents.empty()) return broken("it has no extents");
    std::set<replica_id> ids;
    std::vector<std::uint64_t> sizes;
    const auto extents = all_extents(record);
    for (std::size_t i = 0; i < extents.size(); ++i) {
        const auto& extent = *extents[i];
        if (const auto good = check_extent(extent, i); good.has_error()) return broken(good.error().text);
        sizes.push_back(extent.size_bytes);
        if (record.layout.mirrored)
            if (const auto good = check_legs(extent, i, record.replicas_wanted); good.has_error())
                return broken(good.error().text);
        for (const auto& replica : extent.replicas)
            if (!ids.insert(replica.id).second)
                return broken(fmt::format("two replicas have the id {}", printable(replica.id.str())));
    }
    core::volume_layout grown = record.layout;
    grown.stripes.insert(grown.stripes.end(), record.growth.stripes.begin(), record.growth.stripes.end());
    if (const auto fits = core::volume_map::make(grown, sizes); fits.has_error()) return broken(fits.error().text);
    sizes.resize(record.extents.size());
    const auto map = core::volume_map::make(record.layout, sizes);
    if (map.has_error()) return broken(map.error().text);
    if (map->size_bytes() != record.size_bytes)
        return broken(
            fmt::format("its extents have {} bytes together, its size is {}", map->size_bytes(), record.size_bytes));
    if (record.clean && !record.writer.empty())
        return broken(fmt::format("it is called clean while {} writes", printable(record.writer.str())));
    if (record.encrypt == record.luks_uuid.empty())
        return broken("it is encrypted without a LUKS UUID, or has one and is not");
    if (record.maintenance && record.writer.empty()) return broken("it is under maintenance by nobody");
    if (record.scrub_finished > record.scrub_wanted)
        return broken(fmt::format("scrub {} finished, {} was asked for", record.scrub_finished, record.scrub_wanted));
    if (record.epoch == 0 && (!record.writer.empty() || record.formatted || !record.clean))
        return broken("it was never attached (epoch 0) but has a writer, a file system or unclean replicas");
    return ok();
}

std::vector<const extent_record*> all_extents(const volume_record& record) {
    std::vector<const extent_record*> all;
    for (const auto& extent : record.extents) all.push_back(&extent);
    for (const auto& extent : record.growth.extents) all.push_back(&extent);
    return all;
}

std::string volume_key(std::string_view name) {
    return "volumes/" + std::string(name);
}
std::string drive_key(const drive_id& id) {
    return "drives/" + id.str();
}
std::string node_key(const node_name& name) {
    return "nodes/" + name.str();
}
std::string trash_key(const replica_id& id) {
    return "trash/" + id.str();
}

}  // namespace weft
