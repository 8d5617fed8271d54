# SPDX-License-Identifier: Apache-2.0
"""What all guests of a run share: the workspace, the kernel, the initramfs, the build folder on their PATH."""
import os
from dataclasses import dataclass
from pathlib import Path

from . import initramfs
from .kernel import Kernel, prepare

REPOSITORY = Path(__file__).resolve().parents[3]
BUILD = Path(os.environ.get("BUILD") or "build")
BUILD = BUILD if BUILD.is_absolute() else REPOSITORY / BUILD


@dataclass(frozen=True)
class Machine:
    workspace: object  # lib.workspace.Workspace
    kernel: Kernel
    initramfs: Path
    search_path: str = f"{BUILD}:/usr/sbin:/usr/bin:/sbin:/bin"


def make(workspace):
    """Downloads what is not there. Raises KernelError."""
    kernel = prepare(BUILD / "vm")
    return Machine(workspace, kernel, initramfs.prepare(BUILD / "vm", kernel))
