# SPDX-License-Identifier: Apache-2.0
"""What the engine does with bitmaps, checksums and leases, on real servers: how little a resync and a recovery copy,
what a scrub mends, and that a read without the lease asks everybody."""
import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path

import nbd

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


def copied(rig, server):
    return max((s["resync_copied_bytes"] for status in rig.weftd.statuses for s in status["extents"][0]["slots"]
                if s["id"] == rig.ids[0][server]), default=0)


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
    volume = rig.attach()
    rig.wait_whole()
    with connected(volume) as handle:
        content = os.urandom(BLOCK)
        handle.pwrite(content, 0)
        rig.weftd.set_policy("silent")
        rig.weftd.send({"type": "lease", "until_ns": 1})
        assert handle.pread(BLOCK, 0) == content  # everybody answers
        rig.servers[1].freeze()
        thread, outcome = in_background(lambda: handle.pread(BLOCK, 0))
        assert_stays(lambda: not outcome, 1, "the read waits: the frozen replica may know of another writer")
        rig.servers[1].thaw()
        thread.join(30)
        assert outcome == [content]
