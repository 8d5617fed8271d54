// SPDX-License-Identifier: Apache-2.0
// drive_keeper's part for drives that are block devices: what the reconciler does with plan_drive's steps.
#include <fmt/format.h>

#include "nbd-backend/base/crash_point.hpp"
#include "orchestrator/daemon/drive_keeper.hpp"
#include "orchestrator/daemon/log.hpp"

namespace weft {

namespace {

std::string subject(const drive_id& id) {
    return "drive " + id.str();
}

}  // namespace

status drive_keeper::check_mounted(const drive_record& drive) const {
    if (!drive.is_block() || env_.devices.is_mounted(drive.id)) return ok();
    return error{errc::conflict, fmt::format("drive {} ({}) is not mounted", drive.id.str(), drive.device.name)};
}

bool drive_keeper::is_measurable(const drive_record& drive) const {
    if (!drive.is_block()) return true;
    if (!env_.devices.is_mounted(drive.id)) return false;
    if (!env_.devices.look_for_damage(drive.id)) return true;
    env_.wake_reconciler();
    return false;
}

status drive_keeper::unmount_removed(const drive_id& id) const {
    auto gone = env_.devices.unmount(id, false);
    if (gone.has_error()) return gone.error().within("it was removed from the pool, but it is still mounted");
    return ok();
}

status drive_keeper::do_mount(const drive_record& drive, const std::string& device) {
    if (!env_.devices.is_mounted(drive.id)) {
        TRY_ASSIGN(const auto now, env_.devices.mount(drive, device));
        log(log_level::info, "drives", "mounted", {{"drive", drive.id.str()}, {"device", now.name}});
        env_.wake_reconciler();  // its server can start, whether or not the store answers
    }
    if (!drive.device.missing && drive.device.name == device) return ok();
    TRY(change_record(drive.id, [&](drive_record& record) {
        record.device.name = device;
        record.device.missing = false;
    }));
    if (drive.device.missing) env_.events.emit(severity::info, subject(drive.id), fmt::format("{} is back", device));
    return ok();
}

status drive_keeper::do_release(const drive_record& drive, const drive_plan& plan) {
    log(log_level::error, "drives", "letting go of a drive", {{"drive", drive.id.str()}, {"why", plan.why}});
    TRY(do_stop(drive.id));
    WEFT_CRASH_POINT("drive-release.stopped");
    TRY(env_.devices.unmount(drive.id, true));
    WEFT_CRASH_POINT("drive-release.unmounted");
    env_.wake_reconciler();  // it may be there again already
    bool news = false;
    TRY(change_record(drive.id, [&](drive_record& record) {
        news = !record.down || record.device.missing != plan.missing;
        record.down = true;
        record.device.missing = plan.missing;
    }));
    if (news)
        env_.events.emit(severity::error, subject(drive.id),
                         plan.why + "; what is on it is replaced after the grace period");
    return ok();
}

status drive_keeper::do_tell_missing(const drive_record& drive, const std::string& why) {
    return do_release(drive, {drive_step::release, {}, true, why});
}

status drive_keeper::do_release_stray(const drive_id& id) {
    if (env_.cache.view()->drives.contains(id)) return ok();  // recorded since the plan was made
    TRY(do_stop(id));
    return env_.devices.unmount(id, false);
}

}  // namespace weft
