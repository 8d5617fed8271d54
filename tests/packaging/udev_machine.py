# SPDX-License-Identifier: Apache-2.0
"""A machine for udev that has the block devices we say: `udevadm test` over a /sys made of files, in a mount namespace.

udevadm 252 takes a /sys that is no sysfs when SYSTEMD_DEVICE_VERIFY_SYSFS=0 (systemd's docs/ENVIRONMENT.md). The rules
are Debian's own and ours; attributes that rules write are files here, too, and read back. /dev and /run are private.
Needs root (unshare, mount).
"""
import os
import re
import shutil
import subprocess
from pathlib import Path

RULES = Path("/usr/lib/udev/rules.d")
SCRIPT = """
set -e
mount --bind "$1/sys" /sys
mount --bind "$1/rules" /usr/lib/udev/rules.d
mount --bind "$1/none" /etc/udev
mount -t tmpfs none /run
mount -t tmpfs none /dev
mknod -m 666 /dev/null c 1 3
mkdir /run/weft-looks
for name in $4; do : >"/run/weft-looks/$name"; done
exec udevadm test --action="$2" --resolve-names=never "/sys$3"
"""


class UdevMachine:
    def __init__(self, path, rules):
        self.path = path
        for directory in ("sys/class/block", "sys/dev/block", "rules", "none"):
            (path / directory).mkdir(parents=True)
        for rule in (*RULES.glob("*.rules"), *rules):
            shutil.copy(rule, path / "rules")

    def add(self, name, number, devtype="disk", parent=None, **attributes):
        """A block device. Attributes are files: `dm__uuid` is dm/uuid. Returns its path below /sys."""
        where = f"{parent}/{name}" if parent else f"/devices/virtual/block/{name}"
        directory = self.path / f"sys{where}"
        directory.mkdir(parents=True)
        (directory / "uevent").write_text(f"MAJOR={number[0]}\nMINOR={number[1]}\nDEVNAME={name}\nDEVTYPE={devtype}\n")
        (directory / "subsystem").symlink_to(os.path.relpath(self.path / "sys/class/block", directory))
        for link in (self.path / "sys/class/block" / name, self.path / f"sys/dev/block/{number[0]}:{number[1]}"):
            link.symlink_to(os.path.relpath(directory, link.parent))
        for key, value in attributes.items():
            file = directory / key.replace("__", "/")
            file.parent.mkdir(exist_ok=True)
            file.write_text(f"{value}\n")
        return where

    def read(self, where, attribute):
        return (self.path / f"sys{where}" / attribute).read_text().strip()

    def event(self, where, action="change", looks=""):
        """What udev makes of an event: its properties, DEVLINKS as a set of names below /dev. `looks`: names of
        devices that weft-nbd-attach connects."""
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "SYSTEMD_DEVICE_VERIFY_SYSFS": "0"}
        done = subprocess.run(["unshare", "--mount", "--propagation", "private", "bash", "-c", SCRIPT, "bash",
                               str(self.path), action, where, looks], capture_output=True, text=True, timeout=60,
                              env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
        found = dict(re.findall(r"^([A-Z0-9_]+)=(.*)$", done.stdout, re.MULTILINE))
        found["links"] = {link.removeprefix("/dev/") for link in found.pop("DEVLINKS", "").split()}
        found["text"] = done.stdout + done.stderr
        return found
