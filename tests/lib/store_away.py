# SPDX-License-Identifier: Apache-2.0
"""Ways in which the SQLite store of a cluster does not answer for a while."""
import sqlite3
from contextlib import contextmanager


@contextmanager
def locked(cluster):
    """Another process's exclusive transaction, as a stuck backup or an administrator's shell would hold."""
    connection = sqlite3.connect(cluster.store, isolation_level=None, timeout=30)
    connection.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


@contextmanager
def moved_away(cluster):
    away = cluster.store.parent.with_name("store.away")
    cluster.store.parent.rename(away)
    try:
        yield
    finally:
        away.rename(cluster.store.parent)
