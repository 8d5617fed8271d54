// SPDX-License-Identifier: Apache-2.0
#include "fake_service.hpp"

#include <fmt/format.h>

namespace weft::testing {

namespace {
const replica_id first_replica{"11111111-1111-4111-8111-111111111111"};
const replica_id second_replica{"22222222-2222-4222-8222-222222222222"};
const drive_id first_drive{"d1d1d1d1-1111-4111-8111-111111111111"};
const drive_id second_drive{"d2d2d2d2-2222-4222-8222-222222222222"};
}  // namespace

volume_view sample_volume(const std::string& name) {
    volume_view view;
    view.record.name = name;
    view.record.id = volume_id{"aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa"};
    view.record.size_bytes = 10 * gib;
    view.record.fs_uuid = "ffffffff-ffff-4fff-8fff-ffffffffffff";
    view.record.formatted = true;
    view.record.epoch = 7;
    view.record.writer = node_name{"n1"};
    view.record.clean = false;
    view.record.created_at = "2026-11-21T04:00:00.000Z";
    extent_record extent;
    extent.size_bytes = 10 * gib;
    extent.replicas.push_back({first_replica, node_name{"n1"}, first_drive, replica_state::up_to_date, true, true});
    extent.replicas.push_back({second_replica, node_name{"n2"}, second_drive, replica_state::up_to_date, true, true});
    view.record.extents.push_back(extent);
    view.record.layout = core::concatenation(1);
    view.mountpoint = "/var/lib/weft/mounts/aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa/data";
    view.health = "healthy";
    view.writer_alive = true;
    core::engine_status engine;
    engine.state = core::engine_state::serving;
    engine.slots.push_back({first_replica, replica_state::up_to_date, true, false, 0, 0});
    engine.slots.push_back({second_replica, replica_state::up_to_date, true, false, 0, 0});
    engine.requests_in_flight = 3;
    engine.longest_hold = std::chrono::milliseconds{1234};
    engine.reads = 1000;
    engine.writes = 2000;
    engine.read_bytes = 4 * mib;
    engine.written_bytes = 8 * mib;
    view.live = engine;
    view.live_extents.push_back(engine);
    return view;
}

volume_view sample_resync(const std::string& name) {
    volume_view view = sample_volume(name);
    view.health = "degraded";
    view.record.extents[0].replicas[1].state = replica_state::inconsistent;
    core::engine_status& engine = view.live_extents[0];
    engine.slots[1] = {second_replica, replica_state::inconsistent, true, true, 42 * gib / 10, 2 * gib};
    view.live = engine;
    return view;
}

std::vector<drive_view> sample_drives() {
    drive_view first{
        {first_drive, node_name{"n1"}, "/srv/weft/disk1", "127.0.0.1", 7480, 100 * gib, 60 * gib, false}, 3, true};
    drive_view second{
        {second_drive, node_name{"n2"}, "/srv/weft/disk1", "127.0.0.2", 7480, 2 * tib, tib, true}, 2, false};
    drive_view third{{drive_id{"d3d3d3d3-3333-4333-8333-333333333333"}, node_name{"n2"}, "/var/lib/weft/drives/d3",
                      "127.0.0.2", 7481, tib, tib, false},
                     0,
                     false};
    third.record.device = {"d3d3d3d3-0000-4333-8333-333333333333", "/dev/sdb", "ST2000NM0055", "ZC20ABCD", tib, false};
    return {first, second, third};
}

std::vector<node_view> sample_nodes() {
    return {{{node_name{"n1"}, "127.0.0.1", "0.1.0"}, true, std::chrono::milliseconds{8200}, 1, 1},
            {{node_name{"n2"}, "127.0.0.2", "0.1.0"}, false, std::chrono::milliseconds{0}, 1, 0}};
}

status_view sample_status() {
    status_view view;
    view.cluster_id = "cccccccc-cccc-4ccc-8ccc-cccccccccccc";
    view.node = "n1";
    view.version = "0.1.0";
    view.nodes = sample_nodes();
    view.volumes = 3;
    view.volumes_degraded = 1;
    view.volumes_attached = 2;
    view.pool_size_bytes = 2 * tib + 100 * gib;
    view.pool_free_bytes = tib + 60 * gib;
    return view;
}

std::vector<event_view> sample_events() {
    return {{"2026-11-21T04:00:00.000Z", "n1", "info", "volume db", "created, 10 GiB with 2 replicas"},
            {"2026-11-21T04:01:00.123Z", "n1", "warning", "volume db", "the replica on n2 is outdated: timed out"},
            {"2026-11-21T04:02:00.456Z", "n2", "error", "drive d2d2d2d2", "bad\x1b[31m text\nin two lines"}};
}

status fake_service::note(const std::string& call, const std::string& arguments) {
    const std::lock_guard lock(mutex_);
    calls_.push_back(arguments.empty() ? call : call + " " + arguments);
    const auto failure = failures.find(call);
    if (failure != failures.end()) return failure->second;
    return ok();
}

status fake_service::create_volume(const std::string& name, const volume_options& options) {
    std::string arguments = name;
    for (const auto& [key, value] : options) arguments += fmt::format(" {}={}", key, value);
    TRY(note("create", arguments));
    const std::lock_guard lock(mutex_);
    volumes.emplace(name, sample_volume(name));
    return ok();
}

status fake_service::remove_volume(const std::string& name) {
    TRY(note("remove", name));
    const std::lock_guard lock(mutex_);
    if (volumes.erase(name) == 0) return error{errc::not_found, fmt::format("no such volume: '{}'", name)};
    return ok();
}

result<std::string> fake_service::mount_volume(const std::string& name, const std::string& mount_id) {
    TRY(note("mount", name + " " + mount_id));
    std::unique_lock lock(mutex_);
    if (holding_) {
        ++held_;
        changed_.notify_all();
        changed_.wait(lock, [this] { return !holding_; });
        --held_;
    }
    return "/mnt/" + name + "/data";
}

void fake_service::mount_answered(const std::string& name, const std::string& mount_id, bool delivered) {
    (void)note(delivered ? "answered" : "unanswered", name + " " + mount_id).has_error();
}

status fake_service::unmount_volume(const std::string& name, const std::string& mount_id) {
    return note("unmount", name + " " + mount_id);
}

result<std::optional<volume_view>> fake_service::get_volume(const std::string& name) {
    TRY(note("get", name));
    const std::lock_guard lock(mutex_);
    const auto found = volumes.find(name);
    return found == volumes.end() ? std::nullopt : std::optional<volume_view>(found->second);
}

result<std::vector<volume_view>> fake_service::list_volumes() {
    TRY(note("list", ""));
    const std::lock_guard lock(mutex_);
    std::vector<volume_view> views;
    for (const auto& [name, view] : volumes) views.push_back(view);
    return views;
}

result<std::optional<volume_view>> fake_service::inspect_volume(const std::string& name) {
    TRY(note("inspect", name));
    const std::lock_guard lock(mutex_);
    const auto found = volumes.find(name);
    if (found == volumes.end()) return std::optional<volume_view>{};
    auto view = found->second;
    view.stack = make_stack(view.record, {});
    return std::optional<volume_view>(std::move(view));
}

void fake_service::docker_activated() {
    (void)note("activated", "").has_error();
}

result<attachment_view> fake_service::attach_volume(const std::string& name, bool force) {
    TRY(note("attach", name + (force ? " force" : "")));
    return attachment_view{"nbd+unix:///volume?socket=/run/weft/volumes/x/nbd.sock", 8};
}

result<restart_view> fake_service::restart_volume(const std::string& name) {
    TRY(note("restart", name));
    return restart_view{name, 9};
}

result<repair_view> fake_service::repair_volume(const std::string& name) {
    TRY(note("repair", name));
    return repair_view{name, {"replica 1 on node n2 is replaced by replica 2 on node n3: node n2 is gone"}};
}

result<repair_view> fake_service::recover_volume(const std::string& name, const std::string& from,
                                                 bool accept_data_loss) {
    TRY(note("recover", name + " " + from + (accept_data_loss ? " accepted" : "")));
    return repair_view{name, {"goes on from replica " + from}};
}

result<repair_view> fake_service::forget_node(const std::string& name, bool force) {
    TRY(note("forget", name + (force ? " force" : "")));
    return repair_view{name, {"forgotten, 1 of its drives left the pool"}};
}

status fake_service::detach_volume(const std::string& name) {
    return note("detach", name);
}

result<volume_view> fake_service::set_volume(const std::string& name, const volume_options& options) {
    std::string arguments = name;
    for (const auto& [key, value] : options) arguments += fmt::format(" {}={}", key, value);
    TRY(note("set", arguments));
    const std::lock_guard lock(mutex_);
    const auto found = volumes.find(name);
    if (found == volumes.end()) return error{errc::not_found, fmt::format("no such volume: '{}'", name)};
    return found->second;
}

result<volume_view> fake_service::scrub_volume(const std::string& name) {
    TRY(note("scrub", name));
    const std::lock_guard lock(mutex_);
    const auto found = volumes.find(name);
    if (found == volumes.end()) return error{errc::not_found, fmt::format("no such volume: '{}'", name)};
    found->second.record.scrub_wanted = found->second.record.scrub_finished + 1;
    return found->second;
}

result<volume_view> fake_service::grow_volume(const std::string& name, const std::string& size) {
    TRY(note("grow", name + " " + size));
    const std::lock_guard lock(mutex_);
    const auto found = volumes.find(name);
    if (found == volumes.end()) return error{errc::not_found, fmt::format("no such volume: '{}'", name)};
    found->second.record.size_bytes *= 2;
    return found->second;
}

result<drive_view> fake_service::add_drive(const std::string& path, const std::string& erase) {
    TRY(note("add_drive", path + (erase.empty() ? "" : " erase " + erase)));
    drive_view view = sample_drives()[0];
    view.record.path = path;
    return view;
}

status fake_service::remove_drive(const std::string& id_or_path) {
    return note("remove_drive", id_or_path);
}

result<std::vector<drive_view>> fake_service::list_drives() {
    TRY(note("drives", ""));
    return sample_drives();
}

result<std::vector<node_view>> fake_service::list_nodes() {
    TRY(note("nodes", ""));
    return sample_nodes();
}

result<status_view> fake_service::cluster_status() {
    TRY(note("status", ""));
    return sample_status();
}

result<std::vector<event_view>> fake_service::list_events(std::size_t newest) {
    TRY(note("events", std::to_string(newest)));
    return sample_events();
}

std::vector<std::string> fake_service::calls() {
    const std::lock_guard lock(mutex_);
    return calls_;
}

void fake_service::hold_mounts() {
    const std::lock_guard lock(mutex_);
    holding_ = true;
}

void fake_service::let_go() {
    const std::lock_guard lock(mutex_);
    holding_ = false;
    changed_.notify_all();
}

void fake_service::await_held(std::size_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return held_ >= count; });
}

}  // namespace weft::testing
