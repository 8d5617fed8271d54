# SPDX-License-Identifier: Apache-2.0
"""What every block may hold: a linearizability check per block for versions that only grow.

One thread at a time changes a block, and every change has a higher version than the one before. For such a register a
history is linearizable exactly when every read returns a version v with
    v <= the highest version that was issued before the read ended, and
    v >= the highest version that was acknowledged, or returned by a read that ended, before the read began.
A change that ended with an error may have happened or not, and may happen later; it is issued, never acknowledged.
Zeros carry no version, so a block of zeros stands for the lowest version of a zeroing (or of the beginning) that is
legal.
Thread rule: every method takes the ledger's lock.
"""
import struct
import threading

BLOCK = 4096


class Violation(AssertionError):
    """The volume lied; the text says which block, what was found and what would have been right."""


def content(block, version):
    return struct.pack("<QQ", block, version) * (BLOCK // 16)


ZEROS = bytes(BLOCK)


class Ledger:
    def __init__(self, blocks):
        self._lock = threading.Lock()
        self._issued = [0] * blocks
        self._known = [0] * blocks          # acknowledged, or seen by a read
        self._zeroed = [[0] for _ in range(blocks)]  # versions that are zeros
        self.acknowledged = 0

    def issue(self, first, count, zeros=False):
        """A change of these blocks is about to be sent; returns its version, the same for all of them."""
        with self._lock:
            version = max(self._issued[first:first + count]) + 1
            for block in range(first, first + count):
                self._issued[block] = version
                if zeros:
                    self._zeroed[block] = [v for v in self._zeroed[block] if v >= self._known[block]] + [version]
            return version

    def acknowledge(self, first, count, version):
        with self._lock:
            for block in range(first, first + count):
                self._known[block] = max(self._known[block], version)
            self.acknowledged += 1

    def begin_read(self, first, count):
        """What a read that begins now must at least return, per block."""
        with self._lock:
            return self._known[first:first + count]

    def end_read(self, first, least, data):
        """A read that began with `least` returned `data`. Raises Violation."""
        with self._lock:
            for index, low in enumerate(least):
                block = first + index
                version = self._version(block, low, data[index * BLOCK:(index + 1) * BLOCK])
                self._known[block] = max(self._known[block], version)

    def _version(self, block, low, found):
        high = self._issued[block]
        if found == ZEROS:
            legal = [v for v in self._zeroed[block] if low <= v <= high]
            if legal:
                return min(legal)
            raise Violation(f"block {block} is zeros; versions {low} to {high} would be right, zeroings were "
                            f"{self._zeroed[block]}")
        named, version = struct.unpack_from("<QQ", found)
        if found != content(named, version):
            raise Violation(f"block {block} is torn: {_runs(found)}; versions {low} to {high} would be right")
        if named != block:
            raise Violation(f"block {block} has the bytes of block {named}, version {version}")
        if not low <= version <= high:
            raise Violation(f"block {block} has version {version}; {low} to {high} would be right")
        return version


def _runs(found):
    """The pieces of a torn block, for the report."""
    parts, begin = [], 0
    words = [found[at:at + 16] for at in range(0, BLOCK, 16)]
    for index in range(1, len(words) + 1):
        if index == len(words) or words[index] != words[begin]:
            block, version = struct.unpack("<QQ", words[begin])
            parts.append(f"bytes {begin * 16} to {index * 16}: block {block} version {version}")
            begin = index
    return ", ".join(parts[:6])
