# SPDX-License-Identifier: Apache-2.0
"""SQLite on a file system on a volume, and the ledger of what it acknowledged."""
import sqlite3
import subprocess
import threading
from pathlib import Path

CLIENT = Path(__file__).with_name("sqlite_client.py")


class Database:
    """A client process at work on <directory>/db."""

    def __init__(self, workspace, directory, journal):
        self.acknowledged = 0     # the newest row whose commit returned
        self.problem = None
        self.process = subprocess.Popen(["/usr/bin/python3", CLIENT, f"{directory}/db", journal], cwd="/", text=True,
                                        stdout=subprocess.PIPE, env=workspace.environment())
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.process.stdout:
            if line.startswith("error"):
                self.problem = line.strip()
            elif line.endswith("\n"):
                self.acknowledged = int(line)

    def check(self):
        assert not self.problem and self.process.poll() is None, \
            f"SQLite ended with {self.process.poll()}: {self.problem}"

    def progressed(self, since):
        self.check()
        return self.acknowledged > since + 20

    def kill(self):
        """kill -9; what it had acknowledged by then counts."""
        self.process.kill()
        self.process.wait()
        self._reader.join()


def check_database(directory, acknowledged):
    """SQLite's own check, and every acknowledged row; a later one may be there too, whole. Opening it recovers it."""
    database = sqlite3.connect(f"{directory}/db")
    try:
        said = database.execute("pragma integrity_check").fetchall()
        assert said == [("ok",)], f"integrity_check: {said[:10]}"
        count, newest, wrong = database.execute(
            "select count(*), coalesce(max(number), 0), coalesce(sum(length(filler) != number * 37 % 1000 + 1), 0)"
            " from rows").fetchone()
    finally:
        database.close()
    assert count == newest, f"{count} rows, the newest is {newest}"
    assert newest >= acknowledged, f"row {acknowledged} was acknowledged, the newest is {newest}"
    assert not wrong, f"{wrong} rows have the wrong length"
