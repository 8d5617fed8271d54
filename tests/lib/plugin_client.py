# SPDX-License-Identifier: Apache-2.0
"""HTTP over a unix socket: a dockerd that does exactly what a test says, and a client of weftd's admin socket.

dockerd 20.10 sends no Content-Type and an empty Host; so does this unless told otherwise. `raw` sends any bytes.
"""
import http.client
import json
import socket


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path, timeout):
        super().__init__("localhost", timeout=timeout)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def request(path, method, target, body=b"", headers=None, timeout=130):
    """One request on its own connection; returns (status, body bytes). Raises OSError or http.client.HTTPException."""
    connection = UnixConnection(path, timeout)
    try:
        connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        for name, value in (headers or {"Host": "", "Content-Length": str(len(body))}).items():
            connection.putheader(name, value)
        connection.endheaders()
        if body:
            connection.send(body)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def raw(path, data, timeout=10):
    """Sends bytes as they are, half-closes, returns what comes back until the server closes."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        connection.connect(str(path))
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the server had enough of it; its answer may still be there
        parts = []
        try:
            while part := connection.recv(65536):
                parts.append(part)
        except ConnectionResetError:
            pass
        return b"".join(parts)


class PluginError(AssertionError):
    """The plugin answered with Err; `text` is it."""

    def __init__(self, call, text):
        self.text = text
        super().__init__(f"{call}: {text}")


class DockerPlugin:
    """Speaks as dockerd does to a legacy volume plugin."""

    def __init__(self, socket_path):
        self.socket = socket_path

    def call(self, name, body=None, timeout=130):
        """Returns the answer as a dict; raises PluginError when it carries Err."""
        group = "" if name == "Plugin.Activate" else "VolumeDriver."
        data = b"" if body is None else json.dumps(body).encode()
        status, answer = request(self.socket, "POST", f"/{group}{name}", data, timeout=timeout)
        parsed = json.loads(answer)
        if parsed.get("Err") or status != 200:
            raise PluginError(name, parsed.get("Err") or f"HTTP {status}: {answer!r}")
        return parsed

    def activate(self):
        return self.call("Plugin.Activate")

    def create(self, volume, **options):
        return self.call("Create", {"Name": volume, "Opts": options or None})

    def remove(self, volume):
        return self.call("Remove", {"Name": volume})

    def mount(self, volume, mount_id):
        return self.call("Mount", {"Name": volume, "ID": mount_id})["Mountpoint"]

    def unmount(self, volume, mount_id):
        return self.call("Unmount", {"Name": volume, "ID": mount_id})

    def get(self, volume):
        return self.call("Get", {"Name": volume})["Volume"]

    def list(self):
        return self.call("List", {})["Volumes"]
