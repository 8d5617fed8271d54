# SPDX-License-Identifier: Apache-2.0
"""What the kinds of schedule.py do to a cluster: begin(), and end() which makes it whole again.

Nothing here waits for the cluster: a fault begins and ends at its time whatever the cluster is doing just then.
"""
import signal
import uuid

from lib import belongings
from lib.store_away import locked, moved_away

from schedule import Fault


class Healed:
    """A fault that is over at once."""

    def end(self):
        pass


class KillReplicaServer(Healed):
    """Its weftd starts it again; what the kernel has stays."""

    def __init__(self, arena, fault):
        self.node = arena.node(fault.node)

    def begin(self):
        for pid in self.node.replica_servers():
            belongings.kill(pid)


class KillStorage:
    def __init__(self, arena, fault):
        self.node = arena.node(fault.node)

    def begin(self):
        self.node.kill_storage()

    def end(self):
        self.node.spawn()


class KillWeftd(KillStorage):
    def begin(self):
        self.node.kill_weftd()


class KillNode(KillStorage):
    """As if its host had lost power, but for the page cache."""

    def begin(self):
        self.node.power_off()


class KillCluster:
    """Every node at once, writer and replicas; the page caches stay."""

    def __init__(self, arena, fault):
        self.nodes = arena.cluster.nodes

    def begin(self):
        belongings.kill_all(lambda: [pid for node in self.nodes for pid in belongings.processes_of(node.path)],
                            what="every process of the cluster to die")
        for node in self.nodes:
            node.power_off()

    def end(self):
        for node in self.nodes:
            node.spawn()


class Stop:
    """SIGSTOP now, SIGCONT at the end."""

    def __init__(self, arena, fault):
        self.node, self.pids = arena.node(fault.node), []

    def victims(self):
        return self.node.replica_servers()

    def begin(self):
        self.pids = self.victims()
        for pid in self.pids:
            belongings.stop(pid)

    def end(self):
        for pid in self.pids:
            belongings.kill(pid, signal.SIGCONT)


class StopWeftd(Stop):
    def victims(self):
        return [self.node.weftd.pid]


class StopVolumeServer(Stop):
    def victims(self):
        return self.node.volume_servers()


class StopNode(Stop):
    def victims(self):
        return belongings.processes_of(self.node.path)


class KillVolumeServer(Healed):
    def __init__(self, arena, fault):
        self.node = arena.node(fault.node)

    def begin(self):
        belongings.kill_all(self.node.volume_servers, what=f"the volume server of {self.node.name} to die")


class Nothing(Healed):
    """The volume moves, which is the keeper's business."""

    def __init__(self, arena, fault):
        pass

    def begin(self):
        pass


class Cut:
    def __init__(self, arena, fault):
        self.network = arena.network
        self.ways = [(fault.node, fault.other)] + ([(fault.other, fault.node)] if fault.detail == "both ways" else [])

    def begin(self):
        for way in self.ways:
            self.network.cut(*way)

    def end(self):
        for way in self.ways:
            self.network.heal(*way)


class Isolate(Cut):
    """From everybody; one way means that it hears and is not heard."""

    def __init__(self, arena, fault):
        super().__init__(arena, fault)
        others = [number for number in range(1, len(arena.cluster.nodes) + 1) if number != fault.node]
        self.ways = [(fault.node, other) for other in others]
        if fault.detail == "both ways":
            self.ways += [(other, fault.node) for other in others]


class LoseLease:
    """The writer's host is cut off from everybody, its weftd from the store, too (stopped, here): its lease runs out,
    the volume goes elsewhere, and its volume server, which nobody can tell, still reaches its own replica."""

    def __init__(self, arena, fault):
        self.parts = [Isolate(arena, Fault(fault.kind, fault.node, detail="both ways")), StopWeftd(arena, fault)]

    def begin(self):
        for part in self.parts:
            part.begin()

    def end(self):
        for part in self.parts:
            part.end()


class StoreLocked:
    way = staticmethod(locked)

    def __init__(self, arena, fault):
        self.context = self.way(arena.cluster)

    def begin(self):
        self.context.__enter__()

    def end(self):
        self.context.__exit__(None, None, None)


class StoreMoved(StoreLocked):
    way = staticmethod(moved_away)


class SlowDrive:
    """Its replica server is started again under nbdkit's own filters, and at the end without them
    (orchestrator/io/replica_process.hpp, replica_filters)."""
    filters = ["--filter=delay", "rdelay=50ms", "wdelay=100ms"]

    def __init__(self, arena, fault):
        self.node = arena.node(fault.node)
        self.file = self.node.runtime / "replica-filters"

    def begin(self):
        self.file.write_text("".join(f"{line}\n" for line in self.filters))
        self._restart()

    def end(self):
        self.file.unlink(missing_ok=True)
        self._restart()

    def _restart(self):
        for pid in self.node.replica_servers():
            belongings.kill(pid)


class FailingDrive(SlowDrive):
    ways = {"EIO on writes": ["error-pwrite=EIO", "error-pwrite-rate=5%"],
            "EIO on reads": ["error-pread=EIO", "error-pread-rate=20%"],
            "ENOSPC on writes": ["error-pwrite=ENOSPC", "error-pwrite-rate=5%"]}

    def __init__(self, arena, fault):
        super().__init__(arena, fault)
        self.filters = ["--filter=error", *self.ways[fault.detail]]


class RebootStorage(Healed):
    """Its replica server comes back under another kernel, as far as it and the writer can tell: what was not flushed
    counts as gone, although it is not (weft-replica's boot-id=)."""

    def __init__(self, arena, fault):
        self.node = arena.node(fault.node)

    def begin(self):
        (self.node.runtime / "replica-filters").write_text(f"boot-id={uuid.uuid4()}\n")
        belongings.kill_all(self.node.replica_servers, what=f"the replica server of {self.node.name} to die")


class FullDrive:
    def __init__(self, arena, fault):
        self.drive = arena.drives[fault.node - 1]

    def begin(self):
        self.drive.fill()

    def end(self):
        self.drive.drain()


KINDS = {
    "kill_replica_server": KillReplicaServer, "kill_storage": KillStorage, "stop_replica_server": Stop,
    "kill_weftd": KillWeftd, "stop_weftd": StopWeftd, "slow_drive": SlowDrive,
    "cut": Cut, "isolate": Isolate, "store_locked": StoreLocked,
    "store_moved": StoreMoved, "kill_node": KillNode, "lose_node": KillNode,
    "stop_node": StopNode, "kill_cluster": KillCluster, "kill_volume_server": KillVolumeServer,
    "kill_home": KillNode, "stop_home": StopNode, "stop_volume_server": StopVolumeServer,
    "lose_lease": LoseLease, "take_over": Nothing, "move": Nothing,
    "failing_drive": FailingDrive, "full_drive": FullDrive, "reboot_storage": RebootStorage,
}


def make_fault(arena, fault):
    return KINDS[fault.kind](arena, fault)
