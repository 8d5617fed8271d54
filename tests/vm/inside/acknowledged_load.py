#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A program in a guest whose promises are kept outside of it:
    acknowledged_load.py write DIR [STEPS COMMAND…] | check DIR N

Step n appends record n to DIR/log and syncs it; each fourth also makes DIR/file-n, whole, and syncs file and folder.
Its number is printed only then, and given to COMMAND as its last argument: who knows the numbers knows what a cut may
not take. An I/O error ends it, or step STEPS. `check` reads steps 1 to N, past the page cache, and says what is not
there.
"""
import hashlib
import itertools
import os
import subprocess
import sys

RECORD = 4096
EACH = 4


def record(number):
    digest = hashlib.sha256(str(number).encode()).digest()
    return digest * (RECORD // len(digest))


def put(descriptor, data):
    while data:
        data = data[os.write(descriptor, data):]


def write(directory, steps=None, command=()):
    log = os.open(f"{directory}/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(folder)
    for number in itertools.count(os.fstat(log).st_size // RECORD + 1):
        put(log, record(number))
        os.fsync(log)
        if number % EACH == 0:
            file = os.open(f"{directory}/file-{number}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            put(file, record(number) * 3)
            os.fsync(file)
            os.close(file)
            os.fsync(folder)
        os.write(1, b"%d\n" % number)
        if command:
            subprocess.run([*command, str(number)], check=True)
        if number == steps:
            return


def read(path):
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    with open(descriptor, "rb") as file:
        return file.read()


def check(directory, last):
    log = read(f"{directory}/log")
    lost = [f"record {n}" for n in range(1, last + 1) if log[(n - 1) * RECORD:n * RECORD] != record(n)]
    for number in range(EACH, last + 1, EACH):
        path = f"{directory}/file-{number}"
        if not os.path.exists(path) or read(path) != record(number) * 3:
            lost.append(path)
    if lost:
        sys.exit(f"{len(lost)} of what was acknowledged up to {last} is not there: {', '.join(lost[:10])}")


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(sys.argv[2], *([int(sys.argv[3]), sys.argv[4:]] if len(sys.argv) > 3 else []))
    else:
        check(sys.argv[2], int(sys.argv[3]))
