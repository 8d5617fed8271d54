# SPDX-License-Identifier: Apache-2.0
"""Every point at which a power cut could leave a replica's drive: what was acknowledged by then is on it (law 1).

The log lies below the drive's file system, not above the volume: what Weft promises about order is a promise of the
replica server, which has to turn a flush of the volume into one of its file, its directory and its bitmap before it
answers. A log above the volume would see the file system's order, and nothing of what becomes of it below.
test_power_cut.py has the same laws at a few instants of a whole machine; this has them at all flushes of one drive.
"""
from harness import nodes as weft_nodes
from harness.guest import REPOSITORY

MIB = 1 << 20
STEPS, SAMPLES, SEED = 16, 8, 1
INSIDE = REPOSITORY / "tests/vm/inside"
GUEST = {"memory": 1024, "disks": {**weft_nodes.disks(("n1", "n2"), drive=256 * MIB), "log": 1024 * MIB,
                                   "scratch": 1024 * MIB}}


def test_a_drive_has_what_was_acknowledged_at_each_of_its_flushes(guest, progress):
    drive, log, scratch = (guest.disks[name].path for name in ("n2", "log", "scratch"))
    guest.run(f"""modprobe -a dm-log-writes loop xfs
        mkfs.xfs -q {scratch}; mkdir -p /srv/scratch; mount {scratch} /srv/scratch
        cp --sparse=always {drive} /srv/scratch/image
        echo "0 $(blockdev --getsz {drive}) log-writes {drive} {log}" | dmsetup create logged""")
    nodes = weft_nodes.Nodes(guest, ("n1", "n2"), {"n2": "/dev/mapper/logged"}).up()
    nodes.create("db", size="64MiB", replicas="2")
    path, mount_id = nodes.mount("db")
    guest.run(["/usr/bin/python3", "-B", INSIDE / "acknowledged_load.py", "write", path, STEPS,
               "dmsetup", "message", "logged", "0", "mark"], timeout=300)
    assert {replica["state"] for replica in nodes.replicas("db")} == {"up_to_date"}
    nodes.kill_servers("n2")
    guest.run("umount /srv/n2; dmsetup remove logged")
    said = guest.output(["/usr/bin/python3", "-B", INSIDE / "replay_log.py", log, "/srv/scratch/image", SAMPLES, SEED],
                        timeout=600)
    progress(said)
    assert f" {STEPS} marks" in said

    # The drive as it was at the last mark is a drive: its replica is brought up to date and equal.
    nodes.drives["n2"] = guest.output("losetup --find --show /srv/scratch/image")
    nodes.up()
    nodes.wait_up_to_date("db")
    nodes.unmount("db", mount_id)
    guest.run(["cmp", *(f"/srv/{one['node']}/lent/replicas/{one['id']}/data" for one in nodes.replicas("db"))])
