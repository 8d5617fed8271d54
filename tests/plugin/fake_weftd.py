# SPDX-License-Identifier: Apache-2.0
"""A scripted weftd: the peer of a volume server's control socket, with a store that is a dictionary in memory.

It connects (again and again, as weftd does), keeps what the volume server told, and answers proposals by `policy`:
  "commit"   applies R4's and R12's rules like the store would: never demotes the last up_to_date replica
  "silent"   never answers (the store is away); answer_pending() catches up
  "refuse" | "fence"   answers everything so
The record's states survive in `states`, as they would survive a volume server. The node's lease holds for ever, unless
`lease` is False (engine.hpp, E7).
"""
import json
import socket
import threading
import time


class FakeWeftd:
    def __init__(self, path, states, policy="commit", lease=True):
        """`states`: one dictionary {replica id: state} per extent."""
        self.path, self.states, self.policy, self.lease = str(path), states, policy, lease
        self.hellos, self.statuses, self.proposals, self.notices, self.detached = [], [], [], [], []
        self.unanswered = {}
        self.commits = []  # (extent, replica, state) in the order of commitment
        self._wanted = threading.Event()
        self._stopping = False
        self._lock = threading.RLock()
        self._socket = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._wanted.set()
        self._thread.start()

    # --- what a test does

    def disconnect(self):
        """Goes away, as a weftd that was killed."""
        self._wanted.clear()
        self._hang_up()

    def reconnect(self):
        self._wanted.set()

    def stay_away_when_closed(self):
        """Keeps the present connection; does not make another one."""
        self._wanted.clear()

    def connected(self):
        return self._socket is not None

    def stop(self):
        self._stopping = True
        self._wanted.set()
        self._hang_up()
        self._thread.join(10)

    def send(self, message):
        self.send_line(json.dumps(message))

    def send_line(self, line):
        with self._lock:
            self._socket.sendall(line.encode() + b"\n")

    def set_policy(self, policy):
        with self._lock:
            self.policy = policy

    def answer_pending(self):
        """The store is back: decides what was left unanswered."""
        with self._lock:
            self.policy = "commit"
            for message in list(self.unanswered.values()):
                self._decide(message)

    def status(self, extent=0):
        """The newest status of an extent, or None."""
        with self._lock:
            return self.statuses[-1]["extents"][extent] if self.statuses else None

    def slot(self, replica, extent=0):
        status = self.status(extent)
        return next((s for s in status["slots"] if s["id"] == replica), None) if status else None

    def up_to_date(self, extent=0):
        return [replica for replica, state in self.states[extent].items() if state == "up_to_date"]

    # --- the protocol

    def _hang_up(self):
        with self._lock:
            if self._socket:
                try:
                    self._socket.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def _run(self):
        while not self._stopping:
            self._wanted.wait()
            if self._stopping:
                return
            try:
                connection = socket.socket(socket.AF_UNIX)
                connection.connect(self.path)
            except OSError:
                connection.close()
                time.sleep(0.02)  # as weftd does: the volume server is not there yet, or any more
                continue
            with self._lock:
                self._socket = connection
            if self._stopping or not self._wanted.is_set():
                self._hang_up()  # what was asked while there was no connection to hang up
            try:
                for line in connection.makefile("rb"):
                    self._handle(json.loads(line))
            except OSError:
                pass
            with self._lock:
                self._socket = None
            connection.close()

    def _handle(self, message):
        kind = message["type"]
        with self._lock:
            if kind == "hello":
                self.hellos.append(message)
                if self.lease:
                    self.send({"type": "lease", "until_ns": 1 << 62})
            elif kind == "status":
                self.statuses.append(message)
            elif kind == "notice":
                self.notices.append(message)
            elif kind == "detached":
                self.detached.append(message)
            elif kind == "propose":
                self.proposals.append(message)
                self.unanswered[message["id"]] = message
                if self.policy != "silent":
                    self._decide(message)
            else:
                raise AssertionError(f"a volume server must not send {message}")

    def _decide(self, message):
        outcome, text = "committed", ""
        states = self.states[message["extent"]]
        if self.policy in ("refuse", "fence"):
            outcome, text = {"refuse": "refused", "fence": "fenced"}[self.policy], "the test says so"
        elif message["to"] != "up_to_date" and self.up_to_date(message["extent"]) == [message["replica"]]:
            outcome, text = "refused", "the last up_to_date replica"
        else:
            states[message["replica"]] = message["to"]
            self.commits.append((message["extent"], message["replica"], message["to"]))
        del self.unanswered[message["id"]]
        try:
            self.send({"type": "result", "id": message["id"], "outcome": outcome, "text": text})
        except (OSError, AttributeError):
            pass  # we were cut off: it will be proposed again, and committed again
