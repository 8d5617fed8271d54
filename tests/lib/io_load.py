# SPDX-License-Identifier: Apache-2.0
"""Loads on an NBD export that know what was acknowledged: fio that verifies, a writer whose every ack is seen."""
import json
import subprocess
import threading
import time
from pathlib import Path

import nbd

from . import belongings
from .nbd_writer import BLOCK, content
from .waiting import wait_for

WRITER = Path(__file__).with_name("nbd_writer.py")


class Fio:
    """4 KiB random writes at depth 32, read back and verified while it goes on and at the end."""

    def __init__(self, workspace, uri, size="64M", rate_iops=0, offset="0", name="fio"):
        self.log = workspace.path / f"{name}.log"
        command = ["fio", "--name=verify", "--ioengine=nbd", f"--uri={uri}", "--rw=randwrite", "--bs=4k",
                   "--iodepth=32", f"--size={size}", f"--offset={offset}", "--verify=crc32c", "--verify_fatal=1",
                   "--verify_backlog=4096", "--do_verify=1", "--fsync=512", "--randrepeat=0", "--output-format=json",
                   f"--output={self.log}", f"--aux-path={workspace.path}", "--verify_state_save=0"]
        if rate_iops:
            command.append(f"--rate_iops={rate_iops}")
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, text=True, cwd=workspace.path,
                                        env=workspace.environment())

    def running(self):
        return self.process.poll() is None

    def finish(self, timeout=120):
        """Waits for the end; fails on any I/O or verification error."""
        try:
            said, _ = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            belongings.kill(self.process.pid)
            self.process.communicate()
            raise AssertionError(f"fio did not finish within {timeout} s") from None
        text = self.log.read_text() if self.log.exists() else ""
        assert self.process.returncode == 0, f"fio failed with {self.process.returncode}: {said}\n{text[:2000]}"
        job = json.loads(text[text.index("{"):])["jobs"][0]
        assert job["error"] == 0, f"fio reports error {job['error']}: {said}"
        assert job["write"]["total_ios"] > 0
        return job

    def kill(self):
        if self.running():
            self.process.kill()
        self.process.communicate()


class Writer:
    """nbd_writer.py and what it reported, with times."""

    def __init__(self, workspace, uri, first=0, blocks=1024, delay=0.0):
        self.first, self.blocks = first, blocks
        self.acknowledged = []  # (number, time)
        self.errors = []        # (number, time, text)
        self.process = subprocess.Popen(["/usr/bin/python3", WRITER, uri, str(first), str(blocks), str(delay)],
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                        env=workspace.environment())
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        wait_for(lambda: self.acknowledged or self.process.poll() is not None, 30, "the first acknowledgement")
        assert self.acknowledged, f"the writer ended: {self.process.stderr.read()}"

    def _read(self):
        for line in self.process.stdout:
            words = line.split(None, 2)
            if words[0] == "error":
                self.errors.append((int(words[1]), time.monotonic(), words[2].strip()))
            else:
                self.acknowledged.append((int(words[0]), time.monotonic()))

    def count(self):
        return len(self.acknowledged)

    def wait_progress(self, more=20, timeout=60, what="writes to go on"):
        target = self.count() + more
        wait_for(lambda: self.count() >= target, timeout, f"{what} (have {self.count()}, want {target})")

    def stop(self):
        self.process.kill()
        self.process.wait()
        self._reader.join()

    def assert_nothing_lost(self, uri):
        """Every block holds the newest acknowledged write, or a later one whose outcome nobody was told."""
        newest = {}
        for number, _ in self.acknowledged:
            newest[(number - 1) % self.blocks] = number
        last = max([number for number, _ in self.acknowledged] + [number for number, _, _ in self.errors]) + 1
        handle = nbd.NBD()
        handle.connect_uri(uri)
        for index, number in newest.items():
            data = bytes(handle.pread(BLOCK, (self.first + index) * BLOCK))
            found = int.from_bytes(data[:8], "little")
            assert data == content(found), f"block {index} is torn"
            assert found >= number and (found - 1) % self.blocks == index and found <= last, \
                f"block {index}: acknowledged write {number}, found {found}"
        handle.shutdown()
