# SPDX-License-Identifier: Apache-2.0
"""The list of all crash points (nbd-backend/base/crash_point.hpp): which process dies there, and during what.

`points_in_sources()` reads them from the sources; test_crash_points.py demands that both are the same.
"""
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# phase of a volume's life (crash_life.py) -> points that are reached in it; the home node's processes are armed.
PHASES = {
    # weftd, and in it the making of files on the drive
    "create": ["create.recorded", "create.data-written", "create.meta-written", "create.replica-named",
               "create.replica-made", "create.replica-recorded"],
    # weftd; then the volume server it starts, and the replica server that is fenced
    "attach": ["attach.recorded", "attach.config-written", "start.identity-written", "start.spawned",
               "attach.server-started", "attach.serving", "attach.referenced",
               "attach.engine-starting", "attach.fenced-all",
               "fence.told", "replica.first-slot-stored", "fence.epoch-stored"],
    # replica server
    "write": ["replica.bit-written", "replica.bit-stored"],
    # replica server; some time between a write and the end of the detach
    "clear": ["clear.told", "clear.written"],
    # weftd
    "mount": ["mount.fuse-started", "mount.device-made", "mount.formatted", "mount.format-recorded", "mount.mounted",
              "mount.referenced"],
    "unmount": ["unmount.dereferenced", "detach.unmounted", "detach.loop-gone", "detach.fuse-unmounted",
                "detach.stack-down", "detach.flushed", "detach.released", "detach.server-stopped",
                "detach.mount-point-gone", "detach.directory-gone"],
    # weftd, volume server
    "detach": ["detach.dereferenced", "detach.told", "detach.all-flushed"],
    # volume server proposes, weftd records and answers, the volume server is told
    "demote": ["demote.proposed", "demote.asked", "demote.recorded", "propose.answered", "propose.told"],
    # the same, while the replica that is copied to is slow
    "slow resync": ["resync.under-way"],
    "slow recovery": ["recovery.under-way"],
    "resync": ["resync.proposed", "resync.asked", "resync.recorded", "promote.proposed", "promote.asked",
               "promote.recorded"],
    # weftd on any node: of a volume that nobody uses, and of one whose replica is gone for good
    "repair": ["repair.attach-recorded", "repair.server-started", "repair.ending"],
    "claimed repair": ["repair.claimed"],
    "replacement": ["repair.replaced"],
    # weftd, after its volume server or its whole node died
    "server death": ["take-apart.server-stopped"],
    "server death, detach": ["take-apart.done"],
    "reboot": ["abandon.recorded"],
    # weftd
    "grow": ["grow.recorded"],
    "remove": ["remove.idle", "remove.recorded", "remove.replica-buried", "remove.replica-gone",
               "remove.trash-forgotten"],
}

# The same on a kernel with nbd and device-mapper (tests/vm/inside/test_kernel_crash.py): weftd.
KERNEL_PHASES = {
    "mount": ["kernel.nbd-connected", "kernel.dm-applied", "kernel.crypt-formatted", "kernel.crypt-opened"],
    "replacement": ["replace.recorded", "replace.connected"],
    "restart": ["restart.server-ended"],
    "legs": ["legs.cut", "legs.connected", "legs.followed"],
    "grow": ["grow.device-grown", "kernel.crypt-resized", "grow.filesystem-grown"],
    "unmount": ["kernel.cut", "kernel.unmounted", "kernel.crypt-gone", "kernel.dm-gone", "kernel.nbd-gone"],
}

# Of a block device that is a drive (drive_life.py): weftd.
DRIVE_PHASES = {
    "add": ["drive.claimed", "drive.marked", "drive.wiped", "drive.formatted", "drive.mounted", "drive.identified",
            "drive.made", "drive.recorded"],
    "loss": ["drive-release.stopped", "drive-release.unmounted"],
    "return": ["drive-mount.mounted"],
    "removal": ["drive.unrecorded"],
}

DRIVE_POINTS = {point: phase for phase, points in DRIVE_PHASES.items() for point in points}
KERNEL_POINTS = {point: phase for phase, points in KERNEL_PHASES.items() for point in points}
POINTS = {point: phase for phase, points in PHASES.items() for point in points}


def points_in_sources():
    found = []
    for folder in ("nbd-backend", "orchestrator"):
        for source in sorted((ROOT / folder).rglob("*.[ch]pp")):
            if source.name.startswith("crash_point."):
                continue
            text = source.read_text()
            found += re.findall(r'WEFT_CRASH_POINT\(\s*"([^"]+)"', text)
            found += re.findall(r'WEFT_CRASH_POINT_IF\([^;]*?"([^"]+)"\s*\)', text)
    return found
