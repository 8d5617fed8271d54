# SPDX-License-Identifier: Apache-2.0
"""However a run ends, nothing of it stays: QEMU, namespaces, taps, files. A run that was killed is swept by the next.

Each test runs a session of its own of this suite up to the moment when its guests boot, and ends it.
"""
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness.guest import PROGRAM
from lib import belongings
from lib.waiting import wait_for
from lib.workspace import ROOT, Workspace

HERE = Path(__file__).parent


@pytest.fixture
def session(machine):  # the kernel is there: booting begins at once
    """Another session, that has two guests with a network booting, and its workspace."""
    del machine
    process = subprocess.Popen([sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-k", "two_guests",
                                str(HERE / "test_network.py")], start_new_session=True, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    workspace = ROOT / f"v{process.pid}"

    def guests():
        assert process.poll() is None, "the session ended before its guests ran"
        return len([pid for pid in belongings.processes_of(workspace)
                    if os.path.basename(belongings.command_line(pid)[0]) == PROGRAM]) == 2
    try:
        wait_for(guests, 120, "two guests")
        yield process, workspace
    finally:
        process.kill()
        process.wait()


def left(workspace):
    found = [belongings.command_line(pid) for pid in belongings.processes_of(workspace)]
    return found + belongings.mounts_of(workspace) + [path for path in [workspace] if path.exists()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_leaves_nothing(session, number):
    process, workspace = session
    assert left(workspace)
    process.send_signal(number)
    process.wait(120)
    assert not left(workspace)


def test_a_killed_run_is_swept_by_the_next(session):
    process, workspace = session
    process.kill()
    process.wait()
    assert left(workspace)
    with Workspace("s"):
        assert not left(workspace)
