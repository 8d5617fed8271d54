# SPDX-License-Identifier: Apache-2.0
"""A drive with a file system of its own, small enough to be filled by a test."""
import os
import shutil
import subprocess
from pathlib import Path


class SmallDrive:
    """ext4 in a sparse image over a loop device, mounted at `path`. Both lie inside the workspace, whose sweeper takes
    loop device and mount away."""

    def __init__(self, path, image, size_bytes):
        self.path, self.filler = Path(path), Path(path) / "filler"
        with open(image, "wb") as file:
            file.truncate(size_bytes)
        # No reserved blocks: full is to mean full for root, too.
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-F", str(image)], check=True, capture_output=True)
        self.path.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-o", "loop", str(image), str(self.path)], check=True, capture_output=True)
        (self.path / "lost+found").rmdir()

    def free_bytes(self):
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    def fill(self):
        """Somebody else's file takes every free byte."""
        with open(self.filler, "ab") as file:
            while (left := shutil.disk_usage(self.path).free) >= 4096:
                try:
                    os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, left)
                except OSError:  # less is free than it seems: take what there is in smaller pieces
                    if left < 1 << 20:
                        break
                    try:
                        os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, left // 2)
                    except OSError:
                        break

    def fill_to(self, percent):
        """Somebody else's file makes the file system just so full."""
        found = os.statvfs(self.path)
        more = found.f_blocks * found.f_frsize * percent // 100 - (found.f_blocks - found.f_bavail) * found.f_frsize
        assert more > 0, f"it is fuller than {percent} % already"
        with open(self.filler, "ab") as file:
            os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, more)

    def drain(self):
        self.filler.unlink(missing_ok=True)
