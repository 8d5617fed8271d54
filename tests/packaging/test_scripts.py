# SPDX-License-Identifier: Apache-2.0
"""The administrator's scripts, against real clusters. What needs nbd in the kernel is in tests/vm."""
import json
import os
import re
import subprocess
import tarfile
from pathlib import Path

import pytest
from conftest import REPOSITORY, run
from lib.cluster import BUILD, Cluster
from lib.waiting import wait_for

SCRIPTS = REPOSITORY / "scripts"
ADMIN = ["weft-nbd-attach", "weft-report", "weft-evacuate"]


@pytest.fixture
def cluster(workspace, request):
    made = []

    def make(**how):
        made.append(Cluster(workspace, **how))
        return made[0].start()
    yield make
    for one in made:
        one.stop()
        run("rm", "-rf", one.path)


def script(name, *arguments, node=None, check=True, **more):
    environment = {**os.environ, "PATH": f"{BUILD}:/usr/sbin:/usr/bin:/sbin:/bin", **more}
    if node:
        environment["WEFT_SOCKET"] = str(node.admin_socket)
    done = subprocess.run([str(SCRIPTS / name), *map(str, arguments)], capture_output=True, text=True, timeout=120,
                          env=environment, stdin=subprocess.DEVNULL)
    assert not check or done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize("name", ADMIN + ["build-deb", "install-deps"])
def test_help_says_how_and_does_nothing(name):
    said = script(name, "--help").stdout
    assert name in said and "--help" in said or name in ("build-deb", "install-deps"), said
    assert "SPDX" not in said and "set -" not in said and len(said.splitlines()) >= 4


@pytest.mark.parametrize("name", ADMIN)
def test_an_installed_script_finds_its_library(root, name):
    assert run(root / "usr/sbin" / name, "--help").stdout == script(name, "--help").stdout


@pytest.mark.parametrize("arguments, said", [
    ([], "what to look at"), (["disk", "x"], "neither 'replica' nor 'extent'"), (["replica"], "which replica"),
    (["--write", "replica", "abcd"], "unknown option '--write'"), (["extent", "v"], "which extent"),
    (["replica", "xyz!"], "not the beginning of a replica's id"),
    (["extent", "v", "1x"], "not the number of an extent"),
    (["--runtime", "here", "extent", "v", "0"], "absolute directory")])
def test_nbd_attach_refuses_what_it_does_not_understand(arguments, said):
    done = script("weft-nbd-attach", *arguments, check=False)
    assert done.returncode == 1 and said in done.stderr


def nbdsh(uri, program, **more):
    return run("nbdsh", "--uri", uri, "-c", program, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}, **more)


def info(uri):
    return json.loads(run("nbdinfo", "--json", uri).stdout)["exports"][0]


def test_a_look_at_a_replica_or_an_extent_disturbs_nobody(cluster):
    made = cluster(nodes=2)
    node = made[0]
    node.weft("volume", "create", "v", "--size", "32MiB", "--replicas", "2")
    attached = node.weft("volume", "attach", "v")
    mark = b"weft" * 1024
    nbdsh(attached["nbd_uri"], f"h.pwrite({mark!r}, 0); h.flush()")
    before = node.volume("v")
    for replica in made.replicas("v"):
        uri = script("weft-nbd-attach", "--print", "replica", replica["id"][:8], node=node).stdout.strip()
        assert uri.endswith(f"/{replica['id']}")
        export = info(uri)
        assert export["is_read_only"] and "status=ok" in export.get("description", ""), export
        assert nbdsh(uri, "print(h.pread(4096, 0)[:4])").stdout.strip() == repr(bytearray(b"weft"))
        refused = nbdsh(uri, "h.pwrite(bytes(4096), 0)", check=False)
        assert refused.returncode != 0
    uri = script("weft-nbd-attach", "--print", "--runtime", node.runtime, "extent", "v", "0", node=node).stdout.strip()
    assert nbdsh(uri, "print(h.pread(4096, 0)[:4])").stdout.strip() == repr(bytearray(b"weft"))
    nbdsh(attached["nbd_uri"], f"h.pwrite({mark!r}, 8192); h.flush()")
    after = node.volume("v")
    assert (after["epoch"], after["health"], made.states("v")) == (before["epoch"], before["health"], {
        made[0].name: "up_to_date", made[1].name: "up_to_date"})
    for arguments, said in ((["extent", "v", "1"], "has 1 extents"), (["replica", "0000"], "no replica has an id"),
                            (["extent", "nosuch", "0"], "no such volume")):
        done = script("weft-nbd-attach", "--print", "--runtime", node.runtime, *arguments, node=node, check=False)
        assert done.returncode != 0 and said in done.stderr
    elsewhere = script("weft-nbd-attach", "--print", "--runtime", made[1].runtime, "extent", "v", "0", node=made[1],
                       check=False)
    assert elsewhere.returncode == 1 and f"its writer: {node.name}" in elsewhere.stderr
    if not Path("/sys/module/nbd").exists() and run("modprobe", "nbd", check=False).returncode != 0:
        done = script("weft-nbd-attach", "replica", made.replicas("v")[0]["id"], node=node, check=False)
        assert done.returncode == 1 and "this kernel has no nbd" in done.stderr and "--print" in done.stderr


SECRETS = ["s3cr3t-value", "hunter2", "MIIEvQIBADANBg", "tok-12345"]


def test_a_report_holds_what_helps_and_no_secret(cluster, tmp_path):
    made = cluster(nodes=1)
    node = made[0]
    node.weft("volume", "create", "v", "--size", "32MiB", "--replicas", "1")
    log = next((node.runtime / "drives").glob("*/server.log"))
    with open(log, "a") as more:
        more.write(f"a line for people\nconnecting with token={SECRETS[3]} to http://user:{SECRETS[1]}@host/\n"
                   f"-----BEGIN PRIVATE KEY-----\n{SECRETS[2]}\n-----END PRIVATE KEY-----\nafter\n")
    config = tmp_path / "weftd.conf"
    config.write_text(node.config.read_text() + f"store-password = {SECRETS[0]}\n# a remark\n")
    archive = tmp_path / "report.tar.gz"
    done = script("weft-report", "--output", archive, "--config", config, node=node)
    assert done.stdout.strip() == str(archive) and archive.stat().st_mode & 0o077 == 0
    with tarfile.open(archive) as tar:
        parts = {name.split("/", 1)[1]: tar.extractfile(name).read().decode(errors="replace")
                 for name in tar.getnames() if tar.getmember(name).isfile()}
    everything = "\n".join(parts.values())
    for secret in SECRETS:
        assert secret not in everything
    assert "store-password = (removed)" in parts["weftd.conf"] and f"node={node.name}" in parts["weftd.conf"]
    kept = next(text for name, text in parts.items() if name.endswith("server.log"))
    assert "a line for people" in kept and "token=(removed)" in kept and "\nafter\n" in kept
    assert json.loads(parts["cluster/volumes.json"])[0]["name"] == "v"
    assert json.loads(parts["cluster/events.json"]) and parts["versions/weft"].startswith("weft ")
    assert {"devices/lsblk", "mounts", "systemd/journal", "devices/dm-info"} <= set(parts)
    again = script("weft-report", "--output", archive, "--config", config, node=node, check=False)
    assert again.returncode == 1 and "exists already" in again.stderr


def test_a_report_of_a_node_without_weftd_says_so_in_its_parts(tmp_path):
    archive = tmp_path / "report.tar.gz"
    script("weft-report", "--output", archive, "--config", tmp_path / "none.conf", WEFT_SOCKET=str(tmp_path / "sock"))
    with tarfile.open(archive) as tar:
        name = next(name for name in tar.getnames() if name.endswith("cluster/status.json"))
        text = tar.extractfile(name).read().decode()
    assert "weftd cannot be reached" in text and re.search(r"exit code 3\)$", text.strip())


def test_evacuating_a_dead_node_leaves_every_volume_whole_elsewhere(cluster):
    made = cluster(nodes=3)
    here = made[0]
    for name in ("one", "two"):
        here.weft("volume", "create", name, "--size", "32MiB", "--replicas", "2")
        here.weft("volume", "attach", name)
        made.wait_up_to_date(name)
    gone = next(node for node in made.nodes[1:] if any(node.name in made.states(v) for v in ("one", "two")))
    alive = script("weft-evacuate", gone.name, node=here, check=False)
    assert alive.returncode == 1 and "is alive, and this weft cannot move replicas" in alive.stderr
    gone.kill_storage()
    wait_for(lambda: not next(n for n in here.weft("node", "ls") if n["name"] == gone.name)["alive"], 60,
             "the lease to run out")
    planned = script("weft-evacuate", "--plan", gone.name, node=here)
    assert "holds replicas of" in planned.stderr and any(gone.name in made.states(v) for v in ("one", "two"))
    done = script("weft-evacuate", "--forget", "--wait", "90", gone.name, node=here)
    assert f"no replica is left on {gone.name}" in done.stderr
    for name in ("one", "two"):
        states = made.states(name)
        assert gone.name not in states and list(states.values()) == ["up_to_date"] * 2
    assert gone.name not in [n["name"] for n in here.weft("node", "ls")]


def test_evacuating_refuses_what_would_take_something_away(cluster):
    made = cluster(nodes=2)
    here, other = made[0], made[1]
    here.weft("volume", "create", "v", "--size", "32MiB", "--replicas", "1")
    owner = made.node(made.replicas("v")[0]["node"])
    judge = other if owner is here else here
    owner.weft("volume", "attach", "v")
    used = script("weft-evacuate", owner.name, node=judge, check=False)
    assert used.returncode == 1 and f"volumes are used on {owner.name}: v" in used.stderr
    owner.weft("volume", "detach", "v")
    made.wait_detached("v", node=judge)
    owner.kill_storage()
    wait_for(lambda: not next(n for n in judge.weft("node", "ls") if n["name"] == owner.name)["alive"], 60,
             "the lease to run out")
    last = script("weft-evacuate", owner.name, node=judge, check=False)
    assert last.returncode == 1 and f"an up-to-date replica is only on {owner.name}: left alone" in last.stderr
    assert owner.name in made.states("v", node=judge)
    unknown = script("weft-evacuate", "nobody", node=judge, check=False)
    assert unknown.returncode == 1 and "no node 'nobody'" in unknown.stderr
