# SPDX-License-Identifier: Apache-2.0
"""The administrator of a round: attaches the volume where the schedule wants it, again and again until it is there."""
import subprocess
import threading

from lib.cluster import CliError
from lib.waiting import wait_for

PAUSE = 0.2        # seconds between two attempts
ASK_LIMIT = 15     # seconds; a weftd that is stopped does not answer, and the volume may be wanted elsewhere by then
AGAIN_LIMIT = SETTLE_LIMIT = 120  # seconds


class Keeper:
    def __init__(self, arena, volume, home, load):
        self.arena, self.volume, self.home, self.load = arena, volume, home, load
        self.problem = None     # of the last attempt
        self._wanted = None     # (node, force, leave: the node to detach from before)
        self._news, self._halt = threading.Condition(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def attach_now(self):
        self.load.move(self.home.weft("volume", "attach", self.volume))

    def go(self, fault, out_of_touch):
        """The volume is to be at the fault's other node. Out of touch: the old writer may not hear of it."""
        leave = self.home if fault.kind == "move" else None
        # A node that lives keeps its volume, whatever became of its volume server; only a dead one's lease runs out.
        force = fault.kind not in ("move", "kill_home", "kill_cluster", "lose_lease") or fault.detail == "by force"
        # By force from a writer that may not hear of it: an operator's decision, whose price is that it serves reads.
        if force and out_of_touch:
            self.load.forgive()
        self.home = self.arena.node(fault.other)
        with self._news:
            self._wanted = (self.home, force, leave)
            self._news.notify()

    def settle(self):
        """Until the volume has come to its home and the writers have got on there, while the old one lives."""
        self.wait(SETTLE_LIMIT)
        since = self.load.turns[:self.load.writers]
        wait_for(lambda: self.load.check() or all(now > then + 20 for now, then in zip(self.load.turns, since)),
                 SETTLE_LIMIT, "the writers to get on at the next place")

    def again(self):
        """Attached once more where it is: nothing, unless its engine gave up (`lost`), which asks for that."""
        with self._news:
            self._wanted = (self.home, False, None)
            self._news.notify()
        self.wait(AGAIN_LIMIT)

    def _run(self):
        while not self._halt.is_set():
            with self._news:
                self._news.wait_for(lambda: self._wanted or self._halt.is_set())
                wanted = self._wanted
            if wanted and self._attempt(*wanted):
                with self._news:
                    if self._wanted is wanted:
                        self._wanted = None
                        self._news.notify_all()
            else:
                self._halt.wait(PAUSE)

    def _attempt(self, node, force, leave):
        try:
            if leave:
                self._detach_from(leave)
            answer = node.weft("volume", "attach", self.volume, *(["--force"] if force else []), timeout=ASK_LIMIT)
        except (CliError, OSError, ValueError, subprocess.TimeoutExpired) as problem:
            self.problem = problem
            return False
        self.load.move(answer)
        return True

    def _detach_from(self, node):
        """In order, which needs its clients to be told to go: they see errors until the volume is at its next place."""
        outcome = node.try_weft("volume", "detach", self.volume, timeout=ASK_LIMIT)
        if outcome.returncode and "not attached" not in outcome.stderr:
            raise CliError(["volume", "detach", self.volume], outcome)

    def wait(self, timeout):
        def arrived():
            with self._news:
                return not self._wanted
        wait_for(arrived, timeout, f"{self.volume} to be attached at {self.home.name}; last problem: {self.problem}")

    def detach(self):
        wait_for(lambda: (self._detach_from(self.home), True), 60, f"{self.volume} to be detached", interval=PAUSE,
                 retry_on=(CliError, subprocess.TimeoutExpired))

    def end(self):
        self._halt.set()
        with self._news:
            self._news.notify_all()
        self._thread.join(timeout=5)
