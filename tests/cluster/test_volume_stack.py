# SPDX-License-Identifier: Apache-2.0
"""What a volume is made of on a node, and why a portable one does not change its volume server."""
import pytest

from lib.cluster import CliError, new_mount_id


def layers_of(tree):
    """The layers from the top down along the first branch."""
    names = []
    while tree:
        names.append(tree[0]["layer"])
        tree = tree[0].get("below")
    return names


def test_a_portable_volume_is_shown_from_its_file_system_to_its_replicas_and_elsewhere_as_replicas(cluster):
    node, other = cluster[0], cluster[1]
    node.plugin.create("db", size="32MiB", replicas="2")
    assert layers_of(node.volume("db")["stack"]["tree"]) == ["extent", "replica"]
    mount_id = new_mount_id()
    path = node.plugin.mount("db", mount_id)
    stack = node.volume("db")["stack"]
    assert (stack["attach"], stack["note"]) == ("portable", "")
    assert layers_of(stack["tree"]) == ["file_system", "loop", "nbdfuse", "whole", "extent", "replica"]
    [top] = stack["tree"]
    assert [f"{one}/data" for one in top["mount_points"]] == [path]
    assert top["below"][0]["name"].startswith("/dev/loop")
    elsewhere = other.volume("db")["stack"]
    assert (elsewhere["attach"], layers_of(elsewhere["tree"])) == ("none", ["extent", "replica"])
    node.plugin.unmount("db", mount_id)
    cluster.wait_detached("db")


def test_a_restart_of_the_volume_server_is_refused_where_users_would_get_errors(cluster):
    node, other = cluster[0], cluster[1]
    node.plugin.create("db", size="32MiB", replicas="2")
    with pytest.raises(CliError, match="is not attached"):
        node.weft("volume", "restart", "db")
    with pytest.raises(CliError, match="no such volume"):
        node.weft("volume", "restart", "other")
    mount_id = new_mount_id()
    node.plugin.mount("db", mount_id)
    servers, epoch = node.volume_servers(), node.volume("db")["epoch"]
    with pytest.raises(CliError, match="attached portably.*I/O errors"):
        node.weft("volume", "restart", "db")
    with pytest.raises(CliError, match="attached portably"):
        node.weft("volume", "restart", "--all")
    with pytest.raises(CliError, match=f"attached on node {node.name}"):
        other.weft("volume", "restart", "db")
    assert other.weft("volume", "restart", "--all") == []
    assert (node.volume_servers(), node.volume("db")["epoch"]) == (servers, epoch)
    node.plugin.unmount("db", mount_id)
    cluster.wait_detached("db")
    node.weft("volume", "attach", "db")
    with pytest.raises(CliError, match="has no block device here"):
        node.weft("volume", "restart", "db")
    node.weft("volume", "detach", "db")
