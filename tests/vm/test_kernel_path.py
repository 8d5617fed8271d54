# SPDX-License-Identifier: Apache-2.0
"""Clusters on a kernel with nbd and device-mapper: the tests of inside/ run in a guest, each is a scenario here."""
import ast
from pathlib import Path

import pytest

from harness.machine import BUILD

GIB = 1 << 30
GUEST = {"memory": 2048, "disks": {"work": 8 * GIB}}
INSIDE = Path(__file__).resolve().parent / "inside"
FILES = sorted(INSIDE.glob("test_*.py"))


def scenarios():
    for path in FILES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                long = "pytest.mark.long" in map(ast.unparse, node.decorator_list)
                yield pytest.param(f"{path.name}::{node.name}", marks=[pytest.mark.long] if long else [])


@pytest.fixture
def bench(guest):
    """The guest with a file system for the cluster's drives: an overlay on tmpfs is none for them."""
    guest.run("mountpoint -q /mnt || { modprobe -a dm-mod fuse loop ext4 xfs; "
              f"mkfs.ext4 -q {guest.disks['work'].path} && mount {guest.disks['work'].path} /mnt; }}")
    return guest


@pytest.mark.limit(2100)
@pytest.mark.parametrize("scenario", scenarios())
def test_inside(bench, scenario):
    # A death at every step needs the build that dies on request; tests/run makes it.
    build = BUILD.with_name(f"{BUILD.name}-crash") if "crash" in scenario else BUILD
    command = (f"cd {INSIDE} && BUILD={build} WEFT_WORK=/mnt/weft WEFT_LONG=1 PYTHONDONTWRITEBYTECODE=1 "
               f"exec /usr/bin/python3 -m pytest -q -p no:cacheprovider --tb=short -rA '{scenario}'")
    outcome = bench.run(command, timeout=1800, check=False)
    assert outcome.code == 0, outcome.stdout[-12000:] + outcome.stderr[-4000:]
