# SPDX-License-Identifier: Apache-2.0
"""A node whose memory is short writes to its own volume through the page cache: it neither hangs nor fails.

Writer, volume server and both replica servers share one kernel of 512 MiB. Dirty pages can only go where these servers
take them; a server that waits for memory which only it can free is the deadlock of every block device in user space.
"""
import pytest

from harness import nodes as weft_nodes
from harness.guest import REPOSITORY

PROGRAM = ["/usr/bin/python3", "-B", REPOSITORY / "tests/vm/inside/pressure.py"]
GUEST = {"memory": 512, "disks": weft_nodes.disks(("n1", "n2"), drive=5 << 30)}
# What the kernel says of a task that waits, of an allocation that failed, of I/O that did.
TROUBLE = "blocked for more than|hung task|page allocation failure|I/O error|Buffer I/O|EXT4-fs error|Aborting journal"


# More than the guest has for its page cache, twice over and more, is what counts; more of it is for the long run.
@pytest.mark.limit(7200)
@pytest.mark.parametrize("mib", [160, pytest.param(3072, marks=pytest.mark.long)])
def test_a_node_that_is_short_of_memory_writes_to_its_own_volume(guest, mib):
    nodes = weft_nodes.Nodes(guest, ("n1", "n2")).up()
    nodes.create("db", size="4GiB", replicas="2")
    path, mount_id = nodes.mount("db")
    hog = guest.popen(["choom", "--adjust", "1000", "--", *PROGRAM, "hog"])
    try:
        guest.run([*PROGRAM, "write", f"{path}/file", mib], timeout=3000)
        assert hog.running, f"the hog was to live through it: {hog.stderr}"
        guest.run([*PROGRAM, "verify", f"{path}/file", mib], timeout=3000)
    finally:
        hog.signal(9)
    # One that did not answer in time was given up, which is no harm: it has to come back.
    nodes.wait_up_to_date("db")
    kernel = guest.run(f"dmesg | grep -E '{TROUBLE}'", check=False).stdout
    assert kernel == ""
    assert guest.output("dmesg | grep -cE 'Killed process .*(nbdkit|weftd)' || true") == "0"
    nodes.unmount("db", mount_id)
    nodes.weft("volume", "rm", "db")
