# SPDX-License-Identifier: Apache-2.0
"""The fixtures of the cluster tests, for tests that run inside a guest, on a kernel with nbd and device-mapper."""
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TESTS), str(TESTS / "cluster")]

from cluster.conftest import *  # noqa: E402,F401,F403
from kernel_devices import assert_nothing_left, cut_devices, tell_state, use_kernel  # noqa: E402
from lib.cluster import new_mount_id  # noqa: E402
from lib.plugin_client import PluginError  # noqa: E402
from lib.waiting import wait_for  # noqa: E402


@pytest.fixture
def kernel_cluster(make_cluster, request):
    """Three nodes on one kernel, each with devices of its own; volumes are attached by nbd and device-mapper."""
    made = []

    def make(**how):
        cluster = make_cluster(start=False, **how)
        made.append(cluster)
        for node in cluster.nodes:
            use_kernel(node)
        return cluster.start()
    yield make
    if getattr(request.node, "failed", False):
        for cluster in made:
            tell_state()
            # A device without a server waits for ever, and so would whoever takes the cluster away.
            cut_devices(cluster)


@pytest.fixture
def mounted(cluster):
    """mounted(name, **options) creates and mounts on the first node; it is unmounted and removed afterwards."""
    node, made = cluster[0], []

    def make(name, **options):
        node.plugin.create(name, **options)
        mount_id = new_mount_id()
        path = node.plugin.mount(name, mount_id)
        made.append((name, mount_id))
        return Path(path)
    yield make
    for name, mount_id in made:
        node.plugin.unmount(name, mount_id)
        # On a busy machine the store's disk may keep a change waiting for longer than weftd does.
        wait_for(lambda name=name: node.plugin.remove(name) or True, 120, f"{name} to be removed",
                 retry_on=(PluginError,))
    assert_nothing_left(node)
    cluster.assert_no_leaks(60)
