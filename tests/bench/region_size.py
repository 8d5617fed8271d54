#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What a region size costs and what it saves: first touches of clean regions against what a recovery copies.

For each region size a clean, sparse replica is written to at random, 4 KiB at a time, through its own server, and then
once more at the very same places: the second pass meets dirty regions only. The difference is the price of first
touches, the regions that are dirty afterwards are what a recovery (R7) or a partial resync (R8) has to look at: in a
replica without holes it copies all of them, in a sparse one the data in them. Sizes go in turns, medians of rounds.

A region size is no option of the product: this writes it into a fresh replica's meta as FORMAT.md describes it.
"""
import argparse
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

sys.dont_write_bytecode = True
sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1]),
                str(Path(__file__).resolve().parents[1] / "plugin")]

import nbd  # noqa: E402
from cells import fio  # noqa: E402
from lib.workspace import Workspace  # noqa: E402
from report import table  # noqa: E402
from volume_rig import BLOCK, MIB, Rig  # noqa: E402

SLOT, REGION_SIZE, CHECKSUM = 4096, 80, 12  # FORMAT.md, "A slot": bytes
REGIONS_PER_PAGE = 32512
STATUS_BYTES = 2 ** 30  # asked for at a time


def crc32c(data):
    crc = 0xffffffff
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82f63b78 if crc & 1 else 0)
    return crc ^ 0xffffffff


def set_region_size(meta, region_bytes):
    """`meta`: path of a replica's meta whose bitmap is clean and has one page, whatever the region size."""
    with open(meta, "r+b") as file:
        for number in range(2):
            file.seek(number * SLOT)
            slot = bytearray(file.read(SLOT))
            if slot[:8] != b"WEFTREPL":
                continue
            struct.pack_into("<Q", slot, REGION_SIZE, region_bytes)
            struct.pack_into("<I", slot, CHECKSUM, 0)
            struct.pack_into("<I", slot, CHECKSUM, crc32c(slot))
            file.seek(number * SLOT)
            file.write(slot)


def dirty_bytes(uri, size_bytes):
    """What the replica's map export calls dirty."""
    handle = nbd.NBD()
    handle.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
    handle.connect_uri(uri)
    found = at = 0

    def extents(_context, _offset, entries, _error):
        nonlocal found, at
        for length, flags in zip(entries[::2], entries[1::2]):
            length = min(length, size_bytes - at)
            found += 0 if flags & nbd.STATE_HOLE else length
            at += length
    while at < size_bytes:
        handle.block_status(min(STATUS_BYTES, size_bytes - at), at, extents)
    handle.shutdown()
    return found


def write_at_random(uri, size_bytes, writes, depth, seed, environment):
    """Seconds that the writes took."""
    job = fio(uri, environment, "--rw=randwrite", f"--bs={BLOCK}", f"--iodepth={depth}", f"--size={size_bytes}",
              f"--io_size={writes * BLOCK}", f"--randseed={seed}", "--allrandrepeat=1")
    assert job["write"]["total_ios"] == writes, job["write"]
    return job["write"]["runtime"] / 1000


def measure(rig, number, region_bytes, writes, depth, seed, environment):
    """A fresh replica: (seconds on clean regions, seconds at the same places again, dirty bytes)."""
    server, size = rig.servers[0], rig.sizes[0]
    replica = f"{seed:08x}-0000-4000-8000-{number:012x}"
    server.create(replica, size)
    set_region_size(server.drive / "replicas" / replica / "meta", region_bytes)
    subprocess.run(["sync", "-f", str(server.drive)], check=True)  # what was written before is not to be paid for here
    uri = f"nbd://{rig.host}:{server.port}/{replica}"
    clean = write_at_random(f"{uri}/1/1", size, writes, depth, seed, environment)
    again = write_at_random(f"{uri}/1/2", size, writes, depth, seed, environment)
    dirty = dirty_bytes(f"{uri}/dirty", size)
    shutil.rmtree(server.drive / "replicas" / replica)  # now: a file system takes its time over thousands of extents
    return clean, again, dirty


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--region-mib", default="1,4,16", help="region sizes, with commas (default 1,4,16)")
    parser.add_argument("--writes", default="256,4096", help="numbers of 4 KiB writes (default 256,4096)")
    parser.add_argument("--depths", default="1,16", help="queue depths (default 1,16)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size-mib", type=int, default=4096)
    options = parser.parse_args()
    sizes = [int(text) for text in options.region_mib.split(",")]
    if options.size_mib // min(sizes) > REGIONS_PER_PAGE:
        parser.error(f"at most {REGIONS_PER_PAGE} regions")
    rows = [["region", "writes", "depth", "first pass s", "again s", "first touches", "ms each", "slower by µs/write",
             "dirty MiB", "of the volume"]]
    with Workspace("region") as workspace:
        environment = workspace.environment()
        rig = Rig(workspace, "r", replicas=1, extents=(options.size_mib * MIB,))
        try:
            number = 0
            for writes in map(int, options.writes.split(",")):
                for depth in map(int, options.depths.split(",")):
                    rounds = {size: [] for size in sizes}
                    for turn in range(options.rounds):
                        seed = time.monotonic_ns() & 0x7fffffff
                        for size in sizes[turn % len(sizes):] + sizes[:turn % len(sizes)]:
                            number += 1
                            rounds[size].append(measure(rig, number, size * MIB, writes, depth, seed, environment))
                    for size in sizes:
                        clean, again, dirty = (median(column) for column in zip(*rounds[size]))
                        touches = dirty / (size * MIB)
                        rows.append([f"{size} MiB", str(writes), str(depth), f"{clean:.2f}", f"{again:.2f}",
                                     f"{touches:.0f}", f"{(clean - again) * 1e3 / touches:.2f}",
                                     f"{(clean - again) * 1e6 / writes:.0f}", f"{dirty / MIB:.0f}",
                                     f"{dirty / rig.sizes[0]:.0%}"])
        finally:
            rig.close()
    print(table(f"random 4 KiB writes to a clean, sparse replica of {options.size_mib} MiB", rows))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted; everything that was started is gone")
