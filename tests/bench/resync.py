# SPDX-License-Identifier: Apache-2.0
"""A full resync through the engine beside nbdcopy between the same two replica servers, in turns; and a partial one.

Both copy what the first server has into a fresh replica on the second, flush included; no byte is zero, so neither
saves work. A resync is timed from the proposal of `inconsistent` to that of `up_to_date`. Partial: the second
server is away while 4 KiB blocks are written at random; only the regions around them are copied then (R8).
"""
import shutil
import subprocess
import time
import uuid
from statistics import median

from cells import BLOCK, fill, fio
from lib.waiting import wait_for
from systems import TIMES
from volume_rig import MIB, Rig

ARRIVAL = 0.002  # seconds between looks: far below what is timed
SCATTERED_WRITES = 64


class Pair:
    """Two replica servers and one volume of one extent over them, attached on demand."""

    def __init__(self, workspace, size_bytes):
        self.rig = Rig(workspace, "resync", replicas=2, extents=(size_bytes,), times=TIMES)
        self.environment, self.size_bytes = workspace.environment(), size_bytes

    def attach(self):
        self.volume = self.rig.attach()
        self.uri = self.volume.uri("volume")
        return self.rig.weftd

    def detach(self):
        """In order (R11), so that every region is clean afterwards."""
        weftd = self.rig.weftd
        weftd.send({"type": "detach"})
        wait_for(lambda: weftd.detached, 60, "the volume to be detached")
        assert weftd.detached[-1]["equal"], "a detached volume's replicas must be equal"
        weftd.stop()
        self.volume.kill()

    def renew_replica(self):
        """A fresh replica on the second server in place of what was there."""
        old, new, server = self.rig.ids[0][1], str(uuid.uuid4()), self.rig.servers[1]
        server.create(new, self.size_bytes, born_equal=False)
        self.rig.ids[0][1] = new
        del self.rig.states[0][old]
        self.rig.states[0][new] = "outdated"
        shutil.rmtree(server.drive / "replicas" / old)

    def timed_resync(self):
        """Seconds of the first resync since the attach."""
        weftd = self.rig.weftd

        def asked_for(state):
            return any(proposal["to"] == state for proposal in weftd.proposals)
        wait_for(lambda: asked_for("inconsistent"), 30, "the resync to begin", interval=ARRIVAL)
        began = time.monotonic()
        wait_for(lambda: asked_for("up_to_date"), 300, "the resync to end", interval=ARRIVAL)
        return time.monotonic() - began

    def full_resync(self):
        """Seconds, of everything."""
        self.renew_replica()
        self.attach()
        seconds = self.timed_resync()
        self.rig.wait_whole()
        self.detach()
        return seconds

    def nbdcopy(self):
        """Seconds of nbdcopy between the two servers, as the writer of a new epoch."""
        self.renew_replica()
        self.rig.epoch += 1
        uris = [f"nbd://{self.rig.host}:{server.port}/{replica}/{self.rig.epoch}/1"
                for server, replica in zip(self.rig.servers, self.rig.ids[0])]
        began = time.monotonic()
        subprocess.run(["nbdcopy", "--flush", *uris], check=True, timeout=300, env=self.environment)
        return time.monotonic() - began

    def partial_resync(self):
        """(seconds, bytes copied) after writes that the second replica missed."""
        server, replica = self.rig.servers[1], self.rig.ids[0][1]
        weftd = self.attach()
        self.rig.wait_whole()
        server.kill()
        fio(self.uri, self.environment, "--rw=randwrite", f"--bs={BLOCK}", f"--size={self.size_bytes}",
            f"--io_size={SCATTERED_WRITES * BLOCK}", f"--randseed={time.monotonic_ns()}")
        self.rig.wait_state(1, "outdated")
        server.start()
        seconds = self.timed_resync()
        self.rig.wait_whole()
        copied = weftd.slot(replica)["resync_copied_bytes"]
        self.detach()
        return seconds, copied

    def close(self):
        self.rig.close()


def run(workspace, rounds, size_bytes):
    """Returns the figures for the report."""
    pair = Pair(workspace, size_bytes)
    try:
        pair.attach()
        pair.rig.wait_whole()
        fill(pair, size_bytes, pair.environment)
        pair.detach()
        resyncs, copies = [], []
        for _ in range(rounds):
            resyncs.append(size_bytes / pair.full_resync() / 1e6)
            copies.append(size_bytes / pair.nbdcopy() / 1e6)
        pair.full_resync()
        pair.rig.assert_equal()
        seconds, copied = zip(*(pair.partial_resync() for _ in range(min(rounds, 3))))
        pair.rig.assert_equal()
        return {"size_bytes": size_bytes,
                "full": {"mb_per_s": round(median(resyncs), 1), "nbdcopy_mb_per_s": round(median(copies), 1),
                         "of_nbdcopy": round(median(a / b for a, b in zip(resyncs, copies)), 2)},
                "partial": {"writes_missed": SCATTERED_WRITES, "seconds": round(median(seconds), 3),
                            "copied_mib": round(median(copied) / MIB, 1)}}
    except BaseException:
        print(pair.rig.logs())
        raise
    finally:
        pair.close()
