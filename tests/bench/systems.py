# SPDX-License-Identifier: Apache-2.0
"""What is compared: each system offers one NBD export over the same number of replicas in the same directory.

  weft     weft-volume over weft-replica servers, unix socket in front, TCP on loopback behind
  quorum   qemu-storage-daemon's quorum driver over nbdkit file servers, unix socket in front, TCP on loopback behind;
           it answers a write when all children have (vote-threshold = replicas), reads from the first (fifo)
  bound    one nbdkit file server over TCP: no replication, nothing in between

A system is started once and stays idle while others are measured. close() ends every process that it started.
"""
import os
import subprocess
import sys
from pathlib import Path

import nbd

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[1] / "plugin")]

from lib.waiting import wait_for  # noqa: E402
from volume_rig import Rig  # noqa: E402

TICKS = os.sysconf("SC_CLK_TCK")
# As weftd has them: the rig's own are those of impatient tests.
TIMES = {"request_timeout_ms": 5000, "reconnect_window_ms": 2000, "attach_timeout_ms": 5000}


def answers(uri):
    """Does an NBD server answer there?"""
    handle = nbd.NBD()
    try:
        handle.connect_uri(uri)
    except nbd.Error:
        return False
    handle.shutdown()
    return True


def cpu_seconds(pids):
    """What processes have used so far, user and system, all threads."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


class FileServers:
    """nbdkit's file plugin, one process per replica, over TCP; nbdkit's own defaults."""

    def __init__(self, workspace, rig, directory, count, first_port):
        self.path = rig.path / directory
        self.path.mkdir()
        self.host, self.ports = rig.host, [first_port + n for n in range(count)]
        self.processes = []
        for port in self.ports:
            data = self.path / f"data{port}"
            with open(data, "wb") as file:
                file.truncate(rig.sizes[0])
            log = open(self.path / f"log{port}", "ab", buffering=0)
            self.processes.append(subprocess.Popen(
                ["nbdkit", "-f", "-i", self.host, "-p", str(port), "file", str(data)],
                stdout=log, stderr=subprocess.STDOUT, env=workspace.environment()))
        for port, process in zip(self.ports, self.processes):
            wait_for(lambda: process.poll() is not None or answers(self.uri(port)), 10, f"a file server at port {port}")
            assert process.poll() is None, f"nbdkit did not start: {self.path}/log{port}"

    def uri(self, port):
        return f"nbd://{self.host}:{port}"

    def pids(self):
        return [process.pid for process in self.processes]

    def close(self):
        for process in self.processes:
            process.kill()
            process.wait()


class Bound:
    name = "bound"

    def __init__(self, workspace, rig):
        self.servers = FileServers(workspace, rig, "bound", 1, 7600)
        self.uri = self.servers.uri(self.servers.ports[0])

    def pids(self):
        return self.servers.pids()

    def close(self):
        self.servers.close()


class Quorum:
    name = "quorum"

    def __init__(self, workspace, rig, replicas):
        self.servers = FileServers(workspace, rig, "quorum", replicas, 7620)
        socket = self.servers.path / "nbd.sock"
        self.uri = f"nbd+unix:///volume?socket={socket}"
        children = ",".join(f"children.{n}=r{n}" for n in range(replicas))
        command = ["qemu-storage-daemon"]
        for n, port in enumerate(self.servers.ports):
            command += ["--blockdev", f"driver=nbd,node-name=r{n},server.type=inet,server.host={self.servers.host},"
                                      f"server.port={port}"]
        command += ["--blockdev", f"driver=quorum,node-name=q,vote-threshold={replicas},read-pattern=fifo,{children}",
                    "--nbd-server", f"addr.type=unix,addr.path={socket}",
                    "--export", "type=nbd,id=e,node-name=q,name=volume,writable=on"]
        log = open(self.servers.path / "daemon.log", "ab", buffering=0)
        self.daemon = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=workspace.environment())
        wait_for(lambda: self.daemon.poll() is not None or answers(self.uri), 10, "qemu-storage-daemon to answer")
        assert self.daemon.poll() is None, (self.servers.path / "daemon.log").read_text()

    def pids(self):
        return [self.daemon.pid, *self.servers.pids()]

    def close(self):
        self.daemon.kill()
        self.daemon.wait()
        self.servers.close()


class Weft:
    name = "weft"

    def __init__(self, rig):
        self.rig = rig
        self.volume = rig.attach()
        rig.wait_whole()
        self.uri = self.volume.uri("volume")

    def pids(self):
        return [self.volume.process.pid, *(server.process.pid for server in self.rig.servers)]

    def close(self):
        self.rig.close()


class Bench:
    """All systems over one number of replicas, side by side in one directory. Use as a context manager."""

    def __init__(self, workspace, replicas, size_bytes):
        self.rig = Rig(workspace, f"x{replicas}", replicas=replicas, extents=(size_bytes,), times=TIMES)
        self.systems = []
        try:
            self.systems.append(Bound(workspace, self.rig))
            self.systems.append(Quorum(workspace, self.rig, replicas))
            self.systems.append(Weft(self.rig))
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        for system in self.systems:
            system.close()
        self.rig.close()
