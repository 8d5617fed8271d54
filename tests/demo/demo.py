#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""`make demo`: a database keeps every committed row while a storage node is killed under it.

Three weftd on loopback addresses play three nodes; nodes 1 and 2 have a Docker Engine each, private ones that are
started here. (A single dockerd cannot play two nodes: it knows a volume by its name alone and refuses the name under
a second driver.) Everything lives in one workspace, which is taken away at the end however the end comes: success,
failure, Ctrl-C, or, by the next run, kill -9.
"""
import os
import sys
import time
from datetime import datetime
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.cluster import BUILD, PLUGIN_DIRECTORY, Cluster  # noqa: E402
from lib.docker import Docker  # noqa: E402
from lib.waiting import wait_for  # noqa: E402
from lib.workspace import Workspace  # noqa: E402
from narration import Narrator  # noqa: E402
from postgres import START, Database, Load  # noqa: E402

VOLUME = "orders"
BALLAST_ROWS = 600_000  # some hundred megabytes besides the load, so that the resync has something to copy
MIB = 1 << 20


def free_plugin_names():
    """weft1..3, unless a socket of such a name is there already: that one is not ours to touch."""
    for stem in ("weft", "weftdemo", f"weft{os.getpid()}n"):
        names = [f"{stem}{number}" for number in (1, 2, 3)]
        if not any((PLUGIN_DIRECTORY / f"{name}.sock").exists() for name in names):
            return names
    raise SystemExit(f"plugin sockets of every name the demo tries exist in {PLUGIN_DIRECTORY}; remove the stale ones")


class Demo:
    def __init__(self, workspace):
        self.workspace, self.say = workspace, Narrator()
        self.engines = []
        self.figures = {}

    # ---- the stage ----
    def build_cluster(self):
        self.cluster = Cluster(self.workspace, hosts=["127.0.0.1", "127.0.0.2", "127.0.0.3"],
                               plugin_names=free_plugin_names(), prefix="node", times={"lease-ttl-ms": 5000})
        self.cluster.start()
        names = ", ".join(f"{n.name} ({n.host}, driver {n.plugin_name})" for n in self.cluster.nodes)
        self.say.step(f"Three nodes with a drive each: {names}.")

    def start_engines(self):
        for number in (1, 2):
            engine = Docker(self.workspace, f"docker{number}")
            self.engines.append(engine)
            engine.start()
            engine.import_host({"start": START.encode()})
        version = self.engines[0].docker("version", "--format", "{{.Server.Version}}")
        self.say.step(f"Two private Docker Engines {version}, one for node1 and one for node2.")

    def create_volume(self):
        node = self.cluster[0]
        command = ["volume", "create", "-d", node.plugin_name, "-o", "size=2GiB", "-o", "replicas=3", VOLUME]
        self.engines[0].docker(*command)
        self.say.step(f"docker {' '.join(command)}")

    def start_database(self):
        self.database = Database(self.engines[0], "db1", VOLUME, self.cluster[0].plugin_name,
                                 self.workspace.path / "pg1")
        self.database.start()
        wait_for(self.database.is_ready, 120, "PostgreSQL to accept connections", interval=0.2)
        version = self.database.ask("show server_version")[0][0].split()[0]
        self.database.ask("create table ballast as select n, repeat(md5(n::text), 24) as text"
                          f" from generate_series(1, {BALLAST_ROWS}) as n")
        self.database.ask("checkpoint")
        self.say.step(f"PostgreSQL {version} runs in a container on the volume, on node1, with "
                      f"{self.database.ask('select pg_database_size(current_database())')[0][0] // MIB} MiB of data.")

    # ---- the play ----
    def put_under_load(self):
        self.load = Load(self.database).start()
        self.watch_load(5)
        self.say.step(f"Four clients commit single rows: {self.load.rate(3):.0f} commits per second, each on the "
                      "drives of all three nodes before it is acknowledged.")

    def watch_load(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.say.running(f"{self.load.count()} rows acknowledged, {self.load.rate(1):.0f} per second")
            self.require(not self.load.problems, f"the load failed: {self.load.problems}")
            time.sleep(0.2)

    def kill_storage_node(self):
        self.victim, writer = self.cluster[2], self.cluster[0]
        before = self.load.count()
        died = time.monotonic()
        self.victim.kill_everything()
        self.say.step(f"kill -9 of every process of {self.victim.name}, under full load.")
        wait_for(lambda: self.cluster.states(VOLUME, writer)[self.victim.name] != "up_to_date", 30,
                 "the dead node's replica to be demoted")
        wait_for(lambda: self.load.rate(1) > 10, 30, "the load to go on")
        self.watch_load(4)
        now = time.monotonic()
        self.figures["hold"] = self.load.longest_pause(died - 0.5, now)
        self.require(not self.load.problems, f"the load failed: {self.load.problems}")
        self.say.step(f"The load goes on: writes were held for {self.figures['hold'] * 1000:.0f} ms while the loss was "
                      f"recorded, no error, {self.load.count() - before} more rows since.")

    def move_database(self):
        self.figures["errors"] = self.database.storage_errors()
        self.require(self.figures["errors"] == 0, "the database saw I/O errors; see docker logs")
        self.database.kill()
        self.load.stop()
        self.require(self.load.count() > 0, "no row was acknowledged")
        self.say.step(f"docker kill and rm of the database, in the middle of its work: {self.load.count()} rows had "
                      "been acknowledged.")
        self.cluster.wait_detached(VOLUME, node=self.cluster[1])
        began = time.monotonic()
        node = self.cluster[1]
        self.database = Database(self.engines[1], "db2", VOLUME, node.plugin_name, self.workspace.path / "pg2")
        self.engines[1].docker("volume", "create", "-d", node.plugin_name, VOLUME)
        self.database.start()
        wait_for(self.database.is_ready, 120, "PostgreSQL to recover on node2", interval=0.1)
        self.figures["move"] = time.monotonic() - began
        self.say.step(f"The same volume on node2, in node2's Docker: PostgreSQL has recovered and answers after "
                      f"{self.figures['move']:.1f} s.")
        found, missing = self.load.missing(self.database)
        self.figures["found"] = found
        self.require(not missing, f"{len(missing)} acknowledged rows are lost: {missing[:5]}")
        ballast = self.database.ask("select count(*) from ballast where text = repeat(md5(n::text), 24)")[0][0]
        self.require(ballast == BALLAST_ROWS, f"only {ballast} of {BALLAST_ROWS} older rows are intact")
        self.say.step(f"Every acknowledged row is there: {found} of {self.load.count()}, and all {ballast} older ones.")

    def bring_node_back(self):
        node, before = self.cluster[1], self.copied()
        more = Load(self.database, table="more").start()
        self.say.step(f"{self.victim.name} starts again, under load; its replica missed writes: not read from until it "
                      "has them.")
        self.victim.start()
        began = None
        while True:
            state = self.cluster.states(VOLUME, node)[self.victim.name]
            slot = self.slot()
            if began is None and (slot["resyncing"] or state == "up_to_date"):
                began = time.monotonic()
            if state == "up_to_date":
                break
            self.require(time.monotonic() - self.say.began < 600, "the resync does not end")
            size = node.volume(VOLUME)["extents"][0]["size_bytes"]
            copied = slot["resync_copied_bytes"] - before
            seconds = max(time.monotonic() - (began or time.monotonic()), 0.01)
            tail = f"{copied / MIB:.0f} MiB copied, {copied / MIB / seconds:.0f} MiB/s" if began else "connecting"
            self.say.bar(f"resync of {self.victim.name}", slot["resync_done_bytes"] / size, tail)
            time.sleep(0.1)
        seconds = self.resync_seconds()
        copied = self.copied() - before
        self.require(copied > 0, "the replica is called up to date although nothing was copied to it")
        self.figures["resync"] = f"{copied / MIB / seconds:.0f} MiB/s"
        at_the_end = more.count()
        wait_for(lambda: more.count() > at_the_end + 100, 30, "the load to go on after the resync")
        more.stop()
        self.require(not more.problems, f"the load failed during the resync: {more.problems}")
        self.say.finished_bar(f"resync of {self.victim.name}", f"{copied / MIB:.0f} MiB in {seconds:.1f} s, holes "
                              "not copied, the load went on")

    def resync_seconds(self):
        """From the writer's own events: what it began and when the replica was called up to date."""
        replica = next(r["id"] for r in self.cluster.replicas(VOLUME) if r["node"] == self.victim.name)

        def newest(text):
            return [datetime.fromisoformat(event["time"]) for event in self.cluster[1].weft("events", "-n", 200)
                    if event["node"] == self.cluster[1].name and replica in event["text"] and text in event["text"]]
        wait_for(lambda: newest("is up_to_date"), 10, "the event of the end of the resync")
        return max((newest("is up_to_date")[-1] - newest("resync begins")[-1]).total_seconds(), 0.001)

    def slot(self):
        """The engine's view of the victim's replica; the volume has one extent."""
        view = self.cluster[1].volume(VOLUME)
        replica = next(r for r in view["extents"][0]["replicas"] if r["node"] == self.victim.name)
        return next(s for s in view["live"]["slots"] if s["id"] == replica["id"])

    def copied(self):
        return self.slot()["resync_copied_bytes"]

    def compare_and_end(self):
        self.engines[1].docker("stop", "--time", "60", "db2")
        self.say.step("docker stop of the database, in order this time.")
        self.engines[1].docker("rm", "db2")
        self.cluster.wait_detached(VOLUME, node=self.cluster[1])
        self.say.running("comparing the replicas")
        self.cluster.assert_replicas_equal(VOLUME)
        self.say.step("The volume is detached; its three replicas are byte for byte equal.")
        self.engines[1].docker("volume", "rm", VOLUME)
        self.cluster.assert_no_leaks()
        self.say.step("docker volume rm: no mount, loop device, process or replica file of it is left.")

    def show_table(self):
        self.say.table("What was proved", [
            ("writes held when a storage node was killed", f"{self.figures['hold'] * 1000:.0f} ms"),
            ("I/O errors seen by the database", str(self.figures["errors"])),
            ("rows acknowledged", str(self.load.count())),
            ("of these found after the move to another node", str(self.figures["found"])),
            ("database back on the other node", f"{self.figures['move']:.1f} s"),
            ("resync of the returned node", self.figures["resync"]),
        ])

    @staticmethod
    def require(condition, otherwise):
        if not condition:
            raise AssertionError(otherwise)

    def run(self):
        try:
            for act in (self.build_cluster, self.start_engines, self.create_volume, self.start_database,
                        self.put_under_load, self.kill_storage_node, self.move_database, self.bring_node_back,
                        self.compare_and_end):
                act()
            self.show_table()
        finally:
            for engine in self.engines:
                engine.stop()


def main():
    if os.geteuid() != 0:
        sys.exit("the demo mounts file systems and starts a Docker Engine: run it as root (sudo make demo)")
    if not (BUILD / "weftd").exists():
        sys.exit(f"{BUILD / 'weftd'} is missing: run `make demo`, which builds it")
    with Workspace("demo") as workspace:
        try:
            Demo(workspace).run()
            code = 0
        except KeyboardInterrupt:
            print("\ninterrupted; cleaning up", file=sys.stderr)
            code = 130
        except Exception as problem:
            print(f"\nthe demo failed: {problem}", file=sys.stderr)
            for log in sorted(workspace.path.glob("c/*/weftd.log")):
                tail = log.read_text(errors="replace").splitlines()[-15:]
                print(f"--- {log}", *tail, sep="\n", file=sys.stderr)
            code = 1
    if code == 0:
        print("Nothing is left behind.")
    return code


if __name__ == "__main__":
    sys.exit(main())
