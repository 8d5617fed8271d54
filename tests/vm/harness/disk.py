# SPDX-License-Identifier: Apache-2.0
"""A guest's disk: a sparse raw file of the host, a virtio disk with a serial number in the guest.

QEMU's write cache is the host's page cache: what the guest's kernel has sent survives a power cut, flushed or not; what
it still had in its own memory does not.
"""
import subprocess
from pathlib import Path


class Disk:
    """`size` in bytes. `cache`: "writeback" or "none" (O_DIRECT on the host). `label`: make an ext4 with it."""

    def __init__(self, directory, name, size, cache="writeback", label=None):
        assert name.isalnum() and len(name) <= 20, "the serial number of a virtio disk has 20 bytes"
        assert cache in ("writeback", "none")
        self.name, self.size, self.cache = name, size, cache
        self.file = Path(directory) / f"{name}.raw"
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
        return {"driver": "raw", "node-name": f"node-{self.name}", "discard": "unmap",
                "cache": {"direct": self.cache == "none", "no-flush": False},
                "file": {"driver": "file", "filename": str(self.file), "discard": "unmap",
                         "cache": {"direct": self.cache == "none", "no-flush": False}}}

    @property
    def device(self):
        return {"driver": "virtio-blk-pci", "id": f"disk-{self.name}", "drive": f"node-{self.name}",
                "serial": self.name, "write-cache": "on"}
