# SPDX-License-Identifier: Apache-2.0
"""What the packaging tests share: the product installed below a scratch root, once for the session."""
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.workspace import Workspace  # noqa: E402

REPOSITORY = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("BUILD", "build"))
BUILD = BUILD if BUILD.is_absolute() else REPOSITORY / BUILD


def run(*command, check=True, **more):
    """Runs a command; its output, stdout and stderr together, is in the failure's text and in `.stdout`."""
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          errors="replace", timeout=more.pop("timeout", 120), **more)
    assert not check or done.returncode == 0, f"{' '.join(map(str, command))}: {done.returncode}\n{done.stdout}"
    return done


def make(*arguments, **more):
    """make without what an outer make hands down: its jobserver is not ours."""
    kept = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    return run("make", "--no-print-directory", f"BUILD={BUILD}", *arguments, cwd=REPOSITORY, env=kept, timeout=600,
               **more)


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    """The root of a machine on which `make install DESTDIR=` was run, with systemd's own targets beside ours."""
    path = tmp_path_factory.mktemp("root")
    make("install", f"DESTDIR={path}")
    units = path / "usr/lib/systemd/system"
    for target in Path("/lib/systemd/system").glob("*.target"):
        shutil.copy(target, units)  # follows links: an alias becomes a unit of its own
    for slice_ in Path("/lib/systemd/system").glob("*.slice"):
        shutil.copy(slice_, units)
    (path / "usr/bin").mkdir(exist_ok=True)
    shutil.copy("/bin/true", path / "usr/bin/true")
    return path


@pytest.fixture(scope="session")
def workspace():
    """Where weftd runs; everything in it is taken away at the end, however that comes."""
    with Workspace("p") as made:
        yield made
