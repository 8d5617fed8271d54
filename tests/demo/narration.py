# SPDX-License-Identifier: Apache-2.0
"""How the demo speaks: one line per step with the time since the start, a bar for what takes long, a table at the end.

On a terminal a running line is redrawn in place; into a pipe only finished lines are written. Colour on a terminal
only, and not when NO_COLOR is set.
"""
import os
import shutil
import sys
import time


class Narrator:
    def __init__(self, out=sys.stdout):
        self.out, self.began = out, time.monotonic()
        self.terminal = out.isatty()
        self.colour = self.terminal and "NO_COLOR" not in os.environ
        self._open = False

    def _paint(self, code, text):
        return f"\033[{code}m{text}\033[0m" if self.colour else text

    def _write(self, text):
        self.out.write(text)
        self.out.flush()

    def _end_running(self):
        if self._open:
            self._write("\r\033[K")
            self._open = False

    def step(self, text):
        self._end_running()
        stamp = self._paint("2", f"{time.monotonic() - self.began:6.1f} s")
        self._write(f"{stamp}  {text}\n")

    def running(self, text):
        """A line that the next one replaces."""
        if self.terminal:
            width = shutil.get_terminal_size().columns - 1
            self._write("\r\033[K" + f"          {text}"[:width])
            self._open = True

    def bar(self, label, fraction, tail):
        width = 32
        full = round(max(0.0, min(1.0, fraction)) * width)
        self.running(f"{label} [{'█' * full}{'░' * (width - full)}] {100 * fraction:5.1f} %  {tail}")

    def finished_bar(self, label, tail):
        self.step(f"{label} [{'█' * 32}] 100.0 %  {tail}")

    def table(self, title, rows):
        """rows: (what, figure)."""
        self._end_running()
        left = max(len(what) for what, _ in rows)
        right = max(len(figure) for _, figure in rows)
        line = "─" * (left + right + 3)
        self._write(f"\n{self._paint('1', title)}\n{line}\n")
        for what, figure in rows:
            self._write(f"{what.ljust(left)}   {figure.rjust(right)}\n")
        self._write(f"{line}\n")
