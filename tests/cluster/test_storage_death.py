# SPDX-License-Identifier: Apache-2.0
"""Storage nodes die and hang under a verified load; no I/O error, nothing acknowledged lost, replicas equal (R3, R4,
R8)."""
import random
import time

import pytest

from lib.io_load import Fio, Writer
from lib.waiting import assert_stays, wait_for

ROUNDS = 10


@pytest.mark.limit(600)
def test_fio_verifies_while_each_node_in_turn_is_killed_and_returns(workspace, cluster):
    writer = cluster[0]
    writer.weft("volume", "create", "db", "--size", "512MiB", "--opt", "replicas=3")
    uri = writer.weft("volume", "attach", "db")["nbd_uri"]
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for round_number in range(ROUNDS):
        victim = cluster[round_number % 3]
        fio = Fio(workspace, uri, size="48M", offset=f"{round_number * 48}M", rate_iops=2500)
        try:
            time.sleep(chance.uniform(0.3, 2.5))  # the random instant is the point of this test
            assert fio.running(), fio.finish()
            victim.kill_storage()
            if victim is not writer:  # without the writer's weftd nothing can be recorded, so nothing may go on (R4)
                wait_for(lambda: cluster.states("db", writer)[victim.name] != "up_to_date", 30,
                         f"round {round_number}: {victim.name} to be demoted", retry_on=(AssertionError,))
            victim.start()
            fio.finish(timeout=120)
        finally:
            fio.kill()
        cluster.wait_up_to_date("db", timeout=90, node=writer)
    writer.weft("volume", "detach", "db")
    cluster.assert_replicas_equal("db")
    writer.weft("volume", "rm", "db")
    cluster.assert_no_leaks()


def test_writers_node_loses_its_replica_server_and_weftd_and_writes_are_held_until_weftd_is_back(workspace, cluster):
    node = cluster[0]
    node.weft("volume", "create", "db", "--size", "64MiB", "--opt", "replicas=2")
    uri = node.weft("volume", "attach", "db")["nbd_uri"]
    assert node.name in cluster.states("db"), "one replica is to be local to the writer"
    load = Writer(workspace, uri)
    try:
        load.wait_progress(100)
        node.kill_storage()
        node.start()
        load.wait_progress(100, timeout=30)
        cluster.wait_up_to_date("db", node=node)
        load.wait_progress(100)
        assert not load.errors
    finally:
        load.stop()
    load.assert_nothing_lost(uri)
    node.weft("volume", "detach", "db")
    cluster.assert_replicas_equal("db")


def test_a_stopped_replica_server_is_left_behind_and_resynced_when_it_wakes(workspace, cluster):
    node = cluster[0]
    node.weft("volume", "create", "db", "--size", "64MiB", "--opt", "replicas=3")
    uri = node.weft("volume", "attach", "db")["nbd_uri"]
    sleeper = cluster[1]
    load = Writer(workspace, uri)
    try:
        load.wait_progress(100)
        sleeper.pause_storage()
        try:
            wait_for(lambda: cluster.states("db", node)[sleeper.name] != "up_to_date", 30, "the sleeper to be demoted")
            load.wait_progress(200, what="writes to go on without the sleeper")
        finally:
            sleeper.resume_storage()
        cluster.wait_up_to_date("db", node=node)
        load.wait_progress(100)
        assert not load.errors
    finally:
        load.stop()
    load.assert_nothing_lost(uri)
    node.weft("volume", "detach", "db")
    cluster.assert_replicas_equal("db")


def test_the_last_good_replica_is_never_demoted_writes_wait_for_it(workspace, make_cluster):
    cluster = make_cluster(nodes=2)
    node, other = cluster.nodes
    node.weft("volume", "create", "db", "--size", "64MiB", "--opt", "replicas=2", "--opt", "min-replicas=2")
    uri = node.weft("volume", "attach", "db")["nbd_uri"]
    load = Writer(workspace, uri)
    try:
        load.wait_progress(50)
        other.kill_storage()
        wait_for(lambda: node.volume("db")["live"]["holding"], 30, "the engine to hold")
        held = load.count()
        # Longer than every time-out of the engine together.
        assert_stays(lambda: load.count() == held, 6, "nothing is acknowledged below min-replicas")
        assert node.volume("db")["health"] == "holding"
        assert cluster.states("db", node)[other.name] == "up_to_date"
        other.start()
        load.wait_progress(50, timeout=30)
        assert not load.errors
    finally:
        load.stop()
    load.assert_nothing_lost(uri)


def test_a_volume_is_removed_while_a_node_with_a_replica_is_down_and_collected_when_it_returns(cluster):
    node, away = cluster[0], cluster[2]
    node.weft("volume", "create", "db", "--size", "64MiB", "--opt", "replicas=3")
    away.kill_storage()
    node.weft("volume", "rm", "db")
    assert node.weft("volume", "ls") == []
    assert list((away.drive / "replicas").glob("*")), "its files cannot be gone yet"
    away.start()
    cluster.assert_no_leaks()
