# SPDX-License-Identifier: Apache-2.0
"""A Weft cluster on one machine: nodes on loopback addresses, directories as drives, one SQLite store.

Each workspace uses addresses of its own (127.A.B.n from its process number), so that several runs do not meet. A node's
every path lies below <workspace>/<node>, which is how its processes are found and killed.
"""
import json
import os
import signal
import socket
import subprocess
import uuid
from pathlib import Path

from . import belongings
from .plugin_client import DockerPlugin, request
from .sparse import first_difference
from .waiting import DeadlineError, wait_for

REPOSITORY = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("BUILD", "build"))
BUILD = BUILD if BUILD.is_absolute() else REPOSITORY / BUILD
PLUGIN_DIRECTORY = Path("/run/docker/plugins")

# Shorter than the defaults, so that a test of a time-out takes seconds.
TIMES = {"lease-ttl-ms": 4000, "request-timeout-ms": 3000, "reconnect-window-ms": 1000, "attach-timeout-ms": 5000}


class CliError(AssertionError):
    """weft ended with an error; `code` and `stderr` tell."""

    def __init__(self, arguments, outcome):
        self.code, self.stderr = outcome.returncode, outcome.stderr.strip()
        super().__init__(f"weft {' '.join(arguments)}: exit {self.code}: {self.stderr}")


class Node:
    def __init__(self, cluster, name, host, docker_plugin, prefix=(), drive=None):
        self.cluster, self.name, self.host = cluster, name, host
        self.prefix = list(prefix)  # of weftd's command line: what puts it into its network namespace
        self.settings = {}          # of its configuration, besides those that every node has
        self.environment = {}       # of weftd and of all that it starts, besides the cluster's
        self.path = cluster.path / name
        self.drive = drive or self.path / "drive"
        self.runtime, self.state = self.path / "run", self.path / "state"
        for directory in (self.drive, self.runtime, self.state):
            directory.mkdir(parents=True, exist_ok=directory == drive)
        self.plugin_name = docker_plugin
        self.plugin_socket = PLUGIN_DIRECTORY / f"{docker_plugin}.sock"
        cluster.workspace.own(self.plugin_socket)
        self.plugin = DockerPlugin(self.plugin_socket)
        self.admin_socket = self.runtime / "weftd.sock"
        self.log = self.path / "weftd.log"
        self.config = self.path / "weftd.conf"
        self.weftd = None
        self.write_config()

    def write_config(self, **changes):
        settings = {"node": self.name, "host": self.host, "store": f"sqlite:{self.cluster.store}",
                    "state-dir": self.state, "runtime-dir": self.runtime, "docker-plugin": self.plugin_name,
                    "port-base": self.cluster.port_base, "libexec-dir": BUILD, **self.cluster.times,
                    **self.settings, **changes}
        self.config.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))

    # ---- life and death ----
    def start(self, wait=True):
        self.spawn()
        if wait:
            self.wait_ready()
        return self

    def spawn(self):
        with open(self.log, "a") as output:
            self.weftd = subprocess.Popen([*self.prefix, BUILD / "weftd", "--config", self.config],
                                          stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/",
                                          start_new_session=True, env=self.cluster.workspace.environment(
                                              **self.cluster.extra_environment, **self.environment))

    def wait_ready(self, timeout=30):
        """Until it answers on both sockets and the cluster sees its lease."""
        def ready():
            if self.weftd.poll() is not None:
                raise AssertionError(f"weftd of {self.name} ended with {self.weftd.returncode}:\n{self.log_tail()}")
            if not self.plugin_socket.exists():
                return False
            me = [node for node in self.weft("node", "ls") if node["name"] == self.name]
            return me and me[0]["alive"]
        wait_for(ready, timeout, f"weftd of {self.name} to be ready", retry_on=(CliError, OSError, ValueError))

    def stop(self):
        """In order: SIGTERM. Data-path processes go on."""
        self.weftd.terminate()
        self.weftd.wait(timeout=30)

    def kill_weftd(self):
        self.weftd.kill()
        self.weftd.wait()

    def replica_servers(self):
        return [pid for pid in belongings.processes_of(self.path, descendants=False)
                if f"drive={self.drive}" in belongings.command_line(pid)]

    def volume_servers(self):
        inside = str(self.runtime / "volumes")
        return [pid for pid in belongings.processes_of(self.path, descendants=False)
                if any("volume-plugin" in a for a in belongings.command_line(pid)) and
                any(inside in a for a in belongings.command_line(pid))]

    def kill_storage(self):
        """kill -9 of what serves replicas and of weftd, as near to the same instant as one can: weftd first, so that it
        does not raise the server again. The volume servers (the writers) live on."""
        if self.weftd.poll() is None:
            self.kill_weftd()
        belongings.kill_all(self.replica_servers, what=f"replica servers of {self.name} to die")

    def kill_everything(self):
        """kill -9 of every process of the node at once: weftd, replica servers, volume servers, nbdfuse."""
        belongings.kill_all(lambda: belongings.processes_of(self.path), what=f"all processes of {self.name} to die")
        self.weftd.wait()

    def power_off(self):
        """As kill_everything, and what a reboot would also take: mounts, loop devices, the runtime directory.
        Containers that use its volumes must have been killed before."""
        self.kill_everything()
        belongings.take_away(self.path)
        subprocess.run(["rm", "-rf", self.runtime], check=True)
        self.runtime.mkdir()
        self.plugin_socket.unlink(missing_ok=True)

    def _storage(self):
        pids = self.replica_servers()
        assert pids, f"{self.name} has no replica server"
        return pids

    def pause_storage(self):
        for pid in self._storage():
            belongings.stop(pid)

    def resume_storage(self):
        for pid in self._storage():
            belongings.kill(pid, signal.SIGCONT)

    # ---- asking ----
    def try_weft(self, *arguments, timeout=90, json_output=True):
        command = [str(BUILD / "weft"), "--socket", str(self.admin_socket), *(["-o", "json"] if json_output else []),
                   *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout,
                              env=self.cluster.workspace.environment())

    def weft(self, *arguments, timeout=90):
        """Runs the CLI for JSON; returns it parsed (None when it printed nothing). Raises CliError."""
        outcome = self.try_weft(*arguments, timeout=timeout)
        if outcome.returncode != 0:
            raise CliError([str(a) for a in arguments], outcome)
        return json.loads(outcome.stdout) if outcome.stdout.strip() else None

    def admin(self, method, target, body=b"", timeout=60):
        """A request to the admin socket; returns (HTTP status, parsed JSON)."""
        status, answer = request(self.admin_socket, method, target, body, timeout=timeout)
        return status, json.loads(answer) if answer else None

    def volume(self, name):
        return self.weft("volume", "inspect", name)

    def log_tail(self, lines=40):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""

    def add_drive(self):
        self.weft("drive", "add", self.drive)
        wait_for(lambda: any(d["node"] == self.name and d["serving"] for d in self.weft("drive", "ls")), 20,
                 f"the drive of {self.name} to be served", retry_on=(CliError,))


def free_port_base(hosts, first=7480):
    """A port from which a few are free on every host."""
    for base in range(first, 60000, 16):
        try:
            for host in hosts:
                for port in range(base, base + 8):
                    with socket.socket() as probe:
                        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                        probe.bind((host, port))
            return base
        except OSError:
            continue
    raise AssertionError("no free ports on the loopback addresses")


class Cluster:
    """`network` (network.py) puts every node into a network namespace of its own; `drives` names the directories that
    the nodes lend, where they are not to be plain ones inside <workspace>/<node>."""

    def __init__(self, workspace, nodes=3, times=None, hosts=None, plugin_names=None, prefix="n",
                 extra_environment=None, network=None, drives=None):
        self.workspace, self.path = workspace, workspace.path / "c"
        self.path.mkdir()
        (self.path / "store").mkdir()
        self.store = self.path / "store" / "weft.db"
        self.times = dict(TIMES, **(times or {}))
        self.extra_environment = extra_environment or {}
        pid = os.getpid()
        if network:
            hosts = network.hosts
        hosts = hosts or [f"127.{pid // 200 % 200 + 20}.{pid % 200 + 20}.{n}" for n in range(1, nodes + 1)]
        self.port_base = 7480 if network else free_port_base(hosts)
        workspace.make_outside_directory(PLUGIN_DIRECTORY)
        names = plugin_names or [f"wt{pid}{prefix}{n}" for n in range(1, nodes + 1)]
        self.nodes = [Node(self, f"{prefix}{n + 1}", hosts[n], names[n],
                           prefix=network.command(n + 1) if network else (), drive=drives[n] if drives else None)
                      for n in range(nodes)]

    def start(self, drives=True):
        for node in self.nodes:
            node.spawn()
        for node in self.nodes:
            node.wait_ready()
        if drives:
            for node in self.nodes:
                node.add_drive()
        return self

    def __getitem__(self, index):
        return self.nodes[index]

    def node(self, name):
        return next(node for node in self.nodes if node.name == name)

    def running(self):
        return next(node for node in self.nodes if node.weftd and node.weftd.poll() is None)

    # ---- volumes ----
    def replicas(self, volume, node=None):
        """All replica records of a volume."""
        return [replica for extent in (node or self.running()).volume(volume)["extents"]
                for replica in extent["replicas"]]

    def states(self, volume, node=None):
        return {replica["node"]: replica["state"] for replica in self.replicas(volume, node)}

    def replica_file(self, replica):
        return self.node(replica["node"]).drive / "replicas" / replica["id"] / "data"

    def wait_up_to_date(self, volume, timeout=60, node=None):
        return wait_for(lambda: all(r["state"] == "up_to_date" for r in self.replicas(volume, node)), timeout,
                        f"every replica of {volume} to be up_to_date", interval=0.1, retry_on=(CliError,))

    def wait_detached(self, volume, timeout=30, node=None):
        """Nobody uses it; a node that repairs it gives it to anybody who does."""
        def free():
            seen = (node or self.running()).volume(volume)
            return not seen["writer"] or seen["maintenance"]
        return wait_for(free, timeout, f"{volume} to have no writer", retry_on=(CliError,))

    def assert_replicas_equal(self, volume):
        """Every extent's up_to_date replicas are byte-equal. The caller has stopped the writing."""
        for number, extent in enumerate(self.running().volume(volume)["extents"]):
            good = [r for r in extent["replicas"] if r["state"] == "up_to_date"]
            assert len(good) >= 2, f"extent {number} of {volume} has fewer than two good replicas: {extent}"
            for other in good[1:]:
                where = first_difference(self.replica_file(good[0]), self.replica_file(other))
                assert where is None, f"replicas of {volume} on {good[0]['node']} and {other['node']} differ at {where}"

    # ---- the end ----
    def leaks(self):
        """What is left although no volume exists any more; call after all volumes were removed."""
        found = []
        for node in self.nodes:
            found += [f"mount {point}" for point in belongings.mounts_of(node.path)]
            found += [f"loop device {device}" for device in belongings.loops_of(node.path)]
            found += [f"process {pid}: {' '.join(belongings.command_line(pid))}" for pid in
                      belongings.processes_of(node.path, descendants=False)
                      if pid not in node.replica_servers() and not (node.weftd and pid == node.weftd.pid)]
            found += [f"replica {path}" for path in (node.drive / "replicas").glob("*")]
            found += [f"volume directory {path}" for path in (node.runtime / "volumes").glob("*")]
            found += [f"mount directory {path}" for path in (node.state / "mounts").glob("*")]
        return found

    def assert_no_leaks(self, timeout=20):
        try:
            wait_for(lambda: not self.leaks(), timeout, "everything to be collected", interval=0.2)
        except DeadlineError:
            raise AssertionError("left behind:\n  " + "\n  ".join(self.leaks())) from None

    def stop(self):
        """Everything away, by force; what weftd itself leaves behind is the tests' business before this."""
        belongings.take_away(self.path)
        for node in self.nodes:
            if node.weftd:
                node.weftd.wait()
            node.plugin_socket.unlink(missing_ok=True)


def new_mount_id():
    """As dockerd makes them: 64 hexadecimal digits."""
    return (uuid.uuid4().hex * 2)[:64]
