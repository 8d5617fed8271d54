# SPDX-License-Identifier: Apache-2.0
"""`make vm-shell` as a person uses it: a terminal, a prompt, commands, `exit`."""
import os
import pty
import select
import subprocess
import time
from pathlib import Path

from lib import belongings
from lib.workspace import ROOT

SHELL = Path(__file__).with_name("shell.py")


def read_until(terminal, wanted, timeout):
    """What the terminal showed up to and with `wanted`."""
    shown, deadline = b"", time.monotonic() + timeout
    while wanted not in shown:
        ready, _, _ = select.select([terminal], [], [], max(0, deadline - time.monotonic()))
        assert ready, f"after {timeout} s no {wanted} in:\n{shown.decode(errors='replace')}"
        try:
            shown += os.read(terminal, 4096)
        except OSError:  # how a pty says that nobody has its other end
            raise AssertionError(f"it ended without {wanted}:\n{shown.decode(errors='replace')}") from None
    return shown


def test_a_person_gets_a_shell_and_leaves_nothing(machine):
    del machine  # the kernel is there
    terminal, other = pty.openpty()
    process = subprocess.Popen([str(SHELL), "--disks", "1"], stdin=other, stdout=other, stderr=other,
                               start_new_session=True)
    os.close(other)
    workspace = ROOT / f"v{process.pid}"
    try:
        read_until(terminal, b"root@weft-vm", 400)
        os.write(terminal, b"pwd; echo size-$(blockdev --getsize64 /dev/disk/by-id/virtio-disk1)\n")
        assert f"{SHELL.parents[2]}\r".encode() in read_until(terminal, b"size-4294967296", 120)
        os.write(terminal, b"exit\n")
        # The pty closes when the last process on it has ended.
        while select.select([terminal], [], [], 180)[0]:
            try:
                os.read(terminal, 4096)
            except OSError:
                break
        assert process.wait(60) == 0
        assert not belongings.processes_of(workspace) and not workspace.exists()
    finally:
        process.terminate()
        process.wait(60)
        os.close(terminal)
