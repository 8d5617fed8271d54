# SPDX-License-Identifier: Apache-2.0
"""A host vanishes with its network: nobody ends its connections, and nothing may wait for it for ever."""
import os

import pytest

from lib.cluster import CliError
from lib.io_load import Writer
from lib.network import Network
from lib.waiting import wait_for


def open_replicas(node):
    """Data files that a node's replica servers have open, removed ones included."""
    found = []
    for pid in node.replica_servers():
        found += [link for link in map(os.readlink, (entry.path for entry in os.scandir(f"/proc/{pid}/fd")))
                  if link.startswith(f"{node.drive}/") and "/data" in link]
    return found


@pytest.fixture
def network(workspace):
    made = Network(workspace, 3)
    yield made
    made.remove()


def test_the_connections_of_a_writer_that_lost_its_power_are_ended(workspace, network, make_cluster):
    """Bug guarded against: a replica server kept them, and with them a removed replica's space, for ever."""
    cluster = make_cluster(network=network, times={"lease-ttl-ms": 2000})
    writer, others = cluster[0], cluster.nodes[1:]
    writer.weft("volume", "create", "db", "--size", "64MiB", "--opt", "replicas=3")
    load = Writer(workspace, writer.weft("volume", "attach", "db")["nbd_uri"])
    load.stop()
    assert all(open_replicas(node) for node in others)
    for number in (2, 3):
        network.cut(1, number)
        network.cut(number, 1)
    writer.power_off()
    wait_for(lambda: not any(open_replicas(node) for node in others), 60, "the dead writer's connections to be ended")
    wait_for(lambda: (others[0].weft("volume", "rm", "db"), True), 30, "the lease to run out", retry_on=(CliError,))
