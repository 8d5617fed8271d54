# SPDX-License-Identifier: Apache-2.0
"""What udev, with Debian's rules and ours, makes of our devices and of everybody else's."""
import pytest
from conftest import REPOSITORY
from udev_machine import UdevMachine

ID = "3f0a2c1e-0000-4000-8000-000000000001"
KEEP_AWAY = {"DM_UDEV_DISABLE_DISK_RULES_FLAG": "1", "DM_UDEV_DISABLE_OTHER_RULES_FLAG": "1",
             "UDEV_DISABLE_PERSISTENT_STORAGE_RULES_FLAG": "1", "DM_MULTIPATH_DEVICE_PATH": "0", "UDISKS_IGNORE": "1"}


@pytest.fixture
def machine(tmp_path):
    return UdevMachine(tmp_path, sorted((REPOSITORY / "udev-rules").glob("*.rules")))


def dm(machine, name, uuid, number=3, suspended=0, **more):
    return machine.add(f"dm-{number}", (253, number), dm__name=name, dm__uuid=uuid, dm__suspended=suspended,
                       queue__read_ahead_kb=8, queue__add_random=1, **more)


def nbd(machine, **attributes):
    return machine.add("nbd0", (43, 0), queue__scheduler="bfq", queue__max_sectors_kb=128, queue__add_random=1,
                       queue__read_ahead_kb=128, **attributes)


def keeps_away(seen):
    return {key: seen.get(key) for key in KEEP_AWAY} == KEEP_AWAY


def complaints(seen):
    return [line for line in seen["text"].splitlines() if "weft.rules" in line and
            any(word in line for word in ("nvalid", "nknown", "ignoring", "no effect", "ailed"))]


@pytest.mark.parametrize("name", ["orders", "0", "a-b.c_d", "x" * 90, "weft-weft-", "match"])
def test_a_volume_gets_its_name_and_nobody_else_looks_into_it(machine, name):
    where = dm(machine, f"weft-{name}", f"WEFT-{ID}-volume")
    seen = machine.event(where)
    assert seen["links"] == {f"weft/{name}", f"mapper/weft-{name}"}, "no by-id, by-uuid, by-label"
    assert keeps_away(seen) and seen["SYSTEMD_READY"] == "1"
    assert machine.read(where, "queue/read_ahead_kb") == "4096"
    assert not complaints(seen)


def test_a_volume_of_a_scope_is_a_volume_too(machine):
    seen = machine.event(dm(machine, "weft-orders@one", f"WEFT-one-{ID}-volume"))
    assert seen["links"] == {"weft/orders@one", "mapper/weft-orders@one"} and keeps_away(seen)


@pytest.mark.parametrize("role", ["s0", "s3-leg1-meta", "s3-leg0-data"])
def test_a_part_of_a_volume_is_hidden(machine, role):
    where = dm(machine, f"weft-orders:{role}", f"WEFT-{ID}-{role}")
    seen = machine.event(where)
    assert seen["links"] == {f"mapper/weft-orders:{role}"}
    assert keeps_away(seen) and seen["SYSTEMD_READY"] == "0"
    assert machine.read(where, "queue/read_ahead_kb") == "0"


def test_a_suspended_volume_keeps_its_name(machine):
    seen = machine.event(dm(machine, "weft-orders", f"WEFT-{ID}-volume", suspended=1))
    assert "weft/orders" in seen["links"] and keeps_away(seen)


def test_an_encrypted_volume_is_the_clear_device(machine):
    uuid = f"CRYPT-LUKS2-{ID.replace('-', '')}-weft-orders:crypt"
    seen = machine.event(dm(machine, "weft-orders:crypt", uuid, 4))
    assert {link for link in seen["links"] if link.startswith("weft/")} == {"weft/orders"}
    assert keeps_away(seen) and seen["SYSTEMD_READY"] == "1" and not complaints(seen)


def test_a_device_that_is_only_created_has_no_name_yet(machine):
    """lvm2: a device-mapper node is usable after its resume, a `change`; the `add` before it says nothing."""
    seen = machine.event(dm(machine, "weft-orders", f"WEFT-{ID}-volume"), action="add")
    assert not any(link.startswith("weft/") for link in seen["links"])


def test_our_nbd_device_is_hidden_and_its_queue_is_set(machine):
    where = nbd(machine, backend=f"weft:{ID}/0", pid=4711)
    seen = machine.event(where)
    assert keeps_away(seen) and seen["SYSTEMD_READY"] == "0" and not seen["links"]
    assert machine.read(where, "queue/scheduler").startswith("none")
    assert machine.read(where, "queue/max_sectors_kb") == "1024"
    assert machine.read(where, "queue/add_random") == "0"


def test_a_partition_that_the_kernel_found_on_our_nbd_device_is_hidden_too(machine):
    disk = nbd(machine, backend=f"weft:{ID}/0", pid=4711)
    seen = machine.event(machine.add("nbd0p1", (43, 1), "partition", parent=disk))
    assert keeps_away(seen) and seen["SYSTEMD_READY"] == "0" and not seen["links"]


def test_a_look_is_hidden_and_the_device_beside_it_is_not(machine):
    where = nbd(machine, pid=4711)
    seen = machine.event(where, looks="nbd0 nbd7")
    assert keeps_away(seen) and seen["SYSTEMD_READY"] == "0" and not seen["links"]
    assert not keeps_away(machine.event(where, looks="nbd1 nbd"))


def test_the_loop_device_of_a_portable_attach_is_hidden(machine):
    where = machine.add("loop5", (7, 5),
                        loop__backing_file=f"/run/weft/volumes/{ID}/fuse/volume-0123456789abcdef",
                        queue__read_ahead_kb=128)
    seen = machine.event(where)
    assert keeps_away(seen) and not seen["links"]


@pytest.mark.parametrize("kind", ["foreign nbd", "free nbd", "lvm", "loop", "disk"])
def test_what_is_not_ours_is_left_alone(machine, kind):
    where = {"foreign nbd": lambda: nbd(machine, backend="qemu", pid=4711),
             "free nbd": lambda: nbd(machine),
             "lvm": lambda: dm(machine, "vg-weft--orders", "LVM-abcdef"),
             "loop": lambda: machine.add("loop5", (7, 5), loop__backing_file="/srv/image"),
             "disk": lambda: machine.add("vdb", (254, 16))}[kind]()
    with_ours = machine.event(where)
    for rule in machine.path.glob("rules/*weft.rules"):
        rule.unlink()
    without = machine.event(where)
    for seen in (with_ours, without):
        seen.pop("text"), seen.pop("USEC_INITIALIZED")
    assert with_ours == without


def test_a_removal_runs_nothing_of_ours(machine):
    seen = machine.event(dm(machine, "weft-orders", f"WEFT-{ID}-volume"), action="remove")
    assert "weft.rules" not in "".join(line for line in seen["text"].splitlines() if "Reading rules" not in line)
