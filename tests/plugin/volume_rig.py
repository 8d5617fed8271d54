# SPDX-License-Identifier: Apache-2.0
"""Replica servers, volume servers and a scripted weftd of one test, all below one directory.

Every process is started by this file, killed by its process id, and gone after close().
"""
import json
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import nbd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib import belongings  # noqa: E402
from lib.waiting import wait_for  # noqa: E402
from plugin_tools import BUILD, drive_tool  # noqa: E402
from fake_weftd import FakeWeftd  # noqa: E402

KIB, MIB = 1024, 1024 * 1024
BLOCK = 4096


def hold_open(path):
    """Where a process's output goes: a file that is shown when the test fails."""
    return open(path, "ab", buffering=0)


class ReplicaServer:
    """One drive and the nbdkit that serves it."""

    def __init__(self, rig, number):
        self.rig, self.number = rig, number
        self.host, self.port = rig.host, 7480 + number
        self.drive = rig.drives.get(number, rig.path / f"drive{number}")
        self.log = rig.path / f"replica{number}.log"
        self.process = None
        drive_tool("init", self.drive, rig.cluster, f"n{number}")

    def create(self, replica, size, born_equal=True):
        drive_tool("create", self.drive, replica, self.rig.volume, size, "equal" if born_equal else "dirty")

    def data(self, replica):
        return self.drive / "replicas" / replica / "data"

    def start(self):
        """Returns when it accepts connections. The drive's lock goes only with the last thread of a killed server, so
        the first attempts may be refused."""
        def attempt():
            self.process = subprocess.Popen(
                ["nbdkit", "-f", "-t", "1", "-i", self.host, "-p", str(self.port),
                 str(BUILD / "nbdkit-weft-replica-plugin.so"), f"drive={self.drive}"],
                stdout=hold_open(self.log), stderr=subprocess.STDOUT, env=self.rig.environment)
            wait_for(lambda: self.process.poll() is not None or self._answers(), 10, f"{self.drive} to be served")
            return self.process.poll() is None
        wait_for(attempt, 20, f"a replica server on {self.drive}")
        return self

    def _answers(self):
        handle = nbd.NBD()
        handle.set_opt_mode(True)
        try:
            handle.connect_tcp(self.host, str(self.port))
        except nbd.Error:
            return False
        handle.opt_abort()
        return True

    def kill(self):
        """kill -9, and it is gone when this returns."""
        if self.process:
            self.process.kill()
            self.process.wait()

    def signal(self, number):
        self.process.send_signal(number)

    def freeze(self):
        """SIGSTOP: the kernel still accepts connections, nobody answers."""
        belongings.stop(self.process.pid)

    def thaw(self):
        self.signal(signal.SIGCONT)


class VolumeServer:
    """nbdkit + weft-volume for one epoch."""

    def __init__(self, rig, config, name):
        self.rig = rig
        self.path = rig.path / name
        self.path.mkdir()
        self.socket, self.control = self.path / "nbd.sock", self.path / "control.sock"
        self.log = self.path / "log"
        (self.path / "attach.json").write_text(json.dumps(config))
        self.process = subprocess.Popen(
            ["nbdkit", "-f", "-t", "64", "-U", str(self.socket), str(BUILD / "nbdkit-weft-volume-plugin.so"),
             f"config={self.path}/attach.json", f"control={self.control}"],
            stdout=hold_open(self.log), stderr=subprocess.STDOUT, env=rig.environment)
        wait_for(lambda: self.socket.exists() or self.process.poll() is not None, 10, "the volume server's socket")
        assert self.process.poll() is None, self.log.read_text()

    def uri(self, export=""):
        return f"nbd+unix:///{export}?socket={self.socket}"

    def connect(self, export=""):
        handle = nbd.NBD()
        handle.connect_uri(self.uri(export))
        return handle

    def kill(self):
        self.process.kill()
        self.process.wait()


class Rig:
    def __init__(self, workspace, name, replicas=2, extents=(64 * MIB,), times=None, min_replicas=1,
                 drives=None):
        self.workspace = workspace
        self.path = workspace.path / name
        self.path.mkdir()
        self.environment = workspace.environment()
        pid = os.getpid()
        self.host = f"127.{pid // 200 % 200 + 20}.{pid % 200 + 20}.250"
        self.cluster, self.volume = str(uuid.uuid4()), str(uuid.uuid4())
        self.sizes, self.min_replicas = extents, min_replicas
        self.times = {"request_timeout_ms": 2000, "reconnect_window_ms": 700, "attach_timeout_ms": 4000,
                      **(times or {})}
        self.drives = drives or {}  # server number -> directory, where it is not to be below the rig's
        self.servers = [ReplicaServer(self, n) for n in range(replicas)]
        self.ids = [[str(uuid.uuid4()) for _ in range(replicas)] for _ in extents]  # [extent][server]
        self.states = [{replica: "up_to_date" for replica in ids} for ids in self.ids]
        self.epoch = 0
        self.volumes, self.weftds = [], []
        for extent, ids in enumerate(self.ids):
            for server, replica in zip(self.servers, ids):
                server.create(replica, extents[extent])
        for server in self.servers:
            server.start()

    def members(self):
        return [{"size_bytes": size,
                 "replicas": [{"id": replica, "state": self.states[extent][replica], "local": number == 0,
                               "recovering": False, "host": self.servers[number].host,
                               "port": self.servers[number].port}
                              for number, replica in enumerate(self.ids[extent])
                              if replica in self.states[extent]]}
                for extent, size in enumerate(self.sizes)]

    policy = {"resync_rate": 0, "on_full": "hold", "scrub": 0, "min_replicas": 0}

    def send_members(self, **more):
        self.weftd.send({"type": "members", "extents": self.members(), "policy": self.policy, **more})

    def add_extent(self, size):
        """The record and the drives have one more, born equal."""
        ids = [str(uuid.uuid4()) for _ in self.servers]
        for server, replica in zip(self.servers, ids):
            server.create(replica, size)
        self.sizes = (*self.sizes, size)
        self.ids.append(ids)
        self.states.append({replica: "up_to_date" for replica in ids})

    def config(self, **more):
        """attach.json of the present epoch."""
        return {"volume": "db", "id": self.volume, "epoch": self.epoch, "clean": True, "connections": 8,
                "min_replicas": self.min_replicas, **self.times, "policy": self.policy,
                "extents": self.members(), **more}

    def attach(self, weftd="commit", clean=True, lease=True, **more):
        """A new epoch. Returns the volume server; its weftd is `self.weftd`, or None if `weftd` is None."""
        self.epoch += 1
        volume = VolumeServer(self, self.config(clean=clean, **more), f"volume{self.epoch}")
        self.volumes.append(volume)
        self.weftd = self.join(volume, weftd, lease) if weftd else None
        return volume

    def join(self, volume, policy="commit", lease=True):
        weftd = FakeWeftd(volume.control, self.states, policy, lease)
        self.weftds.append(weftd)
        return weftd

    def wait_serving(self, timeout=20):
        wait_for(lambda: all((self.weftd.status(e) or {}).get("state") == "serving" for e in range(len(self.sizes))),
                 timeout, "every extent to serve")

    def wait_whole(self, timeout=60):
        """Every replica of every extent is up_to_date and connected."""
        def whole():
            return all(self.states[e][r] == "up_to_date" and (self.weftd.slot(r, e) or {}).get("link_up") and
                       not self.weftd.slot(r, e)["resyncing"] and self.weftd.slot(r, e)["state"] == "up_to_date"
                       for e, ids in enumerate(self.ids) for r in ids)
        wait_for(whole, timeout, "every replica to be up_to_date and connected")

    def wait_state(self, server, state, extent=0, timeout=20):
        replica = self.ids[extent][server]
        wait_for(lambda: self.states[extent][replica] == state, timeout, f"replica {server} to be {state}")

    def assert_equal(self):
        """The data files of every extent are byte-equal."""
        for ids in self.ids:
            first = self.servers[0].data(ids[0])
            for server, replica in list(zip(self.servers, ids))[1:]:
                subprocess.run(["cmp", str(first), str(server.data(replica))], check=True)

    def logs(self):
        parts = []
        for log in sorted(self.path.rglob("*log")):
            parts.append(f"--- {log.relative_to(self.path)}\n{log.read_text(errors='replace')[-4000:]}")
        for number, weftd in enumerate(self.weftds):
            told = "\n".join(f"{n['severity']}: {n['text']}" for n in weftd.notices[-40:])
            parts.append(f"--- notices of weftd {number}\n{told}\nlast status {weftd.status()}\n"
                         f"proposals {weftd.proposals[-10:]}\ncommits {weftd.commits[-20:]}")
        return "\n".join(parts)

    def close(self):
        for weftd in self.weftds:
            weftd.stop()
        for volume in self.volumes:
            volume.kill()
        for server in self.servers:
            server.kill()
