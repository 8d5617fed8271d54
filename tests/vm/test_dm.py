# SPDX-License-Identifier: Apache-2.0
"""dm-tables on a real kernel: what the plans say, device-mapper does, at every kill point, with udev and without.

Extents are loop devices on sparse files in memory; dm_tool (dm_tool.cpp) plays weftd.
"""
import json
import os
import subprocess
import uuid

import pytest

from harness.guest import REPOSITORY
from lib.waiting import wait_for

MIB = 1 << 20
META = 4 * MIB
GUEST = {"memory": 1536}


@pytest.fixture(scope="module")
def tool():
    build = os.environ.get("BUILD", "build")
    subprocess.run(["make", "--no-print-directory", f"BUILD={build}", f"{build}/dm-tool"], cwd=REPOSITORY, check=True)
    return str((REPOSITORY / build).resolve() / "dm-tool")


class Refused(AssertionError):
    pass


class Rig:
    """Extents in a guest, and the record of one volume over them."""

    def __init__(self, guest, tool, kind, size=32 * MIB, chunk=65536, scope=""):
        self.guest, self.tool, self.size, self.scope = guest, tool, size, scope
        self.loops = []
        self.volume = {"id": str(uuid.uuid4()), "name": "orders", "kind": kind, "chunk": chunk, "segments": []}
        self.device = "/dev/mapper/weft-orders" + (f"@{scope}" if scope else "")

    def extent(self, state="up_to_date"):
        path = self.guest.output(f"""mkdir -p /run/extents; cd /run/extents
            truncate -s {self.size} {len(self.loops)}; losetup --find --show {len(self.loops)}""")
        self.loops.append(path)
        return {"path": path, "size": self.size, "state": state}

    def segment(self, extents):
        self.volume["segments"].append([self.extent() for _ in range(extents)])
        return self.volume["segments"][-1]

    def call(self, *words, volumes=None, check=True):
        outcome = self.guest.run([self.tool, *words], check=False, timeout=300,
                                 stdin="".join(json.dumps(it) + "\n" for it in volumes or []))
        if check and outcome.code != 0:
            raise Refused(outcome.stderr)
        return outcome

    def settle(self, *more, volumes=None):
        words = ["settle", *([self.scope] if self.scope else []), *more]
        return json.loads(self.call(*words, volumes=[self.volume] if volumes is None else volumes).stdout)

    def status(self, name):
        return json.loads(self.call("status", name).stdout)

    def raid(self, segment=0):
        status = self.status(f"weft-orders:s{segment}")
        return status, status["rows"][0]["raid"]

    def wait_raid(self, what, until):
        """By events, not by time: a set's events tell when a leg fails and when a rebuild ends."""
        while True:
            status, raid = self.raid()
            if until(raid):
                return raid
            self.call("wait", "weft-orders:s0", str(status["event"]), "120000")
            print(what, raid)

    def ours(self):
        names = self.guest.output("dmsetup info -c --noheadings -o name -S 'uuid=~^WEFT-' | sort")
        return [] if names == "No devices found" else names.split()

    def clean(self):
        self.guest.run("""for it in $(dmsetup info -c --noheadings -o name); do umount /dev/mapper/$it || true; done
            for i in 1 2 3 4; do dmsetup remove_all --force || true; done
            losetup -D; rm -rf /run/extents""", check=False)
        assert self.guest.output("dmsetup info -c --noheadings -o name || true") in ("", "No devices found")


@pytest.fixture
def rig(guest, tool):
    rigs = []

    def make(kind, **how):
        rigs.append(Rig(guest, tool, kind, **how))
        return rigs[-1]
    yield make
    for it in rigs:
        it.clean()


WRITER = r"""
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_DIRECT)
block, number = mmap.mmap(-1, 4096), 0
blocks = int(sys.argv[2])
while not os.path.exists("/run/stop"):
    block[:8] = number.to_bytes(8, "little")
    assert os.pwrite(fd, block, number % blocks * 4096) == 4096
    number += 1
    if number == 50: print("writing", flush=True)
for back in range(max(0, number - blocks), number):
    os.preadv(fd, [block], back % blocks * 4096)
    assert int.from_bytes(block[:8], "little") == back, back
print("wrote", number, flush=True)
"""


class Load:
    """Writes numbers to the first blocks of a device, and reads them back at the end. Any I/O error ends it."""

    def __init__(self, guest, device, blocks=64):
        self.guest = guest
        guest.run("rm -f /run/stop")
        guest.put("/run/writer.py", WRITER)
        self.process = guest.popen(["python3", "/run/writer.py", device, str(blocks)])

    def end(self):
        self.guest.run("touch /run/stop")
        outcome = self.process.wait(120)
        assert outcome.code == 0, outcome.stderr
        return int(outcome.stdout.split()[-1])


# Round n kills at step n of making, of growing and of removing; after each, a new daemon gets there and has nothing
# left to do.
ROUNDS = r"""
set -euo pipefail
nothing='{"steps":[],"reports":[]}'
arrive() {
    local code=0
    "$tool" settle --kill-at "$2" <"/run/$1" >/run/out 2>/run/err || code=$?
    ((code == 0 || code == 137)) || { cat /run/err; exit 1; }
    ((code == 0)) || killed=1
    "$tool" settle <"/run/$1" >/run/out
    [[ "$("$tool" settle <"/run/$1")" == "$nothing" ]] || { "$tool" plan <"/run/$1"; exit 1; }
    [[ -z "$(dmsetup info -c --noheadings -o suspended,tables_loaded,name | grep weft | grep -v '^Active:Live:')" ]]
}
tool="$1" round=0 killed=1
while ((killed)); do
    killed=0
    arrive small "$round"; arrive large "$round"; arrive none "$round"
    round=$((round + 1))
    echo "$round" >/run/rounds
    echo "survived $round"
done
"""


def test_a_striped_volume_is_made_read_back_and_removed(rig):
    it = rig("striped")
    it.segment(1), it.segment(3)
    done = it.settle()
    assert done["steps"] == ["create weft-orders", "load weft-orders", "resume weft-orders"]
    assert it.settle()["steps"] == []
    a, b, c, d = [it.guest.output(f"cat /sys/block/{os.path.basename(loop)}/dev") for loop in it.loops]
    assert it.guest.output("dmsetup table weft-orders").splitlines() == [
        f"0 65536 linear {a} 0", f"65536 196608 striped 3 128 {b} 0 {c} 0 {d} 0"]
    assert it.guest.output(f"blockdev --getsize64 {it.device}") == str(4 * it.size)
    status = it.status("weft-orders")
    assert sorted(status["lower"]) == sorted([a, b, c, d])
    assert [row["type"] for row in status["rows"]] == ["linear", "striped"]
    assert status["rows"][1]["stripes"] == 3
    assert it.settle(volumes=[])["steps"] == ["remove weft-orders"]
    assert it.ours() == []
    assert it.guest.run(f"test -e {it.device}", check=False).code != 0


def test_growing_under_load_loses_no_request(rig):
    for kind, extents in (("striped", 2), ("mirrored", 2)):
        it = rig(kind)
        it.segment(extents)
        it.volume["nosync"] = True
        it.settle()
        load = Load(it.guest, it.device)
        for _ in range(2):
            it.segment(extents)
            steps = it.settle()["steps"]
            assert steps[-3:] == ["load weft-orders", "suspend weft-orders", "resume weft-orders"]
        per_segment = it.size * 2 if kind == "striped" else it.size - META
        assert it.guest.output(f"blockdev --getsize64 {it.device}") == str(3 * per_segment)
        assert load.end() > 50
        it.settle(volumes=[])
        it.clean()


def test_a_file_system_grows_while_it_is_written(rig):
    it = rig("mirrored", size=64 * MIB)
    it.volume["nosync"] = True
    it.segment(2)
    it.settle()
    it.guest.run(f"""mkfs.ext4 -q {it.device}; mkdir -p /run/mnt; mount {it.device} /run/mnt
        head -c 30000000 /dev/urandom > /run/mnt/file; sha256sum /run/mnt/file > /run/sum""")
    used = it.settle(volumes=[])
    assert used["steps"] == [] and {report["kind"] for report in used["reports"]} == {"leftover_in_use"}
    it.segment(2)
    it.settle()
    it.guest.run(f"""resize2fs {it.device}; head -c 50000000 /dev/urandom > /run/mnt/more
        sha256sum --check --quiet /run/sum; umount /run/mnt; fsck.ext4 -nf {it.device}""", timeout=300)
    # Right after umount udev looks at the device: removing waits for it.
    assert it.settle(volumes=[])["steps"][0] == "remove weft-orders"
    assert it.ours() == []


def test_removing_waits_for_udev_which_looks_at_what_was_written(rig):
    it = rig("striped")
    it.segment(1)
    for _ in range(10):
        it.settle()
        it.guest.run(f"""dd if=/dev/zero of={it.device} bs=4096 count=8 oflag=direct status=none
            {it.tool} settle </dev/null""")
        assert it.ours() == []


@pytest.mark.long
@pytest.mark.limit(1500)
def test_killed_at_any_step_of_making_growing_and_removing(rig):
    it = rig("mirrored")
    it.volume["nosync"] = True
    it.segment(2)
    small = json.loads(json.dumps(it.volume))
    it.segment(2)

    it.guest.put("/run/small", json.dumps(small) + "\n")
    it.guest.put("/run/large", json.dumps(it.volume) + "\n")
    it.guest.put("/run/none", "")
    it.guest.put("/run/rounds.sh", ROUNDS)
    it.guest.run(["bash", "/run/rounds.sh", it.tool], timeout=1200, stream=True)
    assert it.guest.output("cat /run/rounds") == "19"  # 18 steps, and a round in which nobody was killed
    assert it.ours() == []


def test_a_leg_fails_is_dropped_and_a_new_one_is_rebuilt(rig):
    it = rig("mirrored", size=96 * MIB)
    legs = it.segment(2)
    it.guest.run(f"dmsetup create faulty --table '0 {it.size // 512} linear {legs[1]['path']} 0'")
    legs[1]["path"] = "/dev/mapper/faulty"
    it.settle()
    assert it.wait_raid("first sync", lambda raid: raid["healthy"])["health"] == "AA"
    load = Load(it.guest, it.device)
    it.guest.run(f"dmsetup suspend --noflush faulty; dmsetup load faulty --table '0 {it.size // 512} error'; "
                 "dmsetup resume faulty")
    assert it.wait_raid("failing", lambda raid: "D" in raid["health"])["health"] == "AD"
    legs[1]["state"] = "missing"
    done = it.settle()
    assert done["steps"][:3] == ["suspend weft-orders:s0", "load weft-orders:s0", "resume weft-orders:s0"]
    assert sorted(done["steps"][3:]) == ["remove weft-orders:s0-leg1-data", "remove weft-orders:s0-leg1-meta"]
    assert it.raid()[1]["health"] == "A-"
    it.guest.run("dmsetup remove faulty")  # nobody holds it any more
    legs[1].update(it.extent("rebuild"))
    it.settle()
    status, raid = it.raid()
    assert raid["health"] in ("Aa", "AA") and raid["action"] in ("recover", "idle")
    assert it.wait_raid("rebuilding", lambda raid: raid["healthy"])["percent"] == 100
    legs[1]["state"] = "up_to_date"
    assert it.settle()["steps"] == ["suspend weft-orders:s0", "load weft-orders:s0", "resume weft-orders:s0"]
    assert load.end() > 50
    it.call("check", "weft-orders:s0")
    assert it.wait_raid("checking", lambda raid: raid["healthy"])["mismatches"] == 0
    it.settle(volumes=[])
    it.guest.run(f"cmp --ignore-initial={META} {legs[0]['path']} {legs[1]['path']}")


def test_legs_after_a_power_cut_are_made_equal_where_the_bitmap_has_marks_and_nowhere_else(rig):
    """The legs as they lie at one moment of a load, whose region is marked; one leg lacks a write there."""
    it = rig("mirrored", size=64 * MIB)
    it.volume["nosync"] = True
    it.segment(2)
    it.settle()

    def marks():
        """A bit for each of 30 regions of 2 MiB, behind the bitmap's header of 256 bytes, from 4 KiB on."""
        return int(it.guest.output("od -A n -t u4 -j 4352 -N 4 /run/extents/1")) & (1 << 30) - 1
    wait_for(lambda: marks() == 0, 120, "the marks of a new bitmap, all of it, to go as nothing is written", interval=1)
    load = Load(it.guest, it.device)
    wait_for(lambda: marks() == 1, 60, "the mark of the region that is written")
    it.guest.run("cp --sparse=always /run/extents/0 /run/first; cp --sparse=always /run/extents/1 /run/second")
    load.end()
    it.settle(volumes=[])
    legs = it.segment(2)
    it.volume.update({"id": str(uuid.uuid4()), "segments": [legs], "nosync": False, "start": "by_bitmap"})
    changed, elsewhere = META + 100000, META + 40 * MIB
    it.guest.run(f"""cp --sparse=never /run/first /run/extents/2; cp --sparse=never /run/second /run/extents/3
        for at in {changed} {elsewhere}; do
            printf x | dd of=/run/extents/3 bs=1 seek=$at conv=notrunc status=none
        done
        rm /run/first /run/second; losetup --set-capacity {legs[1]['path']}""")
    steps = it.settle()["steps"]
    assert [step for step in steps if step.startswith("doubt")] == [
        "doubt weft-orders:s0-leg0-meta", "doubt weft-orders:s0-leg1-meta"]
    assert it.wait_raid("making equal", lambda raid: raid["healthy"])["health"] == "AA"
    assert it.settle()["steps"] == []  # it runs: what it knows is newer than any superblock
    it.settle(volumes=[])
    assert it.guest.output(f"""cmp --verbose --ignore-initial={META} {legs[0]['path']} {legs[1]['path']} |
        awk '{{ print $1 - 1 }}'""") == str(elsewhere - META)


def test_a_rebuild_shows_how_far_it_is(rig):
    it = rig("mirrored", size=64 * MIB)
    legs = it.segment(2)
    it.settle()
    it.wait_raid("first sync", lambda raid: raid["healthy"])
    it.guest.run("echo 1000 > /proc/sys/dev/raid/speed_limit_max; echo 1000 > /proc/sys/dev/raid/speed_limit_min")
    try:
        legs[1].update(it.extent("rebuild"))  # another device: dropped and taken in again in one call
        steps = it.settle()["steps"]
        assert steps.count("load weft-orders:s0") == 2
        raid = it.raid()[1]
        assert (raid["health"], raid["action"]) == ("Aa", "recover") and raid["percent"] < 100
        assert it.status("weft-orders:s0")["rows"][0]["params"] == raid["rendered"]  # the kernel's words and ours
    finally:
        it.guest.run("echo 200000 > /proc/sys/dev/raid/speed_limit_max")
    # A daemon that comes back in the middle has nothing to do, and the rebuild goes on.
    assert it.settle()["steps"] == []
    assert it.wait_raid("rebuilding", lambda raid: raid["healthy"])["health"] == "AA"


def test_born_equal_legs_need_no_first_sync(rig):
    it = rig("mirrored")
    it.volume["nosync"] = True
    it.segment(3)
    it.settle()
    raid = it.raid()[1]
    assert raid["healthy"] and raid["health"] == "AAA"
    assert it.settle() == {"steps": [], "reports": []}


def test_what_the_kernel_refuses_is_told_in_its_words(rig):
    it = rig("striped")
    it.segment(1)[0]["size"] = 64 * MIB  # twice of what is there
    with pytest.raises(Refused) as refused:
        it.settle()
    assert "load weft-orders: weft-orders: Invalid argument" in str(refused.value)
    assert "too small for target" in str(refused.value)
    it.volume["segments"][0][0]["size"] = it.size
    assert it.settle()["steps"] == ["load weft-orders", "resume weft-orders"]


def test_other_scopes_and_strangers_are_left_alone(rig):
    it, other = rig("striped"), rig("striped", scope="n2")
    it.segment(1)
    other.volume["segments"] = [[it.extent()]]
    it.settle()
    other.settle()
    it.guest.run("dmsetup create odd -u WEFT-odd --table '0 8 error'; dmsetup create lv -u LVM-x --table '0 8 error'")
    done = it.settle(volumes=[])
    assert done["steps"] == ["remove weft-orders"]
    assert [report["kind"] for report in done["reports"] if report["name"] == "odd"] == ["not_ours"]
    assert it.ours() == ["odd", "weft-orders@n2"]
    assert it.guest.output("dmsetup info -c --noheadings -o uuid lv") == "LVM-x"
    # A name that a stranger has: the volume is left alone, with a reason.
    it.guest.run("dmsetup create weft-orders --table '0 8 error'")
    done = it.settle()
    assert done["steps"] == [] and "name_taken" in [report["kind"] for report in done["reports"]]


def test_parts_are_nobodys_business_to_udev(rig):
    it = rig("mirrored")
    it.volume["nosync"] = True
    it.segment(2)
    it.settle()
    it.guest.run(f"mkfs.ext4 -q -L shown {it.device}; udevadm settle")
    top = it.guest.output(f"udevadm info -q property {it.device}")
    assert "ID_FS_LABEL=shown" in top
    for part in ("s0", "s0-leg0-data", "s0-leg1-data"):
        assert "ID_FS_TYPE" not in it.guest.output(f"udevadm info -q property /dev/mapper/weft-orders:{part}")
    assert it.guest.output("readlink -f /dev/disk/by-label/shown") == it.guest.output(f"readlink -f {it.device}")


def test_without_udev_the_library_makes_the_nodes(rig):
    it = rig("mirrored")
    it.volume["nosync"] = True
    it.segment(2)
    it.guest.run("systemctl mask --runtime systemd-udevd.service systemd-udevd-control.socket "
                 "systemd-udevd-kernel.socket; systemctl stop systemd-udevd-control.socket "
                 "systemd-udevd-kernel.socket systemd-udevd.service; rm -f /run/udev/control")
    try:
        it.settle()
        assert it.guest.output(f"stat -c %F {it.device}") == "block special file"
        it.guest.run(f"dd if=/dev/zero of={it.device} bs=4096 count=1 oflag=direct status=none")
        it.guest.run(f"rm {it.device}")  # a daemon killed before it came to make the node
        assert it.settle() == {"steps": [], "reports": []}
        assert it.guest.output(f"stat -c %F {it.device}") == "block special file"
        it.settle(volumes=[])
        assert it.guest.output("ls /dev/mapper") == "control"
    finally:
        it.guest.run("systemctl unmask --runtime systemd-udevd.service systemd-udevd-control.socket "
                     "systemd-udevd-kernel.socket; systemctl start systemd-udevd.service; udevadm settle")
