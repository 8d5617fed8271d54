# SPDX-License-Identifier: Apache-2.0
"""A process dies at every named step of attach, detach, demote, resync, repair, create and remove: afterwards the
volume works, its data is intact and nothing leaks.

Needs a build with crash points; `tests/run crash` makes one:  make BUILD=build-crash CRASH_POINTS=1
"""
import mmap
import shutil

import pytest

from crash_life import Life, Rig
from crash_points import DRIVE_POINTS, KERNEL_POINTS, POINTS, points_in_sources
from drive_life import DriveLife
from lib.cluster import BUILD


def has_crash_points():
    with open(BUILD / "weftd", "rb") as program, mmap.mmap(program.fileno(), 0, access=mmap.ACCESS_READ) as text:
        return text.find(b"WEFT_CRASH_FILE") >= 0


pytestmark = pytest.mark.skipif(not has_crash_points(), reason=f"{BUILD} has no crash points: run tests/run crash")


class Rigs:
    """One cluster for as many points as it survives: a failed test's is not used again."""

    def __init__(self, workspace):
        self.workspace, self.rig = workspace, None

    def get(self):
        if self.rig is None:
            self.rig = Rig(self.workspace)
        return self.rig

    def drop(self):
        if self.rig is not None:
            rig, self.rig = self.rig, None
            rig.close()
            shutil.rmtree(rig.cluster.path)


@pytest.fixture(scope="module")
def rigs(workspace):
    made = Rigs(workspace)
    yield made
    made.drop()


@pytest.fixture
def rig(rigs, request):
    rig = rigs.get()
    request.node.clusters = [rig.cluster]
    yield rig
    if getattr(request.node, "failed", False):
        rigs.drop()


@pytest.mark.parametrize("point", POINTS)
def test_a_death_at(rig, point):
    Life(rig, point).live()


@pytest.mark.parametrize("point", DRIVE_POINTS)
def test_a_death_over_a_block_device_at(rig, point):
    DriveLife(rig, point).live()


def test_every_point_of_the_sources_is_in_the_list_once():
    sources = points_in_sources()
    assert sorted(sources) == sorted([*POINTS, *KERNEL_POINTS, *DRIVE_POINTS])
    assert len(set(sources)) == len(sources), "two places have the same name"
