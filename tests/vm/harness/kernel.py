# SPDX-License-Identifier: Apache-2.0
"""Debian's own kernel and its modules, unpacked below the build folder and nowhere else.

  $BUILD/vm/kernel/<version>/boot/vmlinuz-<version>      what QEMU loads
  $BUILD/vm/kernel/<version>/lib/modules/<version>/      with what depmod makes of it

A folder with its final name is complete: it is made under another name and renamed. Once there it is used without a
look at the network; `make clean` is what fetches a newer kernel.
"""
import fcntl
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

META_PACKAGE = "linux-image-amd64"
# Hardware that no guest has or uses: half of the size, and of what udev searches and loads at every boot.
UNNEEDED = ("drivers/ata", "drivers/gpu", "drivers/i2c", "drivers/infiniband", "drivers/input", "drivers/media",
            "drivers/net/wireless", "sound")


class KernelError(RuntimeError):
    """No kernel can be had; the text says why and what to do."""


@dataclass(frozen=True)
class Kernel:
    version: str
    image: Path
    root: Path  # the folder that has lib/modules in it

    @property
    def modules(self):
        return self.root / "lib" / "modules" / self.version


def prepare(directory):
    """The kernel below `directory` ($BUILD/vm); downloads and unpacks it when it is not there. Raises KernelError."""
    directory = Path(directory)
    store = directory / "kernel"
    store.mkdir(parents=True, exist_ok=True)
    with open(directory / "kernel.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _present(store) or _unpack(store)


def _present(store):
    versions = sorted(path.name for path in store.iterdir() if (path / "boot" / f"vmlinuz-{path.name}").is_file())
    return _describe(store / versions[-1]) if versions else None


def _describe(root):
    return Kernel(root.name, root / "boot" / f"vmlinuz-{root.name}", root)


def _run(command, **more):
    try:
        outcome = subprocess.run(command, capture_output=True, text=True, **more)
    except FileNotFoundError:
        raise KernelError(f"{command[0]} is missing: run scripts/install-deps vm") from None
    if outcome.returncode != 0:
        raise KernelError(f"{' '.join(map(str, command))}: exit {outcome.returncode}: {outcome.stderr.strip()}")
    return outcome.stdout


def _package_name():
    """What the meta package depends on, such as linux-image-6.1.0-56-amd64."""
    text = _run(["apt-cache", "depends", META_PACKAGE])
    found = re.search(r"Depends: (linux-image-[0-9]\S*)", text)
    if not found:
        raise KernelError(f"apt knows no {META_PACKAGE}: run apt-get update as root; guests need Debian's amd64 kernel")
    return found[1]


def _download(into):
    """The package's file. The lists may be older than the archive: they are renewed once."""
    command = ["apt-get", "download", "--quiet=2", "--option", "APT::Sandbox::User=root"]
    try:
        _run([*command, _package_name()], cwd=into)
    except KernelError:
        _run(["apt-get", "update", "--quiet=2"])
        _run([*command, _package_name()], cwd=into)
    return next(Path(into).glob("*.deb"))


def _unpack(store):
    for left in store.glob("unfinished-*"):  # of a run that was killed; we hold the lock
        shutil.rmtree(left)
    making = store / f"unfinished-{os.getpid()}"
    making.mkdir()
    package = _download(making)
    _run(["dpkg", "--extract", package, making])
    package.unlink()
    shutil.rmtree(making / "usr", ignore_errors=True)
    version = next((making / "lib" / "modules").iterdir()).name
    for unneeded in UNNEEDED:
        shutil.rmtree(making / "lib" / "modules" / version / "kernel" / unneeded, ignore_errors=True)
    _run(["depmod", "--basedir", making, version])
    making.rename(store / version)
    return _describe(store / version)
