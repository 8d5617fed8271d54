# SPDX-License-Identifier: Apache-2.0
"""Clients of a volume's NBD socket that check every answer against the ledger, across servers, nodes and epochs.

Blocks are dealt out to the writers in stripes: a writer changes only its own, and reads everybody's. The last blocks
are the brawl: everybody writes there at the same time over each other (R9); nobody checks them, the comparison of the
replicas at the end does. When the volume has moved, a writer goes on with its old connection for a moment, answered or
not, and then deserts it, as if it had died with the node: its last change may happen or not. The reader stays with the
old server until that refuses it, and leaves reads behind that hang there: an old writer that serves old data is what
law 2 is about.
"""
import random
import threading
import time

import nbd

from ledger import BLOCK, Ledger, Violation, content

STRIPE = 16          # blocks; the longest request of a client
BRAWL = 256          # blocks
RETRY_PAUSE = 0.05   # seconds; a failed volume answers at once: do not spin
LOYALTY = 0.5        # seconds that a writer stays with its old connection
PATIENCE = 0.3       # seconds that the reader waits for an answer of an old server before it asks anew
POLL_MS = 100


class Deserted(Exception):
    """The writer left a request behind whose outcome it will never know."""


class Client(threading.Thread):
    """What a writer and the reader have in common: a connection, and what becomes of it."""

    def __init__(self, load, number, chance):
        super().__init__(daemon=True, name=f"client {number}")
        self.load, self.number, self.chance = load, number, chance
        self.handle, self.uri, self.epoch = None, None, 0  # the server that it is connected to

    def run(self):
        try:
            while not self.load.halt.is_set():
                try:
                    self._turn()
                except nbd.Error as problem:
                    self._failed(str(problem))
                except Deserted:
                    self.handle = None
        except Violation as problem:
            self.load.violations.append(f"{self.name} at epoch {self.epoch}: {problem}")
            self.load.halt.set()
        except Exception as problem:
            self.load.violations.append(f"{self.name} broke: {problem!r}")
            self.load.halt.set()
        finally:
            self.handle = None

    def _failed(self, text):
        if self.load.where[1] == self.epoch:
            self.load.errors.append((time.monotonic(), text))
        self.handle = None  # whatever it was: begin anew
        self.load.halt.wait(RETRY_PAUSE)

    def _turn(self):
        if self.handle is None:
            uri, epoch = self._where()
            if uri is None:
                self.load.halt.wait(RETRY_PAUSE)
                return
            self.uri, self.epoch = uri, epoch
            handle = nbd.NBD()
            handle.connect_uri(uri)
            self.handle = handle
        self._one_request()
        self.load.turns[self.number] += 1
        if self.load.pause:
            self.load.halt.wait(self.load.pause)

    def _where(self):
        return self.load.where

    def _read(self, counts=(1, 1, 4, 32)):
        first = self.chance.randrange(self.load.blocks)
        count = min(self.chance.choice(counts), self.load.blocks - first)
        least = self.load.ledger.begin_read(first, count)
        data = nbd.Buffer(count * BLOCK)
        self._await(self.handle.aio_pread(data, first * BLOCK))
        if self.epoch not in self.load.forgiven:
            self.load.ledger.end_read(first, least, bytes(data.to_bytearray()))

    def _await(self, cookie):
        """Until the request is answered; raises nbd.Error when it failed."""
        asked = time.monotonic()
        while not self.handle.aio_command_completed(cookie):
            self.handle.poll(POLL_MS)
            self._may_desert(asked)


class Reader(Client):
    def __init__(self, load, number, chance):
        super().__init__(load, number, chance)
        self._old = None  # where it is, while that is not where the volume is

    def _where(self):
        old, self._old = self._old, None  # if it cannot be reached, that was it
        return old or self.load.where

    def _one_request(self):
        self._read((1,))

    def _may_desert(self, asked):
        if self.load.where[1] != self.epoch and time.monotonic() > asked + PATIENCE:
            self._old = (self.uri, self.epoch)
            raise Deserted


class Writer(Client):
    def _may_desert(self, _asked):
        if self.load.where[1] != self.epoch and time.monotonic() > self.load.moved_at + LOYALTY:
            raise Deserted

    def _own_range(self):
        """Some blocks within one of the stripes that are this client's."""
        load, chance = self.load, self.chance
        stripe = chance.randrange(load.blocks // STRIPE // load.writers) * load.writers + self.number
        count = chance.choice((1, 1, 1, 2, 3, STRIPE))
        return stripe * STRIPE + chance.randrange(STRIPE - count + 1), count

    def _one_request(self):
        draw = self.chance.random()
        if draw < 0.60:
            self._write(*self._own_range())
        elif draw < 0.70:
            self._zero(*self._own_range())
        elif draw < 0.75:
            self._brawl()
        elif draw < 0.80:
            self._await(self.handle.aio_flush())
        else:
            self._read()

    def _write(self, first, count):
        version = self.load.ledger.issue(first, count)
        data = nbd.Buffer.from_bytearray(bytearray(b"".join(content(block, version)
                                                            for block in range(first, first + count))))
        flags = nbd.CMD_FLAG_FUA if self.chance.random() < 0.1 else 0
        self._await(self.handle.aio_pwrite(data, first * BLOCK, flags=flags))
        self.load.ledger.acknowledge(first, count, version)

    def _zero(self, first, count):
        version = self.load.ledger.issue(first, count, zeros=True)
        if self.chance.random() < 0.5:
            cookie = self.handle.aio_trim(count * BLOCK, first * BLOCK)
        else:
            cookie = self.handle.aio_zero(count * BLOCK, first * BLOCK)
        self._await(cookie)
        self.load.ledger.acknowledge(first, count, version)

    def _brawl(self):
        count = self.chance.choice((1, 4, 64))
        first = self.load.blocks + self.chance.randrange(BRAWL - count + 1)
        data = nbd.Buffer.from_bytearray(bytearray(self.chance.randbytes(BLOCK) * count))
        self._await(self.handle.aio_pwrite(data, first * BLOCK))


class BlockLoad:
    """Call move() with the volume's address after every attach, and finish() at the end."""

    def __init__(self, size_bytes, seed, writers=4, pause=0.0):
        self.writers, self.pause = writers, pause
        self.blocks = (size_bytes // BLOCK - BRAWL) // (STRIPE * writers) * (STRIPE * writers)
        self.ledger = Ledger(self.blocks)
        self.halt = threading.Event()
        self.where, self.moved_at = (None, 0), 0.0  # the newest address and its epoch
        self.forgiven = set()                       # epochs whose answers to reads are not judged
        self.turns = [0] * (writers + 1)
        self.errors = []      # (time, text) of failures at the newest epoch
        self.violations = []
        chance = random.Random(seed)
        self._threads = [(Writer if number < writers else Reader)(self, number, random.Random(chance.random()))
                         for number in range(writers + 1)]
        for thread in self._threads:
            thread.start()

    def move(self, attachment):
        """`attachment`: what `weft volume attach` answered."""
        self.moved_at = time.monotonic()
        self.where = (attachment["nbd_uri"], attachment["epoch"])

    def forgive(self):
        """An operator forces the volume away from a writer that nobody may be able to tell: it may serve old data."""
        self.forgiven.add(self.where[1])

    def count(self):
        return sum(self.turns)

    def check(self):
        if self.violations:
            raise Violation("; ".join(self.violations))

    def all_progressed(self, since):
        """Whether every client had an answer since `since`, a copy of `turns`."""
        self.check()
        return all(now > then for now, then in zip(self.turns, since))

    def stop(self, timeout=30):
        """Ends the clients; one that waits in a request for longer than this is a hang."""
        self.halt.set()
        for thread in self._threads:
            thread.join(timeout)
        self.check()
        hung = [thread.name for thread in self._threads if thread.is_alive()]
        assert not hung, f"no answer for {timeout} s: {', '.join(hung)}"

    def verify_all(self):
        """Reads the whole volume once more: nothing that was acknowledged may be missing."""
        handle = nbd.NBD()
        handle.connect_uri(self.where[0])
        for first in range(0, self.blocks, 256):
            count = min(256, self.blocks - first)
            least = self.ledger.begin_read(first, count)
            self.ledger.end_read(first, least, bytes(handle.pread(count * BLOCK, first * BLOCK)))
        handle.shutdown()
