# SPDX-License-Identifier: Apache-2.0
"""A volume server dies while weftd waits for the volume's I/O: who waits must not be in the way of its successor."""
import contextlib
import os
import subprocess
import threading
from pathlib import Path

import pytest

from file_load import FileLoad
from kernel_devices import SLOW, assert_nothing_left, devices, read_mounted, said
from lib import belongings
from lib.cluster import new_mount_id
from lib.waiting import wait_for

pytestmark = pytest.mark.limit(600)


@pytest.fixture
def cluster(kernel_cluster):
    return kernel_cluster(times=SLOW)


def helpers(node, name):
    """The helpers of a node's weftd that do this now."""
    return [pid for pid in belongings.processes_of(node.path)
            if belongings.command_line(pid)[1:3] == ["--helper", name]]


def requests_under_way(node):
    """Reads and writes: the kernel does not count flushes."""
    return sum(int(count) for device in devices(node)[1]
               for count in Path(f"/sys/block/{device}/inflight").read_text().split())


@contextlib.contextmanager
def replicas_paused(cluster):
    """None of them answers, so the volume holds (R4), and none is demoted, because no other one can be reached."""
    for node in cluster.nodes:
        node.pause_storage()
    try:
        yield
    finally:
        for node in cluster.nodes:
            node.resume_storage()


def kill_volume_server(node):
    [server] = node.volume_servers()
    os.kill(server, 9)


class Mount(threading.Thread):
    def __init__(self, node, name):
        super().__init__(daemon=True)
        self.node, self.name, self.mount_id, self.path, self.problem = node, name, new_mount_id(), None, None
        self.start()

    def step(self):
        return self.node.plugin.mount(self.name, self.mount_id)

    def run(self):
        try:
            self.path = Path(self.step())
        except Exception as problem:
            self.problem = problem

    def finish(self):
        self.join(240)
        assert not self.is_alive(), "it waits for ever"
        assert self.path, self.problem
        return self.path


class Attach(Mount):
    def step(self):
        return self.node.weft("volume", "attach", self.name, timeout=240)["nbd_uri"]


def put_key(cluster):
    folder = cluster.path / "keys"
    folder.mkdir(mode=0o700)
    (folder / "db.key").touch(mode=0o600)
    (folder / "db.key").write_bytes(os.urandom(64))
    for node in cluster.nodes:
        node.stop()
        node.settings["key-directory"] = str(folder)
        node.write_config()
        node.start()


@pytest.mark.parametrize("options", [{}, {"layout": "mirrored"}], ids=str)
def test_the_volume_server_dies_while_a_mount_waits_for_the_volume(cluster, options):
    mount_over_a_dying_server(cluster, options)


@pytest.mark.long
def test_the_volume_server_dies_while_a_mount_waits_for_an_encrypted_volume(cluster):
    mount_over_a_dying_server(cluster, {"encrypt": "on"})


def mount_over_a_dying_server(cluster, options):
    node = cluster[0]
    if "encrypt" in options:
        put_key(cluster)
    node.plugin.create("db", size="64MiB", **options)
    first = new_mount_id()
    content = os.urandom(1 << 20)
    path = Path(node.plugin.mount("db", first))
    (path / "file").write_bytes(content)
    subprocess.run(["sync", "--file-system", path], check=True)
    node.plugin.unmount("db", first)
    cluster.wait_detached("db", 240)
    node.weft("volume", "attach", "db")
    with replicas_paused(cluster):
        Path("/proc/sys/vm/drop_caches").write_text("3")
        mount = Mount(node, "db")
        # A mirrored one has its device already, and is looked at. The others get theirs, and udev looks first.
        wait_for(lambda: any(helpers(node, name) for name in ("dm", "format", "luks")), 120, "the mount to come there")
        wait_for(lambda: requests_under_way(node), 120, "requests to wait")
        kill_volume_server(node)
    assert (mount.finish() / "file").read_bytes() == content
    node.plugin.unmount("db", mount.mount_id)
    node.weft("volume", "detach", "db")
    cluster.wait_detached("db", 240)
    assert_nothing_left(node)
    node.plugin.remove("db")
    cluster.assert_no_leaks(60)


@pytest.mark.long
def test_the_volume_server_dies_while_an_administrator_s_attach_waits_for_the_set(cluster):
    """And the volume stays attached for the administrator afterwards."""
    node = cluster[0]
    node.plugin.create("db", layout="mirrored", size="64MiB")

    def caught():
        """The attach, when it was stopped between its nbd devices and its set; it does not wait for us to look."""
        attach = Attach(node, "db")
        wait_for(lambda: devices(node)[1] or not attach.is_alive(), 120, "nbd devices", interval=0.005)
        with replicas_paused(cluster):
            wait_for(lambda: requests_under_way(node) or not attach.is_alive(), 120, "requests to wait")
            if attach.is_alive():
                attach.epoch = node.volume("db")["epoch"]
                kill_volume_server(node)
                return attach
        node.weft("volume", "detach", "db")
        cluster.wait_detached("db", 240)
        return None
    attach = wait_for(caught, 600, "an attach that waits")
    assert Path(attach.finish()).is_block_device()
    assert node.volume("db")["epoch"] > attach.epoch
    node.weft("volume", "detach", "db")
    cluster.wait_detached("db", 240)
    assert_nothing_left(node)
    node.plugin.remove("db")


def test_the_volume_server_dies_while_a_set_waits_for_its_next_table(cluster, mounted):
    """The set is suspended for that, which waits for the requests under way."""
    node = cluster[0]
    load = FileLoad(mounted("db", layout="mirrored", size="64MiB") / "load")
    load.wait_progress()
    [mirror] = [name for name in devices(node)[0] if name.endswith(":s0")]
    assert "max_recovery_rate" not in said("dmsetup", "table", mirror)
    with replicas_paused(cluster):
        reader = subprocess.Popen(["dd", f"if=/dev/mapper/{mirror}", "of=/dev/null", "bs=4096", "count=1",
                                   "iflag=direct", "status=none"])
        wait_for(lambda: requests_under_way(node), 120, "requests to wait")
        node.weft("volume", "set", "db", "resync-rate=32MiB")
        [waiting] = wait_for(lambda: helpers(node, "dm"), 120, "weftd to change the set")
        wait_for(lambda: "dm_suspend" in Path(f"/proc/{waiting}/stack").read_text(), 120, "it to wait")
        kill_volume_server(node)
    assert reader.wait(240) == 0
    load.wait_progress(what="writes to go on over the next volume server")
    wait_for(lambda: "max_recovery_rate 32768" in said("dmsetup", "table", mirror), 120, "the next table")
    load.wait_progress()
    load.stop()
    load.assert_nothing_lost()
    assert said("dmsetup", "status", mirror).split()[5] == "AA"


def test_a_device_that_was_left_suspended_goes_on_before_it_is_detached(cluster):
    """What a helper leaves that was killed in the middle of a change, with a volume server that lives."""
    node, away = cluster[0], cluster[1]
    node.plugin.create("db", size="64MiB", stripes="2")
    mount_id, content = new_mount_id(), os.urandom(4 << 20)
    (Path(node.plugin.mount("db", mount_id)) / "file").write_bytes(content)
    [top] = devices(node)[0]
    said("dmsetup", "suspend", "--noflush", "--nolockfs", top)
    node.plugin.unmount("db", mount_id)
    cluster.wait_detached("db", 240)
    assert_nothing_left(node)
    assert read_mounted(away, "db", "file") == content
    away.plugin.remove("db")
    cluster.assert_no_leaks(60)
