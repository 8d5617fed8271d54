# SPDX-License-Identifier: Apache-2.0
"""The host's end of the agent's port (agent.py has the protocol): any number of commands at the same time.

A thread reads as long as the port is open, so the agent never waits for us. When the agent or the guest is gone, every
command that was running ends with ChannelError: what became of it is not known.
"""
import base64
import json
import signal
import socket
import threading


class ChannelError(AssertionError):
    """The guest or its agent is gone, or could not do what was asked."""


class CommandError(AssertionError):
    """A command ended with another code than 0; `outcome` has the rest."""

    def __init__(self, where, argv, outcome):
        self.outcome = outcome
        super().__init__(f"{where}: {' '.join(argv)}: exit {outcome.code}\n--- stdout\n{outcome.stdout[-4000:]}"
                         f"\n--- stderr\n{outcome.stderr[-4000:]}")


class Outcome:
    """What a command left: `code` (minus the signal that ended it), and its output as bytes and as text."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    @property
    def stdout(self):
        return self.out.decode(errors="replace")

    @property
    def stderr(self):
        return self.err.decode(errors="replace")


class Command:
    """One that was started in the guest. `on_output(bytes)`, if given, is called in the reader's thread."""

    def __init__(self, channel, number, argv, on_output):
        self.argv, self._channel, self._number, self._on_output = argv, channel, number, on_output
        self._out, self._err = bytearray(), bytearray()
        self._code = self._problem = None
        self._over = threading.Event()

    def _take(self, message):
        if message is None:
            self._problem = "the guest is gone"
        elif "problem" in message:
            self._problem = message["problem"]
        elif "exit" in message:
            self._code = message["exit"]
        else:
            into, text = (self._out, message["out"]) if "out" in message else (self._err, message["err"])
            data = base64.b64decode(text)
            into += data
            if self._on_output:
                self._on_output(data)
            return
        self._over.set()

    @property
    def running(self):
        return not self._over.is_set()

    @property
    def stdout(self):
        """What it has written so far, as text."""
        return bytes(self._out).decode(errors="replace")

    @property
    def stderr(self):
        return bytes(self._err).decode(errors="replace")

    def signal(self, number=signal.SIGTERM):
        """To its process group."""
        self._channel.send(id=self._number, do="signal", number=int(number))

    def wait(self, timeout):
        """Its Outcome. After `timeout` seconds its process group is killed and AssertionError raised."""
        if not self._over.wait(timeout):
            self.signal(signal.SIGKILL)
            self._over.wait(30)
            raise AssertionError(f"{self._channel.where}: {' '.join(self.argv)}: no end after {timeout} s; so far:\n"
                                 f"{self.stdout[-4000:]}\n--- stderr\n{self.stderr[-4000:]}")
        if self._problem:
            raise ChannelError(f"{self._channel.where}: {' '.join(self.argv)}: {self._problem}")
        return Outcome(self._code, bytes(self._out), bytes(self._err))


class Channel:
    """Thread-safe. `where` is the guest's name, for texts."""

    def __init__(self, path, where):
        self.where = where
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._lock, self._hello = threading.Lock(), threading.Event()
        self._commands, self._next, self._gone = {}, 0, False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def close(self):
        self._socket.close() if self._gone else self._socket.shutdown(socket.SHUT_RDWR)
        self._reader.join()
        self._socket.close()

    def _read(self):
        with self._socket.makefile("rb") as lines:
            try:
                for line in lines:
                    self._dispatch(line)
            except OSError:
                pass  # closed: the same as the end
        self._forget(gone=True)

    def _dispatch(self, line):
        message = json.loads(line)
        if "hello" in message:
            self._forget()  # commands of an agent before this one
            self._hello.set()
            return
        with self._lock:
            over = "exit" in message or "problem" in message
            command = (self._commands.pop if over else self._commands.get)(message["id"], None)
        if command:
            command._take(message)

    def _forget(self, gone=False):
        with self._lock:
            self._gone = self._gone or gone
            lost, self._commands = list(self._commands.values()), {}
        if gone:
            self._hello.set()
        for command in lost:
            command._take(None)

    def wait_hello(self, timeout):
        """Whether the agent has spoken within the time, or did before. Raises ChannelError when the guest is gone."""
        heard = self._hello.wait(timeout)
        if self._gone:
            raise ChannelError(f"{self.where}: the guest has ended")
        return heard

    def send(self, **message):
        data = json.dumps(message).encode() + b"\n"
        with self._lock:
            try:
                self._socket.sendall(data)
            except OSError as problem:
                raise ChannelError(f"{self.where}: the guest is gone: {problem}") from problem

    def _begin(self, told, on_output, message):
        with self._lock:
            if self._gone:
                raise ChannelError(f"{self.where}: the guest is gone")
            self._next += 1
            command = Command(self, self._next, told, on_output)
            self._commands[self._next] = command
        self.send(id=command._number, **message)
        return command

    def run(self, argv, environment, cwd, stdin=b"", on_output=None):
        return self._begin(argv, on_output, {"do": "run", "argv": argv, "env": environment, "cwd": cwd,
                                             "stdin": base64.b64encode(stdin).decode()})

    def put(self, path, data, mode):
        return self._begin(["put", path], None, {"do": "put", "path": path, "mode": mode,
                                                 "data": base64.b64encode(data).decode()})
