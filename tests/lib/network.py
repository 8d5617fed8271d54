# SPDX-License-Identifier: Apache-2.0
"""A network of its own per node: one namespace each, joined by a bridge in one more, and cuts between two of them.

  <workspace>/net/switch           the namespace with the bridge
  <workspace>/net/1, 2, 3, …       a node's: eth0 with 10.77.0.N/24, and lo

A namespace lives as long as the bind mount on its file; the workspace's sweeper unmounts those like any other mount,
and with a namespace go its interfaces, bridge and rules. Nothing of it is seen in the namespace of the caller.
"""
import shutil
import subprocess

PREFIX = "10.77.0"


class Network:
    def __init__(self, workspace, nodes):
        self.path = workspace.path / "net"
        self.path.mkdir()
        self.hosts = [f"{PREFIX}.{number}" for number in range(1, nodes + 1)]
        self._make("switch")
        self._inside("switch", "ip", "link", "add", "br0", "type", "bridge")
        self._inside("switch", "ip", "link", "set", "br0", "up")
        for number, host in enumerate(self.hosts, 1):
            self._make(str(number))
            self._inside("switch", "ip", "link", "add", f"p{number}", "type", "veth", "peer", "name", "eth0", "netns",
                         str(self.path / str(number)))
            self._inside("switch", "ip", "link", "set", f"p{number}", "master", "br0", "up")
            self._inside(str(number), "ip", "link", "set", "lo", "up")
            self._inside(str(number), "ip", "address", "add", f"{host}/24", "dev", "eth0")
            self._inside(str(number), "ip", "link", "set", "eth0", "up")

    def remove(self):
        """Call it when no process is left in there."""
        for name in self.path.iterdir():
            subprocess.run(["umount", name], check=True)
        shutil.rmtree(self.path)

    def _make(self, name):
        (self.path / name).touch()
        subprocess.run(["unshare", f"--net={self.path / name}", "true"], check=True)

    def command(self, number):
        """What to put before a command so that it runs as node 1, 2, …; the process keeps its pid."""
        return ["nsenter", f"--net={self.path / str(number)}"]

    def _inside(self, name, *command, text=None):
        subprocess.run(["nsenter", f"--net={self.path / name}", *command], check=True, input=text, text=True,
                       capture_output=True)

    def cut(self, sender, receiver):
        """From now on nothing that node `sender` (1, 2, …) sends reaches node `receiver`: dropped on arrival, so that
        the sender learns nothing."""
        self._inside(str(receiver), "nft", "-f", "-", text=f"""
            table inet cut{sender} {{
                chain arriving {{
                    type filter hook prerouting priority 0;
                    ip saddr {self.hosts[sender - 1]} drop
                }}
            }}
        """)

    def heal(self, sender, receiver):
        """Undoes cut(). Idempotent: `add` makes the table exist, so that `delete` cannot fail."""
        self._inside(str(receiver), "nft", "-f", "-", text=f"""
            add table inet cut{sender}
            delete table inet cut{sender}
        """)
