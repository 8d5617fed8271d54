# SPDX-License-Identifier: Apache-2.0
"""Docker volumes with a real dockerd: what people type, and what crashes of Docker and of nodes do to them.

`engine` is node 1's Docker, `other_engine` node 2's. One dockerd cannot play both: it knows a volume by its name alone
and refuses the same name under a second driver (moby volume/service/store.go, checkConflict).
"""
import json

import pytest

from lib.docker import DockerError
from lib.waiting import assert_stays, wait_for


@pytest.fixture
def pair(cluster, engine, other_engine, request):
    """(engine with driver 1, engine with driver 2): functions that run a container on a node's Docker."""
    volumes = []

    class Side:
        def __init__(self, docker, node):
            self.docker, self.node, self.driver = docker, node, node.plugin_name
            self.do = docker.docker

        def create(self, name, *options):
            volumes.append((self, name))
            return self.do("volume", "create", "--driver", self.driver, *options, name)

        def run(self, volume, *command, flags=("--rm",)):
            return self.do("run", "--network", "none", *flags, "--volume-driver", self.driver, "--volume",
                           f"{volume}:/data", "busybox", *command)

        def start(self, volume, container, *command):
            return self.run(volume, *(command or ("sleep", "100000")),
                            flags=("--detach", "--stop-signal", "KILL", "--name", container))

        def inspect(self, volume):
            return json.loads(self.do("volume", "inspect", volume))[0]

    sides = Side(engine, cluster[0]), Side(other_engine, cluster[1])
    yield sides
    for side in sides:
        left = side.do("ps", "--all", "--quiet").split()
        if left:
            side.docker.try_docker("rm", "--force", *left)
    for side, name in volumes:
        side.docker.try_docker("volume", "rm", "--force", name)


@pytest.fixture
def side(pair):
    return pair[0]


def test_create_inspect_ls_run_rm(cluster, side):
    side.create("a1", "--opt", "size=64MiB", "--opt", "replicas=3", "--label", "team=blue")
    seen = side.inspect("a1")
    assert seen["Driver"] == side.driver and seen["Scope"] == "global" and seen["Labels"] == {"team": "blue"}
    assert seen["CreatedAt"][:2] == "20"
    status = seen["Status"]
    assert status["Size"] == "64MiB" or status["Size"] == "64 MiB"
    assert status["Writer"] == "none" and len(status["Replicas"]) == 3
    assert f"{side.driver}" in side.do("volume", "ls", "--format", "{{.Driver}} {{.Name}}")
    assert side.run("a1", "sh", "-c", "ls -A /data; echo hello > /data/greeting") == "", "a fresh volume is empty"
    assert side.run("a1", "cat", "/data/greeting") == "hello"
    cluster.wait_detached("a1")
    cluster.assert_replicas_equal("a1")
    side.do("volume", "rm", "a1")
    with pytest.raises(DockerError, match="(?i)no such volume"):
        side.inspect("a1")
    cluster.assert_no_leaks()


def test_create_twice_is_one_volume_and_keeps_its_data(side):
    side.create("a2", "--opt", "size=64MiB")
    side.run("a2", "sh", "-c", "echo 1 > /data/one")
    side.create("a2", "--opt", "size=64MiB")
    side.node.plugin.create("a2", size="128MiB")  # as a Swarm task on another node does, without a Get before
    assert side.run("a2", "cat", "/data/one") == "1"
    assert side.node.volume("a2")["size_bytes"] == 64 << 20


def test_xfs_and_image_content_is_copied_into_an_empty_volume(side):
    side.create("a3", "--opt", "size=320MiB", "--opt", "fs=xfs")
    assert " xfs " in side.run("a3", "grep", " /data ", "/proc/mounts")
    side.create("a4", "--opt", "size=64MiB")
    listing = side.do("run", "--rm", "--network", "none", "--volume-driver", side.driver, "--volume", "a4:/bin",
                      "busybox", "ls", "/bin")
    assert "busybox" in listing, "dockerd copies the image's files only into an empty volume (no lost+found to be seen)"


def test_one_volume_in_two_containers_of_a_node(cluster, side):
    side.create("a5", "--opt", "size=64MiB")
    side.start("a5", "c5one")
    side.start("a5", "c5two")
    side.do("exec", "c5one", "sh", "-c", "echo shared > /data/x")
    assert side.do("exec", "c5two", "cat", "/data/x") == "shared"
    side.do("rm", "--force", "c5one")
    assert side.do("exec", "c5two", "cat", "/data/x") == "shared"
    assert side.node.volume("a5")["writer"] == side.node.name
    side.do("rm", "--force", "c5two")
    cluster.wait_detached("a5")


def test_docker_cp_on_a_running_container_does_not_unmount_it(cluster, workspace, side):
    side.create("a6", "--opt", "size=64MiB")
    side.start("a6", "c6")
    source = workspace.path / "copied"
    source.write_text("from outside\n")
    for _ in range(2):
        side.do("cp", str(source), "c6:/data/copied")
        side.do("cp", "c6:/data/copied", str(workspace.path / "back"))
    assert (workspace.path / "back").read_text() == "from outside\n"
    side.do("exec", "c6", "sh", "-c", "echo more >> /data/copied; sync -f /data")
    assert side.node.volume("a6")["writer"] == side.node.name
    assert_stays(lambda: side.node.volume_servers(), 3, "the volume stays attached while its container runs")
    assert side.do("exec", "c6", "cat", "/data/copied") == "from outside\nmore"
    side.do("rm", "--force", "c6")
    cluster.wait_detached("a6")


def test_dockerd_is_killed_and_restarted(cluster, side):
    """Its containers die with the restart and no Unmount comes; the next start mounts with the same ID."""
    side.create("a7", "--opt", "size=64MiB")
    side.start("a7", "c7")
    side.do("exec", "c7", "sh", "-c", "echo kept > /data/x; sync -f /data")
    side.docker.kill_dockerd()
    side.docker.start_dockerd()
    assert side.inspect("a7")["Driver"] == side.driver, "the volume is still known under its driver"
    side.do("start", "c7")
    assert side.do("exec", "c7", "cat", "/data/x") == "kept"
    side.do("rm", "--force", "c7")
    cluster.wait_detached("a7", timeout=60)
    side.do("volume", "rm", "a7")
    cluster.assert_no_leaks()


def test_a_volume_in_use_is_refused_on_a_second_node_with_the_first_ones_name(cluster, pair):
    one, two = pair
    one.create("a8", "--opt", "size=64MiB")
    one.start("a8", "c8")
    two.create("a8")
    with pytest.raises(DockerError) as refused:
        two.run("a8", "true")
    assert one.node.name in refused.value.stderr
    with pytest.raises(DockerError) as refused:
        two.do("volume", "rm", "a8")
    assert one.node.name in refused.value.stderr
    one.do("exec", "c8", "sh", "-c", "echo moved > /data/x")
    one.do("rm", "--force", "c8")
    cluster.wait_detached("a8")
    assert two.run("a8", "cat", "/data/x") == "moved"


def test_a_volume_is_taken_over_after_the_lease_of_its_node_ran_out(cluster, pair):
    one, two = pair
    one.create("a9", "--opt", "size=64MiB", "--opt", "replicas=3")
    one.start("a9", "c9")
    one.do("exec", "c9", "sh", "-c", "echo safe > /data/x; sync -f /data")
    one.docker.kill_container("c9")
    one.node.power_off()
    two.create("a9")
    with pytest.raises(DockerError) as refused:
        two.run("a9", "true")
    assert one.node.name in refused.value.stderr
    seen = wait_for(lambda: two.run("a9", "cat", "/data/x"), 40, "the take-over", interval=0.5, retry_on=(DockerError,))
    assert seen == "safe"
    one.node.start()
    two.start("a9", "c9b")
    cluster.wait_up_to_date("a9", node=two.node)
    two.do("rm", "--force", "c9b")
    cluster.wait_detached("a9", node=two.node)
    cluster.assert_replicas_equal("a9")


def test_get_while_the_store_is_away_does_not_make_docker_forget_the_volume(cluster, side):
    side.create("a10", "--opt", "size=64MiB")
    side.start("a10", "c10")
    away = cluster.store.parent.with_name("store.away")
    cluster.store.parent.rename(away)
    try:
        wait_for(lambda: not side.node.weft("status")["store_available"], 30, "weftd to notice")
        assert side.inspect("a10")["Driver"] == side.driver
        side.do("exec", "c10", "sh", "-c", "echo still > /data/x; sync -f /data")
    finally:
        away.rename(cluster.store.parent)
    wait_for(lambda: side.node.weft("status")["store_available"], 30, "the store to be back")
    assert side.run("a10", "cat", "/data/x") == "still"


def test_a_container_survives_weftd_being_restarted(cluster, side):
    side.create("a11", "--opt", "size=64MiB")
    side.start("a11", "c11")
    side.node.stop()
    side.do("exec", "c11", "sh", "-c", "echo alone > /data/x; sync -f /data")
    side.node.start()
    assert side.do("exec", "c11", "cat", "/data/x") == "alone"
    side.do("rm", "--force", "c11")
    cluster.wait_detached("a11")
    side.do("volume", "rm", "a11")
    cluster.assert_no_leaks()
