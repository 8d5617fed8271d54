// SPDX-License-Identifier: Apache-2.0
// Every combination of what the record says and what blkid may find: data is never formatted away.
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "orchestrator/io/filesystem.hpp"

using namespace weft;

namespace {

const std::string ours = "3f0a2c1e-0000-4000-8000-000000000001";
const std::string theirs = "3f0a2c1e-0000-4000-8000-000000000002";

struct sighting {
    const char* what;
    probe_result found;
    const char* named;  // must appear in a refusal
};

probe_result plain(std::string type, std::string uuid, std::string label = {}) {
    probe_result found;
    found.type = std::move(type);
    found.uuid = std::move(uuid);
    found.label = std::move(label);
    return found;
}

probe_result table(std::string type, bool ambivalent = false) {
    probe_result found;
    found.type = std::move(type);
    found.partition_table = true;
    found.ambivalent = ambivalent;
    return found;
}

probe_result empty() {
    probe_result found;
    found.empty = true;
    return found;
}

probe_result ambivalent() {
    probe_result found;
    found.ambivalent = true;
    return found;
}

/// Everything that is neither nothing nor exactly our own file system.
std::vector<sighting> foreign_things() {
    auto half_known = plain("ext4", ours);
    half_known.ambivalent = true;
    auto in_table = plain("ext4", ours);
    in_table.partition_table = true;
    return {
        {"ext4 of somebody else", plain("ext4", theirs), theirs.c_str()},
        {"ext4 of somebody else with a label", plain("ext4", theirs, "photos"), "photos"},
        {"ext4 without a UUID", plain("ext4", ""), "ext4"},
        {"xfs of somebody else", plain("xfs", theirs), "xfs"},
        {"xfs with our UUID on an ext4 volume", plain("xfs", ours), "xfs"},
        {"ext3 with our UUID", plain("ext3", ours), "ext3"},
        {"our UUID in capitals", plain("ext4", "3F0A2C1E-0000-4000-8000-000000000001"), "3F0A2C1E"},
        {"swap", plain("swap", theirs), "swap"},
        {"LVM", plain("LVM2_member", "abcdef-1234"), "LVM2_member"},
        {"LUKS", plain("crypto_LUKS", theirs), "crypto_LUKS"},
        {"RAID", plain("linux_raid_member", theirs), "linux_raid_member"},
        {"no type but a UUID that is ours", plain("", ours), ours.c_str()},
        {"found but unnamed", plain("", ""), "cannot name"},
        {"MBR", table("dos"), "partition table (dos)"},
        {"GPT", table("gpt"), "partition table (gpt)"},
        {"GPT and a signature", table("gpt", true), "together with another signature"},
        {"ambivalent", ambivalent(), "several signatures"},
        {"ours, but ambivalent", half_known, "ext4"},
        {"ours, but a partition table, too", in_table, "partition table"},
    };
}

}  // namespace

TEST_CASE("plan_format: never formatted and really empty is formatted") {
    CHECK(plan_format(false, fs_type::ext4, ours, empty()).action == format_action::format);
    CHECK(plan_format(false, fs_type::xfs, ours, empty()).action == format_action::format);
}

TEST_CASE("plan_format: our own mkfs that was killed is made again") {
    CHECK(plan_format(false, fs_type::ext4, ours, plain("ext4", ours)).action == format_action::format);
    CHECK(plan_format(false, fs_type::xfs, ours, plain("xfs", ours)).action == format_action::format);
}

TEST_CASE("plan_format: formatted and there is mounted") {
    CHECK(plan_format(true, fs_type::ext4, ours, plain("ext4", ours, "a label")).action == format_action::mount_it);
    CHECK(plan_format(true, fs_type::xfs, ours, plain("xfs", ours)).action == format_action::mount_it);
}

TEST_CASE("plan_format: a volume that was formatted is never formatted again, also when nothing is found") {
    const auto plan = plan_format(true, fs_type::ext4, ours, empty());
    CHECK(plan.action == format_action::refuse);
    CHECK(plan.reason.find("finds nothing") != std::string::npos);
    CHECK(plan.reason.find("nothing was touched") != std::string::npos);
}

TEST_CASE("plan_format: anything foreign is refused by name, whatever the record says") {
    for (const auto& thing : foreign_things())
        for (const bool formatted : {false, true}) {
            CAPTURE(thing.what);
            CAPTURE(formatted);
            const auto plan = plan_format(formatted, fs_type::ext4, ours, thing.found);
            CHECK(plan.action == format_action::refuse);
            CHECK(plan.reason.find(thing.named) != std::string::npos);
            CHECK(plan.reason.find("nothing was touched") != std::string::npos);
        }
}

TEST_CASE("plan_format: ext4 with our UUID is not an xfs volume's") {
    CHECK(plan_format(false, fs_type::xfs, ours, plain("ext4", ours)).action == format_action::refuse);
    CHECK(plan_format(true, fs_type::xfs, ours, plain("ext4", ours)).action == format_action::refuse);
}

TEST_CASE("plan_format: the law holds for the LUKS header of an encrypted volume, too") {
    const wanted_signature header{"crypto_LUKS", ours, "LUKS header"};
    CHECK(plan_format(false, header, empty()).action == format_action::format);
    CHECK(plan_format(false, header, plain("crypto_LUKS", ours)).action == format_action::format);
    CHECK(plan_format(true, header, plain("crypto_LUKS", ours)).action == format_action::mount_it);
    for (const bool formatted : {false, true})
        for (const auto& found : {plain("crypto_LUKS", theirs), plain("ext4", ours), plain("swap", ""), ambivalent()}) {
            CAPTURE(formatted);
            CHECK(plan_format(formatted, header, found).action == format_action::refuse);
        }
    CHECK(plan_format(true, header, empty()).reason.find("holds a LUKS header (UUID " + ours) != std::string::npos);
}
