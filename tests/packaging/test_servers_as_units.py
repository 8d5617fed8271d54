# SPDX-License-Identifier: Apache-2.0
"""Servers that a service manager starts: the same identities, the same answer to kill -9 of weftd at any instant."""
import itertools
import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest
from conftest import REPOSITORY, run
from lib import belongings
from lib.cluster import BUILD
from lib.waiting import wait_for
from service_rig import Service

names = itertools.count()


class UnitService(Service):
    """A weftd that starts its servers as units of fake_systemctl."""

    def __init__(self, workspace, name):
        super().__init__(workspace, name)
        self.units = self.path / "units"
        (self.units / "bin").mkdir(parents=True)
        shutil.copy(REPOSITORY / "tests/packaging/fake_systemctl", self.units / "bin/systemctl")
        self.drive = self.path / "drive"
        self.drive.mkdir()
        self.write(supervisor="systemd", lease_ttl_ms=4000)

    def environment(self):
        return {"FAKE_SYSTEMD": self.units, "FAKE_RUNTIME": self.path / "run", "FAKE_WEFTD": BUILD / "weftd",
                "PATH": f"{self.units / 'bin'}:/usr/sbin:/usr/bin:/sbin:/bin"}

    def up(self):
        self.notify.forget()
        self.start(**self.environment())
        self.notify.wait_for("READY=1")
        return self

    def with_volume(self):
        wait_for(lambda: self.weft("drive", "add", self.drive).returncode == 0, 20, "the cluster to be enrolled")
        wait_for(lambda: "weft-replica" in self.pids(), 20, "the replica server")
        done = self.weft("volume", "create", "v", "--size", "32MiB", "--replicas", "1")
        assert done.returncode == 0, done.stderr
        return self

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def calls(self):
        return (self.units / "log").read_text().splitlines()

    def pids(self):
        return {file.name.split("@")[0]: int(file.read_text()) for file in self.units.glob("*.pid")}

    def records(self):
        return json.loads(self.weft("-o", "json", "volume", "ls").stdout)


@pytest.fixture
def service(workspace):
    made = UnitService(workspace, f"u{next(names)}")
    yield made
    belongings.take_away(made.path)
    if made.process:
        made.process.wait()


def identity(file):
    return int(Path(file).read_text().split()[0])


def test_servers_are_started_as_units_and_are_what_their_identities_say(service):
    service.up().with_volume()
    where = service.plugin.mount("v", "a" * 64)
    pids = service.pids()
    assert set(pids) == {"weft-replica", "weft-volume", "weft-nbdfuse"}
    run_dir = service.path / "run"
    volume = next((run_dir / "volumes").iterdir())
    assert identity(volume / "server.identity") == pids["weft-volume"]
    assert identity(volume / "nbdfuse.identity") == pids["weft-nbdfuse"]
    assert identity(next((run_dir / "drives").glob("*/server.identity"))) == pids["weft-replica"]
    for pid in pids.values():
        assert "NOTIFY_SOCKET" not in Path(f"/proc/{pid}/environ").read_text()
        assert os.readlink(f"/proc/{pid}/cwd") == "/" and os.readlink(f"/proc/{pid}/fd/0") == "/dev/null"
        assert "--launch" not in belongings.command_line(pid)
    limits = Path(f"/proc/{pids['weft-replica']}/limits").read_text()
    assert re.search(r"^Max stack size +524288 ", limits, re.MULTILINE)
    (Path(where) / "file").write_text("data")
    service.plugin.unmount("v", "a" * 64)
    wait_for(lambda: not list((run_dir / "volumes").iterdir()), 30, "the volume to be detached")


def test_a_killed_weftd_leaves_its_units_and_the_next_one_adopts_them(service):
    service.up().with_volume()
    where = service.plugin.mount("v", "a" * 64)
    before = service.pids()
    service.kill()
    (Path(where) / "file").write_text("written without weftd")
    service.up()
    assert service.pids() == before
    assert [call for call in service.calls() if call.startswith("start weft-volume")] == \
        [f"start weft-volume@{service.records()[0]['id']}.service"]
    service.plugin.unmount("v", "a" * 64)
    wait_for(lambda: not list((service.path / "run/volumes").iterdir()), 30, "the volume to be detached")


def test_a_start_that_outlives_its_weftd_is_ended_by_the_next(service):
    """Killed while systemd starts the volume server: no lock is held any more, and the server is not there yet."""
    service.up().with_volume()
    (service.units / "hang").touch()
    # The mount will get no answer: ask in a process that may be killed.
    asking = os.fork()
    if asking == 0:
        try:
            service.plugin.mount("v", "a" * 64)
        finally:
            os._exit(0)
    wait_for(lambda: list(service.units.glob("weft-volume*.job")), 30, "the start to be under way")
    service.kill()
    os.waitpid(asking, 0)
    service.up()
    (service.units / "hang").unlink()
    stops = [call for call in service.calls() if call.startswith("stop weft-volume")]
    assert len(stops) >= 2, "once before the start, once by the next weftd"
    assert "weft-volume" not in service.pids()
    where = service.plugin.mount("v", "b" * 64)
    (Path(where) / "file").write_text("data")
    service.plugin.unmount("v", "b" * 64)


def test_a_server_that_cannot_be_started_is_reported_with_its_words(service):
    service.write(libexec_dir=service.path / "libexec")
    (service.path / "libexec").mkdir()
    for plugin in BUILD.glob("nbdkit-weft-*-plugin.so"):
        shutil.copy(plugin, service.path / "libexec")
    service.up().with_volume()
    (service.path / "libexec/nbdkit-weft-volume-plugin.so").write_text("not a plugin")
    done = service.weft("volume", "attach", "v")
    assert done.returncode != 0
    assert "volume server of 'v' ended at once" in done.stderr and "nbdkit" in done.stderr


def test_let_go_takes_down_what_docker_never_gave_back(service):
    service.up().with_volume()
    where = service.plugin.mount("v", "a" * 64)
    (Path(where) / "file").write_text("data")
    service.stop()
    assert belongings.mounts_of(service.path)
    done = run(BUILD / "weftd", "--config", service.config, "--let-go", "10",
               env=service.workspace.environment(**service.environment()))
    assert done.returncode == 0
    assert not belongings.mounts_of(service.path) and not belongings.loops_of(service.path)
    assert not list((service.path / "run/volumes").iterdir())
    service.up()
    assert not service.records()[0]["writer"], "released in order, not only torn down"


def test_let_go_is_refused_while_weftd_runs_and_leaves_what_is_held_by_name(service):
    service.up().with_volume()
    service.plugin.mount("v", "a" * 64)
    command = [BUILD / "weftd", "--config", service.config, "--let-go", "1"]
    environment = service.workspace.environment(**service.environment())
    refused = run(*command, check=False, env=environment)
    assert refused.returncode == 1 and "another weftd is using" in refused.stdout
    service.stop()
    holder = run("sh", "-c", "unshare --mount sleep 300 >/dev/null 2>&1 & echo $!", env=environment)
    pid = int(holder.stdout)
    wait_for(lambda: "sleep" in Path(f"/proc/{pid}/comm").read_text(), 20, "the holder to have its namespace")
    left = run(*command, check=False, env=environment)
    assert left.returncode == 1 and "volume v: " in left.stdout and "held" in left.stdout, left.stdout
    assert belongings.mounts_of(service.path), "nothing was taken from the holder"
    os.kill(pid, signal.SIGKILL)
    done = run(*command[:-1], "15", env=environment)
    assert done.returncode == 0 and not belongings.mounts_of(service.path)


def test_a_namespace_that_only_follows_ours_holds_nothing(service):
    """As systemd-udevd: a mount namespace of its own that is a slave of the machine's gets a copy of each mount."""
    run("mount", "--bind", service.path, service.path)
    run("mount", "--make-shared", service.path)
    follower = run("sh", "-c", "unshare --mount --propagation slave sleep 300 >/dev/null 2>&1 & echo $!",
                   env=service.workspace.environment())
    pid = int(follower.stdout)
    wait_for(lambda: "sleep" in Path(f"/proc/{pid}/comm").read_text(), 20, "the follower to have its namespace")
    service.up().with_volume()
    where = service.plugin.mount("v", "a" * 64)
    assert str(Path(where).parent) in Path(f"/proc/{pid}/mountinfo").read_text(), "it has the copy"
    service.plugin.unmount("v", "a" * 64)
    wait_for(lambda: not list((service.path / "run/volumes").iterdir()), 30, "the volume to be detached")
    os.kill(pid, signal.SIGKILL)
