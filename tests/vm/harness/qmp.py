# SPDX-License-Identifier: Apache-2.0
"""QEMU's machine protocol (QMP, docs/interop/qmp-spec in QEMU): commands, answers and events over a unix socket."""
import json
import socket
import time


class QmpError(AssertionError):
    """QEMU refused a command, or is gone."""


class Qmp:
    """Use from one thread. Raises QmpError."""

    def __init__(self, path, timeout):
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout)
        self._socket.connect(str(path))
        self._file = self._socket.makefile("rw")
        self._events = []
        self._read()  # the greeting
        self.execute("qmp_capabilities")

    def close(self):
        self._file.close()
        self._socket.close()

    def _read(self):
        try:
            line = self._file.readline()
        except OSError as problem:
            raise QmpError(f"no answer from QEMU: {problem}") from problem
        if not line:
            raise QmpError("QEMU has ended")
        return json.loads(line)

    def execute(self, command, **arguments):
        """The answer of one command; events that come before it are kept for wait_event()."""
        try:
            self._file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
            self._file.flush()
        except OSError as problem:
            raise QmpError(f"QEMU has ended: {problem}") from problem
        while True:
            message = self._read()
            if "event" in message:
                self._events.append(message)
            elif "error" in message:
                raise QmpError(f"{command} {arguments}: {message['error']['desc']}")
            else:
                return message["return"]

    def wait_event(self, name, timeout, **data):
        """The first event of that name with that data which has not been taken yet."""
        deadline = time.monotonic() + timeout
        while True:
            for event in self._events:
                if event["event"] == name and data.items() <= event.get("data", {}).items():
                    self._events.remove(event)
                    return event
            left = deadline - time.monotonic()
            if left <= 0:
                raise QmpError(f"after {timeout} s still waiting for {name} {data}")
            self._socket.settimeout(left)
            self._events.append(self._read())
