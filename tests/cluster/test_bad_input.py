# SPDX-License-Identifier: Apache-2.0
"""Bad input over the plugin socket, the CLI, the admin socket and the config file: each gets its own clear message (the
pattern names what was wrong) within seconds, and changes nothing: records, replica files and processes stay as they
were.
"""
import http.client
import json
import os
import re
import shutil
import subprocess
from contextlib import contextmanager

import pytest

from lib.cluster import BUILD, Cluster
from lib.plugin_client import raw, request
from lib.waiting import wait_for


@pytest.fixture(scope="module")
def cluster(workspace):
    """Two nodes, one existing volume `there`. Shared: no case changes anything."""
    made = Cluster(workspace, nodes=2)
    try:
        made.start()
        made[0].plugin.activate()
        made[0].plugin.create("there", size="32MiB")
        yield made
    finally:
        made.stop()
        shutil.rmtree(made.path)


@pytest.fixture
def node(cluster):
    """The first node; after the case everything must be as before."""
    before = state_of(cluster)
    yield cluster[0]
    assert cluster[0].weftd.poll() is None, cluster[0].log_tail()
    assert state_of(cluster) == before


def state_of(cluster):
    volumes = [{k: v for k, v in volume.items() if k != "from_cache"} for volume in cluster[0].weft("volume", "ls")]
    drives = sorted((d["id"], d["path"], d["replicas"]) for d in cluster[0].weft("drive", "ls"))
    files = sorted(str(path) for n in cluster.nodes for path in n.drive.rglob("*"))
    return volumes, drives, files, sorted(cluster[0].volume_servers())


# ---- the plugin socket ----
CREATE = {
    "slash": ({"Name": "a/b"}, "a/b"),
    "dot dot": ({"Name": ".."}, r"\.\."),
    "path out": ({"Name": "../../etc/passwd"}, "etc/passwd"),
    "leading dot": ({"Name": ".hidden"}, "hidden"),
    "leading dash": ({"Name": "-rf"}, "-rf"),
    "empty": ({"Name": ""}, "(?i)name"),
    "300 characters": ({"Name": "a" * 300}, "128"),
    "newline": ({"Name": "a\nb"}, r"a\\nb"),
    "nul": ({"Name": "a\0b"}, "(?i)name"),
    "space": ({"Name": "a b"}, "a b"),
    "umlaut": ({"Name": "bücher"}, "(?i)name"),
    "number": ({"Name": 5}, "(?i)Name"),
    "null": ({"Name": None}, "(?i)Name"),
    "no name": ({"Opts": {}}, "(?i)Name"),
    "size 0": ({"Name": "x", "Opts": {"size": "0"}}, "size"),
    "size negative": ({"Name": "x", "Opts": {"size": "-1"}}, "size.*-1"),
    "size 1e30": ({"Name": "x", "Opts": {"size": "1e30"}}, "size.*1e30"),
    "size with plural": ({"Name": "x", "Opts": {"size": "10 GiBs"}}, "size.*10 GiBs"),
    "size empty": ({"Name": "x", "Opts": {"size": ""}}, "size"),
    "size overflows": ({"Name": "x", "Opts": {"size": "99999999999999999999"}}, "size"),
    "size overflows by its suffix": ({"Name": "x", "Opts": {"size": "18446744073709551615TiB"}}, "size"),
    "size beyond the largest": ({"Name": "x", "Opts": {"size": "65TiB"}}, "size.*64"),
    "size too small for ext4": ({"Name": "x", "Opts": {"size": "1MiB"}}, "size.*ext4"),
    "size too small for xfs": ({"Name": "x", "Opts": {"size": "100MiB", "fs": "xfs"}}, "size.*xfs"),
    "unknown option": ({"Name": "x", "Opts": {"sise": "1GiB"}}, "sise.*size"),
    "replicas 0": ({"Name": "x", "Opts": {"replicas": "0"}}, "replicas.*0"),
    "replicas 4": ({"Name": "x", "Opts": {"replicas": "4"}}, "replicas.*4"),
    "replicas in letters": ({"Name": "x", "Opts": {"replicas": "two"}}, "replicas.*two"),
    "replicas more than nodes": ({"Name": "x", "Opts": {"size": "32MiB", "replicas": "3"}}, "(?i)3.*(node|2)"),
    "min-replicas beyond replicas": ({"Name": "x", "Opts": {"min-replicas": "3"}}, "min-replicas"),
    "fs unknown": ({"Name": "x", "Opts": {"fs": "btrfs"}}, "btrfs.*ext4"),
    "options are a list": ({"Name": "x", "Opts": ["size"]}, "Opts"),
    "option is a number": ({"Name": "x", "Opts": {"size": 5}}, "size|Opts"),
}


@pytest.mark.parametrize("body, pattern", CREATE.values(), ids=CREATE.keys())
def test_create(node, body, pattern):
    refused_by_plugin(node, "VolumeDriver.Create", json.dumps(body).encode(), pattern)


def refused_by_plugin(node, call, body, pattern):
    status, answer = request(node.plugin_socket, "POST", f"/{call}", body, timeout=30)
    text = json.loads(answer)["Err"]
    assert status >= 400 and re.search(pattern, text, re.DOTALL), f"{status} {text!r} lacks {pattern!r}"
    assert len(text) < 1000, "a message is for people"


BODIES = {
    "empty": b"",
    "cut": b'{"Name": "x", "Op',
    "no JSON": b"hello",
    "a list": b"[]",
    "null": b"null",
    "nested 10 000 deep": b'{"Name":' + b"[" * 10000 + b"]" * 10000 + b"}",
    "bad UTF-8": b'{"Name": "\xff\xfe"}',
    "two documents": b'{"Name":"x"}{"Name":"y"}',
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
@pytest.mark.parametrize("call", ["Create", "Mount", "Unmount", "Remove"])
def test_bodies(node, call, body):
    refused_by_plugin(node, f"VolumeDriver.{call}", body, ".")


CALLS = {
    "mount without ID": ("Mount", {"Name": "there"}, "ID"),
    "mount with empty ID": ("Mount", {"Name": "there", "ID": ""}, "ID"),
    "mount with an ID of 100 000 characters": ("Mount", {"Name": "there", "ID": "f" * 100000}, "ID"),
    "mount of an unknown volume": ("Mount", {"Name": "nosuch", "ID": "f" * 64}, "nosuch"),
    "mount of a path": ("Mount", {"Name": "../there", "ID": "f" * 64}, r"\.\./there"),
    "remove an unknown volume": ("Remove", {"Name": "nosuch"}, "nosuch"),
    "remove a path": ("Remove", {"Name": "a/../there"}, "there"),
    "get an unknown volume": ("Get", {"Name": "nosuch"}, "nosuch"),
    "path of an unknown volume": ("Path", {"Name": "nosuch"}, "nosuch"),
}


@pytest.mark.parametrize("call, body, pattern", CALLS.values(), ids=CALLS.keys())
def test_calls(node, call, body, pattern):
    refused_by_plugin(node, f"VolumeDriver.{call}", json.dumps(body).encode(), pattern)


def test_a_body_of_100_megabytes_is_refused_without_being_kept(node):
    def resident():
        with open(f"/proc/{node.weftd.pid}/status") as status:
            return int(re.search(r"VmRSS:\s+(\d+)", status.read())[1])
    before = resident()
    try:
        body = b'{"Name":"' + b"x" * 100_000_000
        status, _ = request(node.plugin_socket, "POST", "/VolumeDriver.Create", body, timeout=60)
        assert status == 413
    except (OSError, http.client.HTTPException):
        pass  # refused in the middle of sending: the connection is closed
    assert resident() - before < 50_000, "KiB"


def test_unmount_of_what_is_not_mounted_is_no_error(node):
    node.plugin.unmount("there", "e" * 64)


RAW = {
    "not HTTP": b"hello there\r\n\r\n",
    "header of a megabyte": b"POST /VolumeDriver.List HTTP/1.1\r\nX: " + b"y" * (1 << 20) + b"\r\n\r\n",
    "negative length": b"POST /VolumeDriver.List HTTP/1.1\r\nContent-Length: -5\r\n\r\n{}",
    "unknown call": b"POST /VolumeDriver.Explode HTTP/1.1\r\nHost:\r\nContent-Length: 2\r\n\r\n{}",
    "wrong method": b"GET /VolumeDriver.List HTTP/1.1\r\nHost:\r\n\r\n",
}


@pytest.mark.parametrize("data", RAW.values(), ids=RAW.keys())
@pytest.mark.parametrize("door", ["plugin", "admin"])
def test_raw_bytes(node, door, data):
    answer = raw(node.plugin_socket if door == "plugin" else node.admin_socket, data)
    assert re.match(rb"HTTP/1\.1 4\d\d ", answer) or answer == b"", answer[:200]


def test_a_thousand_connections_that_say_nothing_do_not_lock_others_out(node):
    import socket
    idle = []
    try:
        for _ in range(1000):
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.settimeout(0.2)
            try:
                connection.connect(str(node.plugin_socket))
                idle.append(connection)
            except OSError:
                connection.close()
        assert wait_for(lambda: node.plugin.get("there")["Name"] == "there", 30, "an answer", retry_on=(OSError,))
    finally:
        for connection in idle:
            connection.close()


# ---- the CLI ----
CLI = {
    "no command": ([], "weft --help"),
    "unknown group": (["volumes!"], "volumes!"),
    "unknown command": (["volume", "explode"], "explode"),
    "unknown flag": (["volume", "ls", "--frobnicate"], "frobnicate"),
    "create without a name": (["volume", "create"], "(?i)name"),
    "create with two names": (["volume", "create", "a1", "b1"], "b1"),
    "create with a bad name": (["volume", "create", "a/b"], "a/b"),
    "create what exists": (["volume", "create", "there"], "there.*exists"),
    "create with a bad size": (["volume", "create", "x", "--size", "10 GiBs"], "10 GiBs"),
    "option without a value": (["volume", "create", "x", "--opt", "size"], "size"),
    "unknown option": (["volume", "create", "x", "--opt", "color=red"], "color"),
    "inspect unknown": (["volume", "inspect", "nosuch"], "nosuch"),
    "repair unknown": (["volume", "repair", "nosuch"], "nosuch"),
    "repair with a bad name": (["volume", "repair", "../x"], r"\.\./x"),
    "recover without a replica": (["volume", "recover", "there"], "--from"),
    "recover from a replica that is not there": (["volume", "recover", "there", "--from", "1234"], "1234.*up_to_date"),
    "recover from three characters": (["volume", "recover", "there", "--from", "abc"], "abc.*4"),
    "forget a living node": (["node", "forget", "n2"], "n2.*alive"),
    "forget the node that is asked": (["node", "forget", "n1"], "n1.*alive"),
    "forget nobody": (["node", "forget"], "NODE"),
    "forget by force a living node": (["node", "forget", "n2", "--force"], "n2.*alive"),
    "rm unknown": (["volume", "rm", "nosuch"], "nosuch"),
    "attach unknown": (["volume", "attach", "nosuch"], "nosuch"),
    "detach what is not attached": (["volume", "detach", "there"], "there"),
    "drive with a relative path": (["drive", "add", "some/where"], "some/where"),
    "drive that is missing": (["drive", "add", "/nonexistent/drive"], "/nonexistent/drive"),
    "drive that is a device file": (["drive", "add", "/dev/null"], "/dev/null"),
    "drive that is the root": (["drive", "add", "/"], "/"),
    "rm of an unknown drive": (["drive", "rm", "00000000-0000-0000-0000-000000000000"], "00000000"),
    "rm of half a drive": (["drive", "rm", "ab"], "ab"),
    "events: zero": (["events", "-n", "0"], "0"),
    "events: a word": (["events", "-n", "many"], "many"),
    "output of a third kind": (["-o", "xml", "node", "ls"], "xml"),
}


@pytest.mark.parametrize("arguments, pattern", CLI.values(), ids=CLI.keys())
def test_cli(node, arguments, pattern):
    outcome = node.try_weft(*arguments, json_output="-o" not in arguments[:1], timeout=30)
    assert outcome.returncode not in (0, None) and outcome.returncode > 0, outcome
    assert re.search(pattern, outcome.stderr, re.DOTALL), f"{outcome.stderr!r} lacks {pattern!r}"
    assert "terminate called" not in outcome.stderr


def test_cli_without_a_daemon(workspace):
    missing = workspace.path / "nowhere.sock"
    outcome = subprocess.run([BUILD / "weft", "--socket", missing, "node", "ls"], capture_output=True, text=True)
    assert outcome.returncode > 0 and str(missing) in outcome.stderr and "weftd" in outcome.stderr


# ---- drives ----
@contextmanager
def small_file_system(directory, *options):
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", directory], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", directory], check=True)
        directory.rmdir()


def refused_drive(node, path, pattern):
    outcome = node.try_weft("drive", "add", path)
    assert outcome.returncode > 0, outcome.stdout
    assert str(path) in outcome.stderr and re.search(pattern, outcome.stderr), outcome.stderr


def test_a_drive_that_is_a_file(node):
    path = node.path / "plain-file"
    path.write_text("x")
    refused_drive(node, path, "(?i)director")
    assert path.read_text() == "x"


def test_a_drive_that_is_full(node):
    with small_file_system(node.path / "full") as path:
        with open(path / "filler", "wb", buffering=0) as filler:
            with pytest.raises(OSError):
                while True:
                    filler.write(b"x" * 4096)
        refused_drive(node, path, "(?i)space|full")


def test_a_drive_that_is_read_only(node):
    with small_file_system(node.path / "ro") as path:
        subprocess.run(["mount", "-o", "remount,ro", path], check=True)
        refused_drive(node, path, "(?i)read-only")


def test_a_drive_of_another_cluster(node):
    path = node.path / "foreign"
    path.mkdir()
    identity = json.loads((node.drive / "weft.json").read_text())
    identity.update(cluster="11111111-2222-4333-8444-555555555555", drive="11111111-2222-4333-8444-666666666666")
    (path / "weft.json").write_text(json.dumps(identity))
    refused_drive(node, path, "(?i)cluster")
    assert json.loads((path / "weft.json").read_text()) == identity


def test_a_drive_whose_identity_is_garbage(node):
    path = node.path / "garbage"
    path.mkdir()
    (path / "weft.json").write_text("{")
    refused_drive(node, path, r"weft\.json")
    assert (path / "weft.json").read_text() == "{"


def test_a_drive_of_another_node(cluster, node):
    refused_drive(node, cluster[1].drive, f"(?i){cluster[1].name}|serv|another")


def test_a_drive_twice(node):
    refused_drive(node, node.drive, "(?i)already")


def test_a_drive_with_replicas_is_not_removed(node):
    drive = next(d["id"] for d in node.weft("drive", "ls") if d["node"] == node.name)
    outcome = node.try_weft("drive", "rm", drive)
    assert outcome.returncode > 0 and re.search("(?i)replica", outcome.stderr), outcome.stderr


# ---- the admin socket ----
ADMIN = {
    "root": ("GET", "/", b"", 404, "/"),
    "unknown route": ("GET", "/v1/secrets", b"", 404, "secrets"),
    "next version": ("GET", "/v2/volumes", b"", 404, "v2"),
    "wrong method": ("PUT", "/v1/volumes", b"{}", 405, "PUT"),
    "delete of all": ("DELETE", "/v1/volumes", b"", 405, "DELETE"),
    "query that nobody knows": ("GET", "/v1/nodes?all=1", b"", 400, "all"),
    "events: n is text": ("GET", "/v1/events?n=x", b"", 400, "n"),
    "events: n is huge": ("GET", "/v1/events?n=99999999999999999999", b"", 400, "n"),
    "name with an encoded slash": ("GET", "/v1/volumes/a%2Fb", b"", 400, "a/b"),
    "name with an encoded zero": ("GET", "/v1/volumes/a%00b", b"", 400, "."),
    "broken percent sign": ("GET", "/v1/volumes/a%zz", b"", 400, "%"),
    "create: no body": ("POST", "/v1/volumes", b"", 400, "."),
    "create: unknown field": ("POST", "/v1/volumes", b'{"name":"x","size":5}', 400, "size"),
    "create: option not text": ("POST", "/v1/volumes", b'{"name":"x","options":{"size":5}}', 400, "size"),
    "create: exists": ("POST", "/v1/volumes", b'{"name":"there"}', 409, "there"),
    "attach: force is text": ("POST", "/v1/volumes/there/attach", b'{"force":"yes"}', 400, "force"),
    "attach: unknown volume": ("POST", "/v1/volumes/nosuch/attach", b"{}", 404, "nosuch"),
    "recover: unknown volume": ("POST", "/v1/volumes/nosuch/recover", b'{"from":"1234"}', 404, "nosuch"),
    "forget: force is text": ("POST", "/v1/nodes/n2/forget", b'{"force":"yes"}', 400, "force"),
    "drive: path is a number": ("POST", "/v1/drives", b'{"path":1}', 400, "path"),
    "drive: path with a newline": ("POST", "/v1/drives", b'{"path":"/a\\nb"}', 400, r"\\n"),
    "volume: unknown": ("GET", "/v1/volumes/nosuch", b"", 404, "nosuch"),
    "nested": ("POST", "/v1/volumes", b"[" * 10000, 400, "."),
}


@pytest.mark.parametrize("method, target, body, expected, pattern", ADMIN.values(), ids=ADMIN.keys())
def test_admin(node, method, target, body, expected, pattern):
    status, answer = node.admin(method, target, body)
    assert status == expected, answer
    assert answer["error"]["code"] and re.search(pattern, answer["error"]["text"]), answer


# ---- the config file ----
CONFIG = {
    "unknown key": ({"colour": "red"}, "colour"),
    "node is missing": ({"node": None}, "node"),
    "node with a slash": ({"node": "a/b"}, "node.*a/b"),
    "host is nonsense": ({"host": "not a host!"}, "host"),
    "store of an unknown kind": ({"store": "mongodb:/x"}, "mongodb"),
    "store with a relative path": ({"store": "sqlite:weft.db"}, "store|weft.db"),
    "store in a missing directory": ({"store": "sqlite:/nonexistent/weft.db"}, "/nonexistent"),
    "port 0": ({"port-base": "0"}, "port-base"),
    "port too high": ({"port-base": "70000"}, "port-base"),
    "lease negative": ({"lease-ttl-ms": "-5"}, "lease-ttl-ms"),
    "repair-after 0": ({"repair-after-ms": "0"}, "repair-after-ms"),
    "repair-after in words": ({"repair-after-ms": "10m"}, "repair-after-ms.*10m"),
    "lease in words": ({"lease-ttl-ms": "ten"}, "lease-ttl-ms"),
    "runtime-dir too long for sockets": ({"runtime-dir": "/run/" + "x" * 120}, "runtime-dir"),
    "state-dir relative": ({"state-dir": "state"}, "state-dir"),
    "plugin name with a slash": ({"docker-plugin": "../x"}, "docker-plugin"),
    "extent-size too odd": ({"extent-size": "3"}, "extent-size"),
    "log-level loud": ({"log-level": "loud"}, "log-level.*loud"),
    "libexec-dir without plugins": ({"libexec-dir": "/usr/share"}, "libexec-dir|nbdkit-weft"),
}


def run_weftd(config, workspace):
    return subprocess.run([BUILD / "weftd", "--config", config], capture_output=True, text=True, timeout=20, cwd="/",
                          env=workspace.environment())


@pytest.mark.parametrize("changes, pattern", CONFIG.values(), ids=CONFIG.keys())
def test_config(node, workspace, changes, pattern):
    config = node.path / "bad.conf"
    lines = dict(line.split("=", 1) for line in node.config.read_text().splitlines())
    # Another place, so that a mistake in refusing would not meet the running weftd.
    elsewhere = node.path / "bad"
    shutil.rmtree(elsewhere, ignore_errors=True)
    elsewhere.mkdir()
    lines.update({"runtime-dir": f"{elsewhere}/run", "state-dir": f"{elsewhere}/state", "node": "bad",
                  "plugin-dir": str(elsewhere), "store": f"sqlite:{elsewhere}/weft.db"})
    lines.update(changes)
    config.write_text("".join(f"{key}={value}\n" for key, value in lines.items() if value is not None))
    try:
        outcome = run_weftd(config, workspace)
    finally:
        shutil.rmtree(elsewhere)
        config.unlink()
    assert outcome.returncode > 0, outcome
    assert re.search(pattern, outcome.stderr), f"{outcome.stderr!r} lacks {pattern!r}"


FILES = {
    "missing": (None, "(?i)no such file"),
    "garbage": (b"\x00\xff\xfe garbage \n", "."),
    "key twice": (b"node=a\nnode=b\n", "node.*twice"),
    "no equals sign": (b"node\n", "node|bad.conf"),
    "two megabytes": (b"#" * (2 << 20), "larger"),
}


@pytest.mark.parametrize("content, pattern", FILES.values(), ids=FILES.keys())
def test_config_file(node, workspace, content, pattern):
    config = node.path / "bad.conf"
    if content is not None:
        config.write_bytes(content)
    outcome = run_weftd(config, workspace)
    assert outcome.returncode > 0 and re.search(pattern, outcome.stderr), outcome
    assert str(config) in outcome.stderr
    config.unlink(missing_ok=True)


def test_a_second_weftd_of_the_same_node_is_refused(node, workspace):
    outcome = run_weftd(node.config, workspace)
    assert outcome.returncode > 0 and re.search("(?i)another weftd|already|running", outcome.stderr), outcome
    assert node.weft("node", "ls"), "the first one still answers"
    assert os.path.exists(node.plugin_socket)
