# SPDX-License-Identifier: Apache-2.0
"""A guest's disk: a sparse raw file of the host, a virtio disk with a serial number in the guest.

  cache          what a power cut leaves
  "writeback"    all that the guest's kernel has sent, flushed or not: it is in the host's page cache
  "none"         the same; O_DIRECT on the host
  "volatile"     only what was flushed: the disk is an nbdkit that keeps writes for itself until a flush comes
                 (nbdkit-cache-filter(1), cache=writeback), and dies with the guest
"""
import shutil
import signal
import subprocess
from pathlib import Path

from lib.waiting import wait_for

CACHES = ("writeback", "none", "volatile")


class Disk:
    """`size` in bytes. `label`: make an ext4 with it. power_on() before QEMU starts, power_off() when it has ended."""

    def __init__(self, directory, name, size, cache="writeback", label=None):
        assert name.isalnum() and len(name) <= 20, "the serial number of a virtio disk has 20 bytes"
        assert cache in CACHES, f"cache is one of {', '.join(CACHES)}"
        self.name, self.size, self.cache = name, size, cache
        self.file = Path(directory) / f"{name}.raw"
        self._socket, self._memory = Path(directory) / f"{name}.nbd", Path(directory) / f"{name}.memory"
        self._server = None
        with open(self.file, "xb") as file:
            file.truncate(size)
        if label:
            subprocess.run(["mkfs.ext4", "-q", "-L", label, self.file], check=True)

    @property
    def path(self):
        """In the guest. udev makes it (60-persistent-storage.rules)."""
        return f"/dev/disk/by-id/virtio-{self.name}"

    @property
    def node(self):
        """QEMU's block node, which stays when the device goes."""
        cache = {"direct": self.cache == "none", "no-flush": False}
        file = {"driver": "file", "filename": str(self.file), "discard": "unmap", "cache": cache}
        if self.cache == "volatile":
            file = {"driver": "nbd", "server": {"type": "unix", "path": str(self._socket)}}
        return {"driver": "raw", "node-name": f"node-{self.name}", "discard": "unmap", "cache": cache, "file": file}

    @property
    def device(self):
        return {"driver": "virtio-blk-pci", "id": f"disk-{self.name}", "drive": f"node-{self.name}",
                "serial": self.name, "write-cache": "on"}

    def power_on(self, environment):
        if self.cache != "volatile" or self._server:
            return
        self._memory.mkdir()
        self._server = subprocess.Popen(
            ["nbdkit", "--foreground", "--unix", str(self._socket), "--filter=cache", "file",
             str(self.file), "cache=writeback"], env={**environment, "TMPDIR": str(self._memory)},
            stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

        def answers():
            assert self._server.poll() is None, f"nbdkit ended with {self._server.returncode}; is it installed?"
            return self._socket.exists()
        wait_for(answers, 60, f"the disk {self.name} to spin up")

    def power_off(self):
        """kill -9: a volatile disk forgets what was not flushed. While the guest runs: the disk has died, and every
        request to it fails. Idempotent."""
        if self._server:
            self._server.send_signal(signal.SIGKILL)
            self._server.wait()
            self._server = None
            self._socket.unlink(missing_ok=True)
            shutil.rmtree(self._memory)
