# SPDX-License-Identifier: Apache-2.0
"""The store does not answer while a replica dies: writes hold, nothing is acknowledged, and they go on (R4)."""
import pytest

from lib.io_load import Writer
from lib.plugin_client import PluginError
from lib.store_away import locked, moved_away
from lib.waiting import assert_stays, wait_for


@pytest.mark.parametrize("away", [locked, moved_away], ids=["locked", "moved away"])
def test_a_replica_dies_while_the_store_is_away(workspace, make_cluster, away):
    cluster = make_cluster()
    node = cluster[0]
    node.weft("volume", "create", "db", "--size", "64MiB", "--opt", "replicas=3")
    uri = node.weft("volume", "attach", "db")["nbd_uri"]
    load = Writer(workspace, uri)
    try:
        load.wait_progress(100)
        with away(cluster):
            load.wait_progress(100, what="writes to go on without the store")
            cluster[1].kill_storage()
            wait_for(lambda: node.volume("db")["live"]["holding"], 30, "the engine to hold")
            held = load.count()
            assert_stays(lambda: load.count() == held, 8, "nothing is acknowledged before the demotion is recorded")
            assert not load.errors
            wait_for(lambda: not node.weft("status")["store_available"], 10, "weft status to tell of the store")
            assert node.weft("status")["store_problem"]
        load.wait_progress(100, timeout=30, what="writes to go on when the store is back")
        assert cluster.states("db", node)[cluster[1].name] != "up_to_date"
        cluster[1].start()
        cluster.wait_up_to_date("db", node=node)
        assert not load.errors
    finally:
        load.stop()
    load.assert_nothing_lost(uri)
    node.weft("volume", "detach", "db")
    cluster.assert_replicas_equal("db")


@pytest.mark.parametrize("away", [moved_away], ids=["moved away"])
def test_docker_reads_are_answered_from_the_last_known_copy(make_cluster, away):
    """An error to Get would make dockerd forget the volume (docker-plugin.md 3.3); changes are refused."""
    cluster = make_cluster()
    node = cluster[0]
    node.plugin.activate()
    node.plugin.create("db", size="64MiB")
    with away(cluster):
        wait_for(lambda: not node.weft("status")["store_available"], 30, "weftd to notice")
        assert node.plugin.get("db")["Name"] == "db"
        assert [volume["Name"] for volume in node.plugin.list()] == ["db"]
        with pytest.raises(PluginError):
            node.plugin.create("other", size="64MiB")
    wait_for(lambda: node.weft("status")["store_available"], 30, "the store to be back")
    node.plugin.create("other", size="64MiB")
    assert sorted(volume["Name"] for volume in node.plugin.list()) == ["db", "other"]
