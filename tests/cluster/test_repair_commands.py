# SPDX-License-Identifier: Apache-2.0
"""What an operator decides about replicas: repair at once, forget a dead node, go on from one that is behind (R12).
Each says what it did, refuses what would lose data unless told so, and changes nothing when it refuses."""
import re
import shutil

import pytest

from lib.cluster import CliError, new_mount_id
from lib.plugin_client import PluginError
from lib.waiting import wait_for

TIMES = {"lease-ttl-ms": 2000, "attach-timeout-ms": 2000}  # and a grace period that no test waits for


@pytest.fixture
def three(make_cluster):
    return make_cluster(times=TIMES)


def refused(node, *arguments):
    outcome = node.try_weft(*arguments)
    assert outcome.returncode > 0, outcome
    return outcome.returncode, outcome.stderr


def wait_gone(asked, node):
    wait_for(lambda: not next(n for n in asked.weft("node", "ls") if n["name"] == node.name)["alive"], 30,
             f"the lease of {node.name} to run out", retry_on=(CliError,))


def write(node, text):
    mount_id = new_mount_id()
    path = node.plugin.mount("db", mount_id)
    with open(f"{path}/file", "w") as file:
        file.write(text)
    node.plugin.unmount("db", mount_id)


def read(node):
    mount_id = new_mount_id()
    path = wait_for(lambda: node.plugin.mount("db", mount_id), 30, "the mount", interval=0.3, retry_on=(PluginError,))
    with open(f"{path}/file") as file:
        text = file.read()
    node.plugin.unmount("db", mount_id)
    return text


def create(cluster, **options):
    cluster[0].plugin.create("db", size="32MiB", **options)
    holders = [cluster.node(r["node"]) for r in cluster.replicas("db", cluster[0])]
    return holders, [node for node in cluster.nodes if node not in holders]


def test_repair_replaces_at_once_in_an_unused_volume(three):
    (node, away), (spare,) = create(three)
    write(node, "kept")
    assert node.weft("volume", "repair", "db")["done"] == [], "nothing is missing"
    away.kill_everything()
    wait_gone(node, away)
    done = node.weft("volume", "repair", "db")["done"]
    assert len(done) == 1 and f"node {away.name}" in done[0] and f"node {spare.name}" in done[0]
    three.wait_up_to_date("db", node=node)
    assert set(three.states("db", node)) == {node.name, spare.name}
    assert read(spare) == "kept"
    three.wait_detached("db", node=node)
    three.assert_replicas_equal("db")


def test_repair_says_why_it_cannot(make_cluster):
    cluster = make_cluster(nodes=2, times=TIMES)
    (node, away), _ = create(cluster)
    mount_id = new_mount_id()
    node.plugin.mount("db", mount_id)
    away.kill_everything()
    wait_gone(node, away)
    wait_for(lambda: cluster.states("db", node)[away.name] == "outdated", 30, "the demotion")
    code, text = refused(node, "volume", "repair", "db")
    assert code in (1, 7) and re.search("(?s)needs 1 other node.*no node has one", text), text
    assert set(cluster.states("db", node)) == {node.name, away.name}, "nothing was changed"
    assert refused(node, "volume", "repair", "nosuch")[0] == 4
    assert refused(node, "volume", "repair", "a/b")[0] == 1
    node.plugin.unmount("db", mount_id)


def test_a_forgotten_node_leaves_volumes_and_pool_and_its_drive_does_not_sneak_back(three):
    (node, away), (spare,) = create(three)
    write(node, "kept")
    code, text = refused(node, "node", "forget", away.name)
    assert code == 5 and "alive" in text
    assert refused(node, "node", "forget", "nosuch")[0] == 4
    assert refused(node, "node", "forget", "a/b")[0] == 1
    away.kill_everything()
    wait_gone(node, away)
    done = node.weft("node", "forget", away.name)["done"]
    assert any("volume db" in line for line in done) and any("left the pool" in line for line in done)
    assert away.name not in [n["name"] for n in node.weft("node", "ls")]
    assert away.name not in [d["node"] for d in node.weft("drive", "ls")]
    wait_for(lambda: set(three.states("db", node)) == {node.name, spare.name}, 30, "a new replica on the third node")
    three.wait_up_to_date("db", node=node)
    assert read(spare) == "kept"
    # Back again: a new node without drives. The old directory is refused while the old replica lies in it.
    away.start()
    assert list((away.drive / "replicas").glob("*")), "nobody deletes what nobody knows"
    wait_for(lambda: not away.replica_servers(), 20, "no replica server for a drive that is not in the pool")
    code, text = refused(away, "drive", "add", away.drive)
    assert code == 5 and re.search("1 replica that no volume has", text), text
    for path in (away.drive / "replicas").glob("*"):
        shutil.rmtree(path)
    away.add_drive()
    assert set(three.states("db", node)) == {node.name, spare.name}


def test_forget_refuses_to_lose_data_and_recover_goes_on_from_what_is_left(three):
    (node, last), _ = create(three)
    write(node, "old")
    three.wait_detached("db", node=node)
    # `node` misses the second write, then `last`, the only one that has it, dies for good.
    node.kill_everything()
    wait_gone(last, node)
    write(last, "new")
    three.wait_detached("db", node=last)
    last.kill_everything()
    node.start()
    wait_gone(node, last)
    stale = next(r for r in three.replicas("db", node) if r["node"] == node.name)
    assert stale["state"] == "outdated"
    code, text = refused(node, "node", "forget", last.name)
    assert code == 7 and re.search("(?s)'db'.*last up-to-date.*--force", text), text
    assert set(three.states("db", node)) == {node.name, last.name}
    node.weft("node", "forget", last.name, "--force")
    assert three.states("db", node) == {node.name: "outdated"}
    with pytest.raises(PluginError, match="no up-to-date replica"):
        node.plugin.mount("db", new_mount_id())
    code, text = refused(node, "volume", "recover", "db", "--from", stale["id"][:8])
    assert code == 1 and re.search("(?s)since it fell behind.*--accept-data-loss", text), text
    assert refused(node, "volume", "recover", "db", "--from", "abc", "--accept-data-loss")[0] == 4
    assert refused(node, "volume", "recover", "db")[0] == 2
    node.weft("volume", "recover", "db", "--from", stale["id"][:8], "--accept-data-loss")
    assert read(node) == "old"
    wait_for(lambda: len(three.replicas("db", node)) == 2, 30, "a second replica on the third node")
    three.wait_up_to_date("db", node=node)
    code, text = refused(node, "volume", "recover", "db", "--from", stale["id"], "--accept-data-loss")
    assert code == 1 and "nothing is to be recovered" in text, text
    three.wait_detached("db", node=node)
    three.assert_replicas_equal("db")


def test_a_volume_that_is_lost_entirely_can_be_removed_and_leaves_nothing(three):
    (only,), (node, _) = create(three, replicas="1")
    only.kill_everything()
    wait_gone(node, only)
    code, text = refused(node, "node", "forget", only.name)
    assert code == 7 and "all of its data is lost" in text
    node.weft("node", "forget", only.name, "--force")
    assert node.volume("db")["health"] == "unavailable"
    node.plugin.remove("db")
    assert node.weft("volume", "ls") == []
    node.plugin.create("db", size="32MiB", replicas="1")
    write(node, "again")
    assert read(node) == "again"
