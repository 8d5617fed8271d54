# SPDX-License-Identifier: Apache-2.0
"""What the engine does with bitmaps, checksums and leases, on real servers: how little a resync and a recovery copy,
what a scrub mends, and that a read without the lease asks everybody."""
import contextlib
import json
import os
import re
import subprocess
import sys
import time
import uuid
from pathlib import Path

import nbd
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lib.waiting import assert_stays, wait_for  # noqa: E402
from test_volume import connected, in_background, rigs, workspace  # noqa: E402,F401
from volume_rig import BLOCK, MIB  # noqa: E402

REGION = 4 * MIB


def fill_and_detach(rig, size=64 * MIB):
    """An orderly end after everything was written: every region is clean."""
    volume = rig.attach()
    rig.wait_serving()
    with connected(volume) as handle:
        content = os.urandom(4 * MIB)
        for offset in range(0, size, 4 * MIB):
            handle.pwrite(content, offset)
    rig.weftd.send({"type": "detach"})
    wait_for(lambda: rig.weftd.detached, 20, "the detach")
    assert rig.weftd.detached[0]["equal"]
    volume.kill()
    for server, replica in zip(rig.servers, rig.ids[0]):
        look = subprocess.run(["nbdinfo", "--map", f"nbd://{server.host}:{server.port}/{replica}/dirty"],
                              capture_output=True, text=True, check=True, env=rig.environment)
        assert re.fullmatch(r"\s*0\s+67108864\s+3\s+hole,zero\n", look.stdout), look.stdout


def copied(rig, server, extent=0):
    return max((s["resync_copied_bytes"] for status in rig.weftd.statuses for s in status["extents"][extent]["slots"]
                if s["id"] == rig.ids[extent][server]), default=0)


def dirty_regions(rig, server):
    """As the replica's own server tells them."""
    drive = rig.servers[server]
    look = subprocess.run(["nbdinfo", "--map", "--json", f"nbd://{drive.host}:{drive.port}/{rig.ids[0][server]}/dirty"],
                          capture_output=True, text=True, check=True, env=rig.environment)
    return {at for one in json.loads(look.stdout) if one["type"] == 0
            for at in range(one["offset"] // REGION, (one["offset"] + one["length"] - 1) // REGION + 1)}


def test_a_returning_replica_gets_only_the_regions_that_changed(rigs):
    rig = rigs()
    fill_and_detach(rig)
    volume = rig.attach()
    rig.wait_whole()
    rig.servers[1].kill()
    with connected(volume) as handle:
        handle.pwrite(os.urandom(BLOCK), 5 * MIB)
        handle.pwrite(os.urandom(BLOCK), 33 * MIB)
        rig.wait_state(1, "outdated")
        rig.servers[1].start()
        rig.wait_whole()
        handle.flush()
    assert copied(rig, 1) == 2 * REGION
    rig.assert_equal()


def test_an_unclean_end_costs_the_dirty_regions_and_no_more(rigs):
    rig = rigs()
    fill_and_detach(rig)
    volume = rig.attach()
    rig.wait_whole()
    with connected(volume) as handle:
        handle.pwrite(os.urandom(BLOCK), 9 * MIB)
        volume.kill()
        with contextlib.suppress(nbd.Error):
            handle.pread(BLOCK, 0)
    rig.attach(clean=False)
    rig.wait_serving()
    wait_for(lambda: rig.weftd.status()["recovery_left_bytes"] == 0, 20, "the recovery's end")
    told = [re.match(r"recovering (\d+) bytes", n["text"]) for n in rig.weftd.notices]
    assert [int(t[1]) for t in told if t] == [REGION]
    rig.assert_equal()


def test_a_scrub_mends_a_flipped_byte_and_says_so(rigs):
    rig = rigs()
    fill_and_detach(rig)
    with open(rig.servers[1].data(rig.ids[0][1]), "r+b") as file:
        file.seek(20 * MIB + 77)
        byte = file.read(1)[0]
        file.seek(20 * MIB + 77)
        file.write(bytes([byte ^ 1]))
    rig.attach()
    rig.wait_whole()
    rig.policy = {**rig.policy, "scrub": 1}
    rig.send_members()
    wait_for(lambda: rig.weftd.status()["scrub"]["serial"] == 1 and not rig.weftd.status()["scrub"]["running"], 60,
             "the scrub's end")
    found = rig.weftd.status()["scrub"]
    assert (found["differing_bytes"], found["repaired_bytes"], found["undecided_bytes"]) == (BLOCK, BLOCK, 0)
    assert any("are wrong on replica " + rig.ids[0][1] in n["text"] for n in rig.weftd.notices)
    rig.assert_equal()


def test_a_read_without_the_lease_waits_for_a_sign_of_life_of_every_replica(rigs):
    """Otherwise a writer that was taken over, but still reaches one replica, would read old data for ever (E7)."""
    rig = rigs()
    volume = rig.attach(lease=False)
    rig.wait_whole()
    with connected(volume) as handle:
        content = os.urandom(BLOCK)
        handle.pwrite(content, 0)
        rig.weftd.set_policy("silent")
        assert handle.pread(BLOCK, 0) == content  # everybody answers
        rig.servers[1].freeze()
        thread, outcome = in_background(lambda: handle.pread(BLOCK, 0))
        assert_stays(lambda: not outcome, 1, "the read waits: the frozen replica may know of another writer")
        rig.servers[1].thaw()
        thread.join(30)
        assert outcome == [content]


def test_a_resync_goes_on_under_the_next_writer_where_it_stood(rigs):
    """What has arrived is flushed and its bits are cleared while the resync is still under way (R8)."""
    rig = rigs()
    fill_and_detach(rig)
    volume = rig.attach()
    rig.wait_whole()
    rig.servers[1].kill()
    with connected(volume) as handle:
        for region in range(16):
            handle.pwrite(os.urandom(BLOCK), region * REGION)
        rig.wait_state(1, "outdated")
        rig.policy = {**rig.policy, "resync_rate": 3 * MIB}
        rig.send_members()
        rig.servers[1].start()
        wait_for(lambda: len(dirty_regions(rig, 1) | dirty_regions(rig, 0)) <= 14, 60, "progress that lasts")
        volume.kill()
        with contextlib.suppress(nbd.Error):
            handle.pread(BLOCK, 0)
    left = dirty_regions(rig, 0) | dirty_regions(rig, 1)
    assert 0 < len(left) < 15 and rig.states[0][rig.ids[0][1]] == "inconsistent"
    rig.policy = {**rig.policy, "resync_rate": 0}
    rig.attach(clean=False)
    rig.wait_whole()
    wait_for(lambda: copied(rig, 1) > 0, 20, "a status that tells of the copy")
    assert copied(rig, 1) <= len(left) * REGION
    rig.assert_equal()


def test_a_flipped_byte_is_never_returned_and_is_mended_by_the_read_that_met_it(rigs):
    """R10, from end to end, on the replica that reads prefer."""
    rig = rigs()
    fill_and_detach(rig)
    data = rig.servers[0].data(rig.ids[0][0])
    good = data.read_bytes()[20 * MIB:20 * MIB + BLOCK]
    with open(data, "r+b") as file:
        file.seek(20 * MIB + 77)
        file.write(bytes([good[77] ^ 1]))
    volume = rig.attach()
    rig.wait_whole()
    with connected(volume) as handle:
        assert handle.pread(BLOCK, 20 * MIB) == good
        wait_for(lambda: data.read_bytes()[20 * MIB:20 * MIB + BLOCK] == good, 20, "the repair in place")
        assert handle.pread(BLOCK, 20 * MIB) == good
    assert any(f"replica {rig.ids[0][0]}" in n["text"] and "cannot be read" in n["text"] for n in rig.weftd.notices)
    rig.assert_equal()


def resync_both(rig, volume, rate, meanwhile=lambda: None):
    """A full copy of both extents to the second server under that rate; how many seconds it took. `meanwhile` is called
    again and again until it is through."""
    rig.servers[1].kill()
    with connected(volume) as handle:
        for offset in range(0, sum(rig.sizes), REGION):
            handle.pwrite(os.urandom(BLOCK), offset)
    for extent in range(2):
        rig.wait_state(1, "outdated", extent)
    rig.policy = {**rig.policy, "resync_rate": rate}
    rig.send_members()
    began = time.monotonic()
    rig.servers[1].start()

    def through():
        meanwhile()
        return all(rig.states[extent][rig.ids[extent][1]] == "up_to_date" for extent in range(2))
    wait_for(through, 100, "both extents to be whole")
    return time.monotonic() - began


def test_the_rate_of_a_resync_holds_for_the_volume_and_an_application_comes_first(rigs):
    """A slow machine copies slower still, so only what may not be exceeded is asked: the rate, and what may be under
    way before it was first looked at (four chunks of each extent)."""
    size, ahead, rate = 48 * MIB, 2 * 4 * REGION, 12 * MIB
    rig = rigs(extents=(size, size))
    volume = rig.attach()
    rig.wait_serving()
    with connected(volume) as handle:
        for offset in range(0, 2 * size, REGION):
            handle.pwrite(os.urandom(REGION), offset)
        assert resync_both(rig, volume, rate) * rate >= 2 * size - ahead
        assert copied(rig, 1, 0) == copied(rig, 1, 1) == size
        # Without a limit it yields: to 64 MiB/s for the volume while an application is active, on whichever extent.
        assert resync_both(rig, volume, 0, lambda: handle.pread(BLOCK, 0)) * 64 * MIB >= 2 * size - ahead
    rig.wait_whole()
    rig.assert_equal()


class GrowingDrive:
    """An XFS in an image, most of it taken, then enlarged. (For ext4 the kernel asks CAP_SYS_RESOURCE, which root in a
    container may lack; for XFS CAP_SYS_ADMIN.)"""

    def __init__(self, base):
        self.image, self.mounted = base / "image", base / "fs"
        self.mounted.mkdir(parents=True)
        subprocess.run(["truncate", "-s", "320M", self.image], check=True)
        subprocess.run(["mkfs.xfs", "-q", self.image], check=True)
        subprocess.run(["mount", "-o", "loop", self.image, self.mounted], check=True)
        subprocess.run(["fallocate", "-l", "180M", self.mounted / "somebody's"], check=True)

    def grow(self):
        subprocess.run(["truncate", "-s", "640M", self.image], check=True)
        device = subprocess.run(["losetup", "--noheadings", "--output", "NAME", "--associated", self.image],
                                capture_output=True, text=True, check=True).stdout.strip()
        subprocess.run(["losetup", "-c", device], check=True)
        subprocess.run(["xfs_growfs", self.mounted], check=True, capture_output=True)

    def close(self):
        wait_for(lambda: subprocess.run(["umount", self.mounted], capture_output=True).returncode == 0, 20,
                 "the growing drive to be unmounted")
        self.image.unlink()


@pytest.fixture
def growing(workspace):  # noqa: F811
    drive = GrowingDrive(workspace.path / f"growing-{uuid.uuid4().hex[:8]}")
    yield drive
    drive.close()


def test_a_write_that_waits_for_space_goes_on_when_the_drive_is_enlarged(growing, rigs):
    """truncate, losetup -c, xfs_growfs: what an administrator does to a volume of his own below the drive."""
    rig = rigs(extents=(256 * MIB,), drives={1: growing.mounted / "drive"})
    volume = rig.attach()
    rig.wait_whole()

    def fill():
        with connected(volume) as handle:
            for offset in range(0, 128 * MIB, 4 * MIB):
                handle.pwrite(os.urandom(4 * MIB), offset)
            handle.flush()
        return "written"
    thread, outcome = in_background(fill)
    wait_for(lambda: rig.weftd.status()["waiting_for_space"], 60, "the small drive to be full")
    assert any("its drive is full" in n["text"] and "enlarge it" in n["text"] for n in rig.weftd.notices)
    assert_stays(lambda: not outcome, 1, "the write is held")
    with connected(volume) as handle:
        assert len(handle.pread(BLOCK, 0)) == BLOCK  # reads go on
    growing.grow()
    thread.join(60)
    assert outcome == ["written"]
    assert all(state == "up_to_date" for state in rig.states[0].values())
    wait_for(lambda: not rig.weftd.status()["waiting_for_space"], 20, "a status without the wait")
    rig.assert_equal()
