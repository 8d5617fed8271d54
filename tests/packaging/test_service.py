# SPDX-License-Identifier: Apache-2.0
"""weftd and its service manager: readiness, watchdog, sockets that are handed over."""
import fcntl
import itertools
import queue
import threading

import pytest
from lib.waiting import wait_for
from service_rig import Service

names = itertools.count()


@pytest.fixture
def service(workspace):
    made = Service(workspace, f"s{next(names)}")
    yield made
    if made.process and made.process.poll() is None:
        made.stop()


def test_ready_comes_when_both_sockets_answer_and_stopping_when_it_stops(service):
    service.start()
    service.notify.wait_for("READY=1")
    assert service.plugin_socket.exists() and service.weft("status").returncode == 0
    assert service.notify.wait_for("STATUS=node alpha: 0 volumes attached, 0 drives served")
    assert service.stop() == 0
    service.notify.wait_for("STOPPING=1")
    assert not service.plugin_socket.exists(), "its own socket"


def test_ready_comes_without_the_store(service):
    """A member of a cluster whose store is away starts all the same: dockerd, ordered after it, must not wait."""
    service.start()
    service.notify.wait_for("READY=1")
    wait_for(lambda: (service.path / "state/records.json").exists(), 20, "the copy of the records")
    service.notify.wait_for("WATCHDOG=1")
    service.stop()
    store = service.path / "cluster.db"
    store.rename(service.path / "away.db")
    service.notify.forget()
    service.start()
    service.notify.wait_for("READY=1")
    service.notify.wait_for("STATUS=node alpha: 0 volumes attached, 0 drives served; the cluster store does not answer")


def test_the_watchdog_hears_nothing_of_a_reconciler_that_hangs(service):
    """The planner reads the identity of every attached volume's server, for which it waits while one is being started
    (process.hpp): a start that never ends hangs it. weftd looks alive otherwise, and answers."""
    service.start()
    service.notify.wait_for("READY=1")
    drive = service.path / "drive"
    drive.mkdir()
    wait_for(lambda: service.weft("drive", "add", drive).returncode == 0, 20, "the cluster to be enrolled")
    service.notify.wait_for("STATUS=node alpha: 0 volumes attached, 1 drives served")
    assert service.weft("volume", "create", "v", "--size", "32MiB", "--replicas", "1").returncode == 0
    attached = service.weft("volume", "attach", "v")
    assert attached.returncode == 0, attached.stderr
    service.notify.wait_for("STATUS=node alpha: 1 volumes attached, 1 drives served")
    lock = next((service.path / "run/volumes").glob("*/server.identity.lock"))
    with open(lock) as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(queue.Empty):
            for _ in range(20):  # a turn that was under way may still be told
                service.notify.wait_for("WATCHDOG=1", timeout=8)
        assert service.weft("node", "ls").returncode == 0
    service.notify.wait_for("WATCHDOG=1")
    assert service.weft("volume", "detach", "v").returncode == 0


def test_requests_that_came_before_weftd_are_answered(service):
    """The socket exists first; weftd is started by the first request, which waits."""
    service.start_with_sockets()
    wait_for(service.plugin_socket.exists, 20, "the socket")
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(service.plugin.activate())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert answers == [{"Implements": ["VolumeDriver"]}] * 3
    assert service.weft("status").returncode == 0, "the admin socket was handed over, too"


def test_a_socket_that_was_handed_over_is_not_removed(service):
    service.start_with_sockets()
    wait_for(service.plugin_socket.exists, 20, "the socket")
    assert service.weft("status").returncode == 0
    before = service.plugin_socket.stat().st_ino, service.admin_socket.stat().st_ino
    service.notify.wait_for("READY=1")
    assert service.stop() == 0
    assert (service.plugin_socket.stat().st_ino, service.admin_socket.stat().st_ino) == before


def test_a_socket_at_another_path_is_refused_with_what_to_change(service):
    service.start_with_sockets(plugin_path=service.path / "other.sock")
    wait_for(service.admin_socket.exists, 20, "the socket")
    outcome = service.weft("status")
    assert outcome.returncode != 0
    assert service.process.wait(timeout=30) == 1
    assert f"a socket 'docker-plugin' that does not listen on {service.plugin_socket}: change ListenStream=" \
        in service.log()
