// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/core/drive_mounts.hpp"

#include <doctest/doctest.h>

#include "tests/unit/sample_records.hpp"

using namespace weft;

namespace {

drive_record sample(bool missing = false) {
    drive_record drive;
    drive.id = test::drive(1);
    drive.device = {test::uuid(0xf5), "/dev/vdb", "", "", 4 * gib, missing};
    return drive;
}

observed_drive seen(mount_state state, std::vector<std::string> devices, bool resting = false) {
    return {test::drive(1), state, std::move(devices), resting, false};
}

}  // namespace

TEST_CASE("drive_mounts: mounted and fine is left alone, and only that is usable") {
    CHECK(plan_drive(sample(), seen(mount_state::mounted, {"/dev/vdb"})).step == drive_step::none);
    CHECK(is_usable(seen(mount_state::mounted, {})));
    for (const auto state : {mount_state::unmounted, mount_state::orphaned, mount_state::broken})
        CHECK(!is_usable(seen(state, {"/dev/vdb"})));
}

TEST_CASE("drive_mounts: the one device with its UUID is mounted, whatever its name is now") {
    const auto plan = plan_drive(sample(true), seen(mount_state::unmounted, {"/dev/vdc"}));
    CHECK(plan.step == drive_step::mount);
    CHECK(plan.device == "/dev/vdc");
    CHECK(plan_drive(sample(), seen(mount_state::unmounted, {"/dev/vdb"}, true)).step == drive_step::none);
}

TEST_CASE("drive_mounts: of two devices with one UUID none is mounted") {
    const auto plan = plan_drive(sample(), seen(mount_state::unmounted, {"/dev/vdb", "/dev/vdc"}));
    CHECK(plan.step == drive_step::tell_ambiguous);
    CHECK(plan.why.find("/dev/vdb and /dev/vdc") != std::string::npos);
}

TEST_CASE("drive_mounts: a device that is gone or broken is let go of before it is looked for again") {
    const auto gone = plan_drive(sample(), seen(mount_state::orphaned, {"/dev/vdc"}));
    CHECK(gone.step == drive_step::release);
    CHECK(gone.missing);
    const auto broken = plan_drive(sample(), seen(mount_state::broken, {}));
    CHECK(broken.step == drive_step::release);
    CHECK(!broken.missing);
}

TEST_CASE("drive_mounts: a missing drive is told once") {
    CHECK(plan_drive(sample(), seen(mount_state::unmounted, {})).step == drive_step::tell_missing);
    CHECK(plan_drive(sample(true), seen(mount_state::unmounted, {})).step == drive_step::none);
    auto booting = seen(mount_state::unmounted, {});
    booting.early = true;
    CHECK(plan_drive(sample(), booting).step == drive_step::none);
    booting.state = mount_state::orphaned;  // that it was there and is gone is certain at once
    CHECK(plan_drive(sample(), booting).step == drive_step::release);
}

TEST_CASE("drive_mounts: a record that is behind is brought up to date though it is mounted") {
    // Killed between the mount and the record.
    const auto back = plan_drive(sample(true), seen(mount_state::mounted, {"/dev/vdb"}));
    CHECK(back.step == drive_step::mount);
    CHECK(back.device == "/dev/vdb");
    CHECK(plan_drive(sample(), seen(mount_state::mounted, {"/dev/vdc"})).device == "/dev/vdc");
    CHECK(plan_drive(sample(), seen(mount_state::mounted, {})).step == drive_step::none);  // its name is not known now
}
