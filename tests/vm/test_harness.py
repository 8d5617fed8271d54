# SPDX-License-Identifier: Apache-2.0
"""What every other scenario relies on: a guest with systemd, udev and the modules; cuts that are cuts."""
import pytest

from harness.channel import CommandError

MIB = 1 << 20
PROBE = """[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=touch /run/probed
[Install]
WantedBy=basic.target
"""
VOLATILE = {"size": 64 * MIB, "cache": "volatile"}
GUEST = {"disks": {"data": 64 * MIB, "pulled": 64 * MIB, "flushed": VOLATILE, "dying": VOLATILE},
         "enable": ["probe.service"],
         "files": {"/etc/systemd/system/probe.service": PROBE}}


def test_systemd_reaches_its_target_with_no_failed_unit(guest):
    assert guest.output("systemctl is-active multi-user.target") == "active"
    assert guest.output("systemctl --failed --plain --no-legend") == ""
    assert guest.output("cat /proc/1/comm") == "systemd"
    assert guest.output("hostname") == "guest"


def test_a_unit_that_was_given_to_the_guest_ran_at_boot(guest):
    guest.run("test -e /run/probed && test -L /etc/systemd/system/basic.target.wants/probe.service")


def test_a_command_gives_code_streams_and_input(guest):
    outcome = guest.run("cat; echo oops >&2; exit 7", stdin="hello", check=False)
    assert (outcome.code, outcome.stdout, outcome.stderr) == (7, "hello", "oops\n")
    with pytest.raises(CommandError, match="exit 1"):
        guest.run(["false"])
    assert guest.run("kill -9 $$", check=False).code == -9


def test_large_output_arrives_whole_while_other_commands_run(guest):
    loud = guest.popen("head -c 5000000 /dev/zero | tr '\\0' x")
    assert [guest.output(f"echo {number}") for number in range(5)] == list("01234")
    assert loud.wait(300).stdout == "x" * 5000000


def test_a_command_that_hangs_is_killed_with_what_it_started(guest):
    with pytest.raises(AssertionError, match="no end after 3 s; so far:\nbegun"):
        guest.run("echo begun; sleep 12345 & sleep 12345", timeout=3)
    guest.wait_until("! pgrep -f 'sleep 1234[5]'", 60, "the sleepers to be dead")


def test_a_file_goes_in_and_comes_out(guest):
    content = bytes(range(256)) * 100
    guest.put("/run/below/a file", content, mode=0o600)
    assert guest.get("/run/below/a file") == content
    assert guest.output(["stat", "-c", "%a", "/run/below/a file"]) == "600"


@pytest.mark.parametrize("module", ["nbd", "dm-mod", "dm-raid", "raid1", "dm-crypt", "dm-flakey", "dm-delay",
                                    "dm-log-writes", "dm-snapshot", "loop", "ext4", "xfs", "fuse"])
def test_module_loads(guest, module):
    guest.run(["modprobe", module])


def test_a_dm_linear_table_over_a_disk_gets_its_node_from_udev(guest):
    disk = guest.disks["data"].path
    guest.run(f"echo '0 2048 linear {disk} 2048' | dmsetup create joined")
    try:
        assert guest.output("test -L /dev/mapper/joined && blockdev --getsize64 /dev/mapper/joined") == str(MIB)
        guest.run(f"echo here | dd of=/dev/mapper/joined conv=fsync status=none && dd if={disk} bs=1M skip=1 count=1 "
                  "iflag=direct status=none | head -c 4 | grep --quiet here")
    finally:
        guest.run("dmsetup remove joined")
    assert guest.run("test -e /dev/mapper/joined", check=False).code != 0


def test_the_host_is_read_only(guest, tmp_path):
    here = tmp_path / "file"
    here.write_text("host's")
    guest.run(f"cat {here} && echo guest > {here}")
    assert here.read_text() == "host's"


def test_a_disk_that_dies_fails_its_requests(guest):
    write = f"dd if=/dev/zero of={guest.disks['dying'].path} bs=4096 count=1 oflag=direct,sync status=none"
    guest.run(write)
    guest.fail("dying")
    outcome = guest.run(write, check=False)
    assert outcome.code == 1 and "Input/output error" in outcome.stderr


@pytest.fixture(scope="module")
def cut(ready_guest):
    """The guest after a power cut, and what each disk was told before it. One cut and boot for several tests."""
    guest = ready_guest()
    disk, flushed = guest.disks["data"].path, guest.disks["flushed"].path
    guest.plug("late", size=32 * MIB, cache="none")
    guest.run(f"mkfs.ext4 -q {disk} && mount {disk} /mnt")
    # Longer than the test: nothing is written back but what is synced.
    guest.run("echo 360000 >/proc/sys/vm/dirty_writeback_centisecs; echo 360000 >/proc/sys/vm/dirty_expire_centisecs")
    guest.run(f"for block in 0 1; do echo old! | dd of={flushed} bs=4096 seek=$block conv=fsync status=none; done")
    # O_DIRECT without a flush: it has left the guest's memory.
    guest.run(f"yes new! | dd of={flushed} bs=4096 count=1 seek=1 iflag=fullblock oflag=direct status=none; "
              f"dd if={flushed} bs=4096 skip=1 count=1 iflag=direct status=none | grep --quiet new!")
    guest.run("echo kept >/mnt/synced && sync /mnt/synced /mnt && echo lost >/mnt/unsynced && cat /mnt/unsynced")
    guest.boot_before = guest.output("cat /proc/sys/kernel/random/boot_id")
    guest.power_cut()
    guest.start()
    return guest


def test_a_power_cut_loses_what_was_not_synced_and_nothing_else(cut):
    assert cut.output("cat /proc/sys/kernel/random/boot_id") != cut.boot_before
    cut.run(f"mount {cut.disks['data'].path} /mnt")
    try:
        assert cut.output("cat /mnt/synced") == "kept"
        assert cut.run("cat /mnt/unsynced", check=False).stdout == ""
    finally:
        cut.run("umount /mnt")


def test_a_volatile_disk_loses_what_was_not_flushed_to_it(cut):
    for block in (0, 1):
        assert cut.output(f"dd if={cut.disks['flushed'].path} bs=4096 skip={block} count=1 status=none"
                          " | head -c 4") == "old!"


def test_a_disk_that_was_plugged_in_is_there_after_the_next_boot(cut):
    assert cut.output(f"blockdev --getsize64 {cut.disks['late'].path}") == str(32 * MIB)


def test_a_pulled_disk_disappears_and_comes_back(guest):
    disk = guest.disks["pulled"].path
    guest.run(f"echo mark | dd of={disk} conv=fsync status=none")
    guest.pull("pulled")
    guest.wait_until(f"! test -e {disk}", 60, "udev to take the link away")
    assert guest.output("lsblk --noheadings --output SERIAL | grep -c pulled || true") == "0"
    guest.plug("pulled")
    assert guest.output(f"head -c 4 {disk}") == "mark"


@pytest.mark.long  # test_systemd would not work without it
def test_a_persistent_guest_keeps_what_it_changed(make_guest):
    own = make_guest(persistent=True)
    own.start()
    own.run("echo kept >/root/kept; sync /root/kept; rm /usr/bin/factor; sync")
    own.power_cut()
    own.start()
    assert own.output("cat /root/kept") == "kept"
    assert own.run("test -e /usr/bin/factor", check=False).code == 1


def test_an_orderly_shutdown_writes_back_and_is_told_in_the_journal(guest):
    disk = guest.disks["data"].path
    guest.run(f"mkfs.ext4 -q {disk} && mount {disk} /mnt && echo written >/mnt/file")
    guest.reboot()
    told = guest.journal.read_text()
    assert "Reached target umount.target" in told[:told.index("end of the journal")]
    guest.run(f"mount {disk} /mnt")
    assert guest.output("cat /mnt/file") == "written"
