# SPDX-License-Identifier: Apache-2.0
"""The workloads, and one measured round of one of them: fio's nbd engine, one job, one connection."""
import json
import subprocess
import time
from dataclasses import asdict, dataclass

from systems import cpu_seconds

KIB = 1024
BLOCK = 4 * KIB


@dataclass(frozen=True)
class Cell:
    name: str
    pattern: str  # fio's rw
    block_bytes: int
    depth: int


CELLS = (
    Cell("4k random write, depth 1", "randwrite", 4 * KIB, 1),
    Cell("4k random write, depth 32", "randwrite", 4 * KIB, 32),
    Cell("4k random read, depth 1", "randread", 4 * KIB, 1),
    Cell("4k random read, depth 32", "randread", 4 * KIB, 32),
    Cell("128k sequential write, depth 1", "write", 128 * KIB, 1),
    Cell("128k sequential write, depth 32", "write", 128 * KIB, 32),
)


@dataclass
class Measure:
    requests_per_s: float
    mb_per_s: float           # 10^6 bytes
    latency_median_us: float
    latency_p99_us: float
    server_cpu_us: float      # of all the system's processes, per request; fio's own is not in it

    def as_json(self):
        return asdict(self)


def fio(uri, environment, *arguments):
    """Runs fio; returns its one job's report. A failed fio raises with what it said."""
    command = ["fio", "--name=bench", "--ioengine=nbd", f"--uri={uri}", "--thread", "--norandommap", "--randrepeat=1",
               "--output-format=json", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        out, complaints = process.communicate(timeout=300)
    except BaseException:
        process.kill()
        process.wait()
        raise
    if process.returncode != 0:
        raise AssertionError(f"{' '.join(command)}\nended with {process.returncode}: {complaints}{out[-2000:]}")
    job = json.loads(out[out.index("{"):])["jobs"][0]  # fio may print warnings first
    if job["error"]:
        raise AssertionError(f"{' '.join(command)}: error {job['error']}")
    return job


def fill(system, size_bytes, environment):
    """Writes everything once, so that every later write is an overwrite and every read finds data."""
    fio(system.uri, environment, "--rw=write", f"--bs={256 * KIB}", "--iodepth=8", f"--size={size_bytes}",
        "--end_fsync=1")


def measure(system, cell, seconds, size_bytes, environment):
    """One round."""
    before = cpu_seconds(system.pids())
    job = fio(system.uri, environment, f"--rw={cell.pattern}", f"--bs={cell.block_bytes}", f"--iodepth={cell.depth}",
              f"--size={size_bytes}", "--time_based",
              f"--runtime={seconds * 1000:.0f}ms", f"--randseed={time.monotonic_ns()}")
    spent = cpu_seconds(system.pids()) - before
    side = job["read" if cell.pattern.endswith("read") else "write"]
    percentiles = side["clat_ns"]["percentile"]
    return Measure(requests_per_s=side["iops"], mb_per_s=side["bw_bytes"] / 1e6,
                   latency_median_us=percentiles["50.000000"] / 1000, latency_p99_us=percentiles["99.000000"] / 1000,
                   server_cpu_us=spent * 1e6 / max(side["total_ios"], 1))
