# SPDX-License-Identifier: Apache-2.0
"""The checksums of weft-replica: what the drive changed by itself is never returned, what a kill tore is no damage."""
import errno
import os
import random
import sys
import threading
from pathlib import Path

import nbd
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from drive_on_disk import BITMAP_KEPT, MIB, REGION, SUMS_KEPT, block_sum  # noqa: E402
from replica_rig import BLOCK, SIZE, drive, failure, lend, start, system_calls, workspace  # noqa: E402,F401

KEPT = BITMAP_KEPT | SUMS_KEPT


def clear_all(handle):
    """Each request sums for a moment only and then fails; the next one gets further."""
    for _ in range(SIZE // REGION):
        try:
            handle.trim(SIZE, 0)
            return
        except nbd.Error as problem:
            assert problem.errnum == errno.EIO
    raise AssertionError("clearing does not come to an end")


def test_the_sums_on_disk_are_those_of_the_format(drive, start):  # noqa: F811
    replica = drive.add_replica(incompat=KEPT)
    handle = start().connect(f"{replica}/1/1")
    blocks = [random.Random(seed).randbytes(BLOCK) for seed in range(4)]
    handle.pwrite(b"".join(blocks), REGION - 2 * BLOCK)
    at = (REGION - 2 * BLOCK) // BLOCK
    assert drive.sums(replica)[at - 1:at + 5] == (0, *map(block_sum, blocks), 0)
    handle.zero(BLOCK, REGION - 2 * BLOCK)
    handle.trim(BLOCK, REGION)
    assert drive.sums(replica)[at:at + 4] == (0, block_sum(blocks[1]), 0, block_sum(blocks[3]))
    handle.trim(SIZE, 0)
    assert not any(drive.sums(replica))
    assert handle.pread(MIB, REGION - MIB // 2) == bytes(MIB)


@pytest.mark.parametrize("running", [True, False])
def test_a_flipped_byte_is_an_error_and_never_wrong_bytes(drive, start, running):  # noqa: F811
    replica = drive.add_replica(incompat=KEPT)
    server = start()
    handle, clear = server.connect(f"{replica}/1/1"), server.connect(f"{replica}/1/1/dirty")
    handle.pwrite(b"w" * 2 * MIB, MIB)
    handle.flush()
    clear.trim(SIZE, 0)
    clear.flush()
    if not running:
        server.kill()
    drive.flip(replica, MIB + 5 * BLOCK + 77)
    drive.flip(replica, 9 * REGION)  # in what was a hole
    if not running:
        server = start()
        handle = server.connect(f"{replica}/2/1")
    for offset, length in ((MIB + 5 * BLOCK, BLOCK), (MIB, 2 * MIB), (0, 8 * MIB), (9 * REGION, BLOCK)):
        assert failure(handle.pread, length, offset) == errno.EIO
    assert f"replica {replica}: block at byte {MIB + 5 * BLOCK}: it differs from its checksum" in server.log_text()
    assert server.log_text().count(f"replica {replica}: block") < 4  # and not a line per read
    # The blocks beside it are served, people may look, and what the writer puts there is good again.
    assert handle.pread(5 * BLOCK, MIB) == b"w" * 5 * BLOCK
    assert server.connect(replica).pread(BLOCK, MIB + 5 * BLOCK).count(b"w") == BLOCK - 1
    handle.pwrite(b"w" * BLOCK, MIB + 5 * BLOCK)
    assert handle.pread(2 * MIB, MIB) == b"w" * 2 * MIB


def test_a_kill_under_load_never_looks_like_damage(drive, start):  # noqa: F811
    seed = int(os.environ.get("SEED", random.randrange(2**32)))
    print(f"SEED={seed}")
    rng, replica = random.Random(seed), drive.add_replica(incompat=KEPT)
    written = [0]

    def load(handle, number):
        try:
            own = random.Random(rng.randrange(2**32))
            while True:
                # Each writer its own blocks: overlapping changes do not meet (R9).
                at = BLOCK * (own.randrange(SIZE // BLOCK // 4) * 4 + number)
                own.choice([lambda: handle.pwrite(own.randbytes(BLOCK), at), lambda: handle.zero(BLOCK, at),
                            lambda: handle.pwrite(own.randbytes(BLOCK), at)])()
                written[0] += 1
        except nbd.Error:
            pass
    for epoch in range(1, 9):
        server = start()
        handles = [server.connect(f"{replica}/{epoch}/1") for _ in range(4)]
        reader = handles[0]
        for at in range(0, SIZE, 4 * MIB):
            reader.pread(4 * MIB, at)
        if epoch % 2 == 0:  # now and then everything becomes clean: from then on its sums count
            clear_all(server.connect(f"{replica}/{epoch}/1/dirty"))
            for at in range(0, SIZE, 4 * MIB):
                reader.pread(4 * MIB, at)
        writers = [threading.Thread(target=load, args=(handle, number), daemon=True)
                   for number, handle in enumerate(handles)]
        for writer in writers:
            writer.start()
        threading.Timer(rng.uniform(0.02, 0.3), server.process.kill).start()
        for writer in writers:
            writer.join(20)
            assert not writer.is_alive()
        server.kill()
        assert replica not in server.log_text()
    assert written[0] > 100


def test_a_replica_without_sums_is_served_as_it_is(drive, start):  # noqa: F811
    replica = drive.add_replica(incompat=BITMAP_KEPT)
    handle = start().connect(f"{replica}/1/1")
    handle.pwrite(b"w" * BLOCK, 0)
    drive.flip(replica, 0)
    assert handle.pread(BLOCK, 0) == b"\x67" + b"w" * (BLOCK - 1)
    assert not (drive.replica_path(replica) / "sums").exists()


def test_a_flush_syncs_no_sums_and_a_clear_syncs_them_once_before_its_bits(workspace, drive, start):  # noqa: F811
    replica = drive.add_replica(incompat=KEPT)
    server = start()
    handle, clear = server.connect(f"{replica}/1/1"), server.connect(f"{replica}/1/1/dirty")
    for region in (0, 3, 6, 9):
        handle.pwrite(b"x" * BLOCK, region * REGION)
    with system_calls(server, workspace.path / "trace", "fdatasync,fsync,pwrite64") as calls:
        handle.flush()
        clear.trim(7 * REGION, 0)
        clear.trim(REGION, 0)  # clean already: nothing to sync
        clear.flush()
    assert calls == [("fdatasync", "data"), ("fdatasync", "sums"), ("pwrite64", "meta"), ("fdatasync", "meta")]
    assert drive.dirty(replica) == [9]
