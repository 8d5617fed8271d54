# SPDX-License-Identifier: Apache-2.0
"""Byte equality of sparse files without reading what is a hole in both."""
import errno
import os

CHUNK = 1 << 20


def data_ranges(handle, size):
    """(begin, end) of every stretch that is not a hole, in order."""
    position = 0
    while position < size:
        try:
            begin = os.lseek(handle, position, os.SEEK_DATA)
        except OSError as problem:
            if problem.errno == errno.ENXIO:  # only a hole from here on
                return
            raise
        position = os.lseek(handle, begin, os.SEEK_HOLE)
        yield begin, position


def first_difference(one, other):
    """Offset of the first byte at which two files differ (a hole reads as zeros), or None when they are equal."""
    with open(one, "rb") as a, open(other, "rb") as b:
        sizes = os.fstat(a.fileno()).st_size, os.fstat(b.fileno()).st_size
        if sizes[0] != sizes[1]:
            return min(sizes)
        chunks = set()
        for handle in (a, b):
            for begin, end in data_ranges(handle.fileno(), sizes[0]):
                chunks.update(range(begin // CHUNK, (end + CHUNK - 1) // CHUNK))
        for chunk in sorted(chunks):
            left = os.pread(a.fileno(), CHUNK, chunk * CHUNK)
            right = os.pread(b.fileno(), CHUNK, chunk * CHUNK)
            if left != right:
                return chunk * CHUNK + next(i for i, (x, y) in enumerate(zip(left, right)) if x != y)
    return None
