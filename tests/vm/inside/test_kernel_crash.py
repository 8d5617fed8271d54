# SPDX-License-Identifier: Apache-2.0
"""weftd dies at every named step of the kernel path: mounting, replacing a volume server, restarting one, growing,
unmounting. A program that uses the volume meanwhile sees a pause and no error; afterwards nothing is left. The steps of
encryption, and the one between its mkfs and the record of it, on an encrypted volume; those of a failed leg on a
mirrored one.

Needs the build with crash points (tests/cluster/crash_life.py).
"""
import os
from pathlib import Path

import pytest

import crash_life
from crash_life import Life, Rig
from crash_points import KERNEL_POINTS
from file_load import FileLoad
from kernel_devices import SLOW, assert_nothing_left, use_kernel
from lib import belongings
from lib.waiting import wait_for

pytestmark = pytest.mark.limit(600)
crash_life.LIMIT = 240  # an emulated processor


ENCRYPTED = [*(point for point in KERNEL_POINTS if ".crypt-" in point), "mount.formatted"]
PHASES = {**KERNEL_POINTS, "mount.formatted": "mount"}
LEGS = [point for point in PHASES if PHASES[point] == "legs"]
# Growing passes through these, too, and with a mirrored volume through others than with a striped one.
GROWING = [("striped", "kernel.dm-applied"), ("mirrored", "legs.connected"), ("striped", "kernel.nbd-connected"),
           ("mirrored", "kernel.dm-applied"), ("mirrored", "grow.device-grown"), ("mirrored", "grow.filesystem-grown")]


class KernelLife(Life):
    def live(self, layout=None):
        if self.point in ENCRYPTED:
            self.options = {"encrypt": "on"}
        if layout or self.phase == "legs":
            self.options = {"layout": layout or "mirrored"}
        self.create()
        self.reach("mount")
        path, mount_id = self.mount(self.home)
        self.must_have_died("mount")
        self.wait_ready()
        load = FileLoad(Path(path) / "load")
        load.wait_progress()
        if self.phase == "replacement":
            self.reach("replacement")
            belongings.kill_all(self.home.volume_servers)
            self.must_have_died("replacement")
            self.wait_ready()
            load.wait_progress(what="writes to go on over the next volume server")
        if self.phase == "restart":
            self.reach("restart")
            self.restart()
            self.must_have_died("restart")
            self.wait_ready()
            load.wait_progress(what="writes to go on over the next volume server")
        if self.phase == "legs":
            self.reach("legs")
            self.away.pause_storage()  # has a leg, as every node
            self.must_have_died("legs")
            self.wait_ready()
            load.wait_progress(what="writes to go on without a leg")
            self.away.resume_storage()
            self.cluster.wait_up_to_date(self.name, crash_life.LIMIT)
            load.wait_progress()
        if self.phase == "grow":
            before = os.statvfs(path).f_blocks
            self.reach("grow")
            self.grow(96)
            self.must_have_died("grow")
            self.wait_ready()
            wait_for(lambda: os.statvfs(path).f_blocks > 2 * before, crash_life.LIMIT, "the file system to have grown")
            load.wait_progress()
        load.stop()
        load.assert_nothing_lost()
        self.reach("unmount")
        self.unmount(self.home, mount_id)
        self.must_have_died("unmount")
        self.wait_ready()
        self.cluster.wait_detached(self.name, timeout=crash_life.LIMIT, node=self.away)
        assert_nothing_left(self.home)

        path, mount_id = self.mount(self.away)
        load.path = Path(path) / "load"
        load.assert_nothing_lost()
        self.unmount(self.away, mount_id)
        self.cluster.wait_detached(self.name, timeout=crash_life.LIMIT, node=self.away)
        self.remove()
        self.assert_nothing_left()
        assert_nothing_left(self.away)


@pytest.fixture(scope="module")
def rig(workspace):
    keys = workspace.path / "keys"
    keys.mkdir(mode=0o700)
    (keys / "default.key").write_bytes(os.urandom(64))
    (keys / "default.key").chmod(0o400)

    def prepare(node):
        use_kernel(node)
        node.settings["key-directory"] = keys
        node.write_config()
    made = Rig(workspace, prepare, **SLOW)
    yield made
    made.close()


# Each is a scenario of its own (tests/vm/test_kernel_path.py), so that none takes too long.
@pytest.mark.parametrize("point", [point for point in PHASES if point not in ENCRYPTED and PHASES[point] != "legs"])
def test_a_death_at(rig, point):
    KernelLife(rig, point, PHASES).live()


@pytest.mark.long
@pytest.mark.parametrize("point", ENCRYPTED)
def test_a_death_over_an_encrypted_volume_at(rig, point):
    KernelLife(rig, point, PHASES).live()


# A minute for each, which is spent until the leg counts as failed and another one is filled.
@pytest.mark.parametrize("point", LEGS[:1])
def test_a_death_over_a_failed_leg_at(rig, point):
    KernelLife(rig, point, PHASES).live()


@pytest.mark.long
@pytest.mark.parametrize("point", LEGS[1:])
def test_another_death_over_a_failed_leg_at(rig, point):
    KernelLife(rig, point, PHASES).live()


def grow_and_die(rig, layout, point):
    KernelLife(rig, point, {**PHASES, point: "grow"}).live(layout)


@pytest.mark.parametrize("layout, point", GROWING[:2])
def test_a_death_while_a_volume_grows_at(rig, layout, point):
    grow_and_die(rig, layout, point)


@pytest.mark.long
@pytest.mark.parametrize("layout, point", GROWING[2:])
def test_another_death_while_a_volume_grows_at(rig, layout, point):
    grow_and_die(rig, layout, point)
