# SPDX-License-Identifier: Apache-2.0
"""A second writer fences the first; a writer that is alive is refused by name; an expired one is taken over
(R1, R2, R5)."""
import signal
import time

import nbd
import pytest

from lib import belongings
from lib.cluster import CliError
from lib.io_load import Writer
from lib.waiting import assert_stays, wait_for


def attach(node, *flags):
    return node.weft("volume", "attach", "db", *flags)


def test_a_forced_second_writer_fences_the_first_and_finds_everything_it_acknowledged(workspace, cluster):
    first, second = cluster[0], cluster[1]
    first.weft("volume", "create", "db", "--size", "64MiB", "--opt", "replicas=3")
    old = attach(first)
    load = Writer(workspace, old["nbd_uri"])
    try:
        load.wait_progress(200)
        new = attach(second, "--force")
        served = time.monotonic()
        assert new["epoch"] > old["epoch"]
        at_that_time = load.count()
        wait_for(lambda: load.errors or load.process.poll() is not None, 30, "the first writer to be told")
        # Acknowledged before the new epoch was served, but read from the pipe a moment after: a handful at most.
        assert load.count() - at_that_time <= 5, "the first writer went on after it was fenced"
        final = load.count()
        assert_stays(lambda: load.count() == final, 3, "no acknowledgement after the fence")
        assert all(at < served + 1 for _, at in load.acknowledged)
    finally:
        load.stop()
    load.assert_nothing_lost(new["nbd_uri"])
    with pytest.raises(nbd.Error):
        handle = nbd.NBD()
        handle.connect_uri(old["nbd_uri"])
        handle.pwrite(b"\0" * 4096, 0)
    load.assert_nothing_lost(new["nbd_uri"])
    wait_for(lambda: not first.volume_servers(), 30, "the first attachment to be torn down")
    second.weft("volume", "detach", "db")
    cluster.assert_replicas_equal("db")


def test_a_living_writer_is_not_displaced_and_is_named(cluster):
    first, second = cluster[0], cluster[1]
    first.weft("volume", "create", "db", "--size", "64MiB")
    attach(first)
    with pytest.raises(CliError) as refused:
        attach(second)
    assert first.name in refused.value.stderr
    assert first.volume("db")["writer"] == first.name
    with pytest.raises(CliError) as refused:
        second.weft("volume", "rm", "db")
    assert first.name in refused.value.stderr
    first.weft("volume", "detach", "db")
    attach(second)
    assert second.volume("db")["writer"] == second.name


def test_a_dead_writers_volume_is_taken_over_when_its_lease_has_run_out(workspace, cluster):
    first, second = cluster[0], cluster[1]
    first.weft("volume", "create", "db", "--size", "64MiB", "--opt", "replicas=3")
    load = Writer(workspace, attach(first)["nbd_uri"])
    try:
        load.wait_progress(200)
        first.power_off()
    finally:
        load.stop()
    with pytest.raises(CliError) as refused:
        attach(second)
    assert first.name in refused.value.stderr
    new = wait_for(lambda: attach(second), 30, "the lease to run out", interval=0.3, retry_on=(CliError,))
    load.assert_nothing_lost(new["nbd_uri"])
    first.start()
    cluster.wait_up_to_date("db", node=second)
    second.weft("volume", "detach", "db")
    cluster.assert_replicas_equal("db")


def test_the_old_writer_that_comes_back_from_a_pause_gets_errors_only(workspace, cluster):
    """The whole of the first node hangs (SIGSTOP of weftd), so that its lease runs out while its engine still runs."""
    first, second = cluster[0], cluster[1]
    first.weft("volume", "create", "db", "--size", "64MiB", "--opt", "replicas=3")
    load = Writer(workspace, attach(first)["nbd_uri"])
    try:
        load.wait_progress(100)
        belongings.stop(first.weftd.pid)
        try:
            new = wait_for(lambda: attach(second), 30, "the lease to run out", interval=0.3, retry_on=(CliError,))
            wait_for(lambda: load.errors or load.process.poll() is not None, 30, "the first writer to be told")
            final = load.count()
            assert_stays(lambda: load.count() == final, 2, "no acknowledgement after the fence")
        finally:
            first.weftd.send_signal(signal.SIGCONT)
    finally:
        load.stop()
    load.assert_nothing_lost(new["nbd_uri"])
    wait_for(lambda: not first.volume_servers(), 30, "the first attachment to be torn down")
