# SPDX-License-Identifier: Apache-2.0
"""The fixtures of the cluster tests, for tests that run inside a guest, on a kernel with nbd and device-mapper."""
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TESTS), str(TESTS / "cluster")]

from cluster.conftest import *  # noqa: E402,F401,F403
from kernel_devices import use_kernel  # noqa: E402


@pytest.fixture
def kernel_cluster(make_cluster):
    """Three nodes on one kernel, each with devices of its own; volumes are attached by nbd and device-mapper."""
    def make(**how):
        cluster = make_cluster(start=False, **how)
        for node in cluster.nodes:
            use_kernel(node)
        return cluster.start()
    return make
