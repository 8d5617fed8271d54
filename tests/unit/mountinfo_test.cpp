// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/io/mountinfo.hpp"

#include <doctest/doctest.h>

using namespace weft;

TEST_CASE("mountinfo: the example of proc(5) is understood field by field") {
    const auto mounts = parse_mountinfo(
        "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n"
        "37 36 0:22 / /mnt2/x rw shared:2 propagate_from:7 - tmpfs tmpfs rw,size=4k\n"
        "38 1 7:3 / / rw - ext4 /dev/loop3 rw\n");
    REQUIRE(mounts.has_value());
    REQUIRE(mounts->size() == 3);
    const auto& first = mounts->at(0);
    CHECK(first.id == 36);
    CHECK(first.parent == 35);
    CHECK(first.device == device_number{98, 0});
    CHECK(first.root == "/mnt1");
    CHECK(first.mount_point == "/mnt2");
    CHECK(first.options == "rw,noatime");
    CHECK(first.propagation == std::vector<std::string>{"master:1"});
    CHECK(first.type == "ext3");
    CHECK(first.source == "/dev/root");
    CHECK(first.super_options == "rw,errors=continue");
    CHECK(mounts->at(1).propagation == std::vector<std::string>{"shared:2", "propagate_from:7"});
    CHECK(mounts->at(2).propagation.empty());
    CHECK(mounts->at(2).device == device_number{7, 3});
}

TEST_CASE("mountinfo: escaped names are compared as what they are") {
    const auto mounts =
        parse_mountinfo("1 2 7:0 /a\\040b /mnt/tab\\011nl\\012back\\134040 rw - ext4 /dev/x\\040y rw\n");
    REQUIRE(mounts.has_value());
    CHECK(mounts->at(0).root == "/a b");
    CHECK(mounts->at(0).mount_point == "/mnt/tab\tnl\nback\\040");
    CHECK(mounts->at(0).source == "/dev/x y");
}

TEST_CASE("mountinfo: what is no full octal escape stays") {
    CHECK(unescape_mount_field("\\") == "\\");
    CHECK(unescape_mount_field("\\04") == "\\04");
    CHECK(unescape_mount_field("\\0x0") == "\\0x0");
    CHECK(unescape_mount_field("\\477") == "\\477");
    CHECK(unescape_mount_field("a\\040") == "a ");
    CHECK(unescape_mount_field("\\377") == "\xff");
    CHECK(unescape_mount_field("").empty());
}

TEST_CASE("mountinfo: an empty source and an empty text are legal") {
    CHECK(parse_mountinfo("")->empty());
    const auto mounts = parse_mountinfo("1 2 0:5 / /m rw -  fuse  rw\n");
    CHECK(mounts.has_error());  // two spaces: the type would be empty
    const auto empty_source = parse_mountinfo("1 2 0:5 / /m rw - fuse  rw");
    REQUIRE(empty_source.has_value());
    CHECK(empty_source->at(0).source.empty());
    CHECK(empty_source->at(0).super_options == "rw");
}

TEST_CASE("mountinfo: a line that is none is refused by name, never skipped") {
    for (const char* line :
         {"x", "36 35 98:0 /mnt1 /mnt2 rw", "36 35 98 / /m rw - ext4 /dev/x rw", "a 35 98:0 / /m rw - e s rw",
          "36 35 98:0 / /m rw shared:1 ext4 /dev/x rw", "36 35 98:0 / /m rw - ext4 /dev/x",
          "36 35 98:0x / /m rw - ext4 /dev/x rw", "36 35 -1:0 / /m rw - ext4 /dev/x rw"}) {
        CAPTURE(line);
        const auto mounts = parse_mountinfo(std::string("1 2 7:0 / /ok rw - ext4 /dev/a rw\n") + line + "\n");
        REQUIRE(mounts.has_error());
        CHECK(mounts.error().code == errc::corrupt);
        CHECK(mounts.error().text.find(line) != std::string::npos);
    }
}

TEST_CASE("mountinfo: our own namespace has a root") {
    const auto mounts = read_own_mounts();
    REQUIRE(mounts.has_value());
    bool root = false;
    for (const auto& m : *mounts) root = root || m.mount_point == "/";
    CHECK(root);
}

TEST_CASE("mountinfo: holders are described for people, at most three by name") {
    std::vector<foreign_mount> holders{{1, 10, "postgres", "/var/lib"}, {2, 11, "redis", "/data"}};
    CHECK(describe(holders) == "held by postgres (pid 10) at /var/lib, redis (pid 11) at /data");
    holders.push_back({3, 12, "c", "/c"});
    holders.push_back({4, 13, "d", "/d"});
    CHECK(describe(holders).ends_with("c (pid 12) at /c and 1 more"));
}

namespace {

const std::string our_mounts =
    "20 1 254:0 / / rw shared:1 - ext4 /dev/vda rw\n"
    "30 20 254:16 / /var/lib/weft rw shared:7 - ext4 /dev/vdb rw\n"
    "40 30 7:0 / /var/lib/weft/mounts/a rw shared:9 - ext4 /dev/loop0 rw\n";

/// Does the last mount of `text` follow our unmount?
bool last_follows(const std::string& text, const std::string& ours = our_mounts) {
    const auto theirs = parse_mountinfo(text);
    REQUIRE(theirs.has_value());
    return follows_our_unmount(theirs->back(), *theirs, *parse_mountinfo(ours));
}

const std::string their_root = "120 1 254:0 / / rw shared:50 master:1 - ext4 /dev/vda rw\n";
const std::string their_parent = "130 120 254:16 / /var/lib/weft rw shared:51 master:7 - ext4 /dev/vdb rw\n";
const std::string their_copy = "140 130 7:0 / /var/lib/weft/mounts/a rw shared:52 master:9 - ext4 /dev/loop0 rw\n";

}  // namespace

TEST_CASE("mountinfo: a copy that only propagation made goes with ours") {
    CHECK(last_follows(their_root + their_parent + their_copy));
    // The same below a bind mount of everything (docker run -v /:/host:rslave).
    CHECK(
        last_follows("120 1 254:0 / / rw - overlay o rw\n"
                     "125 120 254:0 / /host rw master:1 - ext4 /dev/vda rw\n"
                     "130 125 254:16 / /host/var/lib/weft rw master:7 - ext4 /dev/vdb rw\n"
                     "140 130 7:0 / /host/var/lib/weft/mounts/a rw master:9 - ext4 /dev/loop0 rw\n"));
}

TEST_CASE("mountinfo: whatever else holds our volume does not go with ours") {
    // A container's bind mount: a slave of our mount, but nothing that happens below our parent reaches it.
    CHECK_FALSE(
        last_follows("120 1 0:50 / / rw - overlay o rw\n"
                     "140 120 7:0 /data /data rw master:9 - ext4 /dev/loop0 rw\n"));
    CHECK_FALSE(
        last_follows("120 1 0:50 / / rw - overlay o rw\n"
                     "140 120 7:0 / /data rw master:9 - ext4 /dev/loop0 rw\n"));
    // A private copy of everything (unshare --mount).
    CHECK_FALSE(
        last_follows("120 1 254:0 / / rw - ext4 /dev/vda rw\n"
                     "130 120 254:16 / /var/lib/weft rw - ext4 /dev/vdb rw\n"
                     "140 130 7:0 / /var/lib/weft/mounts/a rw - ext4 /dev/loop0 rw\n"));
    // Moved elsewhere below the same parent.
    CHECK_FALSE(last_follows(their_root + their_parent +
                             "140 130 7:0 / /var/lib/weft/mounts/b rw master:9 - ext4 /dev/loop0 rw\n"));
    // Our mount is gone already, or its parent shares with nobody.
    CHECK_FALSE(
        last_follows(their_root + their_parent + their_copy, "20 1 254:0 / / rw shared:1 - ext4 /dev/vda rw\n"));
    CHECK_FALSE(last_follows(their_root + their_parent + their_copy,
                             "30 20 254:16 / /var/lib/weft rw - ext4 /dev/vdb rw\n"
                             "40 30 7:0 / /var/lib/weft/mounts/a rw - ext4 /dev/loop0 rw\n"));
    // A part of the view is missing (chroot).
    CHECK_FALSE(last_follows(their_copy));
}

TEST_CASE("mountinfo: a copy with something mounted upon it stays") {
    const auto theirs = parse_mountinfo(their_root + their_parent + their_copy +
                                        "150 140 0:60 / /var/lib/weft/mounts/a/x rw - tmpfs t rw\n");
    REQUIRE(theirs.has_value());
    CHECK_FALSE(follows_our_unmount((*theirs)[2], *theirs, *parse_mountinfo(our_mounts)));
}
