# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL from Debian's package in a container, and a load that remembers what was acknowledged.

The image has only mount points and a start script; the programs are the host's /usr, read-only. The client talks over a
unix socket in a directory that host and container share, so the container needs no network. Nothing is tuned for speed
at the price of safety: fsync, full_page_writes and synchronous_commit are PostgreSQL's defaults (on).
"""
import threading
import time
from pathlib import Path

import psycopg2

PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))[-1]

START = f"""#!/bin/sh
set -e
as_postgres="setpriv --reuid postgres --regid postgres --clear-groups"
if [ ! -s /data/pg/PG_VERSION ]; then
    install --directory --owner postgres --group postgres --mode 700 /data/pg
    $as_postgres {PROGRAMS}/initdb --pgdata /data/pg --auth trust --username demo --no-locale --encoding UTF8
fi
exec $as_postgres {PROGRAMS}/postgres -D /data/pg -c listen_addresses= -c unix_socket_directories=/run/postgresql \\
    -c shared_buffers=32MB -c checkpoint_timeout=30s
"""


class Database:
    """One container on one Docker Engine; `volume` is the name and `driver` the plugin."""

    def __init__(self, docker, container, volume, driver, socket_directory):
        self.docker, self.container, self.volume, self.driver = docker, container, volume, driver
        self.socket_directory = socket_directory

    def start(self):
        self.socket_directory.mkdir(exist_ok=True)
        self.socket_directory.chmod(0o777)
        self.docker.docker("run", "--detach", "--name", self.container, "--network", "none",
                           "--stop-signal", "INT",  # PostgreSQL's fast shutdown
                           "--volume-driver", self.driver, "--volume", f"{self.volume}:/data",
                           "--volume", f"{self.socket_directory}:/run/postgresql", *self.docker.host_mounts(), "host",
                           "/start")

    def connect(self):
        connection = psycopg2.connect(host=str(self.socket_directory), user="demo", dbname="postgres",
                                      connect_timeout=10)
        connection.autocommit = True
        return connection

    def is_ready(self):
        """For waiting loops. Raises when the container has ended, with what it said last."""
        state = self.docker.docker("inspect", "--format", "{{.State.Running}}", self.container)
        if state != "true":
            said = self.docker.try_docker("logs", "--tail", "20", self.container)
            raise RuntimeError(f"the database container ended: {said.stdout}{said.stderr}")
        try:
            self.connect().close()
            return True
        except psycopg2.OperationalError:
            return False

    def ask(self, query):
        connection = self.connect()
        try:
            with connection.cursor() as cursor:
                cursor.execute(query)
                return cursor.fetchall() if cursor.description else None
        finally:
            connection.close()

    def storage_errors(self):
        """How many lines of the server's log tell of a failed read, write or fsync."""
        log = self.docker.try_docker("logs", self.container)
        signs = ("could not write", "could not fsync", "could not read", "could not extend", "Input/output error",
                 "PANIC")
        return sum(any(sign in line for sign in signs) for line in (log.stdout + log.stderr).splitlines())

    def kill(self):
        """kill -9 of the database, no shutdown; then the container is removed, which gives the volume back."""
        self.docker.docker("kill", "--signal", "KILL", self.container)
        self.docker.docker("rm", "--force", self.container)


class Load:
    """Clients that each insert and commit one row after the other until stopped or the server goes away."""

    def __init__(self, database, clients=4, table="rows"):
        self.table = table
        self.database, self._stop = database, threading.Event()
        self.acknowledged = [[] for _ in range(clients)]  # per client: when row 0, 1, 2, … was acknowledged
        self.problems = []
        self._threads = [threading.Thread(target=self._work, args=(n,), daemon=True) for n in range(clients)]

    def start(self):
        self.database.ask(f"create table {self.table} (client int, number int, at timestamptz default now(),"
                          " filler text default repeat('w', 200), primary key (client, number))")
        for thread in self._threads:
            thread.start()
        return self

    def _work(self, client):
        times = self.acknowledged[client]
        try:
            connection = self.database.connect()
            with connection.cursor() as cursor:
                while not self._stop.is_set():
                    cursor.execute(f"insert into {self.table} (client, number) values (%s, %s)", (client, len(times)))
                    times.append(time.monotonic())  # autocommit: it is acknowledged now
        except psycopg2.Error as problem:
            self.problems.append(str(problem).strip())

    def count(self):
        return sum(map(len, self.acknowledged))

    def rate(self, seconds):
        """Rows per second over the newest seconds."""
        since = time.monotonic() - seconds
        return sum(sum(1 for at in times[-20000:] if at >= since) for times in self.acknowledged) / seconds

    def stop(self):
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=60)

    def longest_pause(self, since, until):
        """The longest time, in seconds, during which no client got an answer within the window."""
        answers = sorted(at for times in self.acknowledged for at in times if since <= at <= until)
        marks = [since, *answers, until]
        return max(later - earlier for earlier, later in zip(marks, marks[1:]))

    def missing(self, database):
        """(found, missing): acknowledged rows that the database has, and those that it has lost."""
        stored = set(database.ask(f"select client, number from {self.table}"))
        wanted = {(client, number) for client, times in enumerate(self.acknowledged) for number in range(len(times))}
        return len(wanted & stored), sorted(wanted - stored)
