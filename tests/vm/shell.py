#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""`make vm-shell`: a guest with a terminal on its serial console. Leaving the shell powers it off, and nothing stays.

Weft's programs are on PATH, the checkout is where it is on the host; / is the host's, changes live in memory. Disks are
/dev/disk/by-id/virtio-disk1 and on. Ctrl-A X ends QEMU at once, Ctrl-A C is its monitor.
"""
import argparse
import os
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]

from harness import machine  # noqa: E402
from harness.guest import GIB, Guest  # noqa: E402
from harness.kernel import KernelError  # noqa: E402
from lib.workspace import Workspace  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory", type=int, default=1024, metavar="MIB", help="default 1024")
    parser.add_argument("--disks", type=int, default=2, metavar="N", help="sparse disks of 4 GiB; default 2")
    parser.add_argument("--cpus", type=int, default=2, metavar="N", help="default 2")
    options = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("a guest sees the host's files: run it as root")
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        parser.error("it needs a terminal")
    try:
        with Workspace("v") as workspace:
            guest = Guest(machine.make(workspace), "weft-vm", memory=options.memory, cpus=options.cpus,
                          disks={f"disk{number + 1}": 4 * GIB for number in range(options.disks)})
            try:
                guest.talk()
            finally:
                guest.power_cut()
    except KernelError as problem:
        sys.exit(f"vm-shell: {problem}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
