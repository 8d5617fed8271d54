# SPDX-License-Identifier: Apache-2.0
"""Disks as drives: refused while anything is on them, found again by UUID, torn out under load and put back.

One guest and three nodes on its kernel, each weftd in the sandbox of the product's unit. n1 has the disks, the others a
directory each; udevd is the guest's own. The load runs in the guest, on volumes that n2 has attached by nbd and
device-mapper.
"""
import hashlib
import json
import os
import re
from pathlib import Path

import pytest

from harness.machine import BUILD
from lib.sparse import data_ranges
from lib.waiting import wait_for

MIB, GIB = 1 << 20, 1 << 30
HERE = Path(__file__).resolve().parent
GUEST = {"memory": 1536,
         "disks": {"work": 2 * GIB, "one": GIB, "two": GIB, "old": {"size": GIB, "label": "keep"}}}
NODES = ("n1", "n2", "n3")
RUN = "/run/weft-test"
CONFIG = """node = {name}
host = 127.0.0.{number}
store = sqlite:/mnt/cluster.db
state-dir = /mnt/{name}
runtime-dir = {run}/{name}
plugin-dir = {run}/plugins
docker-plugin = {name}
device-scope = {name}
attach = kernel
lease-ttl-ms = 30000
request-timeout-ms = 10000
reconnect-window-ms = 2000
repair-after-ms = {repair}
libexec-dir = {build}
"""
UNIT = """[Service]
ExecStart={build}/weftd --config {run}/{name}.conf
Restart=always
KillMode=process
LimitNOFILE=65536
{sandbox}
"""
SANDBOX = "\n".join(re.findall(
    r"(?m)^(?:Capability|NoNew|LockPers|MemoryDeny|Restrict(?!art)|SystemCall|Device|UMask).*$",
    (HERE.parents[1] / "systemd" / "weftd.service").read_text()))
pytestmark = pytest.mark.limit(900)


class Machine:
    """The guest with its nodes."""

    def __init__(self, guest):
        self.guest = guest

    def start(self, repair_after_ms=600000):
        guest = self.guest
        guest.run("modprobe -a nbd dm-mod xfs ext4; mountpoint -q /mnt || "
                  f"{{ blkid -p {guest.disks['work'].path} || mkfs.ext4 -q {guest.disks['work'].path}; "
                  f"mount {guest.disks['work'].path} /mnt; }}; mkdir -p {RUN}/plugins /mnt/dir2 /mnt/dir3")
        for number, name in enumerate(NODES, 1):
            guest.put(f"{RUN}/{name}.conf", CONFIG.format(name=name, number=number, run=RUN, build=BUILD,
                                                          repair=repair_after_ms))
            guest.put(f"/run/systemd/system/weftd-{name}.service", UNIT.format(
                name=name, run=RUN, build=BUILD, sandbox=SANDBOX))
        guest.run("systemctl daemon-reload; systemctl restart " + " ".join(f"weftd-{name}" for name in NODES))
        for name in NODES:
            guest.wait_until(f"{self.command(name)} node ls | grep -q '^{name} *up'", 120, f"weftd of {name}")
        return self

    def command(self, node, output="table"):
        return f"weft -o {output} --socket {RUN}/{node}/weftd.sock"

    def weft(self, node, *words):
        return json.loads(self.guest.output(f"{self.command(node, 'json')} {' '.join(map(str, words))}", timeout=300))

    def refused(self, node, *words):
        done = self.guest.run(f"{self.command(node)} {' '.join(map(str, words))}", check=False, timeout=300)
        assert done.code != 0, done.stdout
        return done.stderr

    def device(self, disk):
        """The kernel's name of a disk, as it is now."""
        return self.guest.output(f"readlink -f {self.guest.disks[disk].path}")

    def drive(self, drive_id):
        return next(drive for drive in self.weft("n1", "drive", "ls") if drive["id"] == drive_id)

    def wait_drive(self, drive_id, fits, what):
        return wait_for(lambda: (drive := self.drive(drive_id)) and fits(drive) and drive, 180, what, interval=0.3)

    def states(self, volume):
        """drive id -> state."""
        return {replica["drive"]: replica["state"] for extent in self.weft("n2", "volume", "inspect", volume)["extents"]
                for replica in extent["replicas"]}

    def events(self):
        return self.guest.output(f"{self.command('n2')} events -n 100")


@pytest.fixture
def nodes(guest):
    made = Machine(guest)
    if guest.run(f"test -S {RUN}/n1/weftd.sock", check=False).code != 0:
        made.start()
    return made


@pytest.fixture
def one(nodes):
    """The id of the drive on the disk "one" of n1."""
    for drive in nodes.weft("n1", "drive", "ls"):
        if drive["device"] and drive["device"]["serial"] == "one":
            return drive["id"]
    return nodes.weft("n1", "drive", "add", nodes.guest.disks["one"].path)["id"]


def content(guest, disk):
    """Where a disk has other bytes than zeros, and which: read on the host, where that is fast."""
    guest.run("sync")
    found = hashlib.sha256()
    with open(guest.disks[disk].file, "rb") as file:
        pieces = {at for begin, end in data_ranges(file.fileno(), GIB)
                  for at in range(begin // MIB, (end + MIB - 1) // MIB)}
        for at in sorted(pieces):
            piece = os.pread(file.fileno(), MIB, at * MIB)
            if piece.strip(b"\0"):
                found.update(at.to_bytes(8, "little") + piece)
    return found.hexdigest()


def test_a_device_that_is_not_blank_or_in_use_is_refused_and_stays_as_it_was(nodes):
    guest, old = nodes.guest, nodes.device("old")
    before = content(guest, "old")
    uuid = guest.output(f"blkid -p -s UUID -o value {old}")
    said = nodes.refused("n1", "drive", "add", old)
    assert f"'ext4' with UUID {uuid} and label 'keep'; nothing was touched" in said
    token = re.search(r"--erase (\S+)$", said.strip())[1]
    assert token == f"ext4:{uuid}"
    other = token[:-1] + ("0" if token[-1] != "0" else "1")
    assert "is not what is on" in nodes.refused("n1", "drive", "add", old, "--erase", other)
    assert "is blank" in nodes.refused("n1", "drive", "add", guest.disks["one"].path, "--erase", token)
    assert "is mounted at /mnt" in nodes.refused("n1", "drive", "add", guest.disks["work"].path, "--erase", token)
    assert content(guest, "old") == before
    # Signatures of each kind, and bytes that nothing knows.
    two = nodes.device("two")
    table = r"\x00\x02\x00\x20\x83\x00\x00\x20\x00\x08\x00\x00\x00\x08\x00\x00"  # a Linux partition: 1 MiB at 1 MiB
    for make, word in (
            (f"mkswap {two}", "swap"),
            (f"printf '{table}' | dd of={two} bs=1 seek=446 && printf '\\x55\\xaa' | dd of={two} bs=1 seek=510 && "
             f"blockdev --rereadpt {two}", f"with the partition {two[5:]}1"),
            (f"printf 'a database' | dd of={two} bs=512 seek=100", "nothing recognises")):
        # Under the lock that keeps udev away: when somebody who wrote closes the device, it reads the partitions anew,
        # too, and two cannot do that at a time.
        guest.run(f"exec 9<{two}; flock 9; wipefs -qa {two}; {make}; sync")
        guest.run("udevadm settle")
        before = content(guest, "two")
        assert word in nodes.refused("n1", "drive", "add", two)
        assert content(guest, "two") == before
    guest.run(f"mkswap {two}; swapon {two}")
    assert "is used as swap" in nodes.refused("n1", "drive", "add", two)
    guest.run(f"swapoff {two}; wipefs -qa {two}; dd if=/dev/zero of={two} bs=1M count=1 conv=fsync status=none")
    assert nodes.weft("n1", "drive", "ls") == []


def test_a_blank_disk_becomes_a_drive_that_is_mounted_by_its_uuid(nodes, one):
    guest, drive = nodes.guest, nodes.drive(one)
    assert drive["device"]["name"] == nodes.device("one") and drive["device"]["serial"] == "one"
    nodes.wait_drive(one, lambda d: d["serving"], "the drive to be served")
    source, kind, options = guest.output(
        f"findmnt --noheadings --output SOURCE,FSTYPE,OPTIONS {drive['path']}").split()
    assert (source, kind) == (nodes.device("one"), "xfs")
    assert {"noatime", "nodev", "nosuid", "noexec"} <= set(options.split(","))
    assert "reflink=1" in guest.output(f"xfs_info {drive['path']}")
    assert drive["device"]["filesystem"] == guest.output(f"blkid -p -s UUID -o value {source}")
    assert "already" in nodes.refused("n1", "drive", "add", source)
    shown = guest.output(f"{nodes.command('n1')} drive inspect {one[:8]}")
    assert f"{source}, 1 GiB" in shown and shown.startswith(f"drive {one} ok")


def test_a_file_system_that_shuts_down_is_noticed_and_mounted_anew(nodes, one):
    guest, drive = nodes.guest, nodes.wait_drive(one, lambda d: d["serving"], "the drive to be served")
    servers = guest.output(f"pgrep -f drive={drive['path']}")
    guest.run(f"xfs_io -x -c shutdown {drive['path']}")
    guest.wait_until(f"{nodes.command('n1')} events | grep -q '{one}.*has errors: its file system has shut down'", 60,
                     "weftd to notice")
    nodes.wait_drive(one, lambda d: d["serving"] and not d["down"], "the drive to be served again")
    assert guest.output(f"pgrep -f drive={drive['path']}") != servers
    guest.run(f"cat {drive['path']}/weft.json")


def test_an_erased_disk_becomes_a_drive_and_is_let_go_of_when_it_is_removed(nodes):
    guest, old = nodes.guest, nodes.device("old")
    token = re.search(r"--erase (\S+)$", nodes.refused("n1", "drive", "add", old).strip())[1]
    made = nodes.weft("n1", "drive", "add", old, "--erase", token)
    assert guest.output(f"wipefs --noheadings --output TYPE {old}") == "xfs"
    nodes.weft("n1", "drive", "rm", old)
    assert guest.run(f"findmnt {made['path']}", check=False).code != 0
    guest.run(f"wipefs -qa {old}")  # nobody holds it


def test_a_drive_pulled_under_load_is_repaired_elsewhere_and_resynced_when_it_returns(nodes, one):
    guest = nodes.guest
    nodes.wait_drive(one, lambda d: d["serving"], "the drive to be served")
    second = nodes.weft("n2", "drive", "add", "/mnt/dir2")["id"]
    guest.run(f"mkdir /load; for name in db kept; do {nodes.command('n2')} volume create $name --size 64MiB; done")
    load = guest.popen(["/usr/bin/python3", "-B", "-c", LOAD, str(HERE / "inside"), str(HERE.parent),
                        f"{RUN}/plugins/n2.sock", "db", "kept"])
    guest.wait_until("test -e /load/going", 240, "the load to write")
    assert nodes.states("db") == nodes.states("kept") == {one: "up_to_date", second: "up_to_date"}

    guest.pull("one")
    nodes.wait_drive(one, lambda d: d["device"]["missing"] and d["down"] and not d["serving"],
                       "the drive to be missing")
    wait_for(lambda: nodes.states("db")[one] != "up_to_date" and nodes.states("kept")[one] != "up_to_date", 180,
             "its replicas to be demoted")
    guest.run("rm /load/going")
    guest.wait_until("test -e /load/going", 120, "writes to go on")
    drive = nodes.drive(one)
    assert guest.run(f"findmnt {drive['path']}", check=False).code != 0, "the dead mount is still there"
    assert guest.run(f"pgrep -f drive={drive['path']}", check=False).code != 0, "its server is still there"
    assert "is gone; what is on it is replaced after the grace period" in nodes.events()

    # Repaired on another node at once, as after the grace period; the other volume waits for the drive.
    third = nodes.weft("n3", "drive", "add", "/mnt/dir3")["id"]
    nodes.weft("n2", "volume", "repair", "db")
    wait_for(lambda: nodes.states("db") == {second: "up_to_date", third: "up_to_date"}, 240, "the repair")
    guest.plug("one")
    nodes.wait_drive(one, lambda d: d["serving"] and not d["down"] and not d["device"]["missing"],
                       "the drive to be back")
    wait_for(lambda: nodes.states("kept") == {one: "up_to_date", second: "up_to_date"}, 240, "the resync")
    guest.run("rm /load/going")
    guest.wait_until("test -e /load/going", 120, "writes to go on")
    guest.run("touch /load/stop")
    outcome = load.wait(120)
    assert outcome.code == 0, outcome.stdout + outcome.stderr


LOAD = """
import sys
sys.path[:0] = sys.argv[1:3]
from pathlib import Path
from file_load import FileLoad
from lib.waiting import wait_for
from lib.cluster import new_mount_id
from lib.plugin_client import DockerPlugin
going, stop, plugin = Path('/load/going'), Path('/load/stop'), DockerPlugin(Path(sys.argv[3]))
loads = [FileLoad(Path(plugin.mount(name, new_mount_id())) / 'load') for name in sys.argv[4:]]
while not stop.exists():
    for load in loads:
        load.wait_progress()
    if not going.exists():
        going.touch()
for load in loads:
    load.stop()
    load.assert_nothing_lost()
"""


def test_drives_are_found_again_after_a_power_cut_under_other_names(nodes, one):
    guest, before = nodes.guest, nodes.drive(one)
    guest.power_cut()
    guest.disks = {name: guest.disks[name] for name in ("one", "old", "two", "work")}  # other slots, other names
    guest.start()
    nodes.start()
    after = nodes.wait_drive(one, lambda d: d["serving"] and d["device"]["name"] == nodes.device("one"),
                               "the drive to be mounted")
    assert after["device"]["name"] != before["device"]["name"] and not after["device"]["missing"]
    assert guest.output(f"findmnt --noheadings --output SOURCE {after['path']}") == nodes.device("one")
