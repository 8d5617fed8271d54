# SPDX-License-Identifier: Apache-2.0
"""Self-healing and repair of volumes that nobody uses: what is gone is replaced after the grace period, what comes back
earlier is resynced, a partition is left alone, and nobody who wants the volume has to wait for any of it."""
import os
import subprocess

import pytest

from lib import belongings
from lib.cluster import CliError, new_mount_id
from lib.io_load import Writer
from lib.waiting import assert_stays, wait_for

GRACE = {"repair-after-ms": 3000, "lease-ttl-ms": 2000, "attach-timeout-ms": 2000}
MIB = 1024 * 1024


@pytest.fixture
def three(make_cluster):
    return make_cluster(times=GRACE)


def texts(node, subject):
    return [event["text"] for event in node.weft("events", "-n", "1000") if event["subject"] == subject]


def told(node, subject, *words):
    return [text for text in texts(node, subject) if all(word in text for word in words)]


def wait_told(node, subject, *words, timeout=40):
    return wait_for(lambda: told(node, subject, *words), timeout, f"an event of {subject} with {words}",
                    interval=0.2, retry_on=(CliError,))


def create(cluster, name="db", size="64MiB", replicas=2, **options):
    """Returns (node that has one replica, node that has another, nodes without)."""
    cluster[0].plugin.create(name, size=size, replicas=str(replicas), **options)
    holders = [cluster.node(r["node"]) for r in cluster.replicas(name, cluster[0])]
    return holders, [node for node in cluster.nodes if node not in holders]


def wait_repaired(cluster, name, asked, nodes, timeout=60):
    """Replicas on just these nodes, all up to date, nobody attached, called clean: nothing is left to do."""
    def done():
        volume = asked.volume(name)
        replicas = [r for extent in volume["extents"] for r in extent["replicas"]]
        placed = {r["node"] for r in replicas} == {node.name for node in nodes}
        equal = all(r["state"] == "up_to_date" for r in replicas)
        return placed and equal and not volume["writer"] and volume["clean"] and replicas
    return wait_for(done, timeout, f"{name} to be repaired and let go", interval=0.2, retry_on=(CliError,))


def fill(node, path, count=16):
    with open(f"{path}/filled", "wb") as file:
        for _ in range(count):
            file.write(os.urandom(MIB))
    subprocess.run(["sync", "-f", f"{path}/filled"], check=True)


def checksum(path):
    return subprocess.run(["cksum", path], capture_output=True, text=True, check=True).stdout.split()[0]


def test_a_dead_nodes_replica_is_replaced_while_the_volume_is_written(workspace, three):
    three[0].weft("volume", "create", "db", "--size", "64MiB")
    holders = [three.node(r["node"]) for r in three.replicas("db")]
    writer, away = holders
    spare = next(node for node in three.nodes if node not in holders)
    uri = writer.weft("volume", "attach", "db")["nbd_uri"]
    load = Writer(workspace, uri)
    try:
        load.wait_progress(100)
        away.kill_everything()
        wait_for(lambda: spare.name in three.states("db", writer), 40, "a replica on the third node")
        assert away.name not in three.states("db", writer)
        three.wait_up_to_date("db", node=writer)
        load.wait_progress(100)
        assert not load.errors
    finally:
        load.stop()
    load.assert_nothing_lost(uri)
    wait_told(writer, "volume db", "is replaced by", f"node {away.name} is gone")
    writer.weft("volume", "detach", "db")
    three.assert_replicas_equal("db")
    # What comes back after the grace period is trash, and its node deletes it.
    away.start()
    wait_for(lambda: not list((away.drive / "replicas").glob("*")), 30, "the old replica to be deleted")
    assert set(three.states("db")) == {writer.name, spare.name}


def test_a_detached_volume_is_repaired_and_let_go_again(three):
    holders, (spare,) = create(three)
    node, away = holders
    mount_id = new_mount_id()
    path = node.plugin.mount("db", mount_id)
    fill(node, path)
    node.plugin.unmount("db", mount_id)
    three.wait_detached("db", node=node)
    before = checksum(three.replica_file(next(r for r in three.replicas("db") if r["node"] == node.name)))
    away.kill_everything()
    replicas = wait_repaired(three, "db", node, [node, spare])
    three.assert_replicas_equal("db")
    assert checksum(three.replica_file(replicas[0])) == before
    assert told(node, "volume db", "attached for repair") and told(node, "volume db", "repair finished")
    assert not node.volume_servers() and not spare.volume_servers()


def test_a_node_that_comes_back_within_the_grace_period_is_resynced_and_not_replaced(make_cluster):
    cluster = make_cluster(times={**GRACE, "repair-after-ms": 600000})
    holders, _ = create(cluster)
    node, away = holders
    mount_id = new_mount_id()
    path = node.plugin.mount("db", mount_id)
    away.kill_everything()
    fill(node, path, 4)
    node.plugin.unmount("db", mount_id)
    cluster.wait_detached("db", node=node)
    assert cluster.states("db", node)[away.name] == "outdated"
    away.start()
    wait_repaired(cluster, "db", node, [node, away])
    cluster.assert_replicas_equal("db")
    assert not told(node, "volume db", "is replaced by")
    node.plugin.remove("db")
    cluster.assert_no_leaks()


def test_two_of_three_nodes_gone_is_a_partition_and_nothing_is_replaced(three):
    holders, (spare,) = create(three, replicas=2)
    node, away = holders
    mount_id = new_mount_id()
    node.plugin.mount("db", mount_id)
    away.kill_everything()
    spare.kill_everything()
    wait_told(node, "cluster", "partition", away.name, spare.name)
    before = {r["id"] for r in three.replicas("db", node)}
    assert_stays(lambda: {r["id"] for r in three.replicas("db", node)} == before, 6, "the replicas stay the same ones",
                 interval=0.5)
    assert len(told(node, "cluster", "partition")) == 1, "said once"
    spare.start()
    wait_for(lambda: spare.name in three.states("db", node), 40, "one node is gone now: a failure, replaced")
    three.wait_up_to_date("db", node=node)
    node.plugin.unmount("db", mount_id)


def test_no_place_is_told_once_and_used_when_it_appears(make_cluster):
    cluster = make_cluster(nodes=4, times=GRACE, drives=False)
    for node in cluster.nodes[:3]:
        node.add_drive()
    holders, _ = create(cluster, replicas=3)
    node, away = holders[0], holders[1]
    mount_id = new_mount_id()
    node.plugin.mount("db", mount_id)
    away.kill_everything()
    wait_told(node, "volume db", "not repaired", "is gone", cluster[3].name)
    assert_stays(lambda: len(told(node, "volume db", "not repaired")) == 1, 4, "said once", interval=0.5)
    cluster[3].add_drive()
    wait_for(lambda: cluster[3].name in cluster.states("db", node), 40, "a replica on the new drive")
    cluster.wait_up_to_date("db", node=node)
    node.plugin.unmount("db", mount_id)


def test_a_drive_whose_server_cannot_run_is_replaced_although_its_node_lives(three):
    holders, (spare,) = create(three)
    node, broken = holders
    broken.drive.rename(broken.drive.with_name("unplugged"))
    belongings.kill_all(broken.replica_servers, what="its replica server to die")
    wait_for(lambda: any(d["down"] for d in node.weft("drive", "ls")), 40, "the drive to be called down")
    wait_repaired(three, "db", node, [node, spare])
    three.assert_replicas_equal("db")
    broken.drive.with_name("unplugged").rename(broken.drive)
    wait_for(lambda: not any(d["down"] for d in node.weft("drive", "ls")), 60, "the drive to be up again")
    wait_for(lambda: not list((broken.drive / "replicas").glob("*")), 30, "the old replica to be deleted")


def stuck_maintenance(cluster):
    """A detached volume whose maintenance attachment cannot finish: a replica server that hangs. Returns (the node that
    has it attached, the other holder, the third)."""
    holders, (spare,) = create(cluster, size="256MiB")
    node, away = holders
    mount_id = new_mount_id()
    path = node.plugin.mount("db", mount_id)
    away.kill_everything()
    fill(node, path, 48)
    node.plugin.unmount("db", mount_id)
    cluster.wait_detached("db", node=node)
    away.start()
    wait_for(away.replica_servers, 20, "its replica server")
    away.pause_storage()
    wait_for(lambda: node.volume("db")["maintenance"], 30, "the attachment for repair", retry_on=(CliError,))
    return node, away, spare


def test_docker_has_a_volume_at_once_that_is_being_repaired(make_cluster):
    cluster = make_cluster(times={**GRACE, "repair-after-ms": 600000})
    node, away, spare = stuck_maintenance(cluster)
    seen = node.plugin.get("db")["Status"]
    assert seen["Writer"] == "none" and seen["Repair"] == f"on node {node.name}"
    epoch, servers = node.volume("db")["epoch"], node.volume_servers()
    # On the same node the attachment becomes a real one.
    first = new_mount_id()
    path = node.plugin.mount("db", first)
    volume = node.volume("db")
    assert os.path.getsize(f"{path}/filled") == 48 * MIB
    assert not volume["maintenance"] and volume["writer"] == node.name
    assert volume["epoch"] == epoch and node.volume_servers() == servers, "the same engine went on"
    with pytest.raises(CliError, match=f"node {node.name}"):
        spare.weft("volume", "attach", "db")
    node.plugin.unmount("db", first)
    # On another node it is taken over, and the old engine goes away.
    wait_for(lambda: node.volume("db")["maintenance"], 30, "the attachment for repair", retry_on=(CliError,))
    second = new_mount_id()
    path = spare.plugin.mount("db", second)
    assert os.path.getsize(f"{path}/filled") == 48 * MIB
    assert spare.volume("db")["writer"] == spare.name and not spare.volume("db")["maintenance"]
    wait_for(lambda: not node.volume_servers(), 30, "the old engine to be torn down")
    away.resume_storage()
    cluster.wait_up_to_date("db", node=spare)
    spare.plugin.unmount("db", second)
    cluster.wait_detached("db", node=spare)
    cluster.assert_replicas_equal("db")
    node.plugin.remove("db")
    cluster.assert_no_leaks()


def test_a_volume_under_repair_can_be_removed(make_cluster):
    cluster = make_cluster(times={**GRACE, "repair-after-ms": 600000})
    node, away, spare = stuck_maintenance(cluster)
    spare.plugin.remove("db")
    wait_for(lambda: not node.volume_servers(), 30, "the engine to be torn down")
    away.resume_storage()
    cluster.assert_no_leaks()


def test_weftd_killed_in_the_middle_of_a_repair_goes_on(make_cluster):
    cluster = make_cluster(times={**GRACE, "repair-after-ms": 600000})
    node, away, _ = stuck_maintenance(cluster)
    servers = node.volume_servers()
    node.kill_weftd()
    node.start()
    assert node.volume("db")["maintenance"] and node.volume_servers() == servers, "adopted"
    away.resume_storage()
    wait_repaired(cluster, "db", node, [node, away])
    cluster.assert_replicas_equal("db")
    assert not node.volume_servers()
    node.plugin.remove("db")
    cluster.assert_no_leaks()


@pytest.mark.limit(200)
def test_a_repair_that_cannot_move_is_given_up_and_tried_again_later(make_cluster):
    cluster = make_cluster(times={**GRACE, "repair-after-ms": 600000})
    node, away, _ = stuck_maintenance(cluster)
    wait_told(node, "volume db", "no progress", timeout=60)
    cluster.wait_detached("db", node=node)
    before = len(told(node, "volume db", "attached for repair"))
    assert before == 1, "not again and again"
    away.resume_storage()
    wait_repaired(cluster, "db", node, [node, away], timeout=60)
    assert len(told(node, "volume db", "attached for repair")) <= 3
