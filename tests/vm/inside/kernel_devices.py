# SPDX-License-Identifier: Apache-2.0
"""A node on the kernel path: how it is told to be, and what the kernel has of its volumes."""
import subprocess
from pathlib import Path

from lib.cluster import new_mount_id
from lib.waiting import wait_for


# For weftd on an emulated processor.
SLOW = {"lease-ttl-ms": 30000, "request-timeout-ms": 20000, "reconnect-window-ms": 5000,
        "attach-timeout-ms": 20000}


def use_kernel(node):
    """Before its weftd starts: volumes by nbd and device-mapper, with names of its own among the nodes of a kernel."""
    node.settings = {"attach": "kernel", "device-scope": node.name}
    node.write_config()


def said(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def devices(node):
    """(device-mapper names, {nbd device: mark}) of a node."""
    scope = f"@{node.settings['device-scope']}"
    names = sorted(line.split("\t")[0] for line in said("dmsetup", "ls").splitlines() if scope in line)
    marks = {}
    for backend in Path("/sys/block").glob("nbd*/backend"):
        try:
            if backend.read_text().startswith(f"weft:{node.name}:"):
                marks[backend.parent.name] = backend.read_text().strip()
        except OSError:
            pass  # disconnected meanwhile
    return names, marks


def tell_state():
    """What the kernel has, for whoever has to find out why a scenario failed."""
    print(subprocess.run("dmsetup table; dmsetup status --noflush; dmsetup info -c; grep . /sys/block/nbd*/backend; "
                         "dmesg | tail -40", shell=True, capture_output=True, text=True).stdout)


def cut_devices(cluster):
    for node in cluster.nodes:
        node.kill_weftd()
        for device in devices(node)[1]:
            subprocess.run(["nbd-client", "-d", f"/dev/{device}"], capture_output=True)


def read_mounted(node, volume, file):
    """What a file of a volume holds that is mounted for this only."""
    mount_id = new_mount_id()
    content = (Path(node.plugin.mount(volume, mount_id)) / file).read_bytes()
    node.plugin.unmount(volume, mount_id)
    return content


def assert_nothing_left(node):
    wait_for(lambda: devices(node) == ([], {}), 120, f"the devices of {node.name} to be gone")
