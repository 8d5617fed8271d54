#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What the checksums of a replica cost: one weft-replica server, replicas with and without them, in turns.

    tests/bench/sums_cost.py [--rounds N] [--requests N]

Prints the server's own processor time per request (medians of the rounds; of the difference within a round also the
quartiles, which tell how much of it is noise) and the rate of requests, which other load on the machine disturbs much.
"""
import argparse
import json
import statistics
import subprocess
import sys
import time
import uuid
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[1] / "plugin")]
sys.dont_write_bytecode = True

import nbd  # noqa: E402

from drive_on_disk import MIB, Drive, Server  # noqa: E402
from lib.workspace import Workspace  # noqa: E402
from plugin_tools import drive_tool  # noqa: E402

SIZE = 64 * MIB
CELLS = (("4 KiB write", "randwrite", 4096), ("4 KiB read", "randread", 4096),
         ("1 MiB write", "write", MIB), ("1 MiB read", "read", MIB))


def processor_seconds(process):
    """Of all its threads, gone ones included, to the nanosecond: /proc counts in ticks of 10 ms, too coarse for what is
    compared here. The number of a process's clock is clock_getcpuclockid(3)'s."""
    return time.clock_gettime(~process.pid << 3 | 2)


def run(workspace, server, uri, pattern, block, requests):
    """Returns (processor microseconds per request, requests per second)."""
    before = processor_seconds(server.process)
    outcome = subprocess.run(
        ["fio", "--name=job", "--ioengine=nbd", f"--uri={uri}", f"--rw={pattern}", f"--bs={block}", "--iodepth=8",
         f"--size={SIZE}", f"--number_ios={requests}", "--io_size=1t", "--norandommap", "--output-format=json"],
        capture_output=True, text=True, check=True, cwd=workspace.path, env=workspace.environment())
    spent = processor_seconds(server.process) - before
    job = json.loads(outcome.stdout[outcome.stdout.index("{"):])["jobs"][0]["write" if "write" in pattern else "read"]
    return 1e6 * spent / job["total_ios"], job["iops"]


def check_verifies(drive, handle, replica, kind):
    """Nothing is measured before it is certain that one of the two is verified and the other is not."""
    handle.pwrite(b"x" * 4096, 0)
    drive.flip(replica, 0)
    try:
        handle.pread(4096, 0)
        refused = False
    except nbd.Error:
        refused = True
    assert refused == (kind == "sums"), f"{kind}: a flipped byte was {'refused' if refused else 'read'}"
    handle.pwrite(b"x" * 4096, 0)


def measure_round(workspace, server, drive, kinds, requests_4k):
    """Returns {(cell, kind): figures} of a new pair of replicas.

    New ones each time, filled in blocks of 4 KiB: the cost of a write depends on how large the pieces are in which
    the kernel caches the file, which is decided when it is filled and then stays. With one pair for all rounds, that
    is what would be compared."""
    replicas, handles, found = {}, {}, {}
    for kind in kinds:
        replica = replicas[kind] = str(uuid.uuid4())
        words = ["nosums"] if kind == "nosums" else []
        drive_tool("create", drive.path, replica, uuid.uuid4(), SIZE, "equal", *words)
        # Kept open throughout: regions that are dirty when a replica is opened would not be verified.
        handles[kind] = server.connect(f"{replica}/1/1")
        run(workspace, server, server.uri(f"{replica}/1/1"), "write", 4096, SIZE // 4096)
        check_verifies(drive, handles[kind], replica, kind)
    for name, pattern, block in CELLS:
        for kind in kinds:
            found[name, kind] = run(workspace, server, server.uri(f"{replicas[kind]}/1/1"), pattern, block,
                                    requests_4k if block == 4096 else requests_4k // 20)
    for kind in kinds:
        check_verifies(drive, handles[kind], replicas[kind], kind)
        handles[kind].shutdown()
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=15, help="each with a new pair of replicas (default 15)")
    parser.add_argument("--requests", type=int, default=20000, help="of 4 KiB per cell in a round (default 20000)")
    options = parser.parse_args()
    with Workspace("sums") as workspace:
        drive_tool("init", workspace.path / "drive", uuid.uuid4(), "n1")
        drive = Drive.at(workspace.path / "drive")
        server = Server(workspace, drive)
        try:
            rounds = [measure_round(workspace, server, drive, (("sums", "nosums"), ("nosums", "sums"))[number % 2],
                                    options.requests) for number in range(options.rounds)]
        finally:
            server.kill()
    print(f"{'':12} {'µs of processor per request':>28}   {'difference, its quartiles':^26}"
          f"{'requests per second':>21}")
    print(f"{'':12} {'without':>14} {'with':>13} {'':29}{'without':>10} {'with':>10}")
    for name, _pattern, _block in CELLS:
        plain, summed = ([one[name, kind] for one in rounds] for kind in ("nosums", "sums"))
        low, middle, high = statistics.quantiles([b[0] - a[0] for a, b in zip(plain, summed)], n=4)
        (plain_us, plain_rate), (summed_us, summed_rate) = (
            [statistics.median(values) for values in zip(*side)] for side in (plain, summed))
        print(f"{name:12} {plain_us:14.1f} {summed_us:13.1f}   "
              + f"{middle:+.1f} ({low:+.1f} to {high:+.1f})".ljust(26)
              + f"{plain_rate:10.0f} {summed_rate:10.0f}", flush=True)


if __name__ == "__main__":
    main()
