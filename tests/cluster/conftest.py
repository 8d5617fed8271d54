# SPDX-License-Identifier: Apache-2.0
"""What the cluster tests share: one workspace for the session, a fresh cluster per test, logs when a test fails.

Every test that used `cluster` is followed by a check that what belongs to the workspace is gone: processes, mounts,
loop devices and plugin sockets.
"""
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib import belongings  # noqa: E402
from lib.cluster import BUILD, Cluster  # noqa: E402
from lib.docker import Docker  # noqa: E402
from lib.workspace import Workspace  # noqa: E402


def pytest_configure(config):
    config.addinivalue_line("markers", "limit(seconds): how long the test may take; 150 unless told")
    if os.geteuid() != 0:
        raise pytest.UsageError("the cluster tests mount and start a Docker Engine: run them as root")
    for program in ("weftd", "weft", "nbdkit-weft-replica-plugin.so", "nbdkit-weft-volume-plugin.so"):
        if not (BUILD / program).exists():
            raise pytest.UsageError(f"{BUILD / program} is missing: run make first (BUILD names the folder)")


@pytest.fixture(autouse=True)
def time_limit(request):
    """A test that hangs fails, with its logs; it does not hang the suite."""
    marker = request.node.get_closest_marker("limit")
    seconds = marker.args[0] if marker else 150

    def over(_number, _frame):
        raise AssertionError(f"the test took longer than {seconds} s")
    signal.signal(signal.SIGALRM, over)
    signal.alarm(seconds)
    yield
    signal.alarm(0)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.failed and call.when != "teardown":
        item.failed = True
        for cluster in getattr(item, "clusters", []):
            report.sections.append(("cluster", describe(cluster)))


def describe(cluster):
    """What helps to understand a failure: records, events, ends of all logs."""
    parts = []
    for node in cluster.nodes:
        if node.weftd and node.weftd.poll() is None:
            try:
                for arguments in (("volume", "ls"), ("events", "-n", "60")):
                    parts.append(f"--- {node.name}: weft {' '.join(arguments)}\n"
                                 + node.try_weft(*arguments, timeout=10).stdout)
                break
            except Exception as problem:  # a report must not hide the failure it reports
                parts.append(f"--- {node.name}: no answer: {problem}")
    for directory, below, names in os.walk(cluster.path):
        below[:] = [name for name in below if name not in ("fuse", "mounts", "replicas")]  # may hang or be dead
        for log in sorted(Path(directory) / name for name in names if name.endswith(".log")):
            text = log.read_text(errors="replace").splitlines()
            parts.append(f"--- {log}\n" + "\n".join(text[-60:]))
    return "\n".join(parts)


@pytest.fixture(scope="session")
def workspace():
    with Workspace("t") as made:
        yield made


@pytest.fixture
def make_cluster(workspace, request):
    """make_cluster(**how) starts a cluster; it is taken away after the test, and checked."""
    made = []
    request.node.clusters = made

    def make(start=True, drives=True, **how):
        assert not made, "one cluster per test"
        cluster = Cluster(workspace, **how)
        made.append(cluster)
        return cluster.start(drives=drives) if start else cluster

    yield make
    for cluster in made:
        cluster.stop()
        left = [f"process {' '.join(belongings.command_line(pid))}"
                for pid in belongings.processes_of(cluster.path)]
        left += belongings.mounts_of(cluster.path) + belongings.loops_of(cluster.path)
        keep = os.environ.get("WEFT_KEEP_FAILED")
        if keep and getattr(request.node, "failed", False):
            shutil.copytree(cluster.path, Path(keep) / request.node.name, dirs_exist_ok=True,
                            ignore=shutil.ignore_patterns("data", "fuse", "mounts", "*.sock"))
        shutil.rmtree(cluster.path)
        assert not left, f"cannot be taken away: {left}"


@pytest.fixture
def cluster(make_cluster):
    """Three nodes with a drive each."""
    return make_cluster()


@pytest.fixture(scope="session")
def engine(workspace):
    """One private Docker Engine for all tests, with the busybox image."""
    docker = Docker(workspace)
    try:
        docker.start()
        docker.import_busybox()
        yield docker
    finally:
        docker.stop()


@pytest.fixture(scope="session")
def other_engine(workspace):
    """A second Docker, that of another node."""
    docker = Docker(workspace, "docker2")
    try:
        docker.start()
        docker.import_busybox()
        yield docker
    finally:
        docker.stop()
