// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/daemon/drive_keeper.hpp"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netdb.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <memory>

#include "nbd-backend/base/crash_point.hpp"
#include "nbd-backend/io/drive_dir.hpp"
#include "nbd-backend/io/replica_dir.hpp"
#include "orchestrator/core/names.hpp"
#include "orchestrator/core/space.hpp"
#include "orchestrator/core/transitions.hpp"
#include "orchestrator/daemon/clock.hpp"
#include "orchestrator/daemon/log.hpp"
#include "orchestrator/io/drive_format.hpp"

namespace weft {

namespace {

constexpr std::chrono::milliseconds pause_min{250};    // before a server that died is started again, doubling …
constexpr std::chrono::milliseconds pause_max{15000};  // … up to this
constexpr std::chrono::seconds settled_after{30};      // a server that lived so long starts again with pause_min
constexpr std::chrono::seconds down_from_pause{1};     // the third failure in a row: the record says that it is down
constexpr std::chrono::seconds up_after{3};            // a server of a drive that is down is believed after this
constexpr std::chrono::seconds stop_grace{5};
constexpr std::chrono::seconds measure_every{30};    // small changes of free space are told so often
constexpr std::uint64_t telling_change_percent = 1;  // larger ones at once
constexpr std::size_t id_prefix_min = 4;             // characters
constexpr int races_max = 32;

std::string subject(const drive_id& id) {
    return "drive " + id.str();
}

/// Could a server listen there now? A bind that fails for any other reason than a busy port is an error of the host.
result<bool> can_bind(const std::string& host, std::uint16_t port) {
    addrinfo hints{};
    hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE;
    hints.ai_socktype = SOCK_STREAM;
    addrinfo* found = nullptr;
    if (const int failed = getaddrinfo(host.c_str(), fmt::format("{}", port).c_str(), &hints, &found); failed != 0)
        return error{errc::invalid_argument, fmt::format("host {}: {}", host, gai_strerror(failed))};
    const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(found, freeaddrinfo);
    const unique_fd probe(socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!probe) return errno_error(errno, "socket");
    const int yes = 1;
    if (setsockopt(probe.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) != 0)
        return errno_error(errno, "setsockopt");
    if (bind(probe.get(), found->ai_addr, found->ai_addrlen) == 0) return true;
    if (errno == EADDRINUSE || errno == EACCES) return false;
    return errno_error(errno, fmt::format("listen on {}", host));
}

bool is_far(std::uint64_t a, std::uint64_t b, std::uint64_t of) {
    const std::uint64_t difference = a > b ? a - b : b - a;
    return difference > of / 100 * telling_change_percent;
}

}  // namespace

void drive_keeper::watch(const drive_id& id, const process_identity& process) {
    {
        const std::lock_guard lock(mutex_);
        auto& state = servers_[id];
        state.process = process;
        state.started_at = monotonic_now();
    }
    const auto token = env_.exits.watch(process, [this, id, process] { on_exit(id, process); });
    const std::lock_guard lock(mutex_);
    servers_[id].token = token;
}

void drive_keeper::pause_after_failure(server_state& state) {
    const auto now = monotonic_now();
    const bool settled = state.process && now - state.started_at > settled_after;
    state.pause = settled || state.pause.count() == 0 ? pause_min : std::min(state.pause * 2, pause_max);
    state.not_before = now + state.pause;
    state.process.reset();
}

void drive_keeper::on_exit(const drive_id& id, const process_identity& process) {
    {
        const std::lock_guard lock(mutex_);
        const auto found = servers_.find(id);
        if (found == servers_.end() || found->second.process != process) return;  // we stopped it
        pause_after_failure(found->second);
    }
    env_.events.emit(severity::error, subject(id), "its replica server exited; it is started again");
    env_.wake_reconciler();
}

void drive_keeper::adopt() {
    const auto present = list_replica_directories(env_.options.runtime_dir);
    if (present.has_error()) {
        log(log_level::warning, "drives", "cannot list the replica servers", {{"error", present.error().text}});
        return;
    }
    for (const auto& id : *present) {
        const auto running = find_replica_server(env_.options.runtime_dir, id);
        if (running.has_error() || !*running) continue;
        watch(id, (*running)->process);
        log(log_level::info, "drives", "adopted a running replica server", {{"drive", id.str()}});
    }
}

void drive_keeper::let_go() {
    std::map<drive_id, server_state> servers;
    {
        const std::lock_guard lock(mutex_);
        servers.swap(servers_);
    }
    for (const auto& [id, state] : servers)
        if (state.token != 0) env_.exits.forget(state.token);
}

bool drive_keeper::serving(const drive_id& id) const {
    const std::lock_guard lock(mutex_);
    const auto found = servers_.find(id);
    return found != servers_.end() && found->second.process.has_value();
}

std::vector<drive_id> drive_keeper::settled() const {
    const auto now = monotonic_now();
    std::vector<drive_id> ids;
    const std::lock_guard lock(mutex_);
    for (const auto& [id, state] : servers_)
        if (state.process || now < state.not_before) ids.push_back(id);
    return ids;
}

std::optional<std::chrono::milliseconds> drive_keeper::next_start() const {
    const auto now = monotonic_now();
    std::optional<std::chrono::milliseconds> shortest;
    const std::lock_guard lock(mutex_);
    for (const auto& [id, state] : servers_) {
        if (state.process || state.not_before <= now) continue;
        const auto left = std::chrono::ceil<std::chrono::milliseconds>(state.not_before - now);
        shortest = std::min(shortest.value_or(left), left);
    }
    return shortest;
}

status drive_keeper::do_start(const drive_record& drive) {
    const std::lock_guard starting(start_mutex_);
    TRY_ASSIGN(const auto running, find_replica_server(env_.options.runtime_dir, drive.id));
    if (running) {
        if (running->host == drive.host && running->port == drive.port && running->drive_directory == drive.path) {
            if (!serving(drive.id)) watch(drive.id, running->process);
            return ok();
        }
        TRY(do_stop(drive.id));  // it serves something else than the record says
    }
    replica_server_config config;
    config.runtime_dir = env_.options.runtime_dir;
    config.plugin = env_.options.replica_plugin();
    config.drive = drive.id;
    config.drive_directory = drive.path;
    config.host = drive.host;
    config.port = drive.port;
    TRY(check_mounted(drive));
    if (drive.is_block()) {
        TRY_ASSIGN(config.boot_id, env_.devices.boot_id(drive.id));
    }
    const auto started = start_replica_server(config);
    if (started.has_error()) {
        const std::lock_guard lock(mutex_);
        pause_after_failure(servers_[drive.id]);
        return started.error().within(
            fmt::format("start the replica server of drive {} ({})", drive.id.str(), drive.path));
    }
    watch(drive.id, *started);
    log(log_level::info, "drives", "replica server started",
        {{"drive", drive.id.str()}, {"listen", fmt::format("{}:{}", drive.host, drive.port)}});
    return ok();
}

status drive_keeper::do_stop(const drive_id& id) {
    std::uint64_t token = 0;
    {
        const std::lock_guard lock(mutex_);
        const auto found = servers_.find(id);
        if (found != servers_.end()) {
            token = found->second.token;
            servers_.erase(found);
        }
    }
    if (token != 0) env_.exits.forget(token);
    return stop_replica_server(env_.options.runtime_dir, id, stop_grace);
}

status drive_keeper::do_create(const create_replica& what) {
    const auto view = env_.cache.view();
    const auto drive = view->drives.find(what.drive);
    if (drive == view->drives.end())
        return error{errc::unavailable, fmt::format("the record of drive {} is not there", what.drive.str())};
    TRY(check_mounted(drive->second.record));
    const auto made = io::create_replica(
        drive->second.record.path,
        {what.replica.id, what.id, what.size_bytes, what.replica.born_equal, what.thick, what.checksums});
    if (made.has_error())
        return made.error().within(fmt::format("create replica {} of volume {} on drive {}", what.replica.id.str(),
                                               what.volume, what.drive.str()));
    WEFT_CRASH_POINT("create.replica-made");
    // Before the record says that it is made, and placement no longer reserves its space, what is free says so.
    if (what.thick) {
        TRY_ASSIGN(const auto space, io::measure_drive(drive->second.record.path));
        TRY(tell_space(what.drive, space));
    }
    const auto told = env_.records.change(
        what.volume, what.id, [&](volume_record record) { return mark_created(std::move(record), what.replica.id); });
    WEFT_CRASH_POINT("create.replica-recorded");
    // Removed meanwhile: its trash, which is planned next, takes the files away again.
    if (told.has_error() && told.error().code != errc::not_found) return told.error();
    return ok();
}

status drive_keeper::do_delete(const delete_replica& what) {
    if (what.drive_known) {
        const auto view = env_.cache.view();
        const auto drive = view->drives.find(what.trash.drive);
        if (drive == view->drives.end()) return ok();  // the next plan knows
        TRY(check_mounted(drive->second.record));
        TRY(io::remove_replica(drive->second.record.path, what.trash.id));
    }
    WEFT_CRASH_POINT("remove.replica-gone");
    store_commit change;
    change.erases = {trash_key(what.trash.id)};
    TRY_ASSIGN(const auto revision, env_.cluster.commit(change));
    WEFT_CRASH_POINT("remove.trash-forgotten");
    env_.cache.erase(trash_key(what.trash.id), revision);
    return ok();
}

bool drive_keeper::is_down(const drive_id& id, bool told) const {
    const std::lock_guard lock(mutex_);
    const auto found = servers_.find(id);
    if (found == servers_.end()) return told;
    const server_state& state = found->second;
    if (!state.process) return told || state.pause >= down_from_pause;
    return told && monotonic_now() - state.started_at < up_after;
}

status drive_keeper::tell_whether_down(const drive_record& drive) {
    const bool down = is_down(drive.id, drive.down);
    if (down == drive.down) return ok();
    TRY(change_record(drive.id, [&](drive_record& record) { record.down = down; }));
    env_.events.emit(
        down ? severity::error : severity::info, subject(drive.id),
        down ? fmt::format("{} is down: its replica server does not stay up; what is on it is replaced after "
                           "the grace period",
                           drive.path)
             : fmt::format("{} is up again", drive.path));
    return ok();
}

status drive_keeper::do_measure(const drive_record& drive) {
    if (!is_measurable(drive)) return ok();
    TRY(tell_whether_down(drive));
    const auto now = monotonic_now();
    std::chrono::nanoseconds last{0};
    {
        const std::lock_guard lock(mutex_);
        last = servers_[drive.id].measured_at;
    }
    TRY_ASSIGN(const auto space, io::measure_drive(drive.path));
    if (drive.is_block() && !env_.devices.is_mounted(drive.id)) return ok();  // it was of what lies below
    drive_record fresh = drive;
    fresh.size_bytes = space.size_bytes;
    fresh.free_bytes = space.free_bytes;
    const bool moved = drive.host != env_.options.host;
    const bool far =
        space.size_bytes != drive.size_bytes || is_far(space.free_bytes, drive.free_bytes, space.size_bytes);
    const bool passed = next_fill_mark(fresh, drive.filled_past) != drive.filled_past;
    const bool due = now - last > measure_every && space.free_bytes != drive.free_bytes;
    if (!moved && !far && !passed && !due) return ok();
    TRY(tell_space(drive.id, space));
    {
        const std::lock_guard lock(mutex_);
        servers_[drive.id].measured_at = now;
    }
    if (moved) TRY(do_stop(drive.id));  // it listens on the old address; the next pass starts it anew
    return ok();
}

status drive_keeper::tell_space(const drive_id& id, const io::drive_space& space) {
    std::uint32_t before = 0;
    TRY_ASSIGN(const auto now, change_record(id, [&](drive_record& record) {
                   before = record.filled_past;
                   record.host = env_.options.host;
                   record.size_bytes = space.size_bytes;
                   record.free_bytes = space.free_bytes;
                   record.filled_past = next_fill_mark(record, before);
               }));
    if (now.filled_past > before) env_.events.emit(severity::warning, subject(id), describe_fill(now));
    if (now.filled_past < before)
        env_.events.emit(severity::info, subject(id),
                         fmt::format("{} is {} % full again: {} of {} are free", now.path, used_percent(now),
                                     render_size(now.free_bytes), render_size(now.size_bytes)));
    return ok();
}

result<drive_record> drive_keeper::change_record(const drive_id& id, const std::function<void(drive_record&)>& edit) {
    for (int race = 0; race < races_max; ++race) {
        TRY_ASSIGN(const auto entry, env_.cluster.get(drive_key(id)));
        if (!entry) return error{errc::not_found, fmt::format("there is no drive {} (any more)", id.str())};
        TRY_ASSIGN(auto record, decode_drive(entry->value));
        edit(record);
        store_commit change;
        change.expect = {{entry->key, entry->revision}};
        change.puts = {{entry->key, encode(record)}};
        const auto committed = env_.cluster.commit(change);
        if (committed.has_value()) {
            env_.cache.put(entry->key, encode(record), *committed);
            return record;
        }
        if (committed.error().code != errc::conflict && committed.error().code != errc::outcome_unknown)
            return committed.error();
    }
    return error{errc::conflict,
                 fmt::format("the record of drive {} changes faster than it can be followed", id.str())};
}

result<std::uint16_t> drive_keeper::free_port(const cluster_view& view) const {
    for (std::uint32_t port = env_.options.port_base; port <= std::numeric_limits<std::uint16_t>::max(); ++port) {
        const bool taken = std::any_of(view.drives.begin(), view.drives.end(), [&](const auto& item) {
            return item.second.record.host == env_.options.host && item.second.record.port == port;
        });
        if (taken) continue;
        TRY_ASSIGN(const bool free, can_bind(env_.options.host, static_cast<std::uint16_t>(port)));
        if (free) return static_cast<std::uint16_t>(port);
    }
    return error{errc::no_space,
                 fmt::format("no port from {} on is free on {}", env_.options.port_base, env_.options.host)};
}

result<drive_record> drive_keeper::record_drive(drive_record drive) {
    for (int race = 0; race < races_max; ++race) {
        TRY(env_.cache.refresh());
        const auto view = env_.cache.view();
        if (const auto known = view->drives.find(drive.id); known != view->drives.end()) {
            const auto& other = known->second.record;
            return error{errc::already_exists, fmt::format("{} is drive {} of node {} already (as {})", drive.path,
                                                           drive.id.str(), other.node.str(), other.path)};
        }
        TRY_ASSIGN(drive.port, free_port(*view));
        store_commit change;
        change.expect = {{drive_key(drive.id), 0}};
        change.puts = {{drive_key(drive.id), encode(drive)}};
        const auto committed = env_.cluster.commit(change);
        if (committed.has_value()) {
            env_.cache.put(drive_key(drive.id), encode(drive), *committed);
            return drive;
        }
        if (committed.error().code != errc::conflict && committed.error().code != errc::outcome_unknown)
            return committed.error();
    }
    return error{errc::conflict, "the drive's record changes faster than it can be followed"};
}

/// A drive that was forgotten with its node may hold the only copy of something: nobody but an operator may throw that
/// away, and replicas that no record knows would take space for ever.
status drive_keeper::refuse_strangers(const cluster_view& view, const std::string& directory) const {
    TRY_ASSIGN(const auto present, io::list_replicas(directory));
    std::size_t strangers = 0;
    for (const auto& id : present) {
        bool known = view.trash.contains(id);
        for (const auto& [name, volume] : view.volumes)
            for (const auto* extent : all_extents(volume.record))
                for (const auto& one : extent->replicas) known = known || one.id == id;
        if (!known) ++strangers;
    }
    if (strangers == 0) return ok();
    return error{
        errc::busy,
        fmt::format("{} holds {} replica{} that no volume has (it was forgotten with its node, or taken out of the "
                    "pool); if nobody needs them, delete what is in {}/replicas and try again",
                    directory, strangers, strangers == 1 ? "" : "s", directory)};
}

result<drive_record> drive_keeper::add(const std::string& path, const std::string& erase) {
    TRY_ASSIGN(std::string directory, parse_drive_path(path));
    TRY_ASSIGN(const bool is_device, is_block_device(directory));
    if (!is_device && !erase.empty())
        return error{errc::invalid_argument,
                     fmt::format("{} is not a block device: --erase is only for those", directory)};
    TRY(env_.cache.refresh());
    const auto view = env_.cache.view();
    if (!view->cluster)
        return error{errc::unavailable, "the store does not name its cluster yet; try again in a moment"};
    for (const auto& [id, known] : view->drives)
        if (known.record.node == env_.options.node && known.record.path == directory)
            return error{errc::already_exists, fmt::format("{} is drive {} already", directory, id.str())};
    drive_devices::prepared made;
    if (is_device) {
        TRY_ASSIGN(made, env_.devices.prepare(directory, erase, *view, env_.options.node));
        directory = made.directory;
    }
    TRY_ASSIGN(const auto identity,
               io::init_drive(directory, {drive_id(make_uuid()), view->cluster->record.id, env_.options.node}));
    TRY(refuse_strangers(*view, directory));
    TRY_ASSIGN(const auto space, io::measure_drive(directory));
    drive_record drive;
    drive.id = identity.drive;
    drive.node = env_.options.node;
    drive.path = directory;
    drive.host = env_.options.host;
    drive.size_bytes = space.size_bytes;
    drive.free_bytes = space.free_bytes;
    drive.filled_past = next_fill_mark(drive, 0);
    drive.device = made.device;
    TRY_ASSIGN(drive, record_drive(drive));
    if (is_device) {
        WEFT_CRASH_POINT("drive.recorded");
        TRY(env_.devices.forget_claim(made.claim));
    }
    env_.events.emit(severity::info, subject(drive.id),
                     fmt::format("{} was added to the pool", is_device ? drive.device.name : directory));
    if (drive.filled_past > 0) env_.events.emit(severity::warning, subject(drive.id), describe_fill(drive));
    if (const auto started = do_start(drive); started.has_error())
        env_.events.emit(severity::error, subject(drive.id), started.error().text);
    env_.wake_reconciler();
    return drive;
}

result<drive_id> drive_keeper::resolve(const cluster_view& view, const std::string& id_or_path) const {
    std::vector<drive_id> fitting;
    for (const auto& [id, drive] : view.drives) {
        if (id.str() == id_or_path) return id;
        const bool prefix = id_or_path.size() >= id_prefix_min && id.str().starts_with(id_or_path);
        const bool path = drive.record.node == env_.options.node &&
                          (drive.record.path == id_or_path || drive.record.device.name == id_or_path);
        if (prefix || path) fitting.push_back(id);
    }
    if (fitting.size() == 1) return fitting.front();
    if (fitting.empty())
        return error{errc::not_found,
                     fmt::format("there is no drive '{}': give an id, the first {} characters of one or more, or a "
                                 "path on this node",
                                 printable(id_or_path), id_prefix_min)};
    return error{errc::invalid_argument,
                 fmt::format("'{}' fits {} drives; give more of the id", printable(id_or_path), fitting.size())};
}

error drive_keeper::holds_replicas(const cluster_view& view, const drive_record& drive) const {
    std::string volumes;
    for (const auto& [name, volume] : view.volumes) {
        const auto extents = all_extents(volume.record);
        const bool here = std::any_of(extents.begin(), extents.end(), [&](const extent_record* extent) {
            return std::any_of(extent->replicas.begin(), extent->replicas.end(),
                               [&](const replica_record& replica) { return replica.drive == drive.id; });
        });
        if (here && volumes.size() < 200) volumes += fmt::format("{}{}", volumes.empty() ? "" : ", ", name);
    }
    return error{errc::busy, fmt::format("drive {} ({}) holds {} replicas{}", drive.id.str(), drive.path,
                                         replicas_on(view, drive.id),
                                         volumes.empty() ? " that are being deleted" : " of the volumes " + volumes)};
}

status drive_keeper::remove(const std::string& id_or_path) {
    TRY(env_.cache.refresh());
    TRY_ASSIGN(const auto id, resolve(*env_.cache.view(), id_or_path));
    drive_record drive = env_.cache.view()->drives.at(id).record;
    if (drive.node != env_.options.node)
        return error{errc::busy,
                     fmt::format("drive {} belongs to node {}: remove it there", id.str(), drive.node.str())};
    if (replicas_on(*env_.cache.view(), id) > 0) return holds_replicas(*env_.cache.view(), drive);
    // First nothing new may be placed on it, then it is looked at again: somebody may have placed something meanwhile.
    const bool was_draining = drive.draining;
    TRY_ASSIGN(drive, change_record(id, [](drive_record& record) { record.draining = true; }));
    TRY(env_.cache.refresh());
    const auto view = env_.cache.view();
    if (replicas_on(*view, id) > 0) {
        TRY(change_record(id, [&](drive_record& record) { record.draining = was_draining; }));
        return holds_replicas(*view, drive);
    }
    store_commit change;
    change.erases = {drive_key(id)};
    TRY_ASSIGN(const auto revision, env_.cluster.commit(change));
    env_.cache.erase(drive_key(id), revision);
    if (drive.is_block()) WEFT_CRASH_POINT("drive.unrecorded");
    TRY(do_stop(id));
    // The directory is nobody's any more, unless something is in it that no record knew.
    const auto left = io::list_replicas(drive.path);
    if (left.has_value() && left->empty()) TRY(remove_file(std::filesystem::path(drive.path) / "weft.json"));
    env_.events.emit(severity::info, subject(id),
                     fmt::format("{} was removed from the pool", drive.is_block() ? drive.device.name : drive.path));
    return drive.is_block() ? unmount_removed(id) : ok();
}

}  // namespace weft
