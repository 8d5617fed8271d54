# SPDX-License-Identifier: Apache-2.0
"""The power goes while volumes are written: file systems, fsyncs and mirrors afterwards (laws 1 and 4).

Writer and replicas are on one machine whose disks forget what was not flushed, so a flush that is answered before it
is on every replica's disk loses an fsync here. The host counts the acknowledgements: the guest cannot remember them.
"""
import random
from urllib.parse import parse_qs, urlsplit

import pytest

from harness import nodes as weft_nodes
from harness.guest import REPOSITORY
from lib.waiting import wait_for

META = 4 << 20  # bytes of a mirror's leg that are dm-raid's own (dm-tables/README.md)
LOAD = ["/usr/bin/python3", "-B", REPOSITORY / "tests/vm/inside/acknowledged_load.py"]
VOLUMES = {"ext": {"size": "64MiB", "stripes": "2"}, "xfs": {"size": "304MiB", "stripes": "2", "fs": "xfs"},
           "mirror": {"size": "64MiB", "layout": "mirrored"}}
GUEST = {"memory": 1024, "disks": weft_nodes.disks(("n1", "n2"), cache="volatile")}


@pytest.fixture(scope="module")
def created(ready_guest):
    nodes = weft_nodes.Nodes(ready_guest(), ("n1", "n2")).up()
    for name, options in VOLUMES.items():
        nodes.create(name, replicas="2", **options)
    return nodes


@pytest.fixture
def nodes(guest, created):
    del guest  # it runs
    return created.up()


class Load:
    def __init__(self, nodes, name):
        self.name = name
        self.path, self.mount_id = nodes.mount(name)
        self.program = nodes.guest.popen([*LOAD, "write", self.path])

    @property
    def acknowledged(self):
        """The last number that arrived whole."""
        whole = self.program.stdout.rpartition("\n")[0].split("\n")
        return int(whole[-1] or 0)

    def reach(self, steps):
        first = self.acknowledged

        def reached():
            assert self.program.running, f"{self.name}: {self.program.stderr}"
            return self.acknowledged >= first + steps
        wait_for(reached, 300, f"{steps} more acknowledgements on {self.name}")


def check_file_system(nodes, name):
    """Of an unmounted volume whose journal a mount has replayed: nothing is to be repaired."""
    checker = "xfs_repair -n" if VOLUMES[name].get("fs") == "xfs" else "e2fsck -f -n"
    for find in legs(nodes, name) if name == "mirror" else whole(nodes, name):
        nodes.guest.run(f"modprobe loop; device=$({find}); {checker} $device", timeout=300)


def leg_files(nodes, name):
    return [f"/srv/{leg['node']}/lent/replicas/{leg['id']}/data" for leg in nodes.replicas(name)]


def legs(nodes, name):
    """For each leg of a detached volume, what prints a read-only device of the file system on it."""
    for file in leg_files(nodes, name):
        yield f"losetup --find --show --read-only --offset {META} {file}"
        nodes.guest.run("losetup --detach-all")


def whole(nodes, name):
    """The same for a volume over its volume server."""
    uri = urlsplit(nodes.weft("volume", "attach", name)["nbd_uri"])
    try:
        [socket], export, device = parse_qs(uri.query)["socket"], uri.path.lstrip("/"), "/dev/nbd15"
        # nbd-client takes 512 bytes for a block, whatever the server says (4096).
        yield f"nbd-client -unix {socket} {device} -name '{export}' -block-size 4096 -readonly >&2; echo {device}"
        nodes.guest.run(["nbd-client", "-d", device])
    finally:
        nodes.weft("volume", "detach", name)
        nodes.wait_detached(name)


@pytest.mark.limit(7200)
@pytest.mark.parametrize("rounds", [1, pytest.param(20, marks=pytest.mark.long)])
def test_a_power_cut_takes_no_acknowledged_fsync(nodes, rounds, progress):
    guest = nodes.guest
    for number in range(rounds):
        loads = [Load(nodes, name) for name in VOLUMES]
        for load in loads:
            load.reach(random.Random(f"{number}{load.name}").randrange(8, 60))
        guest.power_cut()
        promised = {load.name: load.acknowledged for load in loads}
        progress(f"round {number}: acknowledged {promised}")
        guest.start()
        nodes.up()
        for load in loads:
            path, mount_id = nodes.mount(load.name)
            guest.run([*LOAD, "check", path, promised[load.name]], timeout=300)
            guest.run(f"rm -r {path}/* && sync -f {path}")
            if load.name == "mirror":
                nodes.wait_mirrors_in_sync(load.name)
            nodes.unmount(load.name, mount_id)
            check_file_system(nodes, load.name)
        nodes.wait_up_to_date(*VOLUMES)
        guest.run(["cmp", f"--ignore-initial={META}", *leg_files(nodes, "mirror")], timeout=300)
