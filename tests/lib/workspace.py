# SPDX-License-Identifier: Apache-2.0
"""The private directory of one test run or demo, and the promise that nothing of it stays behind.

  <root>/.lock              held while a workspace is made or an old one is swept
  <root>/<kind><pid>/lock   flock held by the run for its whole life; the kernel drops it however the run ends
  <root>/<kind><pid>/owned  one line per path outside the workspace that belongs to it (plugin sockets, cgroups)

A workspace whose lock is free belongs to a run that was killed: the next run sweeps it before it starts. Paths are
short because unix socket names below them are limited to 107 bytes.
"""
import errno
import fcntl
import os
import shutil
import signal
import sys
from pathlib import Path

from . import belongings

ROOT = Path(os.environ.get("WEFT_WORK", "/var/tmp/weft"))
CGROUPS = Path("/sys/fs/cgroup")


def _locked(path, wait):
    """An open file with the exclusive lock, or None when somebody else has it."""
    handle = open(path, "a")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        return handle
    except BlockingIOError:
        handle.close()
        return None


def _remove_owned(path):
    """Removes what lies outside: plain files, sockets and empty directories only."""
    owned = path / "owned"
    lines = owned.read_text().splitlines() if owned.exists() else []
    for line in reversed(lines):
        target = Path(line)
        try:
            if CGROUPS in target.parents:  # the kernel's own files in it need no removing, cgroups below it do
                for directory, _, _ in os.walk(target, topdown=False):
                    os.rmdir(directory)
            elif target.is_dir() and not target.is_symlink():
                target.rmdir()
            else:
                target.unlink(missing_ok=True)
        except OSError as problem:
            if target.exists() and problem.errno != errno.ENOTEMPTY:  # somebody else moved in: theirs now
                print(f"warning: cannot remove {target}: {problem}", file=sys.stderr)


def destroy(path, timeout=30):
    """Takes away all that belongs to a workspace, then the workspace. Caller holds <root>/.lock."""
    belongings.take_away(path, timeout)
    _remove_owned(path)
    shutil.rmtree(path)


def sweep():
    """Destroys every workspace whose run is gone. Caller holds <root>/.lock."""
    for path in sorted(ROOT.iterdir()):
        if path.is_dir():
            handle = _locked(path / "lock", wait=False)
            if handle:
                with handle:
                    print(f"cleaning up after an earlier run that was killed: {path}", file=sys.stderr)
                    try:
                        destroy(path, timeout=10)
                    except (AssertionError, OSError) as problem:  # the next run tries again; this one is not hindered
                        print(f"warning: {path} cannot be removed yet: {problem}", file=sys.stderr)


class Workspace:
    """Use as a context manager. SIGTERM and SIGHUP lead to the same orderly exit as Ctrl-C."""

    def __init__(self, kind, keep=False):
        self.keep = keep or bool(os.environ.get("WEFT_KEEP"))
        ROOT.mkdir(parents=True, exist_ok=True)
        with _locked(ROOT / ".lock", wait=True):
            sweep()
            self.path = ROOT / f"{kind}{os.getpid()}"
            self.path.mkdir()
            self._lock = _locked(self.path / "lock", wait=False)
        self._previous = {number: signal.signal(number, self._leave) for number in (signal.SIGTERM, signal.SIGHUP)}

    @staticmethod
    def _leave(number, _frame):
        raise KeyboardInterrupt(signal.Signals(number).name)

    def environment(self, **more):
        """For everything that is started: marked as ours, Debian's programs first, no trace of the user's Docker."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith("DOCKER_") and k != "WEFT_SOCKET"}
        clean.update({belongings.MARKER: str(self.path), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"})
        clean.update({key: str(value) for key, value in more.items()})
        return clean

    def own(self, path):
        """Declares a path outside the workspace as ours; call it before the path is made."""
        with open(self.path / "owned", "a") as owned:
            owned.write(f"{path}\n")

    def make_outside_directory(self, path):
        """Makes a directory outside; it is removed at the end if this run made it and it is empty then."""
        for part in [*reversed(Path(path).parents), Path(path)]:
            if not part.exists():
                self.own(part)
                part.mkdir(exist_ok=True)

    def close(self):
        """Idempotent. A second Ctrl-C cannot interrupt the cleaning up."""
        if not self.path.exists():
            return
        ignored = {number: signal.signal(number, signal.SIG_IGN)
                   for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            if self.keep:
                belongings.take_away(self.path)
                _remove_owned(self.path)
                print(f"kept for a look: {self.path}", file=sys.stderr)
            else:
                belongings.take_away(self.path)
                _remove_owned(self.path)
                # Our lock file goes with the rest: nobody may sweep what then looks abandoned.
                with _locked(ROOT / ".lock", wait=True):
                    shutil.rmtree(self.path)
        finally:
            self._lock.close()
            signal.signal(signal.SIGINT, ignored[signal.SIGINT])
            for number, handler in self._previous.items():
                signal.signal(number, handler)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
