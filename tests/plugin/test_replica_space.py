# SPDX-License-Identifier: Apache-2.0
"""weft-replica on a drive that gets full: nothing is half done, nothing else stops, thick replicas are never hit."""
import errno
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from drive_on_disk import MIB, REGION, Drive, described  # noqa: E402
from lib.waiting import wait_for  # noqa: E402
from plugin_tools import drive_tool, program  # noqa: E402
from replica_rig import BLOCK, drive, extents, failure, lend, start, workspace  # noqa: E402,F401

ROOM = 300 * MIB  # of the small drive
RESERVE = ROOM // 50


@pytest.fixture(params=["ext4", "tmpfs"])
def small(request, workspace):  # noqa: F811
    """The path of a small file system of its own; a test makes a drive of it."""
    base = workspace.path / f"small-{uuid.uuid4().hex[:8]}"
    mounted = base / "fs"
    mounted.mkdir(parents=True)
    if request.param == "tmpfs":
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "none", mounted], check=True)
    else:
        subprocess.run(["truncate", "-s", str(ROOM), base / "image"], check=True)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", base / "image"], check=True)
        subprocess.run(["mount", "-o", "loop", base / "image", mounted], check=True)
    yield mounted
    wait_for(lambda: subprocess.run(["umount", mounted], capture_output=True).returncode == 0, 20, "the small drive")
    (base / "image").unlink(missing_ok=True)


@pytest.fixture
def serve(small, start):  # noqa: F811
    """Makes the small file system a drive and starts servers on it; they end before it is unmounted."""
    drive = Drive(small / "drive")  # noqa: F811
    return drive, lambda: start(on=drive)


def free(path):
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def fill(handle, size, step=4 * MIB):
    """Writes from 0 on until there is no space; returns how far it came."""
    at = 0
    while at < size:
        try:
            handle.pwrite(b"f" * step, at)
        except Exception as problem:
            assert getattr(problem, "errnum", None) == errno.ENOSPC, problem
            return at
        at += step
    raise AssertionError("the drive did not get full")


def test_a_write_without_space_is_refused_whole_and_everything_else_goes_on(small, serve):
    drive, starter = serve  # noqa: F811
    replica, other = drive.add_replica(size=512 * MIB), drive.add_replica()
    server = starter()
    handle, clear = server.connect(f"{replica}/1/1"), server.connect(f"{replica}/1/1/dirty")
    full = fill(handle, 512 * MIB)
    assert free(small) >= RESERVE
    # Half of the range has space, half has not: not a byte of it is applied.
    assert failure(handle.pwrite, b"h" * 8 * MIB, full - 4 * MIB) == errno.ENOSPC
    assert handle.pread(8 * MIB, full - 4 * MIB) == b"f" * 4 * MIB + bytes(4 * MIB)
    assert failure(server.connect(f"{other}/1/1").pwrite, b"h" * 4 * MIB, 0) == errno.ENOSPC
    # What needs no space goes on: overwriting, zeroing, reading, flushing, the bitmap, a new epoch.
    handle.pwrite(b"o" * 4 * MIB, full - 4 * MIB)
    handle.zero(BLOCK, 0)
    handle.flush()
    clear.trim(REGION, REGION)
    clear.flush()
    assert 1 not in drive.dirty(replica)
    handle = server.connect(f"{replica}/2/1")
    assert described(handle)["status"] == "ok"
    assert handle.pread(4 * MIB, full - 4 * MIB) == b"o" * 4 * MIB
    # Space that comes back is used at once.
    handle.trim(full // 2, 0)
    handle.pwrite(b"n" * 8 * MIB, full)
    assert handle.pread(8 * MIB, full) == b"n" * 8 * MIB
    server.kill()
    assert drive.meta(replica)["epoch"] == 2


def test_a_drive_that_somebody_else_filled_refuses_what_needs_space_and_nothing_else(small, serve):
    drive, starter = serve  # noqa: F811
    replica = drive.add_replica(size=512 * MIB)
    handle = starter().connect(f"{replica}/1/1")
    handle.pwrite(b"1" * 4 * MIB, 0)
    handle.flush()
    foreign = small / "foreign"
    with open(foreign, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, free(small) // MIB * MIB)
    assert free(small) < MIB
    assert failure(handle.pwrite, b"2" * BLOCK, 8 * MIB) == errno.ENOSPC
    handle.pwrite(b"3" * 4 * MIB, 0)
    handle.flush()
    assert handle.pread(4 * MIB, 0) == b"3" * 4 * MIB
    foreign.unlink()
    wait_for(lambda: free(small) > 100 * MIB, 20, "the file system to free the space")
    handle.pwrite(b"2" * BLOCK, 8 * MIB)


def test_a_thick_replica_never_meets_a_full_drive(small, workspace, start):  # noqa: F811
    path = small / "drive"
    drive_tool("init", path, uuid.uuid4(), "n1")
    thick, thin = str(uuid.uuid4()), str(uuid.uuid4())
    drive_tool("create", path, thick, uuid.uuid4(), 100 * MIB, "equal", "thick")
    drive_tool("create", path, thin, uuid.uuid4(), 512 * MIB, "equal")
    data = path / "replicas" / thick / "data"
    assert data.stat().st_blocks * 512 >= 100 * MIB
    refused = subprocess.run([program("drive_tool"), "create", path, str(uuid.uuid4()), str(uuid.uuid4()),
                              str(400 * MIB), "equal", "thick"], capture_output=True, text=True)
    assert refused.returncode == 1 and "takes 400 MiB at once" in refused.stderr
    assert sorted(os.listdir(path / "replicas")) == sorted([thick, thin])
    server = start(on=Drive.at(path))
    handle = server.connect(f"{thick}/1/1")
    assert {kind for _length, kind in extents(handle, 0, 100 * MIB)} == {3}  # holes, though allocated
    fill(server.connect(f"{thin}/1/1"), 512 * MIB)
    with open(small / "foreign", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, free(small) // MIB * MIB)
    for round_ in (b"a", b"b"):
        for at in range(0, 100 * MIB, 4 * MIB):
            handle.pwrite(round_ * 4 * MIB, at)
        handle.flush()
        handle.trim(50 * MIB, 0)
        handle.zero(50 * MIB, 50 * MIB)
        handle.flush()
        assert handle.pread(4 * MIB, 48 * MIB) == bytes(4 * MIB)
    assert data.stat().st_blocks * 512 >= 100 * MIB
