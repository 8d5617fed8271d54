# SPDX-License-Identifier: Apache-2.0
"""The life of a volume, of which every step is repeated until it succeeds, as a user or dockerd would: so that a
process may die in any of them. A supervisor starts a weftd again that died at a crash point, as an init system would.
"""
import os
import sqlite3
import threading

import nbd

from lib import belongings
from lib.cluster import CliError, Cluster, new_mount_id
from lib.plugin_client import PluginError
from lib.waiting import wait_for

from crash_points import POINTS

BLOCK = 4096
BLOCKS = 64
STRIDE = 256 << 10   # bytes between two blocks that are written: every region of the bitmap is touched
SIZE_MIB = 32
LIMIT = 60           # seconds for any step
BROKEN = (CliError, PluginError, OSError, ValueError, nbd.Error)


class Rig:
    """A cluster of the crash build, its supervisor, and the trigger."""

    def __init__(self, workspace, prepare=lambda node: None, **times):
        """`prepare` is called with every node before it starts."""
        self.cluster = Cluster(workspace, times={"repair-after-ms": 2000, **times})
        for node in self.cluster.nodes:
            node.crash_file = node.path / "crash"
            node.environment["WEFT_CRASH_FILE"] = node.crash_file
            prepare(node)
        self.cluster.start()
        self._halt, self._hands_off = threading.Event(), threading.Lock()
        self._supervisor = threading.Thread(target=self._supervise, daemon=True)
        self._supervisor.start()

    def _died_file(self, node):
        return node.crash_file.with_name("crash.died")

    def _supervise(self):
        while not self._halt.wait(0.05):
            with self._hands_off:
                for node in self.cluster.nodes:
                    if node.weftd.poll() is not None and self._died_file(node).exists():
                        node.spawn()

    def arm(self, node, point):
        self._died_file(node).unlink(missing_ok=True)
        node.crash_file.write_text(point)

    def wait_died(self, nodes, point):
        """Until one of them has died there; the others are safe then."""
        wait_for(lambda: any(self._died_file(node).exists() for node in nodes), LIMIT, f"somebody to die at {point}")
        for node in nodes:
            node.crash_file.unlink(missing_ok=True)

    def reboot(self, node):
        with self._hands_off:
            node.power_off()
            node.spawn()

    def close(self):
        self._halt.set()
        self._supervisor.join()
        self.cluster.stop()


def again(step, what):
    """Repeats until it does not fail."""
    return wait_for(lambda: (step(), True), LIMIT, what, interval=0.1, retry_on=BROKEN)[0]


class Life:
    def __init__(self, rig, point, phases=POINTS):
        self.rig, self.point, self.phase = rig, point, phases[point]
        self.cluster, self.home, self.away = rig.cluster, rig.cluster[0], rig.cluster[1]
        self.name = point.replace(".", "-")
        self.replicas, self.armed = 3, []
        self.options = {}  # of creation, besides size and replicas
        self.uri, self.version = None, 0

    def reach(self, phase, nodes=None):
        if phase == self.phase:
            self.armed = nodes or [self.home]
            for node in self.armed:
                self.rig.arm(node, self.point)

    def must_have_died(self, phase):
        if phase == self.phase:
            self.rig.wait_died(self.armed, self.point)

    def wait_ready(self):
        """weftd may be dying or not started again yet."""
        for node in self.armed or [self.home]:
            wait_for(lambda: (node.wait_ready(), True), LIMIT, f"weftd of {node.name}", retry_on=(AssertionError,))

    # ---- steps, each until it succeeds ----
    def create(self):
        again(lambda: self.home.plugin.create(self.name, size=f"{SIZE_MIB}MiB", replicas=str(self.replicas),
                                              **self.options), f"create {self.name}")

    def attach(self, node):
        answer = again(lambda: node.weft("volume", "attach", self.name), f"attach {self.name} at {node.name}")
        self.uri = answer["nbd_uri"]

    def detach(self, node):
        def step():
            outcome = node.try_weft("volume", "detach", self.name)
            if outcome.returncode and "not attached" not in outcome.stderr:
                raise CliError(["volume", "detach", self.name], outcome)
        again(step, f"detach {self.name} from {node.name}")
        self.cluster.wait_detached(self.name, timeout=LIMIT, node=node)

    def content(self, version):
        return version.to_bytes(8, "little") * (BLOCK // 8)

    def write(self, node):
        """A new version into every block, flushed. A failed volume is attached again."""
        self.version += 1

        def step():
            try:
                handle = nbd.NBD()
                handle.connect_uri(self.uri)
                for index in range(BLOCKS):
                    handle.pwrite(self.content(self.version), index * STRIDE)
                handle.flush()
                handle.shutdown()
            except nbd.Error:
                self.uri = node.weft("volume", "attach", self.name)["nbd_uri"]
                raise
        again(step, f"write version {self.version} to {self.name}")

    def verify(self):
        handle = nbd.NBD()
        handle.connect_uri(self.uri)
        for index in range(BLOCKS):
            found = bytes(handle.pread(BLOCK, index * STRIDE))
            assert found == self.content(self.version), f"block {index} has not version {self.version}"
        handle.shutdown()

    def grow(self, mib):
        again(lambda: self.home.weft("volume", "grow", self.name, "--size", f"{mib}MiB"), f"grow {self.name}")

    def restart(self):
        again(lambda: self.home.weft("volume", "restart", self.name), f"restart {self.name}")

    def remove(self):
        def step():
            try:
                self.home.plugin.remove(self.name)
            except PluginError as problem:
                if "no such volume" not in problem.text:
                    raise
        again(step, f"remove {self.name}")

    # ---- lives ----
    def live(self):
        if self.phase == "replacement":
            self.replicas = 2
        self.reach("create")
        self.create()
        self.must_have_died("create")
        if self.phase in ("mount", "unmount"):
            self.as_file_system()
        else:
            self.as_blocks()
        self.cluster.wait_detached(self.name, timeout=LIMIT, node=self.away)
        self.cluster.assert_replicas_equal(self.name)
        self.reach("remove")
        self.remove()
        self.must_have_died("remove")
        self.wait_ready()
        self.assert_nothing_left()

    def as_blocks(self):
        self.reach("attach")
        self.attach(self.home)
        self.must_have_died("attach")
        self.reach("write")
        self.write(self.home)
        self.must_have_died("write")
        if self.phase == "grow":
            self.reach("grow")
            self.grow(2 * SIZE_MIB)
            self.must_have_died("grow")
            self.wait_ready()
        if self.phase in ("demote", "resync", "slow resync"):
            self.lose_a_replica()
        if self.phase == "slow recovery":
            self.recover_slowly()
        if self.phase in ("repair", "claimed repair"):
            self.be_repaired_while_detached()
        if self.phase == "replacement":
            self.lose_a_node()
        if self.phase.startswith("server death"):
            self.lose_the_server()
        if self.phase == "reboot":
            self.reach("reboot")
            self.rig.reboot(self.home)
            self.must_have_died("reboot")
            self.wait_ready()
            self.attach(self.home)
        self.verify()
        self.write(self.home)
        self.cluster.wait_up_to_date(self.name, timeout=LIMIT, node=self.home)
        self.reach("clear")
        self.write(self.home)
        self.reach("detach")
        self.detach(self.home)
        self.must_have_died("clear")
        self.must_have_died("detach")
        self.attach(self.away)
        self.verify()
        self.write(self.away)
        self.cluster.wait_up_to_date(self.name, timeout=LIMIT, node=self.away)
        self.detach(self.away)

    def lose_a_replica(self):
        victim = self.cluster[2]
        victim.kill_storage()
        self.reach("demote")
        self.write(self.home)
        self.must_have_died("demote")
        self.wait_ready()
        wait_for(lambda: self.cluster.states(self.name, self.home)[victim.name] != "up_to_date", LIMIT,
                 "the demotion to be recorded", retry_on=BROKEN)
        self.reach("resync")
        if self.phase == "slow resync":
            self.reach(self.phase)
            self.slow_down(victim)
        victim.start()
        self.must_have_died("resync")
        if self.phase == "slow resync":
            self.must_have_died(self.phase)
            self.speed_up(victim)
        self.wait_ready()
        self.write(self.home)
        self.cluster.wait_up_to_date(self.name, timeout=LIMIT, node=self.home)

    def slow_down(self, node):
        (node.runtime / "replica-filters").write_text("--filter=delay\nwdelay=300ms\n")

    def speed_up(self, node):
        """From the next start of its replica server on."""
        (node.runtime / "replica-filters").unlink(missing_ok=True)
        belongings.kill_all(node.replica_servers)

    def recover_slowly(self):
        slow = self.cluster[2]
        self.slow_down(slow)
        belongings.kill_all(slow.replica_servers)
        wait_for(slow.replica_servers, LIMIT, "the slow server")
        self.cluster.wait_up_to_date(self.name, timeout=LIMIT, node=self.home)
        belongings.kill_all(self.home.volume_servers)
        self.reach(self.phase)
        self.attach(self.home)
        self.must_have_died(self.phase)
        self.speed_up(slow)
        self.attach(self.home)

    def be_repaired_while_detached(self):
        victim = self.cluster[2]
        victim.kill_storage()
        self.write(self.home)
        self.detach(self.home)
        if self.phase == "repair":
            self.reach(self.phase, self.cluster.nodes[:2])
            victim.start()
        else:
            self.slow_down(victim)
            victim.start()
            node = self.cluster.node(wait_for(self.repairing_node, LIMIT, "somebody to repair", retry_on=BROKEN))
            self.reach(self.phase, [node])
            self.attach(node)
        self.must_have_died(self.phase)
        self.wait_ready()
        if self.phase == "claimed repair":
            self.speed_up(victim)
            self.detach(node)
        wait_for(lambda: not self.home.volume(self.name)["writer"] and
                 set(self.cluster.states(self.name, self.home).values()) == {"up_to_date"}, LIMIT,
                 "the repair to be finished", interval=0.2, retry_on=BROKEN)
        self.attach(self.home)

    def repairing_node(self):
        volume = self.away.volume(self.name)
        return volume["maintenance"] and volume["writer"]

    def lose_a_node(self):
        lost = self.cluster.node(next(r["node"] for r in self.cluster.replicas(self.name)
                                      if r["node"] != self.home.name))
        lost.kill_everything()
        left = [node for node in self.cluster.nodes if node is not lost]
        self.reach(self.phase, left)
        self.must_have_died(self.phase)
        self.wait_ready()
        wait_for(lambda: set(self.cluster.states(self.name, self.home)) == {node.name for node in left}, LIMIT,
                 "the replica to be elsewhere", retry_on=BROKEN)
        self.cluster.wait_up_to_date(self.name, timeout=LIMIT, node=self.home)
        lost.start()
        self.attach(self.home)

    def lose_the_server(self):
        belongings.kill_all(self.home.volume_servers)
        if self.phase == "server death, detach":
            wait_for(lambda: not self.home.volume(self.name)["live"], LIMIT, "weftd to hear of it", retry_on=BROKEN)
            self.reach(self.phase)
            self.detach(self.home)
        else:
            self.reach(self.phase)
        self.attach(self.home)
        self.must_have_died(self.phase)
        self.attach(self.home)

    def as_file_system(self):
        self.reach("mount")
        path, mount_id = self.mount(self.home)
        self.must_have_died("mount")
        text = os.urandom(100_000)
        with open(f"{path}/file", "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        self.reach("unmount")
        self.unmount(self.home, mount_id)
        self.must_have_died("unmount")
        self.wait_ready()
        if self.point == "mount.referenced":
            # The reference of a Mount that dockerd never heard the answer of: it goes with that dockerd, or later.
            self.home.plugin.activate()
        self.cluster.wait_detached(self.name, timeout=LIMIT, node=self.away)
        path, mount_id = self.mount(self.away)
        with open(f"{path}/file", "rb") as file:
            assert file.read() == text
        self.cluster.wait_up_to_date(self.name, timeout=LIMIT, node=self.away)
        self.unmount(self.away, mount_id)

    def mount(self, node):
        """(path, ID). A Mount that fails is never unmounted; the next one is another container's, with an ID of its
        own."""
        def step():
            mount_id = new_mount_id()
            return node.plugin.mount(self.name, mount_id), mount_id
        return wait_for(step, LIMIT, f"mount {self.name} at {node.name}", interval=0.1, retry_on=BROKEN)

    def unmount(self, node, mount_id):
        again(lambda: node.plugin.unmount(self.name, mount_id), f"unmount {self.name} at {node.name}")

    # ---- the end ----
    def assert_nothing_left(self):
        self.cluster.assert_no_leaks(timeout=LIMIT)
        wait_for(lambda: not self.records(), LIMIT, f"no record to be left, but there are {self.records()}")

    def records(self):
        """Keys of the store that speak of volumes."""
        store = sqlite3.connect(f"file:{self.cluster.store}?mode=ro", uri=True)
        try:
            keys = [key for key, in store.execute("select key from kv")]
        finally:
            store.close()
        return [key for key in keys if key.startswith(("volumes/", "trash/"))]
