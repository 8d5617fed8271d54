# SPDX-License-Identifier: Apache-2.0
"""Fixtures and helpers of the tests of weft-replica: a drive, servers on it, file systems under it, requests."""
import contextlib
import errno
import re
import signal
import subprocess
import threading
import uuid
from pathlib import Path

import nbd
import pytest

from drive_on_disk import MIB, PLUGIN, Drive, Server
from lent_filesystem import LentFilesystem
from lib.waiting import wait_for
from lib.workspace import Workspace

BLOCK = 4096
SIZE = 64 * MIB


@pytest.fixture(scope="module")
def workspace():
    if not PLUGIN.exists():
        pytest.fail(f"{PLUGIN} is missing: run make first (BUILD names the folder)")
    with Workspace("replica") as made:
        yield made


@pytest.fixture
def drive(workspace):
    return Drive(workspace.path / f"drive-{uuid.uuid4().hex[:8]}")


@pytest.fixture
def lend(workspace, drive):
    """Puts a file system under a replica's data, or its meta."""
    filesystems = []

    def lender(replica, kind, **options):
        filesystems.append(LentFilesystem(workspace, drive, replica, kind, **options))
        filesystems[-1].mount()
        return filesystems[-1]
    yield lender
    for filesystem in filesystems:
        filesystem.unmount()


@pytest.fixture
def start(workspace, drive, lend):  # after lend, so that the servers are gone when file systems are unmounted
    """Starts servers on the drive; they are dead when the test ends."""
    servers = []

    def starter(*parameters, on=drive):
        servers.append(Server(workspace, on, *parameters))
        return servers[-1]
    yield starter
    for server in servers:
        server.kill()


def failure(call, *arguments):
    """The errno with which libnbd's call fails."""
    with pytest.raises(nbd.Error) as caught:
        call(*arguments)
    return caught.value.errnum


def refused(server, name):
    with pytest.raises(nbd.Error):
        server.connect(name)


def extents(handle, offset=0, count=SIZE):
    found = []
    handle.block_status(count, offset, lambda _context, _offset, entries, _error: found.extend(entries) and 0)
    return list(zip(found[0::2], found[1::2]))


@contextlib.contextmanager
def system_calls(server, trace, names):
    """Gives a list that in the end holds the server's calls of these names, as (name, name of the file)."""
    calls = []
    tracer = subprocess.Popen(["strace", "-f", "-qq", "-y", "-e", f"trace={names}", "-o", trace, "-p",
                               str(server.process.pid)], stderr=subprocess.PIPE)
    try:
        wait_for(lambda: all("TracerPid:\t0" not in status.read_text() for status in
                             Path(f"/proc/{server.process.pid}/task").glob("*/status")), 20, "the tracer")
        yield calls
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.wait(timeout=20)
    calls += re.findall(r"^\d+ +(\w+)\(\d+<[^>]*/(\w+)>", Path(trace).read_text(), re.MULTILINE)


def fenced(handle):
    try:
        handle.pread(BLOCK, 0)
        return False
    except nbd.Error as problem:
        return problem.errnum == errno.ESHUTDOWN


def assert_fenced(handle):
    assert failure(handle.pread, BLOCK, 0) == errno.ESHUTDOWN
    assert failure(handle.pwrite, b"x" * BLOCK, 0) == errno.ESHUTDOWN
    assert failure(handle.zero, BLOCK, 0) == errno.ESHUTDOWN
    assert failure(handle.trim, BLOCK, 0) == errno.ESHUTDOWN
    assert failure(handle.flush) == errno.ESHUTDOWN
    assert failure(extents, handle) == errno.ESHUTDOWN


class Opener(threading.Thread):
    """Opens an export on a thread of its own, since the open waits for a drain."""

    def __init__(self, server, name):
        super().__init__(daemon=True)
        self.server, self.name_, self.handle, self.problem = server, name, None, None
        self.start()

    def run(self):
        try:
            self.handle = self.server.connect(self.name_)
        except nbd.Error as problem:
            self.problem = problem

    def result(self):
        self.join(20)
        assert not self.is_alive(), f"the open of {self.name_} did not come to its end"
        assert self.handle, self.problem
        return self.handle
