# SPDX-License-Identifier: Apache-2.0
"""weft-replica under nbdkit: the export, holes, durability, fencing (R2) and its survival of kill -9."""
import errno
import os
import random
import signal
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import nbd
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from drive_on_disk import MIB, PLUGIN, described, encode_slot  # noqa: E402
from lib import belongings  # noqa: E402
from lib.waiting import wait_for  # noqa: E402
from replica_rig import (  # noqa: E402,F401
    BLOCK, SIZE, Opener, assert_fenced, drive, extents, failure, fenced, lend, refused, start, workspace)


# --- what the export says of itself ---------------------------------------------------------------------------------

def test_advertises_multi_conn_fua_flush_trim_zero_and_4k_blocks(drive, start):
    replica = drive.add_replica()
    handle = start().connect(f"{replica}/1/1")
    assert handle.get_size() == SIZE
    assert handle.can_multi_conn() and handle.can_fua() and handle.can_flush() and handle.can_trim()
    assert handle.can_zero() and handle.can_fast_zero() and not handle.is_read_only() and not handle.is_rotational()
    assert handle.can_meta_context("base:allocation")
    assert handle.get_block_size(nbd.SIZE_MINIMUM) == BLOCK
    assert handle.get_block_size(nbd.SIZE_PREFERRED) == BLOCK
    assert handle.get_block_size(nbd.SIZE_MAXIMUM) == 32 * MIB


def test_lists_exactly_the_replicas(drive, start):
    replicas = sorted(drive.add_replica() for _ in range(3))
    (drive.path / "replicas" / f".tmp-{uuid.uuid4()}").mkdir()
    (drive.path / "replicas" / "lost+found").mkdir()
    handle = nbd.NBD()
    handle.set_opt_mode(True)
    handle.connect_unix(str(start().socket))
    found = []
    handle.opt_list(lambda name, _description: found.append(name) and 0)
    assert sorted(found) == replicas


def test_a_look_reads_and_never_writes_or_fences(drive, start):
    replica = drive.add_replica()
    server = start()
    writer = server.connect(f"{replica}/5/1")
    writer.pwrite(b"w" * BLOCK, 0)
    look = server.connect(replica)
    assert look.is_read_only()
    assert look.pread(BLOCK, 0) == b"w" * BLOCK
    assert failure(look.pwrite, b"x" * BLOCK, 0) == errno.EPERM
    assert failure(look.zero, BLOCK, 0) == errno.EPERM
    assert described(look)["epoch"] == "5"
    writer.pwrite(b"v" * BLOCK, 0)
    assert look.pread(BLOCK, 0) == b"v" * BLOCK


def test_nbdinfo_shows_a_replica(drive, start):
    replica = drive.add_replica()
    shown = subprocess.run(["nbdinfo", start().uri(replica)], capture_output=True, text=True, check=True).stdout
    assert "description: weft-replica v=1 status=ok" in shown


# --- names and requests that are wrong ------------------------------------------------------------------------------

def test_bad_names_are_refused_and_change_nothing(drive, start):
    replica = drive.add_replica()
    server = start()
    for name in ("", "/", "..", "../" + replica, f"{replica}/", f"{replica}/1", f"{replica}/0/1", f"{replica}/1/0",
                 f"{replica}/01/1", f"{replica}/1/1/1", f"{replica}/1/dirty", f"{replica}/1/1/dirty/",
                  f"{replica}/-1/1", f"{replica}/1/1\n", f"{replica}\n",
                 replica.upper(), "a" * 300, f"{replica}/{'9' * 300}/1", "/etc/passwd", f"../replicas/{replica}",
                 f".tmp-{replica}", f"{replica}/18446744073709551616/1", str(uuid.uuid4()), f"{uuid.uuid4()}/1/1"):
        refused(server, name)
    assert drive.meta(replica)["epoch"] == 0
    assert sorted(os.listdir(drive.path / "replicas")) == [replica]
    assert "is not the name of an export" in server.log_text()
    assert described(server.connect(f"{replica}/1/1"))["status"] == "ok"


def test_misaligned_and_oversized_requests_get_einval(drive, start):
    handle = start().connect(f"{drive.add_replica()}/1/1")
    for offset, length in ((1, BLOCK), (0, 512), (512, BLOCK), (0, BLOCK + 1), (BLOCK, BLOCK - 1)):
        assert failure(handle.pread, length, offset) == errno.EINVAL
        assert failure(handle.pwrite, b"x" * length, offset) == errno.EINVAL
        assert failure(handle.zero, length, offset) == errno.EINVAL
        assert failure(handle.trim, length, offset) == errno.EINVAL
    assert failure(handle.pread, 32 * MIB + BLOCK, 0) == errno.EINVAL
    assert failure(handle.pwrite, bytes(32 * MIB + BLOCK), 0) == errno.EINVAL
    assert handle.pread(32 * MIB, 0) == bytes(32 * MIB)
    handle.zero(SIZE, 0)


def test_nothing_beyond_the_end_is_touched(drive, start):
    replica = drive.add_replica()
    handle = start().connect(f"{replica}/1/1")
    for offset in (SIZE, SIZE - BLOCK, 2**62, 2**63):
        for call in (lambda at: handle.pwrite(b"x" * 2 * BLOCK, at), lambda at: handle.zero(2 * BLOCK, at),
                     lambda at: handle.trim(2 * BLOCK, at), lambda at: handle.pread(2 * BLOCK, at)):
            assert failure(call, offset) in (errno.EINVAL, errno.ENOSPC)
    assert (drive.replica_path(replica) / "data").stat().st_size == SIZE
    assert handle.pread(BLOCK, SIZE - BLOCK) == bytes(BLOCK)


# --- bytes and holes ------------------------------------------------------------------------------------------------

def test_zero_and_trim_make_holes_and_extents_tell_them(drive, start):
    replica = drive.add_replica()
    handle = start().connect(f"{replica}/1/1")
    data = drive.replica_path(replica) / "data"
    hole, allocated = nbd.STATE_HOLE | nbd.STATE_ZERO, 0
    assert extents(handle) == [(SIZE, hole)]
    handle.pwrite(b"d" * 8 * MIB, 8 * MIB)
    assert extents(handle) == [(8 * MIB, hole), (8 * MIB, allocated), (SIZE - 16 * MIB, hole)]
    handle.trim(MIB, 9 * MIB)
    handle.zero(MIB, 11 * MIB)
    handle.zero(MIB, 13 * MIB, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FUA)
    expected = [(8 * MIB, hole)] + [(MIB, allocated), (MIB, hole)] * 3 + [(2 * MIB, allocated), (SIZE - 16 * MIB, hole)]
    assert extents(handle) == expected
    assert extents(handle, 9 * MIB + BLOCK, 2 * MIB) == [(MIB - BLOCK, hole), (MIB, allocated), (BLOCK, hole)]
    assert handle.pread(3 * MIB, 8 * MIB) == b"d" * MIB + bytes(MIB) + b"d" * MIB
    handle.flush()
    assert data.stat().st_size == SIZE
    assert data.stat().st_blocks * 512 <= 6 * MIB
    one = []
    handle.block_status(SIZE, 0, lambda _c, _o, entries, _e: one.extend(entries) and 0, nbd.CMD_FLAG_REQ_ONE)
    assert one == [8 * MIB, hole]


def test_zero_without_holes_writes_zeros_and_fast_zero_says_no(drive, lend, start):
    replica = drive.add_replica(size=4 * MIB)
    lend(replica, "ramfs")
    handle = start().connect(f"{replica}/1/1")
    handle.pwrite(b"d" * 4 * MIB, 0)
    handle.zero(MIB, MIB)
    handle.trim(MIB, 3 * MIB)
    assert handle.pread(4 * MIB, 0) == b"d" * MIB + bytes(MIB) + b"d" * MIB + bytes(MIB)
    assert failure(lambda: handle.zero(MIB, 0, nbd.CMD_FLAG_FAST_ZERO)) == errno.ENOTSUP
    assert handle.pread(BLOCK, 0) == b"d" * BLOCK


def test_nbdcopy_keeps_bytes_and_holes(workspace, drive, start):
    replica = drive.add_replica()
    source = workspace.path / "source.img"
    with open(source, "wb") as image:
        image.truncate(SIZE)
        for offset in (0, 5 * MIB, SIZE - MIB):
            image.seek(offset)
            image.write(random.Random(offset).randbytes(MIB))
    server = start()
    subprocess.run(["nbdcopy", "--flush", source, server.uri(f"{replica}/1/1")], check=True, capture_output=True)
    data = drive.replica_path(replica) / "data"
    assert data.read_bytes() == source.read_bytes()
    assert data.stat().st_blocks * 512 <= 4 * MIB
    assert data.stat().st_size == SIZE


@pytest.mark.parametrize("numjobs", [1, 3])
def test_fio_verifies_random_writes_over_parallel_connections(workspace, drive, start, numjobs):
    replica = drive.add_replica()
    outcome = subprocess.run(
        ["fio", "--name=job", "--ioengine=nbd", f"--uri={start().uri(f'{replica}/1/1')}", "--rw=randwrite", "--bs=4k",
         "--iodepth=32", f"--numjobs={numjobs}", f"--size={SIZE // 4}", f"--offset_increment={SIZE // 4}",
         "--io_size=8m", "--verify=crc32c", "--fsync=64", "--randseed=7", "--group_reporting"],
        capture_output=True, text=True, cwd=workspace.path, env=workspace.environment(), timeout=120)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


# --- fencing --------------------------------------------------------------------------------------------------------

def test_a_higher_epoch_or_session_fences_the_lower_and_equals_join(drive, start):
    replica = drive.add_replica()
    server = start()
    first = server.connect(f"{replica}/3/1")
    second = server.connect(f"{replica}/3/1")
    for handle in (first, second):
        assert described(handle)["status"] == "ok"
        handle.pwrite(b"1" * BLOCK, 0)
    session = server.connect(f"{replica}/3/2")
    assert_fenced(first)
    assert_fenced(second)
    session.pwrite(b"2" * BLOCK, 0)
    epoch = server.connect(f"{replica}/4/1")
    assert_fenced(session)
    for stale in ("3/2", "3/9", "1/1"):
        handle = server.connect(f"{replica}/{stale}")
        assert described(handle)["status"] == "fenced"
        assert described(handle)["epoch"] == "4" and described(handle)["session"] == "1"
        assert_fenced(handle)
    assert epoch.pread(BLOCK, 0) == b"2" * BLOCK
    assert drive.meta(replica)["epoch"] == 4


def test_replicas_do_not_fence_each_other(drive, start):
    one, two = drive.add_replica(), drive.add_replica()
    server = start()
    first = server.connect(f"{one}/1/1")
    server.connect(f"{two}/9/9")
    first.pwrite(b"1" * BLOCK, 0)


def test_a_session_is_remembered_after_its_last_connection_closed(drive, start):
    replica = drive.add_replica()
    server = start()
    server.connect(f"{replica}/3/5").shutdown()
    wait_for(lambda: not [name for name in server.open_files() if "/data" in name], 10, "the files to be closed")
    assert described(server.connect(f"{replica}/3/4"))["status"] == "fenced"
    assert described(server.connect(f"{replica}/3/5"))["status"] == "ok"


def test_an_admitted_request_ends_before_a_higher_key_is_durable_or_open(drive, lend, start):
    replica = drive.add_replica()
    filesystem = lend(replica, "ext4")
    server = start()
    old = server.connect(f"{replica}/1/1")
    old.pwrite(b"a" * BLOCK, 0)
    filesystem.freeze()
    try:
        slow = old.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(b"b" * BLOCK)), 0)
        wait_for(lambda: old.poll(0) or server.threads_in("pwrite64") == 1, 20, "the write to be admitted")
        second = server.connect(f"{replica}/1/1")  # equal: joins although a request of its key is under way
        second_epoch = Opener(server, f"{replica}/2/1")
        wait_for(lambda: fenced(second), 20, "the old epoch to be fenced")
        # The higher key waits: the write of the old one is still in the kernel.
        second_epoch.join(0.5)
        assert second_epoch.is_alive() and drive.meta(replica)["epoch"] == 1
        # One that is higher still overtakes it, and waits for the same write.
        third = Opener(server, f"{replica}/3/1")
        overtaken = second_epoch.result()
        assert described(overtaken)["status"] == "fenced"
        third.join(0.5)
        assert third.is_alive() and drive.meta(replica)["epoch"] == 1
    finally:
        filesystem.thaw()
    wait_for(lambda: old.poll(100) and old.aio_command_completed(slow), 20, "the admitted write to succeed")
    new = third.result()
    assert described(new)["status"] == "ok"
    assert new.pread(BLOCK, 0) == b"b" * BLOCK
    assert drive.meta(replica)["epoch"] == 3
    assert_fenced(old)


def test_many_openers_at_once_leave_exactly_the_highest_admitted(drive, start):
    replica = drive.add_replica()
    server = start()
    keys = [(epoch, session) for epoch in range(1, 9) for session in (1, 2)]
    random.Random(3).shuffle(keys)
    openers = {key: Opener(server, f"{replica}/{key[0]}/{key[1]}") for key in keys}
    handles = {key: opener.result() for key, opener in openers.items()}
    assert [key for key, handle in sorted(handles.items()) if not fenced(handle)] == [(8, 2)]
    assert drive.meta(replica)["epoch"] == 8


def test_a_writer_under_load_is_never_acknowledged_after_the_new_one_was_let_in(drive, start):
    replica = drive.add_replica()
    server = start()
    let_in, late, written = threading.Event(), [], [0]

    def load(handle):
        while True:
            was_let_in = let_in.is_set()
            try:
                handle.pwrite(b"o" * BLOCK, 0)
            except nbd.Error as problem:
                assert problem.errnum == errno.ESHUTDOWN
                return
            written[0] += 1
            if was_let_in:
                late.append(written[0])
    writers = [threading.Thread(target=load, args=(server.connect(f"{replica}/1/1"),), daemon=True) for _ in range(3)]
    for writer in writers:
        writer.start()
    wait_for(lambda: written[0] > 100, 20, "the old writer to write")
    new = server.connect(f"{replica}/2/1")
    let_in.set()
    new.pwrite(b"n" * BLOCK, 0)
    for writer in writers:
        writer.join(20)
        assert not writer.is_alive()
    assert not late
    assert new.pread(BLOCK, 0) == b"n" * BLOCK


# --- what survives --------------------------------------------------------------------------------------------------

def test_the_epoch_survives_kill_9_and_the_session_does_not_need_to(drive, start):
    replica = drive.add_replica()
    server = start()
    server.connect(f"{replica}/7/3").pwrite(b"7" * BLOCK, 0, nbd.CMD_FLAG_FUA)
    server.kill()
    server = start()
    assert described(server.connect(f"{replica}/6/9"))["status"] == "fenced"
    handle = server.connect(f"{replica}/7/1")
    assert described(handle) == {**described(handle), "status": "ok", "epoch": "7", "session": "1"}
    assert handle.pread(BLOCK, 0) == b"7" * BLOCK


def test_an_epoch_that_was_let_in_survives_kill_9_at_any_instant(drive, start):
    seed = int(os.environ.get("SEED", random.randrange(2**32)))
    print(f"SEED={seed}")
    rng, replica, epoch, admitted = random.Random(seed), drive.add_replica(), 0, 0
    for _ in range(25):
        server = start()
        killer = threading.Timer(rng.uniform(0.0, 0.06), server.process.kill)
        killer.start()
        try:
            while True:
                epoch += 1
                handle = server.connect(f"{replica}/{epoch}/1")
                assert described(handle)["status"] == "ok"
                admitted = epoch
        except nbd.Error:
            server.kill()
        killer.join()
        assert admitted <= drive.meta(replica)["epoch"] <= epoch
    assert admitted > 25
    assert described(start().connect(f"{replica}/{admitted - 1}/9"))["status"] == "fenced"


def test_both_slots_hold_an_epoch_that_was_let_in_so_that_either_may_rot(drive, start):
    replica = drive.add_replica()
    server = start()
    server.connect(f"{replica}/4/1")
    assert [slot["epoch"] for slot in drive.slots(replica)] == [4, 4]
    server.kill()
    meta = drive.replica_path(replica) / "meta"
    good = meta.read_bytes()
    for at in (100, 4096 + 100):
        meta.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1:])
        server = start()
        assert described(server.connect(f"{replica}/3/1"))["status"] == "fenced"
        assert described(server.connect(f"{replica}/4/1"))["status"] == "ok"
        server.kill()
    # The next epoch heals the file.
    server = start()
    server.connect(f"{replica}/5/1")
    assert [slot["epoch"] for slot in drive.slots(replica)] == [5, 5]


def test_a_fencing_without_a_change_does_not_hide_a_restart(drive, start):
    replica = drive.add_replica()
    server = start("boot-id=b1")
    assert described(server.connect(f"{replica}/1/1")) == {
        "v": "1", "status": "ok", "boot": "b1", "epoch": "1", "session": "1", "prior": "-"}
    server.kill()
    server = start("boot-id=b1")
    writer = server.connect(f"{replica}/2/1")
    assert described(writer)["prior"] == "-"  # opened twice, never changed
    writer.pwrite(b"1" * BLOCK, 0)
    assert described(server.connect(replica))["prior"] == "b1"
    server.kill()
    for epoch in (3, 4, 5):  # the node restarted; each writer fences, learns of it, and dies with the server
        server = start("boot-id=b2")
        writer = server.connect(f"{replica}/{epoch}/1")
        assert (described(writer)["boot"], described(writer)["prior"]) == ("b2", "b1")
        writer.pread(BLOCK, 0)
        writer.flush()
        stale = described(server.connect(f"{replica}/{epoch - 1}/9"))
        assert (stale["status"], stale["boot"], stale["prior"]) == ("fenced", "b2", "b1")
        again = described(server.connect(f"{replica}/{epoch}/2"))
        assert (again["boot"], again["prior"]) == ("b2", "b1")
        server.kill()
    assert [slot["change_boot"] for slot in drive.slots(replica)] == ["b1", "b1"]
    server = start("boot-id=b2")
    writer = server.connect(f"{replica}/6/1")
    assert described(writer)["prior"] == "b1"
    writer.trim(BLOCK, 0)
    assert [slot["change_boot"] for slot in drive.slots(replica)] == ["b2", "b2"]
    server.kill()
    taken = described(start("boot-id=b2").connect(f"{replica}/7/1"))
    assert (taken["boot"], taken["prior"]) == ("b2", "b2")


@pytest.mark.parametrize("change", ["write", "zero", "trim"])
def test_every_kind_of_change_stores_the_boot_id(drive, start, change):
    replica = drive.add_replica()
    handle = start("boot-id=b1").connect(f"{replica}/1/1")
    {"write": lambda: handle.pwrite(b"x" * BLOCK, 0), "zero": lambda: handle.zero(BLOCK, 0),
     "trim": lambda: handle.trim(BLOCK, 0)}[change]()
    assert [slot["change_boot"] for slot in drive.slots(replica)] == ["b1", "b1"]


def test_the_boot_id_is_the_kernels(drive, start):
    kernel = described(start().connect(drive.add_replica()))["boot"]
    assert kernel == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def test_changes_wait_for_the_boot_id_and_a_higher_key_waits_for_them(drive, lend, start):
    replica = drive.add_replica(change_boot="b1", epoch=1)
    filesystem = lend(replica, "ext4", name="meta")
    server = start("boot-id=b2")
    old, second = server.connect(f"{replica}/1/1"), server.connect(f"{replica}/1/1")
    filesystem.freeze()
    try:
        changes = [(old, old.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(b"a" * BLOCK)), 0)),
                   (second, second.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(b"b" * BLOCK)), BLOCK))]
        wait_for(lambda: [handle.poll(0) for handle, _ in changes] and server.threads_in("pwrite64") == 1, 20,
                 "the boot id to be written")
        # The store is stuck; reads of the same key, looks and stale openers do not wait for it.
        reader = server.connect(f"{replica}/1/1")
        assert reader.pread(2 * BLOCK, 0) == bytes(2 * BLOCK)
        assert described(server.connect(replica))["prior"] == "b1"
        higher = Opener(server, f"{replica}/2/1")
        wait_for(lambda: fenced(reader), 20, "the old epoch to be fenced")
        higher.join(0.5)
        assert higher.is_alive() and drive.meta(replica)["epoch"] == 1
        assert described(server.connect(f"{replica}/1/9"))["status"] == "fenced"
        for handle, cookie in changes:
            handle.poll(0)
            assert not handle.aio_command_completed(cookie)
        assert (drive.replica_path(replica) / "data").read_bytes()[:2 * BLOCK] == bytes(2 * BLOCK)
    finally:
        filesystem.thaw()
    for handle, cookie in changes:
        wait_for(lambda: handle.poll(100) is not None and handle.aio_command_completed(cookie), 20, "the change")
    new = higher.result()
    assert (described(new)["status"], described(new)["prior"]) == ("ok", "b2")
    assert new.pread(2 * BLOCK, 0) == b"a" * BLOCK + b"b" * BLOCK
    assert [(slot["epoch"], slot["change_boot"]) for slot in drive.slots(replica)] == [(2, "b2")] * 2


def test_no_change_is_ever_on_the_disk_under_an_earlier_boot_id_after_kill_9(drive, start):
    seed = int(os.environ.get("SEED", random.randrange(2**32)))
    print(f"SEED={seed}")
    rng, replica, made = random.Random(seed), drive.add_replica(), 0
    for boot in range(1, 21):
        server = start(f"boot-id=b{boot}")
        handle = server.connect(f"{replica}/{boot}/1")
        last = f"b{made}" if made else "-"
        told = described(handle)["prior"]
        assert told == drive.meta(replica)["change_boot"] or (told, made) == ("-", 0)
        assert int(told[1:] or 0) >= int(last[1:] or 0)  # stored and then killed: newer than the last change
        killer = threading.Timer(rng.uniform(0.0, 0.004), server.process.kill)
        killer.start()
        try:
            handle.pwrite(bytes([boot]) * BLOCK, 0)
        except nbd.Error:
            pass
        killer.join()
        server.kill()
        with open(drive.replica_path(replica) / "data", "rb") as data:
            made = data.read(1)[0]
        if made == boot:
            assert drive.meta(replica)["change_boot"] == f"b{boot}"


# --- failures -------------------------------------------------------------------------------------------------------

def fill(handle):
    """More than there is room for below; the page cache takes it."""
    for offset in range(0, 128 * MIB, 4 * MIB):
        handle.pwrite(random.Random(offset).randbytes(4 * MIB), offset)


@pytest.mark.parametrize("durably", ["flush", "fua write", "fua zero"])
def test_after_a_failed_sync_nothing_succeeds_until_the_server_restarts(drive, lend, start, durably):
    replica, sound = drive.add_replica(size=128 * MIB), drive.add_replica()
    filesystem = lend(replica, "ext4")
    server = start()
    handle = server.connect(f"{replica}/1/1")
    other = server.connect(f"{replica}/1/1")
    fill(handle)
    first = {"flush": handle.flush, "fua write": lambda: handle.pwrite(b"x" * BLOCK, 0, nbd.CMD_FLAG_FUA),
             "fua zero": lambda: handle.zero(BLOCK, 0, nbd.CMD_FLAG_FUA)}[durably]
    assert failure(first) == errno.EIO
    filesystem.give_room()
    for connection in (handle, other):
        assert failure(connection.flush) == errno.EIO
        assert failure(connection.pwrite, b"x" * BLOCK, 0) == errno.EIO
        assert failure(connection.pread, BLOCK, 0) == errno.EIO
        connection.shutdown()
    refused(server, f"{replica}/1/1")
    refused(server, f"{replica}/2/1")
    refused(server, replica)
    assert "fails until the server restarts" in server.log_text()
    # Another replica of the same drive is not touched by it.
    sound_handle = server.connect(f"{sound}/1/1")
    sound_handle.pwrite(b"s" * BLOCK, 0, nbd.CMD_FLAG_FUA)
    sound_handle.shutdown()
    server.kill()
    restarted = start().connect(f"{replica}/1/1")
    restarted.pwrite(b"y" * BLOCK, 0, nbd.CMD_FLAG_FUA)


def test_flushes_that_meet_all_learn_of_the_failure(drive, lend, start):
    replica = drive.add_replica(size=128 * MIB)
    lend(replica, "ext4")
    server = start()
    handles = [server.connect(f"{replica}/1/1") for _ in range(6)]
    fill(handles[0])
    outcomes = []

    def flush(handle):
        try:
            handle.flush()
            outcomes.append(0)
        except nbd.Error as problem:
            outcomes.append(problem.errnum)
    threads = [threading.Thread(target=flush, args=(handle,)) for handle in handles]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert outcomes == [errno.EIO] * len(handles)


def test_a_removed_replica_goes_on_until_it_is_closed_and_is_not_opened_again(drive, start):
    replica = drive.add_replica()
    server = start()
    handle = server.connect(f"{replica}/1/1")
    handle.pwrite(b"x" * MIB, 0)
    path = drive.replica_path(replica)
    path.rename(drive.path / "trash" / replica)
    subprocess.run(["rm", "-r", drive.path / "trash" / replica], check=True)
    refused(server, f"{replica}/1/1")
    refused(server, f"{replica}/2/1")
    refused(server, replica)
    assert handle.pread(BLOCK, 0) == b"x" * BLOCK
    handle.pwrite(b"y" * BLOCK, 0, nbd.CMD_FLAG_FUA)
    assert [name for name in server.open_files() if "deleted" in name]
    handle.shutdown()
    wait_for(lambda: not [name for name in server.open_files() if "deleted" in name], 10, "its files to be freed")


def test_a_damaged_replica_is_refused_and_named_and_the_others_are_served(drive, start):
    cut, resized, mixed, newer, sound = (drive.add_replica() for _ in range(5))
    (drive.replica_path(cut) / "meta").write_bytes(b"WEFTREPL")
    with open(drive.replica_path(resized) / "data", "r+b") as data:
        data.truncate(SIZE + BLOCK)
    (drive.replica_path(mixed) / "meta").write_bytes((drive.replica_path(sound) / "meta").read_bytes())
    slot, _ = encode_slot(2, newer, str(uuid.uuid4()), SIZE, version=2)
    with open(drive.replica_path(newer) / "meta", "r+b") as meta:
        meta.write(slot)
    server = start()
    for replica in (cut, resized, mixed, newer):
        refused(server, f"{replica}/1/1")
        assert replica in server.log_text()
    assert "format version 2" in server.log_text()
    assert (drive.replica_path(resized) / "data").stat().st_size == SIZE + BLOCK
    server.connect(f"{sound}/1/1").pwrite(b"x" * BLOCK, 0)


# --- the drive ------------------------------------------------------------------------------------------------------

def start_refused(workspace, *parameters):
    outcome = subprocess.run(["nbdkit", "-f", "-U", workspace.path / "never.sock", PLUGIN, *parameters],
                             capture_output=True, text=True, timeout=20, env=workspace.environment())
    assert outcome.returncode != 0
    return outcome.stderr


def test_a_second_server_on_the_drive_refuses_and_names_the_first(workspace, drive, start):
    server = start()
    assert f"already served by another process (pid {server.process.pid})" in start_refused(workspace,
                                                                                            f"drive={drive.path}")
    # A stopped server is no dead server: its requests may still be under way.
    belongings.stop(server.process.pid)
    assert "already served" in start_refused(workspace, f"drive={drive.path}")
    server.process.send_signal(signal.SIGCONT)
    server.kill()
    start()


def test_what_is_no_drive_is_refused_with_its_reason(workspace, drive):
    assert "drive=DIRECTORY is missing" in start_refused(workspace)
    assert "not an absolute path" in start_refused(workspace, "drive=some/where")
    assert "does not exist" in start_refused(workspace, "drive=/nowhere/at/all")
    assert "is not a directory" in start_refused(workspace, f"drive={drive.path}/weft.json")
    assert "is not a drive yet" in start_refused(workspace, f"drive={drive.path}/replicas")
    assert "unknown parameter 'size'" in start_refused(workspace, f"drive={drive.path}", "size=1")
    assert "boot-id" in start_refused(workspace, f"drive={drive.path}", "boot-id=a b")
    (drive.path / "weft.json").write_text("{")
    assert "not JSON" in start_refused(workspace, f"drive={drive.path}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stop_is_immediate_and_never_looks_like_a_fence(drive, start, number):
    """nbdkit by itself would wait for its clients, and answer ESHUTDOWN meanwhile: a writer would give up for good."""
    replica = drive.add_replica()
    for _ in range(5):
        server = start()
        problems, written = [], [0]

        def load(handle):
            try:
                while True:
                    handle.pwrite(b"x" * BLOCK, 0)
                    written[0] += 1
            except nbd.Error as problem:
                problems.append(problem.errnum)
        writers = [threading.Thread(target=load, args=(server.connect(f"{replica}/1/1"),), daemon=True)
                   for _ in range(3)]
        for writer in writers:
            writer.start()
        wait_for(lambda: written[0] > 50, 20, "the writers to write")
        assert server.kill(number) == 0
        for writer in writers:
            writer.join(20)
            assert not writer.is_alive()
        assert len(problems) == 3 and errno.ESHUTDOWN not in problems
    assert start().connect(replica).pread(BLOCK, 0) == b"x" * BLOCK
