#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""One SQLite client in a process of its own:  sqlite_client.py FILE JOURNAL_MODE

Inserts and commits transactions of one to four rows, for ever. Prints the number of the newest row after its commit
returned, and `error TEXT` before it ends because of a failure. synchronous=EXTRA: with FULL, says SQLite's manual
(pragma synchronous), a power loss may roll the newest commit back in journal mode DELETE, whose commit is an unlink
that nobody syncs.

At a pace: as fast as it can it fills its volume in seconds on a quiet machine, and a full file system is not what a
round is about. At most 200 KB a second leave room for minutes.
"""
import sqlite3
import sys
import time

PACE = 400  # rows a second, counted from the start: what a hold cost is made up for


def main():
    path, journal = sys.argv[1:]
    try:
        database = sqlite3.connect(path, isolation_level=None, timeout=0)
        database.execute(f"pragma journal_mode = {journal}")
        database.execute("pragma synchronous = extra")
        database.execute("create table if not exists rows (number integer primary key, filler blob)")
        first = number = database.execute("select coalesce(max(number), 0) from rows").fetchone()[0]
        began = time.monotonic()
        while True:
            time.sleep(max(0.0, began + (number - first) / PACE - time.monotonic()))
            database.execute("begin immediate")
            for _ in range(number % 4 + 1):
                number += 1
                database.execute("insert into rows values (?, randomblob(?))", (number, number * 37 % 1000 + 1))
            database.execute("commit")
            print(number, flush=True)
    except sqlite3.Error as problem:
        print("error", problem, flush=True)


if __name__ == "__main__":
    main()
