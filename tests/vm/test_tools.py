# SPDX-License-Identifier: Apache-2.0
"""What an administrator's tools see of volumes in use: one device of each, and nothing to activate, mount or repair.

With udev rules of lvm2, multipath-tools and udisks2 beside ours, and after an event for every block device, which
is what the installation of any such package brings about. What device-mapper's devices are is in dm-tables/README.md,
who keeps away and why in udev-rules/README.md.
"""
import json
import re

import pytest

from harness import nodes as weft_nodes
from harness import packages
from harness.guest import REPOSITORY

RULES = {f"/etc/udev/rules.d/{path.name}": path.read_text() for path in (REPOSITORY / "udev-rules").glob("*.rules")}
GUEST = {"memory": 1280, "disks": weft_nodes.disks(("n1", "n2")), "files": RULES}
STRIPED, MIRROR = "weft-striped@n1", "weft-mirror@n1"
PARTS = [f"{MIRROR}:s0", *(f"{MIRROR}:s0-leg{leg}-{part}" for leg in (0, 1) for part in ("data", "meta"))]


@pytest.fixture(scope="module")
def mounts(ready_guest):
    """volume's device-mapper name -> mount point."""
    guest = ready_guest()
    packages.unpack(guest, "lvm2", "multipath-tools", "udisks2")
    nodes = weft_nodes.Nodes(guest, ("n1", "n2")).up()
    nodes.create("striped", size="64MiB", stripes="2", replicas="2")
    nodes.create("mirror", size="64MiB", layout="mirrored")
    found = {STRIPED: nodes.mount("striped")[0], MIRROR: nodes.mount("mirror")[0]}
    nodes.wait_mirrors_in_sync("mirror")
    guest.run("udevadm trigger --subsystem-match=block --action=change --settle", timeout=300)
    return found


@pytest.fixture
def legs(guest, mounts):
    """The nbd devices of both volumes."""
    del mounts
    return [f"/dev/{name}" for name in guest.output("cd /sys/block; grep -l ^weft: nbd*/backend | cut -d/ -f1").split()]


def test_dmsetup_shows_each_volume_and_its_parts_under_our_uuids(guest, mounts, legs):
    columns = "dmsetup info --columns --noheadings --separator ' ' --options"
    seen = dict(line.split() for line in guest.output(f"{columns} name,uuid").splitlines())
    assert sorted(seen) == sorted([*mounts, *PARTS]) and len(legs) == 4
    assert all(re.fullmatch(r"WEFT-n1-[0-9a-f-]{36}-volume", seen[name]) for name in mounts)
    assert not any(seen[name].endswith("-volume") for name in PARTS)
    # Live, writable, not suspended; each opened once, by what is above it.
    assert set(guest.output(f"{columns} attr,segments,open").splitlines()) == {"L--w 1 1"}

    table = guest.output(["dmsetup", "table", STRIPED]).split()
    assert table[:5] == ["0", str(64 << 11), "striped", "2", "128"]
    assert guest.output(["dmsetup", "status", STRIPED]).split()[-1] == "AA"
    assert guest.output(["dmsetup", "table", f"{MIRROR}:s0"]).split()[2:4] == ["raid", "raid1"]
    status = guest.output(["dmsetup", "status", f"{MIRROR}:s0"]).split()
    assert (status[5], status[7]) == ("AA", "idle")


def test_lsblk_shows_the_mount_on_the_volume_alone(guest, mounts, legs):
    def flat(devices):
        for device in devices:
            yield device
            yield from flat(device.get("children", ()))
    tree = json.loads(guest.output(["lsblk", "--json", "--output", "NAME,TYPE,FSTYPE,UUID,MOUNTPOINT", *legs]))
    seen = list(flat(tree["blockdevices"]))
    assert {f"{device['mountpoint']}/data": device["name"] for device in seen if device["mountpoint"]} == \
        {path: name for name, path in mounts.items()}
    assert {device["type"] for device in seen} == {"disk", "weft"}
    assert not any(device["fstype"] or device["uuid"] for device in seen), "udev has looked inside"


def test_a_file_system_is_found_on_the_volume_and_not_on_what_is_below_it(guest, mounts):
    """blkid as root reads every device itself, whatever udev says. A mirror's legs and a stripe's first extent have the
    UUID too; what it stands for has to be the volume."""
    for name in mounts:
        seen = guest.output(["blkid", "--output", "export", f"/dev/mapper/{name}"])
        uuid = re.search("^UUID=(.*)$", seen, re.MULTILINE)[1]
        assert "TYPE=ext4" in seen.splitlines()
        assert guest.output(["blkid", "--cache-file", "/dev/null", "--uuid", uuid]) == f"/dev/mapper/{name}"
        assert guest.output(["findfs", f"UUID={uuid}"]) == f"/dev/mapper/{name}"
        assert guest.run(["test", "-e", f"/dev/disk/by-uuid/{uuid}"], check=False).code == 1


def test_lvm_and_multipath_find_nothing(guest, mounts):
    del mounts
    assert guest.output("pvs --noheadings; vgs --noheadings; lvs --noheadings") == ""
    # All that there is may become a path, as with an administrator who sets this for a disk array.
    guest.put("/etc/multipath.conf", "defaults { find_multipaths no }\n")
    guest.run("modprobe dm-multipath; multipath -v2")
    assert guest.output("multipath -ll") == ""
    assert guest.output("systemctl list-units --all --plain --no-legend 'lvm-activate-*'") == ""


def test_desktops_are_shown_nothing(guest, mounts, legs):
    guest.run("systemctl start dbus.service", timeout=300)
    daemon = guest.popen(["/usr/libexec/udisks2/udisksd"])
    try:
        guest.wait_until("busctl status org.freedesktop.UDisks2", 180, "udisks to be on the bus")
        shown = re.findall(r"(?m)^ +Device: +(\S+)$", guest.output("udisksctl dump", timeout=180))
    finally:
        daemon.signal()
    assert guest.output(["readlink", "-f", guest.disks["n1"].path]) in shown
    ours = {*legs, *(guest.output(["readlink", "-f", f"/dev/mapper/{name}"]) for name in [*mounts, *PARTS])}
    assert not ours & set(shown)
