# SPDX-License-Identifier: Apache-2.0
"""Mirrored volumes: device-mapper's raid1 over legs on different nodes, and what the record knows of it."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

from file_load import FileLoad
from kernel_devices import SLOW, assert_nothing_left, devices, read_mounted, said
from lib import belongings
from lib.cluster import new_mount_id
from lib.waiting import DeadlineError, wait_for

pytestmark = pytest.mark.limit(600)


@pytest.fixture
def cluster(kernel_cluster):
    return kernel_cluster(times=SLOW)


@pytest.fixture
def mirrored(mounted):
    """mirrored(name, **options) creates a mirrored volume and mounts it on the first node."""
    return lambda name, **options: mounted(name, layout="mirrored", size="64MiB", **options)


def sets_of(node):
    return [name for name in devices(node)[0] if name.endswith((":s0", ":s1"))]


def health_of(node):
    """The legs of each set as dm-raid sees them: A in sync, a being filled, D failed, - none."""
    return [said("dmsetup", "status", name).split()[5] for name in sets_of(node)]


def replicas_of(node, name="db"):
    return [one for extent in node.volume(name)["extents"] for one in extent["replicas"]]


def leg_elsewhere(cluster):
    """The node that has the leg that is not on the first node."""
    [name] = {one["node"] for one in replicas_of(cluster[0])} - {cluster[0].name}
    return next(node for node in cluster.nodes if node.name == name)


def test_a_mirrored_volume_survives_the_death_of_either_node(cluster, mirrored):
    node = cluster[0]
    path = mirrored("db")
    [mirror] = sets_of(node)
    table = said("dmsetup", "table", mirror).split()
    assert (table[2], table[3]) == ("raid", "raid1"), table
    stack = node.volume("db")["stack"]["tree"]
    segment = stack[0]["below"][0]["below"][0]
    assert (segment["type"], segment["name"]) == ("raid1", mirror)
    assert [leg["condition"] for leg in segment["below"]] == ["in_sync", "in_sync"]
    assert {leg["below"][0]["below"][0]["id"] for leg in segment["below"]} == {one["id"] for one in replicas_of(node)}
    # Born equal: nothing is copied at the start.
    assert health_of(node) == ["AA"]
    content = os.urandom(8 << 20)
    (path / "file").write_bytes(content)
    subprocess.run(["sync", "--file-system", path], check=True)

    other = leg_elsewhere(cluster)
    [lost] = [one["id"] for one in replicas_of(node) if one["node"] == other.name]
    load = FileLoad(path / "load")
    load.wait_progress()
    other.kill_storage()
    # The record knows before device-mapper does: while the leg is in the set and failed, it is outdated.
    wait_for(lambda: "A" in health_of(node)[0] and health_of(node) != ["AA"], 180, "the set to lose the leg")
    assert {one["id"]: one["state"] for one in replicas_of(node)}.get(lost) != "up_to_date"
    load.wait_progress(what="writes to go on with one leg")

    node.weft("volume", "set", "db", "resync-rate=8MiB")
    other.start()

    def filled():
        return [slot["resync_done_bytes"] for slot in node.volume("db")["live"]["slots"] if slot["resyncing"]]
    wait_for(lambda: any(0 < done < 64 << 20 for done in filled()), 240, "the progress of the new leg to be shown")
    node.weft("volume", "set", "db", "resync-rate=0")
    cluster.wait_up_to_date("db", 300)
    assert lost not in {one["id"] for one in replicas_of(node)}, "a leg that missed writes came back under its name"
    wait_for(lambda: health_of(node) == ["AA"], 60, "both legs to be in sync")
    load.wait_progress()
    # Now the leg that was filled anew is all there is. (weftd stays: without it nobody could record the loss.)
    node.pause_storage()
    load.wait_progress(what="writes to go on with the other leg")
    load.stop()
    load.assert_nothing_lost()
    subprocess.run(["sync", "--file-system", path], check=True)
    Path("/proc/sys/vm/drop_caches").write_text("3")
    assert (path / "file").read_bytes() == content
    node.resume_storage()
    cluster.wait_up_to_date("db", 300)


def test_the_volume_server_of_a_mirrored_volume_dies_under_load(cluster, mirrored):
    node = cluster[0]
    load = FileLoad(mirrored("db") / "load")
    load.wait_progress()
    names, marks = devices(node)
    [server] = node.volume_servers()
    os.kill(server, 9)
    wait_for(lambda: node.volume_servers() not in ([], [server]), 120, "another volume server")
    load.wait_progress(what="writes to go on over the next volume server")
    assert devices(node) == (names, marks)
    assert health_of(node) == ["AA"]
    load.stop()
    load.assert_nothing_lost()


@pytest.mark.long
def test_the_volume_server_of_a_mirrored_volume_is_restarted_on_request_under_load(cluster, mirrored):
    node = cluster[0]
    load = FileLoad(mirrored("db") / "load")
    load.wait_progress()
    before, there = node.volume("db")["epoch"], devices(node)
    assert node.weft("volume", "restart", "db") == {"restarted": "db", "epoch": before + 1}
    load.wait_progress(what="writes to go on over the next volume server")
    assert node.volume("db")["epoch"] == before + 1
    assert devices(node) == there
    assert health_of(node) == ["AA"]
    load.stop()
    load.assert_nothing_lost()


def test_a_mirrored_volume_grows_under_load(cluster, mirrored):
    node = cluster[0]
    path = mirrored("db")
    load = FileLoad(path / "load")
    load.wait_progress()
    node.weft("volume", "grow", "db", "--size", "128MiB")
    wait_for(lambda: os.statvfs(path).f_blocks * os.statvfs(path).f_frsize > 100 << 20, 180, "the new space")
    (path / "much").write_bytes(b"\xa5" * (72 << 20))
    subprocess.run(["sync", "--file-system", path], check=True)
    load.wait_progress()
    load.stop()
    load.assert_nothing_lost()
    assert health_of(node) == ["AA", "AA"]


@pytest.mark.long
def test_a_mirrored_volume_that_nobody_uses_is_repaired(cluster):
    node = cluster[0]
    node.plugin.create("db", layout="mirrored", size="64MiB")
    mount_id = new_mount_id()
    path = Path(node.plugin.mount("db", mount_id))
    other = leg_elsewhere(cluster)
    other.kill_storage()
    content = os.urandom(4 << 20)
    (path / "file").write_bytes(content)
    subprocess.run(["sync", "--file-system", path], check=True)
    node.plugin.unmount("db", mount_id)
    cluster.wait_detached("db", 120)
    other.start()
    cluster.wait_up_to_date("db", 300)
    cluster.wait_detached("db", 120)
    assert_nothing_left(node)
    # From the leg that was filled while nobody looked, on its own node.
    node.kill_storage()
    assert read_mounted(other, "db", "file") == content
    node.start()
    cluster.wait_up_to_date("db", 300)
    other.plugin.remove("db")
    assert_nothing_left(other)
    cluster.assert_no_leaks(60)


BLOCK_WRITER = """
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_DIRECT)
block, number = mmap.mmap(-1, 4096), 0
while True:
    number += 1
    block[:8] = number.to_bytes(8, "little")
    for place in sys.argv[2:]:
        os.pwrite(fd, block, int(place))
"""
META = 4 << 20


class UnevenDeath:
    """The writer's node dies when one leg has a write that another has not: perhaps it was acknowledged."""

    def __init__(self, cluster, places):
        self.cluster, self.node, self.places = cluster, cluster[0], places
        self.device = self.node.weft("volume", "attach", "db")["nbd_uri"]
        self.files = {one["node"]: cluster.replica_file(one) for one in replicas_of(self.node)}
        self.writer = subprocess.Popen([sys.executable, "-c", BLOCK_WRITER, self.device, *map(str, places)],
                                       stderr=subprocess.DEVNULL)

    def numbers_on(self, leg):
        with open(self.files[leg.name], "rb") as file:
            return [int.from_bytes(os.pread(file.fileno(), 8, META + place), "little") for place in self.places]

    def wait_written(self):
        wait_for(lambda: 0 not in self.numbers_on(self.node), 60, "the first writes")

    def happen(self, lacking):
        self.node.kill_weftd()  # nobody can record now that a leg is lost, so the write is held (R4)
        wait_for(lambda: self.stop_before_a_write(lacking), 120, "a write that only one leg has")
        lacking.kill_storage()
        belongings.kill_all(self.node.volume_servers)

    def stop_before_a_write(self, lacking):
        """Not between having it and saying so."""
        assert self.writer.poll() is None, f"the writer ended: {self.writer.returncode}"
        lacking.pause_storage()
        try:
            return wait_for(lambda: self.numbers_on(self.node) > self.numbers_on(lacking), 2, "a difference")
        except DeadlineError:
            lacking.resume_storage()
            return False

    def assert_equal(self, *files):
        subprocess.run(["cmp", f"--ignore-initial={META}", *files], check=True)

    def end(self):
        self.writer.kill()  # which takes effect when it gets errors, because the node's device is taken apart
        if self.node.weftd.poll() is not None:
            self.node.start()
        self.writer.wait(120)


def test_a_write_that_only_one_leg_has_when_its_writer_dies_is_on_both_or_none_under_the_next(cluster):
    """R7: two reads of the block must not differ by the leg."""
    node = cluster[0]
    node.plugin.create("db", layout="mirrored", size="64MiB")
    death = UnevenDeath(cluster, [8 << 20])
    heir = leg_elsewhere(cluster)
    try:
        death.wait_written()
        death.happen(lacking=heir)
        heir.start()
        heir.weft("volume", "attach", "db", "--force")
        wait_for(lambda: health_of(heir) == ["AA"], 120, "the legs to be equal")
        assert death.numbers_on(node) == death.numbers_on(heir)
        assert {one["state"] for one in replicas_of(heir)} == {"up_to_date"}
        heir.weft("volume", "detach", "db")
        cluster.wait_detached("db", 120)
        death.assert_equal(*death.files.values())
    finally:
        death.end()
    assert_nothing_left(node)
    heir.plugin.remove("db")
    cluster.assert_no_leaks(60)


@pytest.mark.long
def test_a_leg_that_is_to_be_filled_waits_until_the_others_are_equal(cluster):
    """dm-raid cannot do both: told to fill one, it would forget that the others may differ."""
    node, heir, third = cluster.nodes
    node.plugin.create("db", layout="mirrored", size="192MiB", replicas="3")
    node.weft("volume", "set", "db", "resync-rate=1MiB")
    # A write to each region of the bitmap (2 MiB) again and again: all of them are marked, which makes it slow.
    death = UnevenDeath(cluster, range(0, 188 << 20, 2 << 20))
    try:
        death.wait_written()
        [lost] = [one["id"] for one in replicas_of(node) if one["node"] == third.name]
        third.kill_storage()
        wait_for(lambda: {one["id"]: one["state"] for one in replicas_of(node)}.get(lost) != "up_to_date", 120,
                 "a leg to be given up")
        wait_for(lambda: "-" in health_of(node)[0], 120, "the set to go on without it")
        death.happen(lacking=heir)
        heir.start()
        heir.weft("volume", "attach", "db", "--force")
        third.start()

        def reached():
            return [one["id"] for one in heir.volume("db")["live"]["slots"] if one["resyncing"] and one["link_up"]]
        [new] = wait_for(reached, 120, "another replica in the leg's place", retry_on=(ValueError, KeyError))
        # Its device is there, and it is not in the set.
        wait_for(lambda: len(devices(heir)[1]) == 3, 60, "the device of the new leg")
        [health] = health_of(heir)
        assert health.count("-") == 1 and "A" not in health, health
        heir.weft("volume", "set", "db", "resync-rate=0")
        wait_for(lambda: health_of(heir) == ["AAA"], 300, "all legs to be equal")
        cluster.wait_up_to_date("db", 120, node=heir)
        assert death.numbers_on(node) == death.numbers_on(heir)
        heir.weft("volume", "detach", "db")
        cluster.wait_detached("db", 120, node=heir)
        [filled] = [one for one in replicas_of(heir) if one["id"] == new]
        death.assert_equal(death.files[node.name], death.files[heir.name])
        death.assert_equal(death.files[node.name], cluster.replica_file(filled))
    finally:
        death.end()
    assert_nothing_left(node)
    heir.plugin.remove("db")
    cluster.assert_no_leaks(60)


def test_options_that_device_mapper_cannot_keep_are_refused(cluster):
    node = cluster[0]
    for options, word in ({"replicas": "1"}, "replicas"), ({"min-replicas": "2"}, "min-replicas"), \
            ({"stripes": "2"}, "stripes"), ({"on-full": "fail"}, "on-full"):
        with pytest.raises(Exception, match=word):
            node.plugin.create("db", layout="mirrored", size="64MiB", **options)
    assert node.plugin.list() == []
