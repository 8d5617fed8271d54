#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Programs for a guest with little memory:  pressure.py hog | write FILE MIB | verify FILE MIB

hog takes memory whenever the kernel believes that more than KEPT is available, and gives half of it back when less is:
the page cache never gets what it wants. write fills a file with blocks that know their number, through the page cache,
and syncs it once, at the end. verify reads it and compares every block.
"""
import os
import random
import sys
import time

MIB = 1 << 20
KEPT = 64 * MIB   # bytes; what weftd, systemd and the hog's own page tables can live in
PIECE = 4 * MIB
PAGE = 4096


def available():
    with open("/proc/meminfo", encoding="ascii") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def hog():
    taken = []
    while True:
        if available() > KEPT + PIECE:
            taken.append(bytearray(b"\xa5") * PIECE)
        else:
            del taken[:(len(taken) + 1) // 2]
            time.sleep(0.1)  # it is to take memory, not the processor


def blocks(mib):
    """Blocks of 1 MiB; each page has its own number."""
    block = bytearray(random.Random(1).randbytes(MIB))
    for number in range(mib):
        for page in range(0, MIB, PAGE):
            block[page:page + 8] = (number * MIB + page).to_bytes(8, "little")
        yield block


def write(path, mib):
    with open(path, "wb", buffering=0) as file:
        for block in blocks(mib):
            assert file.write(block) == MIB
        os.fsync(file.fileno())


def verify(path, mib):
    with open(path, "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        for number, block in enumerate(blocks(mib)):
            found = file.read(MIB)
            if found != block:
                bad = [page for page in range(0, MIB, PAGE) if found[page:page + PAGE] != block[page:page + PAGE]]
                sys.exit(f"block {number}: {len(bad)} pages differ, the first at {number * MIB + bad[0]}")


if __name__ == "__main__":
    if sys.argv[1] == "hog":
        hog()
    {"write": write, "verify": verify}[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
