# SPDX-License-Identifier: Apache-2.0
"""Debian packages that a guest has and the host has not: their files, unpacked over the guest's root.

  $BUILD/vm/packages/NAME+NAME.tar      the files of these packages, and of what they need and the host has not

No maintainer script runs, nothing is configured, enabled or installed anywhere: a scenario starts what it needs. Made
once; `make clean` is what fetches newer ones.
"""
import fcntl
import shutil
import subprocess
from pathlib import Path

from .guest import REPOSITORY
from .machine import BUILD

APT = ["apt-get", "install", "--yes", "--quiet=2", "--download-only", "--no-install-recommends", "--option",
       "APT::Sandbox::User=root"]
UNREAD = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/initramfs-tools")


def _run(command):
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(map(str, command))}: {done.stderr}"


def _download(names, into):
    """The lists may be older than the archive: they are renewed once."""
    (into / "partial").mkdir(parents=True)
    command = [*APT, "--option", f"Dir::Cache::archives={into}", *names]
    try:
        _run(command)
    except AssertionError:
        _run(["apt-get", "update", "--quiet=2"])
        _run(command)


def prepare(names):
    """The tar file of these packages."""
    store = BUILD / "vm" / "packages"
    store.mkdir(parents=True, exist_ok=True)
    made = store / f"{'+'.join(sorted(names))}.tar"
    with open(store / "lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            making = store / "unfinished"
            shutil.rmtree(making, ignore_errors=True)  # of a run that was killed; we hold the lock
            _download(names, making / "archives")
            for package in sorted((making / "archives").glob("*.deb")):
                _run(["dpkg", "--extract", package, making / "root"])
            for folder in UNREAD:
                shutil.rmtree(making / "root" / folder, ignore_errors=True)
            _run(["tar", "--create", "--file", making / "tar", "--directory", making / "root", "."])
            Path(making / "tar").rename(made)
            shutil.rmtree(making)
    return made


def unpack(guest, *names):
    """Into the running guest; its udev reads their rules."""
    # The host's /lib is a link to usr/lib, which a package's folder of that name must not replace.
    guest.run(f"tar --extract --file {prepare(names)} --directory / --keep-directory-symlink --no-overwrite-dir && "
              "udevadm control --reload", timeout=300)
