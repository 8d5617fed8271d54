# SPDX-License-Identifier: Apache-2.0
"""What weftd finds broken it puts in order: lost helpers of an attachment, a reboot, drives that come and go, and two
nodes that want the same thing at the same time."""
import subprocess
import threading

from lib import belongings
from lib.cluster import CliError, new_mount_id
from lib.plugin_client import PluginError
from lib.waiting import wait_for


def nbdfuse_of(node):
    return [pid for pid in belongings.processes_of(node.path, descendants=False)
            if belongings.command_line(pid)[0].endswith("nbdfuse")]


def write_durably(path, text):
    with open(path, "w") as file:
        file.write(text)
    subprocess.run(["sync", "-f", path], check=True)


def events_of(node, subject):
    return [event["text"] for event in node.weft("events", "-n", "1000") if event["subject"] == subject]


def test_nbdfuse_dies_and_the_next_mount_works(cluster):
    node = cluster[0]
    node.plugin.create("db", size="32MiB")
    first = new_mount_id()
    path = node.plugin.mount("db", first)
    write_durably(f"{path}/kept", "acknowledged and flushed")
    for pid in nbdfuse_of(node):
        belongings.kill(pid)
    second = new_mount_id()
    path = wait_for(lambda: node.plugin.mount("db", second), 30, "a mount over a new nbdfuse", retry_on=(PluginError,))
    with open(f"{path}/kept") as file:
        assert file.read() == "acknowledged and flushed"
    node.plugin.unmount("db", second)
    node.plugin.unmount("db", first)
    cluster.wait_detached("db")
    node.plugin.remove("db")
    wait_for(lambda: not cluster.leaks(), 20, "nothing to be left")


def test_after_a_reboot_the_writer_is_given_up_and_nothing_blocks(cluster):
    node = cluster[0]
    node.plugin.create("db", size="32MiB")
    path = node.plugin.mount("db", new_mount_id())
    write_durably(f"{path}/kept", "acknowledged and flushed")
    node.power_off()
    node.start()
    cluster.wait_detached("db", node=node)
    assert node.volume("db")["clean"] is False, "nobody can say that the replicas are equal"
    other, mount_id = cluster[1], new_mount_id()
    path = other.plugin.mount("db", mount_id)
    with open(f"{path}/kept") as file:
        assert file.read() == "acknowledged and flushed"
    other.plugin.unmount("db", mount_id)
    cluster.wait_detached("db")
    other.plugin.remove("db")
    wait_for(lambda: not cluster.leaks(), 20, "nothing to be left")


def test_two_nodes_create_the_same_volume_at_once(cluster):
    for number in range(5):
        problems = []

        def create(node, name):
            try:
                node.plugin.create(name, size="32MiB")
            except PluginError as problem:
                problems.append(problem)
        threads = [threading.Thread(target=create, args=(node, f"same{number}")) for node in cluster.nodes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not problems
        ids = {node.volume(f"same{number}")["id"] for node in cluster.nodes}
        assert len(ids) == 1
        cluster[2].plugin.remove(f"same{number}")
    wait_for(lambda: not cluster.leaks(), 20, "nothing to be left")


def test_two_nodes_mount_at_once_and_one_wins(cluster):
    cluster[0].plugin.create("db", size="32MiB")
    for _ in range(3):
        won, lost = [], []

        def mount(node):
            mount_id = new_mount_id()
            try:
                node.plugin.mount("db", mount_id)
                won.append((node, mount_id))
            except PluginError as problem:
                lost.append((node, problem.text))
        threads = [threading.Thread(target=mount, args=(node,)) for node in cluster.nodes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert len(won) == 1 and len(lost) == 2
        winner, mount_id = won[0]
        assert all(f"node {winner.name}" in text for _, text in lost), lost
        winner.plugin.unmount("db", mount_id)
        cluster.wait_detached("db")
    cluster[0].plugin.remove("db")


def test_a_drive_is_removed_and_comes_back(cluster):
    node = cluster[0]
    drive = next(d for d in node.weft("drive", "ls") if d["node"] == node.name)
    node.weft("drive", "rm", drive["id"][:8])
    assert not [d for d in cluster[1].weft("drive", "ls") if d["node"] == node.name]
    wait_for(lambda: not node.replica_servers(), 20, "its server to be gone")
    node.add_drive()
    node.plugin.create("db", size="32MiB")
    node.plugin.remove("db")


def test_a_replica_server_that_dies_is_started_again_without_a_demotion(cluster):
    node = cluster[0]
    node.plugin.create("db", size="32MiB")
    mount_id = new_mount_id()
    path = node.plugin.mount("db", mount_id)
    other = cluster.node(next(name for name in cluster.states("db") if name != node.name))
    before = other.replica_servers()
    for pid in before:
        belongings.kill(pid)
    write_durably(f"{path}/file", "x" * 100000)
    wait_for(lambda: other.replica_servers() and other.replica_servers() != before, 20, "a new server")
    cluster.wait_up_to_date("db")
    node.plugin.unmount("db", mount_id)
    cluster.wait_detached("db")
    node.plugin.remove("db")


def test_weftd_restarts_without_its_store_and_goes_on_when_it_is_back(cluster):
    node = cluster[0]
    node.plugin.create("db", size="32MiB")
    mount_id = new_mount_id()
    path = node.plugin.mount("db", mount_id)
    wait_for(lambda: "\"key\":\"volumes/db\"" in (node.state / "records.json").read_text(), 10, "the copy on disk")
    away = cluster.store.parent.with_name("away")
    cluster.store.parent.rename(away)
    try:
        node.kill_weftd()
        node.spawn()
        wait_for(lambda: node.plugin.get("db")["Mountpoint"] == path, 20, "Get from the copy",
                 retry_on=(OSError, PluginError))
        write_durably(f"{path}/file", "the data path needs no store")
        assert not cluster.store.exists(), "a store that was moved away must not be replaced by an empty one"
    finally:
        away.rename(cluster.store.parent)
    wait_for(lambda: node.weft("status")["store_available"], 20, "the store to be back", retry_on=(CliError,))
    node.plugin.unmount("db", mount_id)
    cluster.wait_detached("db")
    node.plugin.remove("db")
    wait_for(lambda: not cluster.leaks(), 20, "nothing to be left")


def test_events_tell_the_life_of_a_volume(cluster):
    node = cluster[0]
    node.plugin.create("db", size="32MiB")
    mount_id = new_mount_id()
    node.plugin.mount("db", mount_id)
    node.plugin.unmount("db", mount_id)
    node.plugin.remove("db")
    def told_elsewhere():
        texts = events_of(cluster[2], "volume db")
        return texts if "removed" in texts else None
    told = wait_for(told_elsewhere, 10, "the events to reach another node")
    for word in ("created", "attached", "formatted", "detached", "removed"):
        assert any(word in text for text in told), (word, told)
