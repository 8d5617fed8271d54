# SPDX-License-Identifier: Apache-2.0
"""A node that attaches portably cannot unlock a volume, and says so before anything is changed. What encrypted volumes
do on the kernel path: tests/vm/inside/test_encryption.py.
"""
import uuid

import pytest

from lib.cluster import CliError, new_mount_id
from lib.plugin_client import PluginError
from test_format import edit_record


@pytest.fixture
def node(make_cluster):
    cluster = make_cluster(start=False)
    for each in cluster.nodes:
        each.settings = {"attach": "portable"}
        each.write_config()
    return cluster.start()[0]


def test_a_portable_node_creates_no_encrypted_volume(node):
    with pytest.raises(PluginError) as refused:
        node.plugin.create("db", size="64MiB", encrypt="on")
    assert "attach = portable" in refused.value.text and "use another node" in refused.value.text
    with pytest.raises(CliError, match="an encrypted volume needs the kernel attach"):
        node.weft("volume", "create", "db", "--size", "64MiB", "--encrypt", "on")
    assert not node.weft("volume", "ls")


def test_a_portable_node_mounts_no_encrypted_volume_and_takes_no_epoch(node):
    node.plugin.create("db", size="64MiB")
    edit_record(node.cluster, "db", encrypt=True, luks_uuid=str(uuid.uuid4()))
    with pytest.raises(PluginError) as refused:
        node.plugin.mount("db", new_mount_id())
    assert "attach = portable" in refused.value.text
    record = node.volume("db")
    assert record["epoch"] == 0 and not record["formatted"] and not record["writer"]
