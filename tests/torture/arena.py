# SPDX-License-Identifier: Apache-2.0
"""Three nodes in network namespaces of their own, each with a small drive, for one round after the other."""
import shutil

from lib import belongings
from lib.cluster import Cluster
from lib.network import Network
from lib.small_drive import SmallDrive
from lib.workspace import Workspace

NODES = 3
DRIVE_MIB = 512
# Two extents per volume; leases that run out while a round lasts, and a patience with lost nodes that does.
TIMES = {"lease-ttl-ms": 3000, "request-timeout-ms": 2000, "reconnect-window-ms": 700, "attach-timeout-ms": 2000,
         "extent-size": "16MiB", "repair-after-ms": 2000}


class Arena:
    """Use as a context manager."""

    def __init__(self):
        self.workspace = Workspace("tt")
        try:
            self.network = Network(self.workspace, NODES)
            (self.workspace.path / "img").mkdir()
            self.drives = [SmallDrive(self.workspace.path / "drives" / str(number),
                                      self.workspace.path / "img" / str(number), DRIVE_MIB << 20)
                           for number in range(1, NODES + 1)]
            self.cluster = Cluster(self.workspace, nodes=NODES, times=TIMES, network=self.network,
                                   drives=[drive.path for drive in self.drives])
            self.cluster.start()
        except BaseException:
            self.workspace.close()
            raise

    def node(self, number):
        return self.cluster.nodes[number - 1]

    def save_logs(self, where):
        """Logs, records and what runs: the evidence of a failed round."""
        where.mkdir(parents=True, exist_ok=True)
        for node in self.cluster.nodes:
            target = where / node.name
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir()
            for log in [node.log, *node.runtime.glob("*/*/*.log"), *node.runtime.glob("*/*/attach.json")]:
                shutil.copy(log, target / "-".join(log.relative_to(node.path).parts))
        parts = []
        for node in self.cluster.nodes:
            for arguments in (("volume", "ls"), ("events", "-n", "300")):
                try:
                    parts.append(f"--- {node.name}: weft {' '.join(arguments)}\n"
                                 + node.try_weft(*arguments, timeout=5).stdout)
                except Exception as problem:  # a report must not hide the failure that it reports
                    parts.append(f"--- {node.name}: {problem}")
        parts += [f"{pid} {' '.join(belongings.command_line(pid))}"
                  for pid in belongings.processes_of(self.workspace.path)]
        (where / "cluster.txt").write_text("\n".join(parts))

    def close(self):
        self.cluster.stop()
        self.workspace.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
