# SPDX-License-Identifier: Apache-2.0
"""weftd is killed with kill -9 at random instants of a volume's life: containers notice nothing, nothing leaks."""
import http.client
import json
import os
import random
import socket
import threading
import time

import pytest

from lib import belongings
from lib.cluster import new_mount_id
from lib.docker import DockerError
from lib.plugin_client import PluginError
from lib.waiting import wait_for

KILLS = 20
BROKEN = (OSError, http.client.HTTPException, PluginError)


class Lives(threading.Thread):
    """Volumes are created, mounted, written to, unmounted and removed until told to stop. Every step is repeated until
    it succeeds: the connection breaks when weftd dies, and dockerd or its user would try again."""

    def __init__(self, node):
        super().__init__(daemon=True)
        self.node, self.halt, self.lived, self.problem = node, threading.Event(), 0, None

    def until_done(self, what, call):
        return wait_for(lambda: (call(), True), 60, what, interval=0.1, retry_on=BROKEN)[0]

    def run(self):
        plugin, number = self.node.plugin, 0
        try:
            while not self.halt.is_set():
                number += 1
                name, mount_id, text = f"life{number}", new_mount_id(), os.urandom(1 << 16)
                self.until_done(f"create {name}", lambda: plugin.create(name, size="32MiB"))
                path = self.until_done(f"mount {name}", lambda: plugin.mount(name, mount_id))
                with open(f"{path}/file", "wb") as file:
                    for _ in range(8):
                        file.write(text)
                        file.flush()
                        os.fsync(file.fileno())
                with open(f"{path}/file", "rb") as file:
                    assert file.read() == text * 8
                self.until_done(f"unmount {name}", lambda: plugin.unmount(name, mount_id))
                self.until_done(f"remove {name}", lambda: self.remove(name))
                self.lived += 1
        except BaseException as problem:  # reported by the test
            self.problem = problem

    def remove(self, name):
        """An unknown volume means that the attempt before succeeded without our hearing of it."""
        try:
            self.node.plugin.remove(name)
        except PluginError as problem:
            if "no volume" not in problem.text and "no such volume" not in problem.text:
                raise


@pytest.mark.limit(400)
def test_kill_at_twenty_random_instants(cluster, engine):
    node = cluster[0]
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    engine.docker("volume", "create", "--driver", node.plugin_name, "--opt", "size=64MiB", "w1")
    script = ("n=0; while :; do n=$((n+1)); echo $n > /data/n.new && mv /data/n.new /data/n && sync -f /data || exit 9;"
              " done")
    engine.docker("run", "--detach", "--name", "witness", "--network", "none", "--volume-driver",
                  node.plugin_name, "--volume", "w1:/data", "busybox", "sh", "-c", script)
    lives = Lives(node)
    try:
        lives.start()
        for _ in range(KILLS):
            time.sleep(chance.uniform(0.0, 1.2))  # the random instant is the point of this test
            node.kill_weftd()
            if chance.random() < 0.5:
                time.sleep(chance.uniform(0.0, 0.5))
            node.start(wait=chance.random() < 0.7)
            assert lives.problem is None, lives.problem
        node.wait_ready()
        lives.halt.set()
        lives.join(timeout=120)
        assert lives.problem is None and not lives.is_alive(), lives.problem
        assert lives.lived >= 1
        assert engine.docker("inspect", "--format", "{{.State.Running}}", "witness") == "true"
        seen = int(engine.docker("exec", "witness", "cat", "/data/n"))
        wait_for(lambda: int(engine.docker("exec", "witness", "cat", "/data/n")) > seen, 30, "the witness to go on",
                 retry_on=(DockerError, ValueError))
    finally:
        lives.halt.set()
        engine.try_docker("rm", "--force", "witness")
    cluster.wait_detached("w1", timeout=60)
    cluster.assert_replicas_equal("w1")
    engine.docker("volume", "rm", "w1")
    assert node.weft("volume", "ls") == []
    cluster.assert_no_leaks(timeout=40)


def test_orderly_end_of_weftd_leaves_the_attachment_and_the_next_one_adopts_it(cluster):
    node, mount_id = cluster[0], new_mount_id()
    node.plugin.activate()
    node.plugin.create("db", size="32MiB")
    path = node.plugin.mount("db", mount_id)
    servers = node.volume_servers()
    node.stop()
    with open(f"{path}/file", "w") as file:
        file.write("x")
        file.flush()
        os.fsync(file.fileno())
    assert not node.plugin_socket.exists(), "a stale socket would make dockerd wait"
    node.start()
    assert node.volume_servers() == servers, "the same server goes on"
    assert node.plugin.mount("db", mount_id) == path
    node.plugin.unmount("db", mount_id)
    assert node.plugin.get("db")["Mountpoint"] == path, "one of two references is left"
    node.plugin.unmount("db", mount_id)
    cluster.wait_detached("db")
    node.plugin.remove("db")
    cluster.assert_no_leaks()


def test_a_mount_whose_answer_nobody_takes_is_given_up(cluster):
    """A dockerd that timed out sends no Unmount; its container never started."""
    node = cluster[0]
    node.plugin.create("db", size="32MiB")
    body = json.dumps({"Name": "db", "ID": new_mount_id()}).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(node.plugin_socket))
        connection.shutdown(socket.SHUT_RD)
        connection.sendall(b"POST /VolumeDriver.Mount HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        wait_for(lambda: "nobody took the answer" in node.log_tail(), 30, "weftd to give the mount up")
    cluster.wait_detached("db")
    node.plugin.remove("db")
    cluster.assert_no_leaks()


def test_the_volume_server_dies_and_the_volume_can_be_used_again(cluster):
    """The file system on it is lost to its users (EIO), as after a pulled cable; after unmounting it works again."""
    node, mount_id = cluster[0], new_mount_id()
    node.plugin.create("db", size="32MiB")
    path = node.plugin.mount("db", mount_id)
    with open(f"{path}/file", "w") as file:
        file.write("kept")
        file.flush()
        os.fsync(file.fileno())
    belongings.kill_all(node.volume_servers)
    node.plugin.unmount("db", mount_id)
    second = new_mount_id()
    path = wait_for(lambda: node.plugin.mount("db", second), 60, "the volume to be mounted again", interval=0.3,
                    retry_on=(PluginError,))
    with open(f"{path}/file") as file:
        assert file.read() == "kept"
    node.plugin.unmount("db", second)
    cluster.wait_detached("db")
    node.plugin.remove("db")
    cluster.assert_no_leaks()
