# SPDX-License-Identifier: Apache-2.0
"""`docker run -v` on a striped and on a mirrored volume over three storage nodes, one of which dies in each way that
there is: its programs, its drive, its network. The container meets no error; afterwards everything is up to date.

The nodes share a kernel (harness/nodes.py), so "its network" is that of its replicas: the store is a file here.
"""
import pytest

from harness import docker
from harness import nodes as weft_nodes
from lib.waiting import wait_for

VOLUMES = {"striped": ("replicas=3", "stripes=2"), "mirror": ("layout=mirrored",)}
GUEST = docker.arguments(memory=1536, disks=weft_nodes.disks(("n1", "n2", "n3")))
# Ends with the first error. When the mirror's log has a line, both have those before it on their disks.
PROGRAM = """n=0
while true; do
    n=$((n+1))
    for volume in striped mirror; do echo $n >>/$volume/log; sync /$volume/log; done
done"""
pytestmark = pytest.mark.limit(1800)


class Writer:
    """The container and what it has put into its volumes."""

    def __init__(self, guest):
        self.guest = guest
        guest.run(["docker", "run", "--detach", "--name", "writer", "--network", "none",
                   *(word for name in VOLUMES for word in ("--volume", f"{name}:/{name}")),
                   "busybox", "sh", "-ec", PROGRAM], timeout=300)
        self.folders = {name: guest.output(["docker", "volume", "inspect", "--format", "{{.Mountpoint}}", name])
                        for name in VOLUMES}
        self.process = guest.output(["docker", "inspect", "--format", "{{.State.Pid}}", "writer"])
        for name, folder in self.folders.items():
            guest.run(f"head -c 4M /dev/urandom >{folder}/much && sync {folder}/much && "
                      f"md5sum <{folder}/much >/run/{name}.md5")

    def steps(self):
        """How many are on the disks of both volumes. docker's own programs take seconds to say so in a guest."""
        return int(self.guest.output(f"tail -n 1 {self.folders['mirror']}/log || true") or 1) - 1

    def wait_progress(self, what, more=5):
        goal = self.steps() + more

        def went_on():
            if self.guest.run(["test", "-d", f"/proc/{self.process}"], check=False).code != 0:
                raise AssertionError(self.guest.output("docker logs --tail 5 writer 2>&1"))
            return self.steps() >= goal
        wait_for(went_on, 300, what, interval=0.5)

    def assert_nothing_lost(self):
        """Read from the devices, while it writes on."""
        steps = self.steps()
        for name, folder in self.folders.items():
            self.guest.run(f"sync -f {folder}; echo 3 >/proc/sys/vm/drop_caches; md5sum <{folder}/much | "
                           f"cmp - /run/{name}.md5; head -n {steps} {folder}/log | cmp - <(seq {steps})", timeout=300)


@pytest.fixture(scope="module")
def started(ready_guest):
    guest = ready_guest()
    nodes = weft_nodes.Nodes(guest).up()
    docker.import_busybox(guest)
    for name, options in VOLUMES.items():
        guest.run(["docker", "volume", "create", "--driver", "weft", "--opt", "size=32MiB",
                   *(word for option in options for word in ("--opt", option)), name], timeout=300)
    return nodes, Writer(guest)


def servers_killed(nodes, victim):
    nodes.kill_servers(victim)
    yield
    nodes.start(victim)


def drive_pulled(nodes, victim):
    nodes.guest.pull(victim)
    yield
    # What an administrator does. A server that saw the file system die has its files open until it ends.
    nodes.kill_servers(victim)
    nodes.guest.run(f"umount /srv/{victim}")
    nodes.guest.plug(victim)
    nodes.mount_drive(victim)
    nodes.start(victim)


def network_cut(nodes, victim):
    nodes.isolate(victim)
    yield
    nodes.rejoin(victim)


@pytest.mark.parametrize("death", [servers_killed, network_cut, drive_pulled])
def test_a_container_goes_on_while_a_storage_node_is_dead(guest, started, death):
    nodes, writer = started
    writer.wait_progress("the container to write")
    [victim] = {replica["node"] for replica in nodes.replicas("mirror")} - {"n1"}
    life = death(nodes, victim)
    next(life)
    nodes.wait_demoted(victim, *VOLUMES)
    writer.wait_progress(f"the container to write on without {victim}")
    writer.assert_nothing_lost()
    next(life, None)
    nodes.wait_serving(victim)
    nodes.wait_up_to_date(*VOLUMES)
    nodes.wait_mirrors_in_sync("mirror")
    writer.wait_progress("the container to write on with all nodes")
    writer.assert_nothing_lost()
    assert guest.run("dmesg | grep -E 'hung task|blocked for more than|EXT4-fs error.*dm-'", check=False).stdout == ""
