# SPDX-License-Identifier: Apache-2.0
"""One round: a volume, a load, faults at their times; then everything heals, and what must hold is checked.

What must hold: every answer was legal (ledger.py); a load that must not notice the faults saw no error; everybody makes
progress again; every replica is up_to_date; the whole volume reads back as acknowledged; after the detach the replicas
are byte-equal; after the removal nothing is left.
"""
import os
import time

from lib import belongings
from lib.cluster import CliError, new_mount_id
from lib.io_load import Fio
from lib.plugin_client import PluginError
from lib.waiting import wait_for

from block_load import BlockLoad
from database import Database, check_database
from faults import make_fault
from keeper import Keeper
from schedule import NETWORK

VOLUME_MIB = 32
FIO_IOPS = 1500   # as many as last a schedule's time
END = 1000        # seconds: what comes after every other step
HEAL_LIMIT = 120  # seconds; generous: a test's limit says that something hangs, not that a machine is busy


class Timeline:
    """Begins and ends the faults of a round when they are due; one thread, the caller's."""

    def __init__(self, arena, faults, keeper=None):
        self.keeper, self.active = keeper, []
        self._cuts = any(fault.kind in NETWORK for fault in faults)
        self._steps = []
        for fault in faults:
            deed = make_fault(arena, fault)
            self._steps.append((fault.begin, len(self._steps), fault, deed, True))
            if hasattr(deed, "end"):
                last = END if fault.kind == "lose_lease" else 0
                self._steps.append((last + fault.begin + fault.duration, len(self._steps), fault, deed, False))
        self._steps.sort(key=lambda step: step[:2])

    def run(self, check):
        started = time.monotonic()
        for at, _, fault, deed, begins in self._steps:
            while (left := started + at % END - time.monotonic()) > 0:  # the schedule's times are what is being tested
                check()
                time.sleep(min(left, 0.1))
            if begins:
                deed.begin()
                self.active.append(deed)
                if fault.other and self.keeper and fault.kind not in NETWORK:
                    self.keeper.go(fault, out_of_touch=self._cuts)
            else:
                if fault.kind == "lose_lease":
                    self.keeper.settle()
                self.active.remove(deed)
                deed.end()

    def heal(self):
        """Ends what an error left under way."""
        while self.active:
            self.active.pop().end()


def block_round(arena, plan):
    """`block`: the faults may take the volume away, errors are answers; `steady`: they may not."""
    cluster, name = arena.cluster, f"v{plan.seed}"
    home = arena.node(plan.home)
    create(home, name, plan)
    load = BlockLoad(VOLUME_MIB << 20, plan.seed)
    keeper = Keeper(arena, name, home, load)
    timeline = Timeline(arena, plan.faults, keeper)
    try:
        keeper.attach_now()
        wait_for(lambda: load.all_progressed([0] * len(load.turns)), HEAL_LIMIT, "the first answers")
        timeline.run(load.check)
        heal(arena, timeline)
        keeper.wait(HEAL_LIMIT)
        if plan.load == "block":
            keeper.again()
        since = list(load.turns)
        wait_for(lambda: load.all_progressed(since), HEAL_LIMIT, "every client to get answers again")
        load.stop()
        if plan.load == "steady":
            assert not load.errors, f"errors although every fault was survivable: {load.errors[:3]}"
        wait_healthy(cluster, name, keeper.home)
        load.verify_all()
        keeper.detach()
    finally:
        load.halt.set()
        timeline.heal()
        keeper.end()
    check_and_remove(cluster, name)
    return f"{load.ledger.acknowledged} changes acknowledged, {len(load.errors)} errors"


def fio_round(arena, plan):
    cluster, name, home = arena.cluster, f"v{plan.seed}", arena.node(plan.home)
    create(home, name, plan)
    uri = home.weft("volume", "attach", name)["nbd_uri"]
    timeline = Timeline(arena, plan.faults)
    fio = Fio(arena.workspace, uri, size=f"{VOLUME_MIB * 3 // 4}M", rate_iops=FIO_IOPS)
    try:
        timeline.run(lambda: None)
        heal(arena, timeline)
        job = fio.finish(timeout=HEAL_LIMIT)
        wait_healthy(cluster, name, home)
        home.weft("volume", "detach", name)
    finally:
        fio.kill()
        timeline.heal()
    check_and_remove(cluster, name)
    return f"{job['write']['total_ios']} writes, {job['read']['total_ios']} reads verified"


def database_round(arena, plan):
    """No fault of the storage is noticed by the database; then its host dies, or lets the volume go, and it goes on
    elsewhere with all that it had acknowledged."""
    cluster, name, home = arena.cluster, f"v{plan.seed}", arena.node(plan.home)
    create(home, name, plan)
    mount_id = new_mount_id()
    directory = home.plugin.mount(name, mount_id)
    timeline = Timeline(arena, plan.faults)
    database = Database(arena.workspace, directory, plan.journal)
    try:
        wait_for(lambda: database.progressed(0), HEAL_LIMIT, "the first commits")
        timeline.run(database.check)
        heal(arena, timeline)
        since = database.acknowledged
        wait_for(lambda: database.progressed(since), HEAL_LIMIT, "the database to go on")
        wait_healthy(cluster, name, home)  # its only good replica must not go down with the host
        if plan.ending == "lets go":
            database.kill()
            check_database(directory, database.acknowledged)
            home.plugin.unmount(name, mount_id)
        else:
            home.kill_everything()
            database.kill()  # a moment later: what it is told by a dead disk must not be a commit
            home.power_off()
        home, mount_id = arena.node(plan.next_home), new_mount_id()
        directory = wait_for(lambda: home.plugin.mount(name, mount_id), HEAL_LIMIT, "the next host to mount it",
                             interval=0.3, retry_on=(PluginError,))
        check_database(directory, database.acknowledged)
        heal(arena, timeline)
        first, database = database, Database(arena.workspace, directory, plan.journal)
        wait_for(lambda: database.progressed(first.acknowledged), HEAL_LIMIT, "the database to go on at its next host")
        database.kill()
        check_database(directory, database.acknowledged)
        wait_healthy(cluster, name, home)
        home.plugin.unmount(name, mount_id)
    finally:
        database.kill()
        timeline.heal()
    check_and_remove(cluster, name)
    return f"{first.acknowledged} rows committed by the first host, {database.acknowledged} in the end"


def create(node, name, plan):
    """On a busy machine a node's lease may run out for a moment after a round that locked the store: it gets no replica
    then, and whoever creates has to try again."""
    options = [part for item in plan.options.items() for part in ("--opt", "=".join(item))]
    wait_for(lambda: node.weft("volume", "create", name, "--size", f"{VOLUME_MIB}MiB", "--opt",
                               f"replicas={plan.replicas}", "--opt", f"min-replicas={plan.min_replicas}", *options),
             HEAL_LIMIT, f"{name} to be created", interval=0.5, retry_on=(CliError,))


def heal(arena, timeline):
    """Every node runs again and says so."""
    timeline.heal()
    for node in arena.cluster.nodes:
        if node.weftd.poll() is not None:
            node.spawn()
    for node in arena.cluster.nodes:
        node.wait_ready(timeout=HEAL_LIMIT)


def wait_healthy(cluster, name, node):
    cluster.wait_up_to_date(name, timeout=HEAL_LIMIT, node=node)
    wait_for(lambda: node.volume(name)["health"] == "healthy", HEAL_LIMIT, f"{name} to be healthy",
             retry_on=(CliError,))


def check_and_remove(cluster, name):
    """The volume is detached."""
    cluster.wait_detached(name, timeout=HEAL_LIMIT)
    cluster.assert_replicas_equal(name)
    wait_for(lambda: (cluster[0].weft("volume", "rm", name), True), HEAL_LIMIT, f"{name} to be removed", interval=0.2,
             retry_on=(CliError,))
    cluster.assert_no_leaks(timeout=HEAL_LIMIT)
    # Placement goes by what the records say of a drive that was full or did not stay up; they follow in a few seconds.
    wait_for(lambda: all(drive["free_bytes"] > drive["size_bytes"] // 2 and not drive["down"]
                         for drive in cluster[0].weft("drive", "ls")),
             HEAL_LIMIT, "the records to call every drive usable", interval=0.2)
    wait_for(lambda: not open_but_deleted(cluster), HEAL_LIMIT, "replica servers to close removed replicas",
             interval=0.5)


def open_but_deleted(cluster):
    """Files of removed replicas that a replica server still has open: their space is not free."""
    found = []
    for node in cluster.nodes:
        for pid in node.replica_servers():
            try:
                links = [os.readlink(entry.path) for entry in os.scandir(f"/proc/{pid}/fd")]
            except OSError:  # it ended meanwhile
                continue
            found += [link for link in links if link.startswith(str(node.drive)) and link.endswith(" (deleted)")]
    return found


def describe_processes(cluster):
    return "\n".join(f"{pid} {' '.join(belongings.command_line(pid))}" for pid in belongings.processes_of(cluster.path))


def run_round(arena, plan):
    """Raises when something that must hold does not; returns what there was to see."""
    return {"block": block_round, "steady": block_round, "fio": fio_round, "database": database_round}[plan.load](
        arena, plan)
