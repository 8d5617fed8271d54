// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/daemon/volume_catalog.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "nbd-backend/base/crash_point.hpp"
#include "orchestrator/core/create_options.hpp"
#include "orchestrator/core/growth.hpp"
#include "orchestrator/core/names.hpp"
#include "orchestrator/core/placement.hpp"
#include "orchestrator/core/policy_change.hpp"
#include "orchestrator/core/scrub.hpp"
#include "orchestrator/core/transitions.hpp"
#include "orchestrator/daemon/clock.hpp"
#include "orchestrator/daemon/log.hpp"
#include "orchestrator/io/volume_device.hpp"

namespace weft {

namespace {

constexpr std::chrono::seconds ready_wait{60};  // half of dockerd's patience with a Create (docker-plugin facts, 3.2)
constexpr int races_max = 32;

/// "n1, n3": who has not made its replicas of these extents.
std::string late_nodes(const std::vector<extent_record>& extents) {
    std::string late;
    for (const auto& node : nodes_awaited(extents)) late += fmt::format("{}{}", late.empty() ? "" : ", ", node.str());
    return late;
}

/// ", 4 stripes", for people.
std::string stripes_of(const volume_record& record) {
    if (record.layout.mirrored) return ", mirrored";
    const auto widest = *std::max_element(record.layout.stripes.begin(), record.layout.stripes.end());
    return widest > 1 ? fmt::format(", {} stripes", widest) : std::string();
}

std::vector<pool_drive> pool_of(const cluster_view& view) {
    std::vector<drive_record> drives;
    for (const auto& [id, drive] : view.drives) drives.push_back(drive.record);
    std::vector<volume_record> volumes;
    for (const auto& [other, volume] : view.volumes) volumes.push_back(volume.record);
    return make_pool(drives, volumes);
}

/// The extents of a placement: replicas that are born equal and are to be made.
std::vector<extent_record> new_extents(const std::vector<std::uint64_t>& sizes,
                                       const std::vector<std::vector<placed_replica>>& places) {
    std::vector<extent_record> extents;
    for (std::size_t i = 0; i < places.size(); ++i) {
        extent_record extent{sizes[i], {}};
        for (const auto& place : places[i])
            extent.replicas.push_back({replica_id(make_uuid()), place.node, place.drive, replica_state::up_to_date,
                                       false, true, static_cast<std::uint32_t>(extent.replicas.size())});
        extents.push_back(std::move(extent));
    }
    return extents;
}

/// Two creations that take the same free space must not both be committed: each writes the records of its drives anew,
/// as they were when it decided, so that the other one is refused and decides again.
void claim_drives(const volume_record& record, const cluster_view& view, store_commit& change) {
    std::set<drive_id> claimed;
    for (const auto* extent : all_extents(record))
        for (const auto& replica : extent->replicas) {
            const auto drive = view.drives.find(replica.drive);
            if (drive == view.drives.end() || !claimed.insert(replica.drive).second) continue;
            change.expect.push_back({drive_key(replica.drive), drive->second.revision});
            change.puts.push_back({drive_key(replica.drive), encode(drive->second.record)});
        }
}

}  // namespace

result<volume_record> volume_catalog::draft(const std::string& name, const volume_options& options,
                                            store_commit& change) {
    TRY_ASSIGN(const auto wanted, parse_create_options(options));
    // Said here, not at the first mount: who creates a volume is most often who uses it.
    if (wanted.encrypt) TRY(volume_devices(env_.options).encryption_possible());
    TRY(env_.cache.refresh());  // the newest leases and free space
    const auto view = env_.cache.view();
    placement_request request;
    auto split = split_extents(wanted.size_bytes, env_.options.extent_size_bytes, wanted.stripes, wanted.mirrored);
    request.extent_sizes = std::move(split.sizes);
    request.stripes = std::move(split.stripes);
    request.replicas = wanted.replicas;
    request.local = env_.options.node;
    request.thick = wanted.thick;
    TRY_ASSIGN(const auto places, place_volume(pool_of(*view), living_nodes(*view, monotonic_now()), request));

    volume_record record;
    record.name = name;
    record.id = volume_id(make_uuid());
    record.size_bytes = wanted.size_bytes;
    record.fs = wanted.fs;
    record.fs_uuid = make_uuid();
    record.encrypt = wanted.encrypt;
    if (record.encrypt) record.luks_uuid = make_uuid();
    record.replicas_wanted = wanted.replicas;
    record.min_replicas = wanted.min_replicas;
    record.thick = wanted.thick;
    record.checksums = wanted.checksums;
    record.on_full = wanted.on_full;
    record.resync_rate = wanted.resync_rate;
    record.scrub_every_s = wanted.scrub_every_s;
    record.layout.stripes = request.stripes;
    record.layout.mirrored = wanted.mirrored;
    record.created_at = render_time(unix_now_ms() / 1000 * 1000);
    record.extents = new_extents(request.extent_sizes, places);
    TRY(check(record));
    change.expect = {{volume_key(name), 0}};
    change.puts = {{volume_key(name), encode(record)}};
    if (record.thick) claim_drives(record, *view, change);
    return record;
}

status volume_catalog::create(const std::string& name, const volume_options& options) {
    TRY(check_volume_name(name));
    for (int race = 0; race < races_max; ++race) {
        TRY_ASSIGN(const auto held, env_.records.read(name));
        if (held) return wait_ready(*held);
        store_commit change;
        TRY_ASSIGN(const auto record, draft(name, options, change));
        const auto committed = env_.cluster.commit(change);
        if (committed.has_value()) {
            WEFT_CRASH_POINT("create.recorded");
            for (const auto& put : change.puts) env_.cache.put(put.key, put.value, *committed);
            env_.events.emit(
                severity::info, "volume " + name,
                fmt::format("created: {}, {} {}replicas{}{}", render_size(record.size_bytes), record.replicas_wanted,
                            record.thick ? "thick " : "", stripes_of(record), record.encrypt ? ", encrypted" : ""));
            env_.wake_reconciler();
            return wait_ready({record, *committed});
        }
        if (committed.error().code != errc::conflict && committed.error().code != errc::outcome_unknown)
            return committed.error();
    }
    return error{errc::conflict, fmt::format("volume '{}' comes and goes faster than it can be followed", name)};
}

status volume_catalog::wait_ready(const versioned<volume_record>& known) {
    const volume_record& record = known.record;
    // An existing volume whose replicas are all there is ready whatever else is going on, so the answer is immediate.
    if (record.ready()) return ok();
    const auto deadline = std::chrono::steady_clock::now() + ready_wait;
    bool gone = false;
    const bool ready = env_.cache.wait_until(
        [&](const cluster_view& view) {
            const auto* now = find_volume(view, record.id);
            // A view that is older than what we know of the volume may not have it yet.
            gone = now == nullptr && view.revision >= known.revision;
            return gone || (now != nullptr && now->record.ready());
        },
        deadline);
    if (gone)
        return error{errc::conflict, fmt::format("volume '{}' was removed while it was being created", record.name)};
    if (ready) return ok();
    if (std::chrono::steady_clock::now() < deadline) return error{errc::shutting_down, "weftd is stopping"};

    TRY_ASSIGN(const auto held, env_.records.read(record.name));
    if (!held || held->record.id != record.id)
        return error{errc::conflict, fmt::format("volume '{}' was removed while it was being created", record.name)};
    // Only a creation that did not succeed is undone: what was ever attached may hold data.
    if (held->record.ready() || held->record.epoch > 0) return ok();
    const std::string late = late_nodes(held->record.extents);
    const auto undone = to_trash(held->record, held->revision);
    return error{errc::timed_out,
                 fmt::format("node {} did not make its replica of volume '{}' within {} s; see `weft events`{}", late,
                             record.name, ready_wait.count(),
                             undone.has_error() ? "; removing the volume again failed: " + undone.error().text : "")};
}

status volume_catalog::to_trash(const volume_record& record, std::uint64_t revision) {
    store_commit change;
    change.expect = {{volume_key(record.name), revision}};
    change.erases = {volume_key(record.name)};
    for (const auto* extent : all_extents(record)) bury(extent->replicas, record.name, change);
    TRY_ASSIGN(const auto committed, env_.cluster.commit(change));
    WEFT_CRASH_POINT("remove.recorded");
    env_.cache.erase(volume_key(record.name), committed);
    for (const auto& put : change.puts) env_.cache.put(put.key, put.value, committed);
    env_.wake_reconciler();
    return ok();
}

status volume_catalog::remove(const std::string& name) {
    TRY(check_volume_name(name));
    volume_id removing;
    for (int race = 0; race < races_max; ++race) {
        TRY_ASSIGN(const auto held, env_.records.read(name));
        if (!held || (!removing.empty() && held->record.id != removing)) {
            // Gone after a commit whose outcome we do not know, or removed by somebody else at the same time.
            if (!removing.empty()) return ok();
            return error{errc::not_found, fmt::format("no such volume: '{}'", name)};
        }
        removing = held->record.id;
        const auto& record = held->record;
        TRY(env_.keeper.make_idle(record));
        WEFT_CRASH_POINT("remove.idle");
        TRY_ASSIGN(const auto now, env_.records.read(name));
        if (!now || now->record.id != removing) continue;
        auto liveness = writer_liveness::expired;
        if (!now->record.writer.empty()) {
            TRY_ASSIGN(const auto left, lease_remaining(env_.cluster, now->record.writer));
            if (left.count() > 0) liveness = writer_liveness::alive;
        }
        TRY(may_remove(now->record, liveness));
        const auto done = to_trash(now->record, now->revision);
        if (done.has_value()) {
            env_.events.emit(severity::info, "volume " + name, "removed");
            return ok();
        }
        if (done.error().code != errc::conflict && done.error().code != errc::outcome_unknown) return done;
    }
    return error{errc::conflict, fmt::format("the record of volume '{}' changes faster than it can be followed", name)};
}

result<volume_record> volume_catalog::draft_growth(const volume_record& record, const extent_split& split,
                                                   const cluster_view& view) {
    placement_request request;
    request.extent_sizes = split.sizes;
    request.stripes = split.stripes;
    request.replicas = record.replicas_wanted;
    request.local = record.writer.empty() ? env_.options.node : record.writer;
    request.thick = record.thick;
    TRY_ASSIGN(const auto places, place_volume(pool_of(view), living_nodes(view, monotonic_now()), request));
    return begin_growth(record, record.size_bytes, {split.stripes, new_extents(split.sizes, places)});
}

result<volume_record> volume_catalog::grow(const std::string& name, const std::string& size) {
    TRY(check_volume_name(name));
    const auto bytes = parse_size(size);
    if (bytes.has_error())
        return error{errc::invalid_argument,
                     fmt::format("'{}' is not a size: write a whole number of bytes or with a suffix, such as 20GiB",
                                 printable(size))};
    for (int race = 0; race < races_max; ++race) {
        TRY(env_.cache.refresh());
        const auto view = env_.cache.view();
        TRY_ASSIGN(const auto held, env_.records.read(name));
        if (!held) return error{errc::not_found, fmt::format("no such volume: '{}'", name)};
        TRY_ASSIGN(const auto split, split_growth(held->record, *bytes, env_.options.extent_size_bytes));
        if (split.sizes.empty()) return held->record;
        TRY_ASSIGN(const auto grown, draft_growth(held->record, split, *view));
        TRY(check(grown));
        store_commit change;
        change.expect = {{volume_key(name), held->revision}};
        change.puts = {{volume_key(name), encode(grown)}};
        if (grown.thick) claim_drives(grown, *view, change);
        const auto committed = env_.cluster.commit(change);
        if (committed.has_value()) {
            WEFT_CRASH_POINT("grow.recorded");
            for (const auto& put : change.puts) env_.cache.put(put.key, put.value, *committed);
            env_.wake_reconciler();
            return wait_grown(grown, *committed);
        }
        if (committed.error().code != errc::conflict && committed.error().code != errc::outcome_unknown)
            return committed.error();
    }
    return error{errc::conflict, fmt::format("the record of volume '{}' changes faster than it can be followed", name)};
}

result<volume_record> volume_catalog::wait_grown(const volume_record& growing, std::uint64_t revision) {
    const auto deadline = std::chrono::steady_clock::now() + ready_wait;
    (void)env_.cache.wait_until(
        [&](const cluster_view& view) {
            const auto* now = find_volume(view, growing.id);
            return view.revision >= revision && (now == nullptr || now->record.growth.stripes.empty());
        },
        deadline);
    // Whoever waits no more gives up what is not there; what is there by then has become the volume's.
    std::vector<replica_record> removed;
    std::string late;
    const auto settled = env_.records.change(
        growing.name, growing.id,
        [&](volume_record now) -> result<volume_record> {
            late = late_nodes(now.growth.extents);
            auto given_up = give_up_growth(std::move(now));
            removed = std::move(given_up.removed);
            return std::move(given_up.record);
        },
        [&](store_commit& change) { bury(removed, growing.name, change); });
    if (settled.has_error()) return settled.error();
    env_.wake_reconciler();
    if (!removed.empty())
        return error{errc::timed_out,
                     fmt::format("node {} did not make its new replica of volume '{}' within {} s; the volume is as it "
                                 "was; see `weft events`",
                                 late, growing.name, ready_wait.count())};
    env_.events.emit(
        severity::info, "volume " + growing.name,
        fmt::format("grown from {} to {}", render_size(growing.size_bytes), render_size(settled->record.size_bytes)));
    return settled->record;
}

result<volume_record> volume_catalog::change_existing(const std::string& name, const volume_records::decision& decide) {
    TRY(check_volume_name(name));
    TRY_ASSIGN(const auto held, env_.records.read(name));
    if (!held) return error{errc::not_found, fmt::format("no such volume: '{}'", name)};
    TRY_ASSIGN(auto changed, env_.records.change(name, held->record.id, decide));
    env_.wake_reconciler();
    return std::move(changed.record);
}

result<volume_record> volume_catalog::set_policy(const std::string& name, const volume_options& options) {
    TRY_ASSIGN(const auto change, parse_policy_change(options));
    volume_record before;
    TRY_ASSIGN(auto after, change_existing(name, [&](volume_record record) {
                   before = record;
                   return change_policy(std::move(record), change);
               }));
    if (const std::string told = describe_policy_change(before, after); !told.empty())
        env_.events.emit(severity::info, "volume " + name, told);
    return after;
}

result<volume_record> volume_catalog::scrub(const std::string& name) {
    bool fresh = false;
    TRY_ASSIGN(auto record, change_existing(name, [&](volume_record now) -> result<volume_record> {
                   fresh = now.scrub_wanted == now.scrub_finished;
                   return want_scrub(std::move(now));
               }));
    if (fresh)
        env_.events.emit(severity::info, "volume " + name, fmt::format("scrub {} is asked for", record.scrub_wanted));
    return record;
}

}  // namespace weft
