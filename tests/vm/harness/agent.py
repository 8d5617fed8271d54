#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Runs in the guest: does what the harness asks over a virtio-serial port. One thread, one loop; it never waits for a
command, only for the port.

Both directions are lines of JSON; bytes are base64.
  harness: {"id", "do": "run", "argv", "env", "cwd", "stdin"} | {"id", "do": "signal", "number"}   (id of a run)
           {"id", "do": "put", "path", "mode", "data"}
  agent:   {"hello": <boot id>} once, {"id", "out"} and {"id", "err"} as they come, {"id", "exit"} last; an exit is the
           command's code, or minus the signal that ended it. {"id", "problem"} in place of an exit: could not be done.
A command is over when its process has ended, and all that it had written by then has been sent; what a daemon that it
left behind writes later is nobody's. Each command is a session of its own, and a signal goes to its process group.
"""
import base64
import json
import os
import selectors
import subprocess
import sys
from pathlib import Path

PORT = "org.weft.agent"
CHUNK = 1 << 16  # bytes; as much as a pipe holds (pipe(7))


def open_port():
    for name in Path("/sys/class/virtio-ports").glob("*/name"):
        if name.read_text().strip() == PORT:
            return os.open(f"/dev/{name.parent.name}", os.O_RDWR)
    sys.exit(f"no virtio port named {PORT}")


class Command:
    def __init__(self, number, process):
        self.number, self.process = number, process
        self.pidfd = os.pidfd_open(process.pid)
        self.pipes = {"out": process.stdout.fileno(), "err": process.stderr.fileno()}
        for pipe in self.pipes.values():
            os.set_blocking(pipe, False)


class Agent:
    def __init__(self, port):
        self.port, self.received, self.running = port, b"", {}
        self.selector = selectors.DefaultSelector()
        self.selector.register(port, selectors.EVENT_READ, (None, None))

    def send(self, **message):
        data = memoryview(json.dumps(message).encode() + b"\n")
        while data:
            data = data[os.write(self.port, data):]

    def serve(self):
        self.send(hello=Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        while True:
            for key, _ in self.selector.select():
                command, what = key.data
                if command is None:
                    self.receive()
                elif self.running.get(command.number) is not command:
                    continue  # ended earlier in this round
                elif what == "end":
                    self.finish(command)
                else:
                    self.forward(command, what)

    def receive(self):
        data = os.read(self.port, CHUNK)
        if not data:
            sys.exit("the harness is gone")
        *lines, self.received = (self.received + data).split(b"\n")
        for line in lines:
            request = json.loads(line)
            try:
                getattr(self, f"do_{request['do']}")(request)
            except (OSError, ValueError) as problem:
                self.send(id=request["id"], problem=str(problem))

    def do_run(self, request):
        stdin = os.memfd_create("stdin")
        try:
            with open(stdin, "wb", closefd=False) as file:
                file.write(base64.b64decode(request["stdin"]))
            os.lseek(stdin, 0, os.SEEK_SET)
            # The agent must outlive any shortage of memory, and its commands must not inherit that.
            process = subprocess.Popen(["/usr/bin/choom", "--adjust", "0", "--", *request["argv"]], stdin=stdin,
                                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=request["env"],
                                       cwd=request["cwd"], start_new_session=True)
        finally:
            os.close(stdin)
        command = Command(request["id"], process)
        self.running[command.number] = command
        for what, pipe in command.pipes.items():
            self.selector.register(pipe, selectors.EVENT_READ, (command, what))
        self.selector.register(command.pidfd, selectors.EVENT_READ, (command, "end"))

    def do_signal(self, request):
        if request["id"] in self.running:  # else: it has ended, and says so
            os.killpg(self.running[request["id"]].process.pid, request["number"])

    def do_put(self, request):
        path = Path(request["path"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(request["data"]))
        path.chmod(request["mode"])
        self.send(id=request["id"], exit=0)

    def forward(self, command, what):
        """Sends what a pipe holds now. A pipe at its end is forgotten."""
        pipe = command.pipes.get(what)
        if pipe is None:
            return
        try:
            data = os.read(pipe, CHUNK)
        except BlockingIOError:
            return
        if data:
            self.send(id=command.number, **{what: base64.b64encode(data).decode()})
        else:
            self.selector.unregister(command.pipes.pop(what))

    def finish(self, command):
        for what in ("out", "err"):
            self.forward(command, what)  # no pipe holds more than a chunk
        for descriptor in (*command.pipes.values(), command.pidfd):
            self.selector.unregister(descriptor)
        os.close(command.pidfd)
        command.process.stdout.close()
        command.process.stderr.close()
        del self.running[command.number]
        self.send(id=command.number, exit=command.process.wait())


if __name__ == "__main__":
    Agent(open_port()).serve()
