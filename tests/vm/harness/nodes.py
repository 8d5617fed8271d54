# SPDX-License-Identifier: Apache-2.0
"""Nodes of Weft on one guest's kernel, which live as long as the guest's disks: over cuts, reboots, pulled drives.

  /srv/NODE          the disk NODE, an ext4; /srv/NODE/lent is the drive that the node lends
  /srv/state         the disk "state": the store, and what each weftd keeps
  /run/weft/NODE     what a reboot takes

Each weftd is a transient unit weft-NODE.service, so that the harness can kill it and see its log in the journal; the
servers are in its control group and outlive it. Volumes are attached by nbd and device-mapper. A node's replicas are
reached at an address of its own, which isolate() cuts off.
"""
import json

from lib.cluster import new_mount_id
from lib.waiting import wait_for

from .channel import CommandError
from .guest import REPOSITORY
from .machine import BUILD

STATE = "state"
MODULES = "nbd dm-mod dm-raid raid1 ext4 xfs"
# For weftd on an emulated processor.
TIMES = {"lease-ttl-ms": 30000, "request-timeout-ms": 20000, "reconnect-window-ms": 5000, "attach-timeout-ms": 20000}
CALL = (f"import sys, json; sys.path.insert(0, '{REPOSITORY}/tests'); "
        "from lib.plugin_client import DockerPlugin; "
        "print(json.dumps(DockerPlugin(sys.argv[1]).call(sys.argv[2], json.loads(sys.argv[3]))))")


def disks(names, drive=1 << 30, **how):
    """What Guest needs for them; `drive` is a drive's size in bytes, `how` goes to each disk."""
    return {**{name: {"size": drive, "label": name, **how} for name in names},
            STATE: {"size": 1 << 28, "label": STATE, **how}}


class Nodes:
    """up() after each boot. The first node is the one that uses volumes; its Docker plugin is `weft`. `drives` names
    the devices of drives that are not simply the disk of that name."""

    def __init__(self, guest, names=("n1", "n2", "n3"), drives=None):
        self.guest, self.names, self.drives = guest, names, drives or {}
        self.plugins = {name: "weft" if name == names[0] else f"weft-{name}" for name in names}

    def up(self, timeout=180):
        """Mounts what is not mounted, starts the weftd that do not run; returns when all serve their drives."""
        self.guest.run(f"modprobe -a {MODULES}; mkdir -p /srv/{STATE} /run/docker/plugins; "
                       f"mountpoint -q /srv/{STATE} || mount {self.guest.disks[STATE].path} /srv/{STATE}")
        for name in self.names:
            self.mount_drive(name)
            self.start(name)
        for name in self.names:
            self.wait_serving(name, timeout)
        return self

    def mount_drive(self, name):
        device = self.drives.get(name) or self.guest.disks[name].path
        self.guest.run(f"mkdir -p /srv/{name}; mountpoint -q /srv/{name} || mount {device} /srv/{name}; "
                       f"mkdir -p /srv/{name}/lent")

    def start(self, name):
        """Its weftd; what the guest knows of it from before is used again."""
        settings = {"node": name, "host": self.address(name), "store": f"sqlite:/srv/{STATE}/weft.db",
                    "state-dir": f"/srv/{STATE}/{name}", "runtime-dir": f"/run/weft/{name}",
                    "docker-plugin": self.plugins[name], "libexec-dir": BUILD, "attach": "kernel",
                    "device-scope": name, **TIMES}
        text = "".join(f"{key}={value}\n" for key, value in settings.items())
        unit = f"weft-{name}"
        self.guest.run(f"mkdir -p /srv/{STATE}/{name} /run/weft/{name}; cat >/srv/{STATE}/{name}.conf; "
                       f"systemctl is-active --quiet {unit} || {{ systemctl reset-failed {unit} 2>/dev/null || true; "
                       f"systemd-run --quiet --unit={unit} --property=KillMode=process --setenv=PATH=$PATH "
                       f"{BUILD}/weftd --config /srv/{STATE}/{name}.conf; }}", stdin=text)

    def wait_serving(self, name, timeout=180):
        """Its drive is served; the first time it is added to the pool."""
        def serving():
            there = [drive for drive in self.weft("drive", "ls", node=name) if drive["node"] == name]
            if not there:
                self.weft("drive", "add", f"/srv/{name}/lent", node=name)
            return there and there[0]["serving"]
        wait_for(serving, timeout, f"the drive of {name} to be served", interval=0.5, retry_on=(CommandError,))

    def address(self, name):
        return f"127.77.0.{self.names.index(name) + 1}"

    # ---- asking ----
    def weft(self, *words, node=None, **more):
        """The CLI of a node, as JSON; None when it says nothing."""
        said = self.guest.output(["weft", "--socket", f"/run/weft/{node or self.names[0]}/weftd.sock", "-o", "json",
                                  *words], **more)
        return json.loads(said) if said else None

    def volume(self, name, node=None):
        return self.weft("volume", "inspect", name, node=node)

    def replicas(self, name):
        return [replica for extent in self.volume(name)["extents"] for replica in extent["replicas"]]

    def wait_up_to_date(self, *names, timeout=300):
        for name in names:
            wait_for(lambda: all(one["state"] == "up_to_date" for one in self.replicas(name)), timeout,
                     f"every replica of {name} to be up_to_date", interval=0.5, retry_on=(CommandError,))

    def wait_demoted(self, node, *names, timeout=180):
        """The records say that the node's replicas of these volumes are behind, or others are in their place."""
        for name in names:
            wait_for(lambda: all(one["state"] != "up_to_date" for one in self.replicas(name) if one["node"] == node),
                     timeout, f"the replicas of {name} on {node} to be demoted", interval=0.5)

    def wait_detached(self, name, timeout=180):
        def free():
            seen = self.volume(name)
            return not seen["writer"] or seen["maintenance"]
        wait_for(free, timeout, f"{name} to have no writer", interval=0.5)

    # ---- what Docker would ask of the first node ----
    def call(self, what, **body):
        return json.loads(self.guest.output(["/usr/bin/python3", "-B", "-c", CALL,
                                             f"/run/docker/plugins/{self.plugins[self.names[0]]}.sock", what,
                                             json.dumps(body)], timeout=200))

    def create(self, volume, **options):
        self.call("Create", Name=volume, Opts=options)

    def mount(self, volume):
        """(mount point, mount id)"""
        mount_id = new_mount_id()
        return self.call("Mount", Name=volume, ID=mount_id)["Mountpoint"], mount_id

    def unmount(self, volume, mount_id):
        self.call("Unmount", Name=volume, ID=mount_id)
        self.wait_detached(volume)

    def device(self, volume):
        return f"/dev/mapper/weft-{volume}@{self.names[0]}"

    def mirrors(self, volume):
        """(health, action) of each raid set of a mirrored volume; dm-raid.rst, "Status Output"."""
        lines = self.guest.output(f"for name in $(dmsetup ls | cut -f1 | grep -E '^weft-{volume}@.*:s[0-9]+$'); do "
                                  "dmsetup status $name; done").splitlines()
        return [(line.split()[5], line.split()[7]) for line in lines]

    def wait_mirrors_in_sync(self, volume, timeout=300):
        wait_for(lambda: {("AA", "idle")} == set(self.mirrors(volume)), timeout, f"the legs of {volume} to be in sync",
                 interval=0.5)

    # ---- what happens to a node ----
    def kill_servers(self, name):
        """kill -9 of a node's weftd and its replica server; volumes that it uses go on."""
        self.guest.run(f"systemctl kill --kill-who=main --signal=KILL weft-{name}")
        self.guest.wait_until(f"! systemctl is-active --quiet weft-{name}", 60, f"weftd of {name} to be dead")
        self.guest.wait_until(f"! pkill --signal KILL --full '[n]bdkit .*drive=/srv/{name}/lent'", 60,
                              f"the replica server of {name} to be dead")

    def isolate(self, name):
        """Nothing reaches the node's replicas, nothing comes from them; nobody is told."""
        self.guest.run("nft -f -", stdin=f"""
            table ip cut_{name} {{
                chain arriving {{
                    type filter hook input priority 0;
                    ip daddr {self.address(name)} drop
                    ip saddr {self.address(name)} drop
                }}
            }}
        """)

    def rejoin(self, name):
        self.guest.run(f"nft delete table ip cut_{name}")
