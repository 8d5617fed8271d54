# SPDX-License-Identifier: Apache-2.0
"""nbd and device-mapper under real volumes: what is there, what goes away, what a dead server costs."""
import json
import os
import subprocess
import uuid
from pathlib import Path

import pytest

from file_load import FileLoad
from kernel_devices import SLOW, assert_nothing_left, devices, read_mounted, said
from lib.cluster import CliError, new_mount_id
from lib.waiting import wait_for

pytestmark = pytest.mark.limit(600)


@pytest.fixture
def cluster(kernel_cluster):
    return kernel_cluster(times=SLOW)


def top_of(node):
    names, _ = devices(node)
    assert len(names) == 1, names
    return names[0]


def test_a_striped_volume_is_nbd_devices_under_one_table(cluster, mounted):
    node = cluster[0]
    path = mounted("db", size="96MiB", stripes="3")
    top = top_of(node)
    start, length, target, stripes, chunk, *rest = said("dmsetup", "table", top).split()
    assert (start, length, target, stripes, chunk) == ("0", str(96 * 2048), "striped", "3", "128")
    assert len(devices(node)[1]) == 3
    source = said("findmnt", "--noheadings", "--output", "SOURCE", "--target", path).strip()
    assert os.path.realpath(f"/dev/mapper/{top}") == os.path.realpath(source)
    stack = node.volume("db")["stack"]
    [top_layer] = stack["tree"]
    [volume] = top_layer["below"]
    [segment] = volume["below"]
    assert (stack["attach"], stack["note"], top_layer["layer"]) == ("kernel", "", "file_system")
    assert (volume["name"], segment["type"], segment["stripes"]) == (top, "striped", 3)
    assert {f"/dev/{name}" for name in devices(node)[1]} == {one["name"] for one in segment["below"]}
    assert said("blkid", "--output", "value", "--match-tag", "TYPE", f"/dev/mapper/{top}").strip() == "ext4"

    (path / "file").write_bytes(os.urandom(8 << 20))
    subprocess.run(["sync", "--file-system", path], check=True)
    content = (path / "file").read_bytes()
    # Another node's storage dies: the writer records it and goes on.
    cluster[1].kill_storage()
    load = FileLoad(path / "load")
    load.wait_progress()
    load.stop()
    load.assert_nothing_lost()
    assert (path / "file").read_bytes() == content
    cluster[1].start()
    cluster.wait_up_to_date("db", 240)


def test_the_volume_server_dies_under_load_and_is_replaced(cluster, mounted):
    node = cluster[0]
    load = FileLoad(mounted("db", size="64MiB", stripes="2") / "load")
    load.wait_progress()
    before = node.volume("db")["epoch"]
    names, marks = devices(node)
    for _ in range(2):
        [server] = node.volume_servers()
        os.kill(server, 9)
        wait_for(lambda: node.volume_servers() not in ([], [server]), 120, "another volume server")
        load.wait_progress(what="writes to go on over the next volume server")
    assert node.volume("db")["epoch"] == before + 2
    assert devices(node) == (names, marks)
    load.stop()
    load.assert_nothing_lost()


def test_the_volume_server_is_restarted_on_request_under_load(cluster, mounted):
    node = cluster[0]
    load = FileLoad(mounted("db", size="64MiB", stripes="2") / "load")
    load.wait_progress()
    before, there = node.volume("db")["epoch"], devices(node)
    [server] = node.volume_servers()
    with pytest.raises(CliError, match=f"attached on node {node.name}"):
        cluster[1].weft("volume", "restart", "db")
    for turn, argument in enumerate(("db", "--all"), start=1):
        answer = node.weft("volume", "restart", argument)
        assert answer in ({"restarted": "db", "epoch": before + turn}, [{"restarted": "db", "epoch": before + turn}])
        load.wait_progress(what="writes to go on over the next volume server")
        [following] = node.volume_servers()
        assert following != server
        server = following
    assert node.volume("db")["epoch"] == before + 2
    assert devices(node) == there
    load.stop()
    load.assert_nothing_lost()


def test_weftd_and_the_volume_server_die_together_under_load(cluster, mounted):
    node = cluster[0]
    load = FileLoad(mounted("db", size="64MiB") / "load")
    load.wait_progress()
    [server] = node.volume_servers()
    node.kill_weftd()
    os.kill(server, 9)
    node.start()
    load.wait_progress(what="writes to go on")
    node.kill_weftd()
    load.wait_progress(what="writes to go on without weftd")
    node.start()
    load.wait_progress()
    load.stop()
    load.assert_nothing_lost()


@pytest.mark.parametrize("fs, stripes, before_mib, after_mib", [("ext4", "1", 64, 160), ("xfs", "2", 304, 400)])
def test_a_volume_grows_under_load(cluster, mounted, fs, stripes, before_mib, after_mib):
    node = cluster[0]
    path = mounted("db", size=f"{before_mib}MiB", fs=fs, stripes=stripes)
    load = FileLoad(path / "load")
    load.wait_progress()
    before = os.statvfs(path)
    grown = node.weft("volume", "grow", "db", "--size", f"{after_mib}MiB")
    assert grown["size_bytes"] == after_mib << 20

    def larger():
        now = os.statvfs(path)
        return now.f_blocks * now.f_frsize > before.f_blocks * before.f_frsize + (72 << 20)
    wait_for(larger, 180, "the file system to have the new space")
    assert len(said("dmsetup", "table", top_of(node)).splitlines()) == 2
    # More than the volume had: some of it must lie in the new segment.
    if fs == "ext4":
        (path / "much").write_bytes(b"\xa5" * (100 << 20))
        subprocess.run(["sync", "--file-system", path], check=True)
    load.wait_progress()
    load.stop()
    load.assert_nothing_lost()
    assert json.loads(said("lsblk", "--json", f"/dev/mapper/{top_of(node)}"))


def test_a_fenced_node_gets_errors_and_keeps_no_device(cluster, mounted):
    """R5: taken over by force, the old writer's program fails instead of waiting for ever."""
    old, new = cluster[0], cluster[1]
    load = FileLoad(mounted("db", size="64MiB") / "load")
    load.wait_progress()
    new.weft("volume", "attach", "db", "--force")
    wait_for(lambda: load.problem, 180, "the old writer's program to get an error")
    new.weft("volume", "detach", "db")
    assert old.volume("db")["writer"] != old.name


def test_what_was_written_and_not_synced_outlives_the_volume_server(cluster):
    """It is in the page cache above a device that waits: a detach has to find another server for it first."""
    old, new = cluster[0], cluster[1]
    content, mount_id = os.urandom(4 << 20), new_mount_id()
    old.plugin.create("db", size="64MiB")
    path = Path(old.plugin.mount("db", mount_id))
    (path / "file").write_bytes(content)
    [server] = old.volume_servers()
    old.kill_weftd()
    os.kill(server, 9)
    old.start()
    old.plugin.unmount("db", mount_id)
    cluster.wait_detached("db", 240)
    assert_nothing_left(old)
    assert read_mounted(new, "db", "file") == content
    new.plugin.remove("db")
    cluster.assert_no_leaks(60)


def test_a_device_that_nobody_knows_is_taken_apart_and_told_of(cluster):
    """By rule: of our scope, and not mounted. Another scope's, and one that is mounted, stay."""
    node = cluster[0]
    ours, theirs, used = (str(uuid.uuid4()) for _ in range(3))
    disk = cluster.path / "disk"
    subprocess.run(["truncate", "--size", "16M", disk], check=True)
    loop = said("losetup", "--find", "--show", disk).strip()
    node.kill_weftd()  # it would be faster than we are
    try:
        subprocess.run(["mkfs.ext4", "-q", loop], check=True)
        said("dmsetup", "create", f"weft-used@{node.name}", "--uuid", f"WEFT-{node.name}-{used}-volume",
             "--table", f"0 32768 linear {loop} 0")
        said("mount", f"/dev/mapper/weft-used@{node.name}", "/media")
        said("dmsetup", "create", "weft-theirs@zz", "--uuid", f"WEFT-zz-{theirs}-volume", "--table", "0 8 zero")
        said("dmsetup", "create", f"weft-ours@{node.name}", "--uuid", f"WEFT-{node.name}-{ours}-volume",
             "--table", "0 8 zero")
        node.start()
        wait_for(lambda: devices(node)[0] == [f"weft-used@{node.name}"], 120, "the stray device to go")
        told = wait_for(lambda: [one for one in node.weft("events") if used in one["subject"]], 60, "word of the other")
        assert "/media" in told[0]["text"]
        said("umount", "/media")
        wait_for(lambda: devices(node)[0] == [], 120, "the unmounted one to go, too")
        assert "weft-theirs@zz" in said("dmsetup", "ls")
    finally:
        subprocess.run(["umount", "-q", "/media"])
        for name in "weft-theirs@zz", f"weft-used@{node.name}":
            subprocess.run(["dmsetup", "remove", name], capture_output=True)
        subprocess.run(["losetup", "--detach", loop], check=True)
