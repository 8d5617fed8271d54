# SPDX-License-Identifier: Apache-2.0
"""A network for guests: a bridge in a namespace of its own, with one tap for each of up to three guests.

The namespace lives as long as the bind mount on <workspace>/vmnet; with it go bridge and taps. Nothing of it is seen
outside. A guest's QEMU runs in the namespace; guest number N has 10.78.0.N/24 and knows the others' names.
"""
import subprocess

PREFIX = "10.78.0"
GUESTS = 3


class GuestNetwork:
    def __init__(self, workspace):
        self.path = workspace.path / "vmnet"
        self.path.touch()
        subprocess.run(["unshare", f"--net={self.path}", "true"], check=True)
        self._ip("link", "add", "br0", "type", "bridge")
        self._ip("link", "set", "br0", "up")
        for number in range(1, GUESTS + 1):
            self._ip("tuntap", "add", f"tap{number}", "mode", "tap")
            self._ip("link", "set", f"tap{number}", "master", "br0", "up")

    def _ip(self, *arguments):
        subprocess.run([*self.prefix(), "ip", *arguments], check=True)

    def prefix(self):
        """What to put before a command so that it runs in there; the process keeps its pid."""
        return ["nsenter", f"--net={self.path}"]

    @staticmethod
    def address(number):
        return f"{PREFIX}.{number}"

    @staticmethod
    def options(number):
        """QEMU's, for guest number 1, 2 or 3."""
        return ["-netdev", f"tap,id=net0,ifname=tap{number},script=no,downscript=no",
                "-device", f"virtio-net-pci,netdev=net0,mac=52:54:00:78:00:{number:02x},romfile="]

    def cut(self, number):
        """From now on nothing reaches the guest and nothing leaves it; it is told nothing, its link stays up."""
        self._ip("link", "set", f"tap{number}", "nomaster")

    def heal(self, number):
        self._ip("link", "set", f"tap{number}", "master", "br0")

    def remove(self):
        """Call it when no guest of it runs."""
        subprocess.run(["umount", self.path], check=True)
        self.path.unlink()
