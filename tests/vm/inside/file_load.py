# SPDX-License-Identifier: Apache-2.0
"""A program that writes to a file and knows what it was promised: a record is written, synced, and only then counted.

An I/O error ends it. `assert_nothing_lost` reads the file anew, past the page cache.
"""
import os
import threading

from lib.waiting import wait_for

RECORD = 4096


def record(number):
    return number.to_bytes(8, "little") * (RECORD // 8)


class FileLoad(threading.Thread):
    def __init__(self, path, records=256):
        super().__init__(daemon=True)
        self.path, self.records = path, records
        self.promised = 0  # records that were synced
        self.problem = None
        self._halt = threading.Event()
        self.start()

    def run(self):
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                while not self._halt.is_set():
                    number = self.promised + 1
                    os.pwrite(descriptor, record(number), number % self.records * RECORD)
                    os.fdatasync(descriptor)
                    self.promised = number
            finally:
                os.close(descriptor)
        except OSError as problem:
            self.problem = problem

    def wait_progress(self, more=10, timeout=180, what="writes to go on"):
        target = self.promised + more
        wait_for(lambda: self.promised >= target or self.problem, timeout, what)
        self.check()

    def check(self):
        assert self.problem is None, f"the program met an error after {self.promised} records: {self.problem}"

    def stop(self, timeout=180):
        self._halt.set()
        self.join(timeout)
        assert not self.is_alive(), "a write is still held"
        self.check()

    def assert_nothing_lost(self):
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            for number in range(max(1, self.promised - self.records + 1), self.promised + 1):
                found = os.pread(descriptor, RECORD, number % self.records * RECORD)
                assert found == record(number), f"record {number} of {self.promised} is not there"
        finally:
            os.close(descriptor)
