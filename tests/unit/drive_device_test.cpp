// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/core/drive_device.hpp"

#include <doctest/doctest.h>

#include <functional>

#include "tests/unit/sample_records.hpp"

using namespace weft;

namespace {

const std::string ext4_uuid = test::uuid(0xe4);
const std::string xfs_uuid = test::uuid(0xf5);

device_facts blank() {
    device_facts device;
    device.name = "/dev/vdb";
    device.size_bytes = 4 * gib;
    device.checksum = 0xfeedbeef;
    return device;
}

device_facts with(std::vector<device_signature> signatures) {
    auto device = blank();
    device.signatures = std::move(signatures);
    return device;
}

bool is_fresh(const result<std::optional<drive_claim>>& admitted) {
    return admitted.has_value() && !*admitted;
}

std::string refusal(const device_facts& device, std::string_view erase = "", const cluster_view& view = {},
                    const std::vector<drive_claim>& claims = {}) {
    const auto admitted = admit_device(device, erase, claims, view);
    return admitted.has_error() ? admitted.error().text : "admitted";
}

bool has(const std::string& text, std::string_view part) {
    return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("drive_device: a blank device is taken, and nothing can be named on it") {
    CHECK(is_fresh(admit_device(blank(), "", {}, {})));
    CHECK(erase_names(blank()).empty());
    CHECK(has(refusal(blank(), "ext4:" + ext4_uuid), "/dev/vdb is blank"));
}

TEST_CASE("drive_device: what is not blank is refused in words that name it and the option that would allow it") {
    const auto device = with({{"ext4", ext4_uuid, "backup"}});
    const auto text = refusal(device);
    CHECK(has(text, "'ext4' with UUID " + ext4_uuid + " and label 'backup'"));
    CHECK(has(text, "nothing was touched"));
    CHECK(has(text, "weft drive add /dev/vdb --erase ext4:" + ext4_uuid));
    CHECK(admit_device(device, "", {}, {}).error().code == errc::invalid_argument);
    CHECK(is_fresh(admit_device(device, "ext4:" + ext4_uuid, {}, {})));
}

TEST_CASE("drive_device: --erase must name everything that is there and nothing else") {
    const auto device = with({{"ext4", ext4_uuid, ""}, {"gpt", xfs_uuid, ""}});
    const std::string both = "ext4:" + ext4_uuid + ",gpt:" + xfs_uuid;
    CHECK(is_fresh(admit_device(device, both, {}, {})));
    CHECK(is_fresh(admit_device(device, "gpt:" + xfs_uuid + ",ext4:" + ext4_uuid, {}, {})));
    for (const std::string& wrong :
         {"ext4:" + ext4_uuid, "gpt:" + xfs_uuid, both + ",swap:" + xfs_uuid, std::string("ext4,gpt"),
          std::string("ext4:"), "ext4:" + xfs_uuid + ",gpt:" + ext4_uuid, "EXT4:" + ext4_uuid + ",gpt:" + xfs_uuid,
          "ext4:" + ext4_uuid.substr(0, 8) + ",gpt:" + xfs_uuid}) {
        CAPTURE(wrong);
        CHECK(has(refusal(device, wrong), "is not what is on /dev/vdb"));
    }
}

TEST_CASE("drive_device: what has no UUID, or is not recognised, is named by a checksum of its bytes") {
    auto unknown = blank();
    unknown.data = true;
    CHECK(has(refusal(unknown), "data that nothing recognises"));
    CHECK(erase_names(unknown) == std::vector<std::string>{"data:feedbeef"});
    CHECK(has(refusal(unknown, "data:feedbeee"), "is not what is on"));
    CHECK(is_fresh(admit_device(unknown, "data:feedbeef", {}, {})));
    CHECK(erase_names(with({{"dos", "", ""}})) == std::vector<std::string>{"dos:feedbeef"});
    CHECK(erase_names(with({{"odd type,x", "a:b c", ""}})) == std::vector<std::string>{"odd_type_x:a_b_c"});
}

TEST_CASE("drive_device: partitions are told, because they go with their table") {
    auto device = with({{"gpt", ext4_uuid, ""}});
    device.partitions = {"vdb1", "vdb2"};
    CHECK(has(refusal(device), "with the partitions vdb1, vdb2"));
}

TEST_CASE("drive_device: what is in use, read-only, too small or of a volume is refused whatever is named") {
    const struct {
        std::function<void(device_facts&)> edit;
        std::string_view why;
    } cases[] = {
        {[](auto& d) {
             d.users = {"vdb1 is mounted at /srv", "vdb2 is used as swap"};
         },
         "is in use: vdb1 is mounted at /srv, vdb2 is used as swap"},
        {[](auto& d) { d.read_only = true; }, "read-only"},
        {[](auto& d) { d.size_bytes = drive_device_min_bytes - 1; }, "too small"},
        {[](auto& d) { d.of_weft = true; }, "part of a Weft volume"},
    };
    for (const auto& one : cases) {
        auto device = with({{"ext4", ext4_uuid, ""}});
        one.edit(device);
        CHECK(has(refusal(device, "ext4:" + ext4_uuid), one.why));
        device.signatures.clear();
        CHECK(has(refusal(device), one.why));
    }
    auto least = blank();
    least.size_bytes = drive_device_min_bytes;
    CHECK(is_fresh(admit_device(least, "", {}, {})));
}

TEST_CASE("drive_device: a drive of the cluster is never erased, in use or not") {
    cluster_view view;
    drive_record drive;
    drive.id = test::drive(1);
    drive.node = test::node(2);
    drive.device.filesystem = xfs_uuid;
    view.drives[drive.id].record = drive;
    const auto device = with({{"xfs", xfs_uuid, "weft-drive"}});
    CHECK(admit_device(device, "xfs:" + xfs_uuid, {}, view).error().code == errc::already_exists);
    CHECK(has(refusal(device, "xfs:" + xfs_uuid, view), "is drive " + drive.id.str() + " of node n2 already"));
    // Also when a claim was not forgotten.
    const drive_claim claim{drive.id, xfs_uuid, claim_phase::formatting, ""};
    CHECK(has(refusal(device, "", view, {claim}), "already"));
}

TEST_CASE("drive_device: an attempt that was cut off goes on, with its own ids") {
    const drive_claim claim{test::drive(7), xfs_uuid, claim_phase::formatting, ""};
    auto marked = blank();
    marked.mark = xfs_uuid;
    const auto formatted = with({{"xfs", xfs_uuid, "weft-drive"}});
    for (const auto& device : {marked, formatted}) {
        for (const std::string& erase : {std::string(), "ext4:" + ext4_uuid}) {  // the same command again
            const auto admitted = admit_device(device, erase, {claim}, {});
            REQUIRE(admitted.has_value());
            REQUIRE(*admitted);
            CHECK((*admitted)->drive == claim.drive);
            CHECK((*admitted)->phase == claim_phase::formatting);
        }
    }
    // Nobody's: another node's attempt, or another claim.
    CHECK(has(refusal(marked), "a drive that a Weft did not finish making"));
    CHECK(has(refusal(marked, "", {}, {{test::drive(7), ext4_uuid, claim_phase::formatting, ""}}), "not blank"));
    auto both = formatted;
    both.signatures.push_back({"ext4", ext4_uuid, ""});
    CHECK(has(refusal(both, "", {}, {claim}), "not blank"));
}

TEST_CASE("drive_device: a claim that is past formatting never lets anything be formatted by itself") {
    const drive_claim claim{test::drive(7), xfs_uuid, claim_phase::formatted, ""};
    const auto made = with({{"xfs", xfs_uuid, "weft-drive"}});
    const auto resumed = admit_device(made, "", {claim}, {});
    REQUIRE(resumed.has_value());
    REQUIRE(*resumed);
    CHECK((*resumed)->phase == claim_phase::formatted);
    // Its own mark is gone by then: one that is there again is something else's.
    auto marked = blank();
    marked.mark = xfs_uuid;
    CHECK(has(refusal(marked, "", {}, {claim}), "not blank"));
    // Only an operator who names it has it anew.
    CHECK(is_fresh(admit_device(made, "xfs:" + xfs_uuid, {claim}, {})));
}

TEST_CASE("drive_device: claims survive their text, and nothing else is one") {
    for (const auto phase : {claim_phase::formatting, claim_phase::formatted}) {
        const drive_claim claim{test::drive(3), xfs_uuid, phase, "/dev/vdb"};
        const auto again = decode_claim(xfs_uuid, encode(claim));
        REQUIRE(again.has_value());
        CHECK(again->drive == claim.drive);
        CHECK(again->phase == phase);
        CHECK(again->filesystem == xfs_uuid);
        CHECK(again->device == "/dev/vdb");
    }
    const std::string whole = test::uuid(1) + " formatting /dev/vdb";
    for (const std::string& text :
         {std::string(), whole, std::string("formatting /dev/vdb\n"), test::uuid(1) + " made /dev/vdb\n",
          test::uuid(1) + " formatting\n", std::string("x formatting /dev/vdb\n")})
        CHECK(decode_claim(xfs_uuid, text).error().code == errc::corrupt);
    CHECK(decode_claim(xfs_uuid, whole + "\n").has_value());
    CHECK(decode_claim("no-uuid", whole + "\n").has_error());
}
