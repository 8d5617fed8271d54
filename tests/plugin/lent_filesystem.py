# SPDX-License-Identifier: Apache-2.0
"""A file system of its own under one file of a replica, to make requests slow or fail exactly when a test wants it.

  frozen (fsfreeze)     a write is admitted by the server and then stays in the kernel until the thaw
  more size than room   a write to the page cache succeeds, its write-back fails: what a dying disk does
  ramfs                 cannot punch holes
"""
import os
import subprocess
import uuid

from lib.waiting import wait_for


class LentFilesystem:
    """The replica's data (or meta) lies on a file system of its own, to be frozen or filled; the other does not."""

    def __init__(self, workspace, drive, replica, kind, name="data", room="60m"):
        self.base = workspace.path / f"lent-{uuid.uuid4().hex[:8]}"
        self.file, self.kind, self.room = drive.replica_path(replica) / name, kind, room
        self.frozen = False

    def mount(self):
        self.inside = self.base / "fs"
        self.inside.mkdir(parents=True)
        if self.kind == "ramfs":
            subprocess.run(["mount", "-t", "ramfs", "none", self.inside], check=True)
        else:  # ext4 in a sparse image that has more size than its tmpfs has room
            pool = self.base / "pool"
            pool.mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={self.room}", "none", pool], check=True)
            subprocess.run(["truncate", "-s", "256m", pool / "image"], check=True)
            subprocess.run(["mkfs.ext4", "-q", "-F", "-O", "^has_journal", pool / "image"], check=True)
            subprocess.run(["mount", "-o", "loop,errors=continue", pool / "image", self.inside], check=True)
        subprocess.run(["cp", "--sparse=always", self.file, self.inside / "file"], check=True)
        subprocess.run(["mount", "--bind", self.inside / "file", self.file], check=True)
        return self

    def freeze(self):
        subprocess.run(["fsfreeze", "--freeze", self.inside], check=True)
        self.frozen = True

    def thaw(self):
        if self.frozen:
            subprocess.run(["fsfreeze", "--unfreeze", self.inside], check=True)
            self.frozen = False

    def give_room(self):
        subprocess.run(["mount", "-o", "remount,size=400m", self.base / "pool"], check=True)

    def unmount(self):
        self.thaw()
        for point in (self.file, self.inside, self.base / "pool"):
            if os.path.ismount(point) or point == self.file:
                wait_for(lambda at=point: subprocess.run(["umount", at], capture_output=True).returncode == 0, 20,
                         f"{point} to be unmounted")
