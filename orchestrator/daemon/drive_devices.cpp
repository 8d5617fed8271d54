// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/daemon/drive_devices.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>

#include "nbd-backend/base/crash_point.hpp"
#include "nbd-backend/io/drive_dir.hpp"
#include "orchestrator/daemon/clock.hpp"
#include "orchestrator/daemon/log.hpp"
#include "orchestrator/io/atomic_file.hpp"
#include "orchestrator/io/drive_format.hpp"
#include "orchestrator/io/drive_mount.hpp"
#include "orchestrator/io/process.hpp"

namespace weft {

namespace fs = std::filesystem;

namespace {

constexpr std::chrono::milliseconds rest_min{500};  // after a mount that failed or did not hold, doubling …
constexpr std::chrono::milliseconds rest_max{60000};
constexpr std::chrono::seconds held_well{60};  // a mount that lasted so long begins again with rest_min
constexpr std::chrono::seconds early{15};      // disks that the kernel finds so long after us are not called missing
constexpr std::size_t mount_name_length = 16;  // of a UUID's hexadecimal digits and dashes; 36 + 1 + this <= 64

bool is_own_block(const drive_record& drive, const node_name& me) {
    return drive.node == me && drive.is_block();
}

}  // namespace

drive_devices::drive_devices(const daemon_options& options) : options_(options), started_at_(monotonic_now()) {}

fs::path drive_devices::mount_point(const drive_id& id) const {
    return options_.state_dir / "drives" / id.str();
}

fs::path drive_devices::claims_directory() const {
    return options_.state_dir / "drive-claims";
}

status drive_devices::watch(std::function<void()> on_change) {
    TRY_ASSIGN(watch_, block_device_watch::start(std::move(on_change)));
    return ok();
}

void drive_devices::stop_watching() {
    watch_.reset();
}

// ---- claims ----

result<std::vector<drive_claim>> drive_devices::read_claims() const {
    std::vector<drive_claim> claims;
    std::error_code problem;
    for (fs::directory_iterator entry{claims_directory(), problem}, end; !problem && entry != end;
         entry.increment(problem)) {
        const std::string name = entry->path().filename().string();
        if (!is_uuid(name)) continue;  // a file that was being written
        TRY_ASSIGN(const auto text, read_file(entry->path()));
        if (!text) continue;
        TRY_ASSIGN(auto claim, decode_claim(name, *text));
        claims.push_back(std::move(claim));
    }
    if (problem && problem != std::errc::no_such_file_or_directory)
        return errno_error(problem.value(), fmt::format("list {}", claims_directory().string()));
    return claims;
}

status drive_devices::write_claim(const drive_claim& claim) const {
    TRY(make_directories(claims_directory()));
    return write_file_atomically(claims_directory() / claim.filesystem, encode(claim));
}

status drive_devices::forget_claim(const drive_claim& claim) {
    return remove_file(claims_directory() / claim.filesystem);
}

// ---- a new drive ----

result<drive_devices::prepared> drive_devices::prepare(const std::string& path, const std::string& erase,
                                                       const cluster_view& view, const node_name& node) {
    const std::lock_guard one(prepare_mutex_);
    TRY_ASSIGN(auto claims, read_claims());
    for (const auto& claim : claims) {
        // Recorded, and killed before it was forgotten; or mounted, and killed before it was recorded.
        const auto known = view.drives.find(claim.drive);
        if (known != view.drives.end() && known->second.record.device.filesystem == claim.filesystem)
            TRY(forget_claim(claim));
        else
            TRY(unmount_drive(mount_point(claim.drive), false));
    }
    drive_claim claim{drive_id{make_uuid()}, make_uuid(), claim_phase::formatting, {}};
    prepared made;
    {
        TRY_ASSIGN(const auto device, locked_device::open(path));
        TRY_ASSIGN(const auto facts, device.inspect(options_.runtime_dir));
        TRY_ASSIGN(const auto resumed, admit_device(facts, erase, claims, view));
        if (resumed) claim = *resumed;
        claim.device = facts.name;
        // What an attempt left that did not reach the device: its mark would have been found.
        for (const auto& old : claims)
            if (!resumed && old.device == facts.name && old.phase == claim_phase::formatting) TRY(forget_claim(old));
        made.device = {claim.filesystem, facts.name, facts.model, facts.serial, facts.size_bytes, false};
        log(log_level::info, "drives", resumed ? "making a drive, again" : "making a drive",
            {{"device", facts.name}, {"drive", claim.drive.str()}, {"holds", describe_content(facts)}});
        if (claim.phase == claim_phase::formatting) {
            TRY(write_claim(claim));
            WEFT_CRASH_POINT("drive.claimed");
            TRY(device.format(claim.filesystem));
            WEFT_CRASH_POINT("drive.formatted");
        }
    }  // unlocked: udevd may look at it now
    TRY(mount_and_name(made.device.name, claim.drive));
    WEFT_CRASH_POINT("drive.mounted");
    made.directory = mount_point(claim.drive).string();
    TRY(io::init_drive(made.directory, {claim.drive, view.cluster->record.id, node}));
    WEFT_CRASH_POINT("drive.identified");
    claim.phase = claim_phase::formatted;
    TRY(write_claim(claim));
    WEFT_CRASH_POINT("drive.made");
    made.claim = claim;
    return made;
}

// ---- mounting ----

status drive_devices::mount_and_name(const std::string& device, const drive_id& id) {
    const fs::path names = options_.runtime_dir / "drive-mounts";
    TRY(make_directories(names));
    TRY(write_file_atomically(names / id.str(), make_uuid()));
    TRY(mount_drive(device, mount_point(id)));
    const std::lock_guard lock(mutex_);
    auto& history = histories_[id];
    history.shut_down = false;
    history.mounted_at = monotonic_now();
    return ok();
}

result<std::string> drive_devices::boot_id(const drive_id& id) const {
    const fs::path names = options_.runtime_dir / "drive-mounts";
    TRY_ASSIGN(auto name, read_file(names / id.str()));
    if (!name || !is_uuid(*name)) {  // mounted by hand, or the runtime directory was emptied: a new life, to be safe
        name = make_uuid();
        TRY(make_directories(names));
        TRY(write_file_atomically(names / id.str(), *name));
    }
    TRY_ASSIGN(const auto kernel, read_boot_id());
    return fmt::format("{}-{}", kernel, name->substr(name->size() - mount_name_length));
}

status drive_devices::check_content(const drive_record& drive, const std::string& device) {
    TRY_ASSIGN(const auto found, io::read_drive(mount_point(drive.id).string()));
    if (found.drive == drive.id) return ok();
    return error{errc::corrupt, fmt::format("{} has the file system of drive {} but calls itself drive {}: nothing on "
                                            "it is used; was it copied?",
                                            device, drive.id.str(), found.drive.str())};
}

result<drive_device> drive_devices::mount(const drive_record& drive, const std::string& device) {
    const auto attempt = [&]() -> status {
        TRY_ASSIGN(const auto filesystem, probe_xfs(device));
        if (filesystem != drive.device.filesystem)
            return error{errc::unavailable, fmt::format("{} has another file system now", device)};
        TRY(mount_and_name(device, drive.id));
        auto checked = check_content(drive, device);
        if (checked.has_error()) TRY(unmount_drive(mount_point(drive.id), true));
        return checked;
    };
    if (auto done = attempt(); done.has_error()) {
        rest(drive.id);
        return done.error().within(fmt::format("mount drive {}", drive.id.str()));
    }
    WEFT_CRASH_POINT("drive-mount.mounted");
    drive_device now = drive.device;
    now.name = device;
    now.missing = false;
    return now;
}

void drive_devices::rest(const drive_id& id) {
    const std::lock_guard lock(mutex_);
    auto& history = histories_[id];
    history.pause = history.pause.count() == 0 ? rest_min : std::min(history.pause * 2, rest_max);
    history.not_before = monotonic_now() + history.pause;
}

status drive_devices::unmount(const drive_id& id, bool lazily) {
    TRY(unmount_drive(mount_point(id), lazily));
    bool again_at_once = true;
    {
        const std::lock_guard lock(mutex_);
        auto& history = histories_[id];
        if (history.shut_down) again_at_once = monotonic_now() - history.mounted_at > held_well;
        if (again_at_once) history.pause = std::chrono::milliseconds{0};
        history.shut_down = false;
    }
    if (!again_at_once) rest(id);
    return ok();
}

bool drive_devices::is_mounted(const drive_id& id) const {
    const auto found = mounted_device(mount_point(id));
    return found.has_value() && *found && device_exists(**found);
}

bool drive_devices::look_for_damage(const drive_id& id) {
    const bool damaged = has_shut_down(mount_point(id));
    const std::lock_guard lock(mutex_);
    histories_[id].shut_down = damaged;
    return damaged;
}

// ---- looking ----

std::vector<std::string> drive_devices::find_devices(const std::vector<block_device>& present,
                                                     const drive_device& wanted) const {
    // Without udevd nobody else has looked: then those of the right size are. Never what Weft itself made, which may
    // hold: so of loop devices, which are under portable attachments, only the one that is known to be the drive's.
    static const bool udevd_runs = ::access("/run/udev/control", F_OK) == 0;
    std::vector<std::string> found;
    for (const auto& one : present) {
        if (one.held || one.of_weft) continue;
        bool fits = one.filesystem == wanted.filesystem;
        const bool safe = one.name == wanted.name || !one.name.starts_with("/dev/loop");
        if (!udevd_runs && safe && one.size_bytes == wanted.size_bytes) {
            const auto probed = probe_xfs(one.name);
            fits = probed.has_value() && *probed == wanted.filesystem;
        }
        if (fits) found.push_back(one.name);
    }
    return found;
}

std::vector<observed_drive> drive_devices::observe(const cluster_view& view) {
    std::vector<observed_drive> all;
    std::optional<std::vector<block_device>> present;
    for (const auto& [id, drive] : view.drives) {
        if (!is_own_block(drive.record, options_.node)) continue;
        observed_drive seen;
        seen.id = id;
        const auto mounted = mounted_device(mount_point(id));
        if (mounted.has_error()) continue;  // nothing is known of it: nothing is done to it
        {
            const std::lock_guard lock(mutex_);
            const auto& history = histories_[id];
            seen.resting = monotonic_now() < history.not_before;
            seen.early = monotonic_now() - started_at_ < early;
            if (*mounted)
                seen.state = !device_exists(**mounted) ? mount_state::orphaned
                             : history.shut_down       ? mount_state::broken
                                                       : mount_state::mounted;
        }
        if (seen.state == mount_state::mounted) {
            if (const auto device = describe_block_device(**mounted); device.has_value())
                seen.devices.push_back(device->name);
        } else if (seen.state == mount_state::unmounted) {
            if (!present) {
                auto listed = list_block_devices();
                if (listed.has_error()) continue;
                present = std::move(*listed);
            }
            seen.devices = find_devices(*present, drive.record.device);
        }
        all.push_back(std::move(seen));
    }
    return all;
}

result<std::vector<drive_id>> drive_devices::strays(const cluster_view& view) {
    std::vector<drive_id> found;
    const std::unique_lock quiet(prepare_mutex_, std::try_to_lock);
    if (!quiet) return found;  // one is in the making
    TRY_ASSIGN(const auto names, list_uuid_directories(options_.state_dir / "drives"));
    for (const auto& name : names) {
        const drive_id id{name};
        const auto known = view.drives.find(id);
        const bool ours = known != view.drives.end() && is_own_block(known->second.record, options_.node);
        if (ours || view.bad.contains(drive_key(id))) continue;
        found.push_back(id);
    }
    if (found.empty()) return found;
    TRY_ASSIGN(const auto claims, read_claims());
    std::erase_if(found, [&](const drive_id& id) {
        return std::any_of(claims.begin(), claims.end(), [&](const drive_claim& one) { return one.drive == id; });
    });
    return found;
}

}  // namespace weft
