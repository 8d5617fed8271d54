#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Replays what device-mapper's log-writes target has recorded of a replica's drive, and stops at flushes:
    replay_log.py LOG IMAGE SAMPLES SEED

IMAGE is a copy of the drive's disk as it was before the first write, on a file system with reflinks. The replay stops
at every mark, and at SAMPLES of the other flushes and FUA writes. What the disk holds there is what a power cut at
that instant would leave for certain. The drive's file system is mounted, in a copy, and the volume's in the replica's
file in it; the steps of acknowledged_load.py that were acknowledged by then have to be there, and both file systems
have nothing to repair. Afterwards IMAGE is the disk at the last mark.

The format: Linux, Documentation/admin-guide/device-mapper/log-writes.rst and struct log_write_super, log_write_entry of
drivers/md/dm-log-writes.c (6.1). Little endian; `sector`, `nr_sectors` count sectors of the size that the head names.
  sector 0    magic u64, version u64, number of entries u64, sector size u32
  then each   sector u64, nr_sectors u64, flags u64, data_len u64, for a mark its text; filled up to a sector
              then the data, unless it is a discard or a mark
A write is logged when a flush after it has completed, or at once when it was FUA: the log's order is that of the disk.
"""
import os
import random
import struct
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import acknowledged_load

MAGIC, VERSION, LAST = 0x6A736677736872, 1, "dm-log-writes-end"
FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8
COPY, DRIVE, VOLUME = Path("/srv/scratch/point"), Path("/run/point/drive"), Path("/run/point/volume")
Entry = namedtuple("Entry", "start length flags data text")  # bytes; `data`: where it lies in the log


def entries(log):
    magic, version, number, size = struct.unpack("<QQQI", os.pread(log, 28, 0))
    assert (magic, version) == (MAGIC, VERSION), f"no log of log-writes: {magic:#x}, version {version}"
    at = size
    for _ in range(number):
        head = os.pread(log, size, at)
        sector, sectors, flags, text = struct.unpack_from("<QQQQ", head)
        mark = head[32:32 + text].decode() if flags & MARK else ""
        yield Entry(sector * size, sectors * size, flags, at + size, mark)
        at += size if flags & (DISCARD | MARK) else size + sectors * size


def apply(log, image, entry):
    if entry.flags & MARK or not entry.length:
        return
    if entry.flags & DISCARD:
        os.pwrite(image, bytes(entry.length), entry.start)
    else:
        os.pwrite(image, os.pread(log, entry.length, entry.data), entry.start)


def run(*command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, f"{' '.join(map(str, command))}: {done.returncode}\n{done.stdout}"


class Mounted:
    def __init__(self, what, where):
        self.what, self.where = what, where

    def __enter__(self):
        run("mount", "-o", "loop", self.what, self.where)

    def __exit__(self, *_):
        run("umount", self.where)


def look(image, acknowledged):
    run("cp", "--reflink=always", image, COPY)
    with Mounted(COPY, DRIVE):
        [data] = (DRIVE / "lent" / "replicas").glob("*/data")
        with Mounted(data, VOLUME):
            acknowledged_load.check(VOLUME / "data", acknowledged)
        run("e2fsck", "-f", "-n", data)
    run("e2fsck", "-f", "-n", COPY)


def main(log_path, image_path, samples, seed):
    for folder in (DRIVE, VOLUME):
        folder.mkdir(parents=True)
    log, image = os.open(log_path, os.O_RDONLY), os.open(image_path, os.O_RDWR)
    recorded = list(entries(log))
    # The target ends its log with a mark of its own.
    marks = [number for number, entry in enumerate(recorded) if entry.flags & MARK and entry.text != LAST]
    between = [number for number in range(marks[0], marks[-1]) if recorded[number].flags & (FLUSH | FUA)]
    stops = {*marks, *random.Random(seed).sample(between, min(samples, len(between)))}
    acknowledged = looked = 0
    for number, entry in enumerate(recorded[:marks[-1] + 1]):
        apply(log, image, entry)
        if entry.flags & MARK:
            acknowledged = int(entry.text)
        if number in stops:
            try:
                look(image_path, acknowledged)
            except (AssertionError, SystemExit) as problem:
                sys.exit(f"entry {number} of {len(recorded)}, step {acknowledged} was acknowledged: {problem}")
            looked += 1
    os.fsync(image)
    print(f"{len(recorded)} entries, {len(marks)} marks, {len(between)} flushes between, {looked} looked at")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
