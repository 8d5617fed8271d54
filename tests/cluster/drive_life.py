# SPDX-License-Identifier: Apache-2.0
"""The life of a block device as a drive: erased and added, lost and back, removed. weftd dies in any of it; the same
command again, or nothing but a restart, has to finish what was begun.

The device is a loop device over a file, on a host that may have no udevd: weftd hears of it from the kernel. It is lost
while weftd is stopped (SIGSTOP), because a loop device cannot be torn out from under a file system.
"""
import os
import re
import signal
import subprocess

from lib import belongings
from lib.cluster import CliError
from lib.waiting import wait_for

from crash_life import BROKEN, LIMIT, Life, again
from crash_points import DRIVE_POINTS

SIZE = 600 << 20


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


class DriveLife(Life):
    def __init__(self, rig, point):
        super().__init__(rig, point, DRIVE_POINTS)
        self.image = self.home.path / f"{self.name}.raw"
        self.image.touch()
        os.truncate(self.image, SIZE)
        self.device = run("losetup", "--find", "--show", self.image)
        run("mkfs.ext4", "-q", "-L", "old", self.device)

    def live(self):
        self.wait_ready()
        self.add()
        if self.phase in ("loss", "return"):
            self.lose()
            self.come_back()
        self.remove_drive()
        run("losetup", "--detach", self.device)
        self.image.unlink()

    def drive(self):
        """As the cluster has it, or None."""
        return next((d for d in self.home.weft("drive", "ls") if d["device"] and d["device"]["name"] == self.device),
                    None)

    def wait_drive(self, fits, what):
        return wait_for(lambda: (drive := self.drive()) and fits(drive) and drive, LIMIT, what, retry_on=BROKEN)

    def mounts(self):
        return belongings.mounts_of(self.home.state / "drives")

    def add(self):
        before = self.image.read_bytes()[:2 << 20]
        refused = self.home.try_weft("drive", "add", self.device)
        token = re.search(r"--erase (ext4:[0-9a-f-]+)$", refused.stderr.strip())
        assert refused.returncode == 1 and token, refused.stderr
        assert self.image.read_bytes()[:2 << 20] == before, "a refusal changed the device"
        self.reach("add")

        def step():
            done = self.home.try_weft("drive", "add", self.device, "--erase", token[1])
            if done.returncode not in (0, 6):
                raise CliError(["drive", "add"], done)
        again(step, f"add {self.device}")
        self.must_have_died("add")
        self.wait_ready()
        drive = self.wait_drive(lambda d: d["serving"], "the drive to be served")
        assert self.mounts() == [drive["path"]]
        wait_for(lambda: not self.claims(), LIMIT, f"no claim to be left, but there is {self.claims()}")
        assert run("blkid", "-p", "-s", "UUID", "-o", "value", self.device) == drive["device"]["filesystem"]

    def claims(self):
        """A claim that a kill kept from being forgotten goes with the next addition; it permits nothing any more."""
        left = [p for p in (self.home.state / "drive-claims").glob("*-*") if "formatting" in p.read_text()]
        return left

    def servers(self):
        path = self.drive()["path"]
        return [pid for pid in belongings.processes_of(self.home.path, descendants=False)
                if f"drive={path}" in belongings.command_line(pid)]

    def lose(self):
        servers = self.servers()
        assert len(servers) == 1
        self.reach("loss")
        weftd = self.home.weftd
        belongings.stop(weftd.pid)
        belongings.kill_all(lambda: [pid for pid in servers if not belongings.is_zombie(pid)])
        run("umount", *self.mounts())
        run("losetup", "--detach", self.device)
        weftd.send_signal(signal.SIGCONT)
        self.must_have_died("loss")
        self.wait_ready()
        drive = self.wait_drive(lambda d: d["device"]["missing"], "the drive to be missing")
        assert drive["down"] and not drive["serving"]
        assert not self.mounts()

    def come_back(self):
        self.reach("return")
        run("losetup", self.device, self.image)
        self.must_have_died("return")
        self.wait_ready()
        self.wait_drive(lambda d: d["serving"] and not d["down"] and not d["device"]["missing"], "the drive to be back")

    def remove_drive(self):
        self.reach("removal")

        def step():
            drive = self.drive()
            if drive:
                self.home.weft("drive", "rm", drive["id"])
            assert not self.drive()
        again(step, f"remove {self.device}")
        self.must_have_died("removal")
        self.wait_ready()
        wait_for(lambda: not self.mounts() and not list((self.home.state / "drives").iterdir()), LIMIT,
                 "the device to be unmounted")
