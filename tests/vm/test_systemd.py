# SPDX-License-Identifier: Apache-2.0
"""The Debian package on a machine with systemd: order at boot, servers that outlive weftd, the end of the day.

One node: what is looked at here is the machine, not the cluster.
"""
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from harness import docker
from lib.waiting import wait_for

REPOSITORY = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("BUILD", "build"))
BUILD = BUILD if BUILD.is_absolute() else REPOSITORY / BUILD
MIB = 1 << 20
CONFIG = """node = alpha
host = 127.0.0.1
store = sqlite:/var/lib/weft/cluster.db
"""
MOUNT = """[Mount]
What=/dev/disk/by-id/virtio-{disk}
Where={where}
Type=ext4
[Install]
WantedBy=local-fs.target
"""
# The store wants a file system with O_TMPFILE, which the guest's own overlay is not.
GUEST = docker.arguments(
    persistent=True, memory=1280,
    disks={"lent": {"size": 1 << 30, "label": "lent"}, "state": {"size": 1 << 28, "label": "state"}},
    files={"/etc/weft/weftd.conf": CONFIG,
           "/etc/systemd/system/srv-lent.mount": MOUNT.format(disk="lent", where="/srv/lent"),
           "/etc/systemd/system/var-lib-weft.mount": MOUNT.format(disk="state", where="/var/lib/weft")},
    enable=["srv-lent.mount", "var-lib-weft.mount", "systemd-modules-load.service"])
SERVERS = ("weft-replica@*.service", "weft-volume@*.service", "weft-nbdfuse@*.service")
pytestmark = pytest.mark.limit(1800)


@pytest.fixture(scope="module")
def package():
    """The Debian package, built now."""
    kept = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    done = subprocess.run(["make", "--no-print-directory", f"BUILD={BUILD}", "deb"], cwd=REPOSITORY, env=kept,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout
    found = sorted(BUILD.glob("weft_*.deb"))
    assert len(found) == 1, found
    return found[0]


@pytest.fixture
def newer_package(package, tmp_path):
    """The same with a version of its own: the package's, and what `weftd --version` says."""
    old, new = b"0.1.0\0", b"0.1.9\0"
    tree, made = tmp_path / "tree", tmp_path / "weft-newer.deb"
    subprocess.run(["dpkg-deb", "--raw-extract", package, tree], check=True)
    control, weftd = tree / "DEBIAN" / "control", tree / "usr" / "sbin" / "weftd"
    assert f"Version: {old[:-1].decode()}\n" in control.read_text() and old in weftd.read_bytes()
    control.write_text(control.read_text().replace("Version: 0.1.0\n", "Version: 0.1.9\n"))
    weftd.write_bytes(weftd.read_bytes().replace(old, new))
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Znone", "--build", tree, made], check=True, capture_output=True)
    return made


def show(guest, unit, *names):
    lines = guest.output(["systemctl", "show", unit, *(f"--property={name}" for name in names)]).splitlines()
    found = dict(line.split("=", 1) for line in lines)
    return [found[name] for name in names]


def server_pids(guest):
    """unit -> main pid of the data path's units that run."""
    units = [line.split()[0] for line in guest.output(
        ["systemctl", "list-units", "--plain", "--no-legend", "--state=active", *SERVERS]).splitlines()]
    return {unit: show(guest, unit, "MainPID")[0] for unit in units}


def weft(guest, *words):
    return json.loads(guest.output(["weft", "-o", "json", *words]))


@pytest.fixture
def node(guest, package):
    """The guest, with the package installed and its services enabled; the first test pays for it."""
    if guest.run("dpkg-query --status weft | grep -q 'install ok installed'", check=False).code != 0:
        guest.run(["dpkg", "--install", package], timeout=600)
        assert "weft" in guest.output("getent group weft")
        assert guest.output("systemctl is-enabled weftd.service || true") == "disabled", "enables nothing by itself"
        guest.run("systemctl enable weftd.service", timeout=300)
        guest.reboot()
        docker.import_busybox(guest)
        guest.wait_until("weft drive add /srv/lent", 120, "the node to be enrolled")
        guest.wait_until("weft -o json drive ls | grep -q '\"serving\":true'", 120, "the drive to be served")
        guest.run("docker volume create --driver weft --opt size=128MiB --opt replicas=1 orders", timeout=300)
    return guest


def run_writer(guest):
    """A container that writes a line per turn into the volume, and dies of the first error; one that runs is kept."""
    if guest.run("docker inspect --format '{{.State.Running}}' writer", check=False).stdout.strip() == "true":
        return wait_for_progress(guest)
    guest.run("docker rm --force writer >/dev/null 2>&1 || true", timeout=300)
    program = "n=0; while true; do n=$((n+1)); echo $n >/data/count; sync; sleep 0.2; done"
    guest.run(["docker", "run", "--detach", "--name", "writer", "--network", "none", "--volume", "orders:/data",
               "busybox", "sh", "-ec", program], timeout=300)
    wait_for_progress(guest)


def count(guest):
    return int(guest.output("cat /var/lib/weft/mounts/*/data/count") or 0)


def wait_for_progress(guest):
    """The container writes now."""
    seen = guest.run("cat /var/lib/weft/mounts/*/data/count", check=False).stdout.strip() or "0"
    guest.wait_until(f"test -n \"$(cat /var/lib/weft/mounts/*/data/count)\" && "
                     f"test \"$(cat /var/lib/weft/mounts/*/data/count)\" -gt {seen}", 120, "the container to write on")
    assert guest.output("docker inspect --format '{{.State.Running}}' writer") == "true"


def test_weftd_is_there_before_docker_and_nothing_failed(node):
    assert node.output("systemctl is-active weft-plugin.socket weft-admin.socket weftd.service docker.service "
                       "weft-shutdown.service").split() == ["active"] * 5
    ready, = show(node, "weftd.service", "ActiveEnterTimestampMonotonic")
    docker_began, = show(node, "docker.service", "InactiveExitTimestampMonotonic")
    socket, = show(node, "weft-plugin.socket", "ActiveEnterTimestampMonotonic")
    assert 0 < int(socket) < int(ready) < int(docker_began)
    assert node.output("systemctl --failed --plain --no-legend") == ""
    assert "weftd.service" in node.output("systemctl status weftd.service | cat")
    assert re.search(r"node alpha: \d+ volumes attached", show(node, "weftd.service", "StatusText")[0])
    assert node.output("stat -c '%a %G' /run/weft/weftd.sock /run/docker/plugins/weft.sock").splitlines() == \
        ["660 weft", "600 root"]


def test_servers_are_units_of_their_own_and_cannot_be_chosen_by_the_oom_killer(node):
    run_writer(node)
    pids = server_pids(node)
    assert {unit.split("@")[0] for unit in pids} == {"weft-replica", "weft-volume"}
    for unit, pid in pids.items():
        assert f"/weft.slice/{unit}" in node.output(f"cat /proc/{pid}/cgroup"), unit
        assert node.output(f"cat /proc/{pid}/oom_score_adj") == "-1000"
        assert node.output(f"tr '\\0' ' ' </proc/{pid}/cmdline").split()[0].endswith(("nbdkit", "nbdfuse"))


def test_an_encrypted_volume_works_in_the_sandbox_of_the_unit_and_bears_the_volume_s_name(node):
    """libcryptsetup, keyring and modules in the sandbox of the unit; the clear device under the package's rules."""
    node.run("test \"$(stat -c %a /etc/weft/keys)\" = 700; "
             "umask 377; head -c 64 /dev/urandom >/etc/weft/keys/default.key")
    node.run("docker volume create --driver weft --opt size=64MiB --opt replicas=1 --opt encrypt=on secret",
             timeout=300)
    using = ["docker", "run", "--network", "none", "--volume", "secret:/data"]
    node.run([*using, "--rm", "busybox", "sh", "-ec", "echo kept >/data/file; sync"], timeout=300)
    node.run([*using, "--detach", "--name", "holder", "busybox", "sleep", "3600"], timeout=300)
    assert node.output("docker exec holder cat /data/file").strip() == "kept"
    node.run("udevadm settle", timeout=300)
    clear = node.output("readlink -f /dev/mapper/weft-secret:crypt").strip()
    assert node.output("readlink -f /dev/weft/secret").strip() == clear
    assert node.output(f"findmnt --noheadings --output TARGET --source {clear} | head -n 1").strip()
    assert "SYSTEMD_READY=1" in node.output(f"udevadm info --query=property {clear}")
    node.run("docker rm --force holder && docker volume rm secret", timeout=300)
    assert "crypt" not in node.output("dmsetup ls")


@pytest.mark.parametrize("how", [
    "systemctl restart weftd.service", "systemctl kill --signal=KILL weftd.service",
    "systemctl stop weftd.service; systemctl daemon-reload; systemctl start weftd.service"])
def test_servers_and_containers_do_not_notice_the_end_of_weftd(node, how):
    run_writer(node)
    before, weftd = server_pids(node), show(node, "weftd.service", "MainPID")
    node.run(how, timeout=300)
    node.wait_until("systemctl is-active weftd.service && weft status", 120, "weftd to be back")
    assert show(node, "weftd.service", "MainPID") != weftd
    wait_for_progress(node)
    assert server_pids(node) == before


def test_an_upgrade_under_load_is_a_new_weftd_over_the_same_servers(node, newer_package):
    """Containers stay, and what the old weftd began the new one ends: here, an unmount."""
    run_writer(node)
    before, dockerd = server_pids(node), show(node, "docker.service", "MainPID")
    node.run(["dpkg", "--install", newer_package], timeout=600)
    node.wait_until("systemctl is-active weftd.service && weft status", 120, "weftd to be back")
    [weftd] = show(node, "weftd.service", "MainPID")
    assert node.output(f"/proc/{weftd}/exe --version") == "weftd 0.1.9"
    wait_for_progress(node)
    assert server_pids(node) == before and show(node, "docker.service", "MainPID") == dockerd
    node.run("docker rm --force writer", timeout=300)
    wait_for(lambda: not weft(node, "volume", "inspect", "orders")["writer"], 120, "the volume to be let go of")
    # The next server is the newer one's.
    run_writer(node)
    assert server_pids(node).keys() == before.keys()


def test_docker_waits_for_a_weftd_that_is_away(node):
    """Its request stays in the socket, and starts weftd."""
    node.run("systemctl stop weftd.service", timeout=120)
    assert "orders" in node.output("docker volume ls --quiet", timeout=120)
    assert node.output("systemctl is-active weftd.service") == "active"


def test_nobody_looks_into_a_volume(node):
    run_writer(node)
    [nbd] = node.output("cd /sys/block; grep -l ^weft: nbd*/backend | cut -d/ -f1").split()
    for device, role in (("/dev/weft/orders", "volume"), (f"/dev/{nbd}", "part")):
        seen = dict(line.split("=", 1) for line in node.output(
            ["udevadm", "info", "--query=property", device]).splitlines() if "=" in line)
        assert seen["WEFT_DEVICE"] == role and seen["UDISKS_IGNORE"] == "1"
        assert "ID_FS_TYPE" not in seen and "/dev/disk/by-" not in seen.get("DEVLINKS", "")
    assert node.output("readlink -f /dev/weft/orders") == node.output("readlink -f /dev/mapper/weft-orders")
    assert node.output(f"cat /sys/block/{nbd}/queue/scheduler").startswith("[none]")


def test_a_shutdown_with_a_container_at_work_is_orderly(node):
    run_writer(node)
    written = count(node)
    seconds = node.shutdown()
    journal = node.journal.read_text(errors="replace")
    node.start()
    assert "hung task" not in journal and "blocked for more than" not in journal
    assert seconds < 150, "TCG is slow; no time-out of 90 s may have struck twice"
    # Nothing is attached by the boot itself, and the volume was let go of in order: clean, without a writer.
    orders = weft(node, "volume", "inspect", "orders")
    assert orders["clean"] and not orders["writer"]
    read = node.output("docker run --rm --network none --volume orders:/data busybox cat /data/count", timeout=300)
    assert int(read) >= written


def test_what_docker_left_is_let_go_of_as_the_machine_goes_down(node):
    """dockerd is killed, so nothing is given back; its container dies with the machine."""
    run_writer(node)
    node.run("systemctl kill --signal=KILL docker.service; weft volume create --replicas 1 --size 64MiB by-hand && "
             "weft volume attach by-hand", timeout=300)
    node.shutdown()
    node.start()
    for name in ("orders", "by-hand"):
        volume = weft(node, "volume", "inspect", name)
        assert volume["clean"] and not volume["writer"], name
    assert wait_for(lambda: not server_pids(node).keys() - {
        unit for unit in server_pids(node) if unit.startswith("weft-replica")}, 60, "no volume server to be left")


def test_a_stop_of_the_shutdown_unit_by_hand_takes_nothing_away(node):
    run_writer(node)
    before = server_pids(node)
    node.run("systemctl stop weft-shutdown.service", timeout=120)
    wait_for_progress(node)
    assert server_pids(node) == before
    node.run("systemctl start weft-shutdown.service")


def test_a_removal_is_refused_while_a_volume_is_attached(node):
    run_writer(node)
    refused = node.run("dpkg --remove weft", check=False, timeout=300)
    assert refused.code != 0 and "volumes are attached on this node" in refused.stdout + refused.stderr
    wait_for_progress(node)


def test_a_look_at_a_replica_is_a_read_only_device_that_is_gone_afterwards(node):
    run_writer(node)
    replica = weft(node, "volume", "inspect", "orders")["extents"][0]["replicas"][0]["id"]
    connected = node.output("ls -d /sys/block/nbd*/pid")  # the volume's own
    said = node.output(["weft-nbd-attach", "replica", replica, "--", "sh", "-ec",
                        "blockdev --getro $WEFT_DEVICE; udevadm settle; blkid -p -s TYPE -o value $WEFT_DEVICE; "
                        "udevadm info --query=property $WEFT_DEVICE; "
                        "dd if=/dev/zero of=$WEFT_DEVICE bs=4096 count=1 oflag=direct 2>&1 && echo WRITTEN || true"],
                       timeout=300)
    lines = said.splitlines()
    assert lines[:2] == ["1", "ext4"] and "WRITTEN" not in lines
    assert "UDISKS_IGNORE=1" in lines and not any(line.startswith("ID_FS_") for line in lines)
    assert node.output("ls -d /sys/block/nbd*/pid") == connected, "the look's device is left connected"
    assert node.output("ls /run/weft-looks") == ""
    wait_for_progress(node)
