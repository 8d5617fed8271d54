# SPDX-License-Identifier: Apache-2.0
"""Encrypted volumes on a real kernel: what is on the replicas, who sees the key, what a wrong one does, growing. Deaths
of weftd in between are test_kernel_crash.py's.
"""
import hashlib
import mmap
import os
import struct
import subprocess
import threading
from pathlib import Path

import pytest

from file_load import FileLoad
from kernel_devices import SLOW, assert_nothing_left, devices, said, use_kernel
from lib.cluster import BUILD, new_mount_id
from lib.plugin_client import PluginError
from lib.waiting import wait_for

pytestmark = pytest.mark.limit(600)
MIB = 1 << 20
PATTERN = hashlib.sha256(b"nobody else writes this").digest() * 128  # 4 KiB
KEY = hashlib.sha512(b"the key").hexdigest().encode()  # text, so that any copy of it can be found
OTHER_KEY = hashlib.sha512(b"another key").hexdigest().encode()


@pytest.fixture
def cluster(make_cluster):
    """The first node has key files, the second a key command."""
    cluster = make_cluster(start=False, times=SLOW)
    keys = cluster.path / "keys"
    keys.mkdir(mode=0o700)
    command = cluster.path / "key-command"
    command.write_text(f"#!/bin/sh\ntest \"$1\" = db || exit 4\nexec cat {keys}/db.key\n")
    command.chmod(0o755)
    for node, setting in zip(cluster.nodes, ({"key-directory": keys}, {"key-command": command}, {})):
        use_kernel(node)
        node.settings.update(setting)
        node.write_config()
    return cluster.start()


def put_key(cluster, key, name="db"):
    path = cluster.path / "keys" / f"{name}.key"
    path.unlink(missing_ok=True)
    path.touch(mode=0o400)
    path.write_bytes(key)
    return path


def replica_files(cluster, volume):
    return [cluster.replica_file(replica) for replica in cluster.replicas(volume)]


def holds(path, pattern):
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(pattern) >= 0


def checksum(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_synced(path, content):
    with open(path, "wb") as file:
        file.write(content)
        os.fsync(file.fileno())


class Watch(threading.Thread):
    """Reads the arguments and environments of all processes over and over, looking for the key."""

    def __init__(self):
        super().__init__(daemon=True)
        self.leaks, self.helpers, self._halt = set(), set(), threading.Event()
        self.start()

    def run(self):
        while not self._halt.is_set():
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    arguments, environment = [(process / name).read_bytes() for name in ("cmdline", "environ")]
                except OSError:
                    continue
                if b"--helper\0luks\0" in arguments:
                    self.helpers.add(arguments.split(b"\0")[3])
                self.leaks |= {arguments} if KEY in arguments or KEY in environment else set()

    def stop(self):
        self._halt.set()
        self.join()
        return self


def test_a_life_of_an_encrypted_volume(cluster):
    node, away = cluster[0], cluster[1]
    put_key(cluster, KEY)
    node.plugin.create("db", size="48MiB", encrypt="on")
    node.plugin.create("clear", size="32MiB")
    assert node.volume("db")["encrypt"] and not node.volume("clear")["encrypt"]

    watch, mount_id, clear_id = Watch(), new_mount_id(), new_mount_id()
    path = Path(node.plugin.mount("db", mount_id))
    assert b"open-new" in watch.stop().helpers, "the watch did not see what was given the key"
    clear = Path(node.plugin.mount("clear", clear_id))
    names, _ = devices(node)
    assert len(names) == 3 and sum(name.endswith(":crypt") for name in names) == 1, names
    [top] = [name for name in names if name.endswith(":crypt")]
    source = said("findmnt", "--noheadings", "--output", "SOURCE", "--target", path).strip()
    assert os.path.realpath(source) == os.path.realpath(f"/dev/mapper/{top}")
    table = said("dmsetup", "table", "--showkeys", top)
    assert "allow_discards" in table and "sector_size:4096" in table and ":64:logon:" in table, table

    # The same pattern is found on the replicas of a volume that is not encrypted, so it would be found here.
    for where in (path, clear):
        write_synced(where / "pattern", PATTERN * 64)
    node.plugin.unmount("clear", clear_id)
    assert all(holds(file, PATTERN) for file in replica_files(cluster, "clear"))
    assert not any(holds(file, PATTERN) for file in replica_files(cluster, "db"))

    # Under load: the volume server is replaced, which needs no key, and the volume grows with its clear device.
    load = FileLoad(path / "load")
    load.wait_progress()
    put_key(cluster, OTHER_KEY)
    [server] = node.volume_servers()
    os.kill(server, 9)
    wait_for(lambda: node.volume_servers() not in ([], [server]), 120, "another volume server")
    load.wait_progress(what="writes to go on over the next volume server")
    put_key(cluster, KEY)
    before = os.statvfs(path).f_blocks
    node.weft("volume", "grow", "db", "--size", "96MiB")
    wait_for(lambda: os.statvfs(path).f_blocks > 3 * before // 2, 180, "the file system to have the new space")
    assert int(said("dmsetup", "table", top).split()[1]) == (96 - 4) * 2048
    load.wait_progress()
    load.stop()
    node.plugin.unmount("db", mount_id)
    cluster.wait_detached("db", 240)
    assert_nothing_left(node)

    # A wrong key and none at all: an error that tells, and not a byte of the volume is another one.
    content = [checksum(file) for file in replica_files(cluster, "db")]
    file = put_key(cluster, OTHER_KEY)
    for spoil, words in ((lambda: None, ("the key does not open", str(file))),
                         (file.unlink, ("there is no key for volume 'db' on this node", "default.key"))):
        spoil()
        with pytest.raises(PluginError) as refused:
            node.plugin.mount("db", new_mount_id())
        assert all(word in refused.value.text for word in words), refused.value.text
        cluster.wait_detached("db", 240)
    with pytest.raises(PluginError) as refused:
        away.plugin.mount("db", new_mount_id())
    assert "exit code 1: cat: " in refused.value.text
    cluster.wait_detached("db", 240)
    assert [checksum(file) for file in replica_files(cluster, "db")] == content

    # Everything that was written is found on another node, which asks a command for the key.
    put_key(cluster, KEY)
    watch, mount_id = Watch(), new_mount_id()
    path = Path(away.plugin.mount("db", mount_id))
    assert watch.stop().helpers == {b"open"}
    assert (path / "pattern").read_bytes() == PATTERN * 64
    load.path = path / "load"
    load.assert_nothing_lost()
    away.plugin.unmount("db", mount_id)
    cluster.wait_detached("db", 240)
    assert not any(holds(file, PATTERN) for file in replica_files(cluster, "db"))

    # The key was in no argument, environment, log, event or record; a header that is not ours is not touched.
    assert not watch.leaks
    said_and_stored = [path for path in cluster.path.rglob("*") if path.is_file() and path.stat().st_size and
                       (path.suffix in (".log", ".json") or path.parent == cluster.store.parent)]
    assert cluster.store in said_and_stored and node.log in said_and_stored
    assert not [path for path in said_and_stored if holds(path, KEY)]
    assert KEY.decode() not in subprocess.run(["dmesg"], capture_output=True, text=True).stdout
    for name in ("db", "clear"):
        node.plugin.remove(name)
    cluster.assert_no_leaks(60)
    assert_nothing_left(node)
    assert_nothing_left(away)


def test_a_foreign_header_is_never_formatted_away(cluster):
    """Somebody's LUKS header on a volume that the record calls never formatted."""
    node = cluster[0]
    put_key(cluster, KEY)
    node.plugin.create("db", size="32MiB", encrypt="on")
    files = replica_files(cluster, "db")
    # Of LUKS2's binary header what blkid looks at: magic and version; UUID at 168; its own offset, 0, at 256.
    foreign = cluster.path / "foreign"
    header = (b"LUKS\xba\xbe" + struct.pack(">HQ", 2, 16384)).ljust(168, b"\0")
    foreign.write_bytes((header + b"0b9c7a52-7f3a-4a68-9a55-0f7d6a0f0c01").ljust(32 * MIB, b"\0"))
    uri = node.weft("volume", "attach", "db")["nbd_uri"]
    subprocess.run(["nbdcopy", foreign, uri], check=True)
    node.weft("volume", "detach", "db")
    cluster.wait_detached("db", 240)
    before = [checksum(file) for file in files]
    with pytest.raises(PluginError) as refused:
        node.plugin.mount("db", new_mount_id())
    assert "crypto_LUKS" in refused.value.text and "nothing was touched" in refused.value.text
    cluster.wait_detached("db", 240)
    assert [checksum(file) for file in files] == before
    node.plugin.remove("db")
    cluster.assert_no_leaks(60)
