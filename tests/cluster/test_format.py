# SPDX-License-Identifier: Apache-2.0
"""mkfs runs if and only if the record says "never formatted" *and* blkid finds nothing: what is there is never lost."""
import json
import sqlite3
import subprocess
import uuid

import pytest

from lib.cluster import new_mount_id
from lib.plugin_client import PluginError


def edit_record(cluster, volume, **changes):
    """What a store restored from an old backup, or an operator's hand, does; no weftd runs meanwhile."""
    for node in cluster.nodes:
        node.stop()
    rewrite_record(cluster, volume, changes)
    for node in cluster.nodes:
        node.start()


def rewrite_record(cluster, volume, changes):
    connection = sqlite3.connect(cluster.store, isolation_level=None, timeout=10)
    try:
        tables = [name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")]
        for table in tables:
            columns = [row[1] for row in connection.execute(f"pragma table_info({table})")]
            if "key" in columns and "value" in columns:
                key = f"volumes/{volume}"
                found = connection.execute(f"select value from {table} where key = ?", (key,)).fetchone()
                if found:
                    record = json.loads(found[0])
                    assert set(changes) <= set(record), f"the record has no such field: {changes} {record}"
                    record.update(changes)
                    connection.execute(f"update {table} set value = ? where key = ?",
                                       (json.dumps(record, separators=(",", ":")), key))
                    return
        raise AssertionError(f"no record of {volume} in {tables}")
    finally:
        connection.close()


def put_file_system(node, name, *mkfs):
    """Makes a file system in the volume by hand, through the attached export."""
    uri = node.weft("volume", "attach", name)["nbd_uri"]
    image = node.path / "image"
    with open(image, "wb") as file:
        file.truncate(node.volume(name)["size_bytes"])
    subprocess.run([*mkfs, image], check=True, capture_output=True)
    subprocess.run(["nbdcopy", "--flush", image, uri], check=True, capture_output=True)
    node.weft("volume", "detach", name)
    image.unlink()


def first_bytes(cluster, name):
    replica = cluster.replicas(name)[0]
    with open(cluster.replica_file(replica), "rb") as file:
        return file.read(1 << 20)


@pytest.mark.parametrize("mkfs", [["mkfs.ext4", "-q"], ["mkfs.xfs", "-q"], ["mkswap"]], ids=["ext4", "xfs", "swap"])
def test_a_foreign_file_system_is_never_formatted_though_the_record_claims_a_fresh_volume(cluster, mkfs):
    node = cluster[0]
    node.weft("volume", "create", "db", "--size", "320MiB")
    put_file_system(node, "db", *mkfs)
    before = first_bytes(cluster, "db")
    record = node.volume("db")
    assert not record["formatted"]
    with pytest.raises(PluginError) as refused:
        node.plugin.mount("db", new_mount_id())
    assert "db" in refused.value.text
    assert first_bytes(cluster, "db") == before
    assert not node.volume("db")["formatted"]


def test_our_own_file_system_is_not_formatted_again_when_the_record_forgot_it(cluster):
    node = cluster[0]
    node.plugin.create("db", size="64MiB")
    mount_id = new_mount_id()
    with open(node.plugin.mount("db", mount_id) + "/precious", "w") as file:
        file.write("data")
    node.plugin.unmount("db", mount_id)
    cluster.wait_detached("db")
    edit_record(cluster, "db", formatted=False, fs_uuid=str(uuid.uuid4()))
    before = first_bytes(cluster, "db")
    with pytest.raises(PluginError):
        node.plugin.mount("db", new_mount_id())
    assert first_bytes(cluster, "db") == before


def test_an_empty_device_is_not_formatted_when_the_record_says_formatted(cluster):
    """The data may be on a replica that is not here: an empty file system in its place would be a lie."""
    node = cluster[0]
    node.plugin.create("db", size="64MiB")
    edit_record(cluster, "db", formatted=True, epoch=1)
    with pytest.raises(PluginError):
        node.plugin.mount("db", new_mount_id())
    assert first_bytes(cluster, "db") == bytes(1 << 20)
