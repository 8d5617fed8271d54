# SPDX-License-Identifier: Apache-2.0
"""Policies as the user sees them: thick volumes, drives that fill up, writes that wait for space or fail, scrubs, and
changes of all that while the volume is in use."""
import os
from concurrent.futures import ThreadPoolExecutor

import nbd
import pytest

from lib.cluster import CliError
from lib.io_load import Writer
from lib.nbd_writer import BLOCK
from lib.small_drive import SmallDrive
from lib.waiting import assert_stays, wait_for

MIB = 1024 * 1024


@pytest.fixture
def small(make_cluster, workspace):
    """small(sizes) is a cluster whose nodes lend file systems of these sizes, and the drives."""
    def make(*sizes):
        cluster = make_cluster(start=False, nodes=len(sizes))
        drives = [SmallDrive(node.drive, node.path / "image", size) for node, size in zip(cluster.nodes, sizes)]
        return cluster.start(), drives
    return make


def told(node, *words, severity=None):
    return [event["text"] for event in node.weft("events", "-n", "1000")
            if all(word in event["text"] for word in words) and severity in (None, event["severity"])]


def wait_told(node, *words, severity=None, timeout=40):
    return wait_for(lambda: told(node, *words, severity=severity), timeout, f"an event with {words}", interval=0.2)


def read_block(uri, number):
    handle = nbd.NBD()
    handle.connect_uri(uri)
    try:
        return bytes(handle.pread(BLOCK, number * BLOCK))
    finally:
        handle.shutdown()


def test_a_thick_volume_owns_its_space_and_one_that_does_not_fit_is_refused_with_figures(workspace, small):
    cluster, drives = small(512 * MIB, 512 * MIB)
    node = cluster[0]
    node.weft("volume", "create", "db", "--size", "200MiB", "--provisioning", "thick")
    for replica in cluster.replicas("db"):
        assert cluster.replica_file(replica).stat().st_blocks * 512 >= 200 * MIB
    with pytest.raises(CliError) as refused:
        node.weft("volume", "create", "large", "--size", "300MiB", "--provisioning", "thick")
    assert refused.value.code == 1
    for words in ("2 thick replicas of 300 MiB", "MiB free", str(cluster[1].drive), "provisioning=thin"):
        assert words in refused.value.stderr
    assert [volume["name"] for volume in node.weft("volume", "ls")] == ["db"]
    assert all(len(list((n.drive / "replicas").iterdir())) == 1 for n in cluster.nodes)

    # Full drives do not concern it: every block is written with not a byte free.
    uri = node.weft("volume", "attach", "db")["nbd_uri"]
    for drive in drives:
        drive.fill()
    handle = nbd.NBD()
    handle.connect_uri(uri)
    for offset in range(0, 200 * MIB, 4 * MIB):
        handle.pwrite(os.urandom(4 * MIB), offset)
    handle.flush()
    handle.shutdown()
    node.weft("volume", "detach", "db")
    cluster.assert_replicas_equal("db")
    for drive in drives:
        drive.drain()
    node.weft("volume", "rm", "db")
    wait_for(lambda: not any(list((n.drive / "replicas").iterdir()) for n in cluster.nodes), 20, "its files to be gone")


def test_of_thick_volumes_created_at_once_no_more_are_made_than_fit(small):
    cluster, _ = small(512 * MIB, 512 * MIB)
    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(lambda pair: pair[0].try_weft("volume", "create", pair[1], "--size", "250MiB",
                                                               "--provisioning", "thick"),
                                 zip(cluster.nodes, ("a", "b"))))
    assert sorted(outcome.returncode for outcome in outcomes) == [0, 1], [outcome.stderr for outcome in outcomes]
    assert len(cluster[0].weft("volume", "ls")) == 1


def test_a_drive_that_passes_80_and_90_percent_is_told_once_each_also_by_a_restarted_weftd(small):
    cluster, (drive,) = small(512 * MIB)
    node = cluster[0]

    def mark():
        return node.weft("drive", "ls")[0]["filled_past_percent"]

    assert mark() == 0
    drive.fill_to(84)
    wait_for(lambda: mark() == 80, 30, "the drive to pass 80 %")
    assert len(told(node, "% full:", str(node.drive), severity="warning")) == 1
    assert any("% full" in problem for problem in node.weft("status")["problems"])
    assert "over 80 % full" in node.try_weft("drive", "ls", json_output=False).stdout
    node.stop()
    node.start()
    drive.fill_to(95)
    wait_for(lambda: mark() == 90, 30, "the drive to pass 90 %")
    assert len(told(node, "% full:", severity="warning")) == 2
    drive.drain()
    wait_for(lambda: mark() == 0, 30, "the drive to be called empty again")
    wait_told(node, "% full again", severity="info")
    assert node.weft("status")["problems"] == []


def test_a_write_that_finds_a_drive_full_waits_reads_go_on_and_space_lets_it_go_on(workspace, small):
    cluster, (_, full) = small(512 * MIB, 256 * MIB)
    node, other = cluster.nodes
    uri = attach_with_data(node)
    load = Writer(workspace, uri, first=1024, blocks=16384, delay=0.001)
    try:
        full.fill()
        wait_for(lambda: node.volume("db")["live"]["waiting_for_space"], 60, "a write to wait for space")
        seen = wait_for(lambda: (v := node.volume("db"))["health"] == "holding" and v, 20, "the volume to be holding")
        assert str(other.drive) in seen["problem"] and "on node n2" in seen["problem"]
        held = load.count()
        assert_stays(lambda: load.count() == held, 3, "nothing is acknowledged without space")
        assert read_block(uri, 3) == b"3" * BLOCK
        assert set(cluster.states("db", node).values()) == {"up_to_date"}, "nobody is demoted for a full drive"
        wait_told(node, "writes wait for space", severity="warning")
        full.drain()
        load.wait_progress(50, what="writes to go on once there is space")
        wait_told(node, "writes go on, there is space again")
        assert node.volume("db")["problem"] == ""
        assert not load.errors
    finally:
        load.stop()
    load.assert_nothing_lost(uri)
    node.weft("volume", "detach", "db")
    cluster.assert_replicas_equal("db")


def test_with_on_full_fail_a_write_fails_with_enospc_and_the_volume_stays_whole(workspace, small):
    cluster, (_, full) = small(512 * MIB, 256 * MIB)
    node = cluster[0]
    uri = attach_with_data(node)
    node.weft("volume", "set", "db", "on-full=fail")  # while it is attached
    load = Writer(workspace, uri, first=1024, blocks=16384, delay=0.001)
    try:
        full.fill()
        wait_for(lambda: load.errors, 60, "a write to fail")
        assert "No space left" in load.errors[0][2]
        assert read_block(uri, 3) == b"3" * BLOCK
        assert set(cluster.states("db", node).values()) == {"up_to_date"}
        full.drain()
        load.wait_progress(50, what="writes to succeed once there is space")
    finally:
        load.stop()
    wait_for(lambda: node.volume("db")["health"] == "healthy", 30, "the volume to be healthy")
    node.weft("volume", "detach", "db")
    cluster.assert_replicas_equal("db")


def attach_with_data(node):
    """A volume of 128 MiB whose block 3 holds what read_block is to find; returns its address."""
    node.weft("volume", "create", "db", "--size", "128MiB")
    uri = node.weft("volume", "attach", "db")["nbd_uri"]
    handle = nbd.NBD()
    handle.connect_uri(uri)
    handle.pwrite(b"3" * BLOCK, 3 * BLOCK)
    handle.flush()
    handle.shutdown()
    return uri


def flip(cluster, replica, block):
    """One byte of a block of a replica's data is another one; returns what the block was."""
    with open(cluster.replica_file(replica), "r+b") as data:
        data.seek(block * BLOCK)
        before = data.read(BLOCK)
        data.seek(block * BLOCK + 77)
        data.write(bytes([before[77] ^ 0x20]))
        data.flush()
        os.fsync(data.fileno())
    return before


@pytest.mark.parametrize("checksums, replicas, decided", [("on", 2, True), ("off", 3, True), ("off", 2, False)])
def test_scrub_finds_a_flipped_byte_in_a_volume_that_is_in_use_and_repairs_it(cluster, checksums, replicas, decided):
    node = cluster[0]
    node.weft("volume", "create", "db", "--size", "64MiB", "--checksums", checksums, "--replicas", replicas)
    uri = node.weft("volume", "attach", "db")["nbd_uri"]
    handle = nbd.NBD()
    handle.connect_uri(uri)
    handle.pwrite(os.urandom(8 * MIB), 0)
    handle.flush()
    victim = next(r for r in cluster.replicas("db", node) if r["node"] != node.name)
    right = flip(cluster, victim, 700)
    done = node.weft("volume", "scrub", "db", "--wait")
    assert done["scrub_finished"] == 1 and done["scrubbed_at"]
    assert "4 KiB differed" in done["scrub_report"]
    assert ("nothing said" in done["scrub_report"]) == (not decided)
    wait_told(node, "scrub 1 has ended: 64 MiB compared", severity="warning" if decided else "error")
    assert bytes(handle.pread(BLOCK, 700 * BLOCK)) == right
    handle.shutdown()
    again = node.weft("volume", "scrub", "db", "--wait")
    assert again["scrub_finished"] == 2 and "no difference" in again["scrub_report"]
    node.weft("volume", "detach", "db")
    cluster.assert_replicas_equal("db")


def test_a_volume_that_nobody_uses_is_scrubbed_when_asked_and_by_its_schedule(cluster):
    node = cluster[0]
    attach_with_data(node)
    node.weft("volume", "detach", "db")
    victim = cluster.replicas("db")[1]
    right = flip(cluster, victim, 3)
    done = node.weft("volume", "scrub", "db", "--wait")
    assert "4 KiB differed" in done["scrub_report"]
    cluster.wait_detached("db")
    with open(cluster.replica_file(victim), "rb") as data:
        data.seek(3 * BLOCK)
        assert data.read(BLOCK) == right
    node.weft("volume", "set", "db", "scrub-every=10s")
    wait_for(lambda: node.volume("db")["scrub_finished"] >= 2, 90, "the schedule to have it scrubbed", interval=0.3)
    assert told(node, "scrub 2 is asked for by the schedule")


def test_policies_are_changed_while_the_volume_is_used_and_what_cannot_be_is_refused(cluster):
    node, other = cluster[0], cluster[1]
    attach_with_data(node)
    changed = other.weft("volume", "set", "db", "resync-rate=50MiB/s", "scrub-every=7d", "min-replicas=2")
    assert (changed["resync_rate_bytes"], changed["scrub_every_s"], changed["min_replicas"]) == (50 * MIB, 604800, 2)
    wait_told(node, "min-replicas: 2 (was 1), resync-rate: 50 MiB/s (was no limit), scrub-every: 1w (was never)")
    for pair, words in (("size=1g", "decided when a volume is created"), ("on-full=maybe", "neither hold nor fail"),
                        ("min-replicas=3", "more than the volume's replicas"), ("colour=red", "unknown option")):
        refused = node.try_weft("volume", "set", "db", "resync-rate=0", pair)
        assert refused.returncode == 1 and words in refused.stderr, refused.stderr
    assert node.volume("db")["resync_rate_bytes"] == 50 * MIB, "a refused change changes nothing"
