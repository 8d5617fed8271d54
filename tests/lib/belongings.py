# SPDX-License-Identifier: Apache-2.0
"""What on this machine belongs to a directory: processes, mounts, loop devices. And how to take it all away.

Ownership is read from the kernel, not remembered, so that it also works for a run that was killed with kill -9:
  - a process belongs to a directory when its initial environment has WEFT_WORKSPACE=<directory>, or when it is one of
    the programs that the tests start and an argument of its command line names a path in the directory, or when it
    descends from such a process (what runs inside containers);
  - a mount belongs to it when its mount point lies inside; a loop device when its backing file does.
It never kills by name alone and never touches the calling process or its ancestors.
"""
import os
import re
import signal
import subprocess
from pathlib import Path

from .waiting import wait_for

MARKER = "WEFT_WORKSPACE"
PROGRAMS = {"weftd", "weft", "nbdkit", "nbdfuse", "nbdcopy", "dockerd", "containerd", "containerd-shim", "docker",
            "fio", "containerd-shim-runc-v2", "runc", "losetup", "mount", "umount", "mkfs.ext4", "mkfs.xfs", "mke2fs"}


def _read(path):
    try:
        return Path(path).read_bytes()
    except OSError:  # the process ended meanwhile, or is a kernel thread
        return b""


def _parents():
    """pid -> parent pid of every process now."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            stat = _read(f"/proc/{entry}/stat")
            if stat:
                found[int(entry)] = int(stat[stat.rindex(b")") + 2:].split()[1])
    return found


def command_line(pid):
    return [part.decode(errors="replace") for part in _read(f"/proc/{pid}/cmdline").split(b"\0")[:-1]]


def is_zombie(pid):
    stat = _read(f"/proc/{pid}/stat")
    return not stat or stat[stat.rindex(b")") + 2:][:1] in (b"Z", b"X")


def _names_path(arguments, directory):
    inside = re.compile(re.escape(str(directory)) + r"(?![^/,:;\s\]\)])")
    return any(inside.search(argument) for argument in arguments)


def processes_of(directory, descendants=True):
    """Pids that belong to the directory; zombies excluded."""
    parents = _parents()
    mine = f"{MARKER}={directory}".encode()
    spared, pid = set(), os.getpid()
    while pid:
        spared.add(pid)
        pid = parents.get(pid, 0)
    found = set()
    for pid in parents:
        arguments = command_line(pid)
        if not arguments:
            continue
        known = os.path.basename(arguments[0]) in PROGRAMS
        if mine in _read(f"/proc/{pid}/environ").split(b"\0") or (known and _names_path(arguments, directory)):
            found.add(pid)
    grown = descendants
    while grown:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        found |= more
        grown = bool(more)
    return sorted(pid for pid in found - spared if not is_zombie(pid))


def kill(pid, number=signal.SIGKILL):
    """Signals exactly this process; False when it is gone already."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        signal.pidfd_send_signal(handle, number)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)


def _stopped(pid):
    """Of every thread: a zombie's one does nothing any more, either."""
    return all(stat[stat.rindex(b")") + 2:][:1] in (b"T", b"Z", b"X")
               for stat in map(_read, Path(f"/proc/{pid}/task").glob("*/stat")) if stat)


def stop(pid, timeout=30):
    """SIGSTOP, and its threads stand still when this returns. The signal alone does not wait for that: on a busy
    machine another thread goes on answering until the one that has to take it runs."""
    kill(pid, signal.SIGSTOP)
    wait_for(lambda: _stopped(pid), timeout, f"every thread of process {pid} to stop")


def kill_all(pids_now, timeout=20, what="processes to die"):
    """kill -9 of everything that pids_now() names, again and again until it names nothing."""
    def none_left():
        left = pids_now()
        for pid in left:
            kill(pid)
        return not left
    wait_for(none_left, timeout, what)


def _unescape(text):
    return re.sub(r"\\([0-7]{3})", lambda m: chr(int(m.group(1), 8)), text)


def mounts_of(directory):
    """Mount points inside the directory, innermost (newest) first."""
    prefix = str(directory) + "/"
    points = [_unescape(line.split()[4]) for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [point for point in reversed(points) if point.startswith(prefix)]


def loops_of(directory):
    """Loop devices whose backing file is inside the directory."""
    prefix, found = str(directory) + "/", []
    for entry in sorted(Path("/sys/block").glob("loop*")):
        backing = _read(entry / "loop" / "backing_file").decode(errors="replace").rstrip("\n")
        if backing.startswith(prefix):
            found.append(f"/dev/{entry.name}")
    return found


def unmount(points):
    """A mount that is still busy is detached lazily, which frees it with its last user."""
    for point in points:
        if subprocess.run(["umount", point], capture_output=True).returncode != 0:
            subprocess.run(["umount", "-l", point], capture_output=True)


def unmount_all(directory):
    """File systems first, then loop devices, then the rest: once the FUSE mount below a loop device is gone, the kernel
    no longer tells where its backing file was."""
    devices = loops_of(directory)
    numbers = {f"7:{device.removeprefix('/dev/loop')}" for device in devices}
    lines = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    unmount([_unescape(fields[4]) for fields in reversed(lines) if fields[2] in numbers])
    for device in devices:
        subprocess.run(["losetup", "-d", device], capture_output=True)
    if not loops_of(directory):
        unmount(mounts_of(directory))


def listening_paths(pids):
    """Paths of the unix sockets that these processes listen on."""
    inodes = set()
    for pid in pids:
        try:
            for entry in os.scandir(f"/proc/{pid}/fd"):
                target = os.readlink(entry.path)
                if target.startswith("socket:["):
                    inodes.add(target[8:-1])
        except OSError:
            continue
    found = []
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        fields = line.split()  # num refs protocol flags type state inode path
        if len(fields) == 8 and fields[6] in inodes and int(fields[3], 16) & 0x10000 and fields[7][0] == "/":
            found.append(Path(fields[7]))
    return found


def take_away(directory, timeout=30):
    """Kills, unmounts and detaches all that belongs to the directory, and removes the unix sockets, wherever they are,
    that its processes listened on. Raises when something cannot be removed."""
    for path in listening_paths(processes_of(directory)):
        path.unlink(missing_ok=True)
    kill_all(lambda: processes_of(directory), timeout, f"every process of {directory} to die")
    def nothing_left():
        unmount_all(directory)
        return not mounts_of(directory) and not loops_of(directory)
    wait_for(nothing_left, timeout, f"mounts and loop devices of {directory} to go")
