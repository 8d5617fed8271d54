# SPDX-License-Identifier: Apache-2.0
"""weftd as systemd would run it, without systemd: systemd-socket-activate's sockets, a notify socket that we read."""
import os
import queue
import signal
import socket
import subprocess
import threading

from lib.cluster import BUILD, free_port_base
from lib.plugin_client import DockerPlugin


class NotifySocket:
    """What a service tells systemd, line by line (sd_notify(3))."""

    def __init__(self, path):
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._heard = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        while message := self._socket.recv(65536):
            for line in message.decode().splitlines():
                self._heard.put(line)

    def wait_for(self, wanted, timeout=30):
        """Until a line begins with `wanted`; returns it. queue.Empty when nothing comes for so long."""
        while not (line := self._heard.get(timeout=timeout)).startswith(wanted):
            pass
        return line

    def forget(self):
        while not self._heard.empty():
            self._heard.get()


class Service:
    """One weftd with a scratch directory for everything."""

    def __init__(self, workspace, name="s"):
        self.path = workspace.path / name
        self.path.mkdir()
        self.workspace = workspace
        self.config = self.path / "weftd.conf"
        self.plugin_socket = self.path / "plugins" / "weft.sock"
        self.admin_socket = self.path / "run" / "weftd.sock"
        self.plugin = DockerPlugin(self.plugin_socket)
        self.settings = {"node": "alpha", "host": "127.0.0.1", "store": f"sqlite:{self.path}/cluster.db",
                         "state-dir": self.path / "state", "runtime-dir": self.path / "run",
                         "plugin-dir": self.path / "plugins", "libexec-dir": BUILD,
                         "port-base": free_port_base(["127.0.0.1"])}
        self.notify = NotifySocket(self.path / "notify")
        self.process = None
        self.write()

    def write(self, **changes):
        self.settings.update({key.replace("_", "-"): value for key, value in changes.items()})
        self.config.write_text("".join(f"{key} = {value}\n" for key, value in self.settings.items()))

    def start(self, *prefix, **environment):
        self.process = subprocess.Popen(
            [*map(str, prefix), str(BUILD / "weftd"), "--config", str(self.config)], stdin=subprocess.DEVNULL,
            stdout=open(self.path / "log", "a"), stderr=subprocess.STDOUT, cwd="/", start_new_session=True,
            env=self.workspace.environment(NOTIFY_SOCKET=self.notify.path, **environment))
        return self

    def start_with_sockets(self, plugin_path=None):
        """As socket units do: both sockets exist, weftd starts at the first connection."""
        self.plugin_socket.parent.mkdir(exist_ok=True)
        self.admin_socket.parent.mkdir(exist_ok=True)
        return self.start("systemd-socket-activate", "--fdname=docker-plugin:admin", "-E", "NOTIFY_SOCKET", "-E",
                          "WEFT_WORKSPACE", "-l", plugin_path or self.plugin_socket, "-l", self.admin_socket)

    def weft(self, *arguments):
        return subprocess.run([str(BUILD / "weft"), "--socket", str(self.admin_socket), *map(str, arguments)],
                              capture_output=True, text=True, timeout=60)

    def log(self):
        return (self.path / "log").read_text()

    def stop(self):
        os.killpg(self.process.pid, signal.SIGTERM)
        return self.process.wait(timeout=30)
