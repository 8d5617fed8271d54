# SPDX-License-Identifier: Apache-2.0
"""Kernel nbd devices (orchestrator/io/nbd_device.hpp) over nbdkit, made and unmade by build/nbd-tool.

Nothing but the kernel remembers a device, so each test looks at what the kernel has; after each nothing may be left.
"""
import itertools
import os
import re

import pytest

from lib.waiting import wait_for

MIB = 1 << 20
GUEST = {"memory": 1024, "cpus": 2}  # the driver makes no more connections than there are processors
VOLUME = "3f0a2c1e-0000-4000-8000-0000000000aa"
MARK = f"weft:guest:{VOLUME}:0"
NUMBERS = itertools.count(1)


class Server:
    """nbdkit in the guest, below /run/nbd, with a log of the commands that reached it."""

    def __init__(self, guest, plugin=("memory", "64M"), filters=(), more=()):
        self.guest, self.folder = guest, f"/run/nbd/{next(NUMBERS)}"
        self.socket, self.log, self.pidfile = (f"{self.folder}/{name}" for name in ("nbd.sock", "log", "pid"))
        self.command = ["nbdkit", "-t", "16", "-U", self.socket, "-P", self.pidfile,
                        *(f"--filter={name}" for name in ("log", *filters)), *plugin, f"logfile={self.log}",
                        "logappend=true", *more]
        guest.run(["mkdir", "-p", self.folder])
        self.start()

    def start(self):
        self.guest.run(self.command)
        self.guest.wait_until(["test", "-s", self.pidfile], 60, "nbdkit to listen")

    def kill(self, signal="KILL"):
        """As a crash, unless another signal is named. nbdkit removes its files only when it ends in order."""
        self.guest.run(f"kill -{signal} $(cat {self.pidfile})")
        if signal == "KILL":
            self.guest.wait_until(f"! test -e /proc/$(cat {self.pidfile})", 60, "the server to be dead")
            self.guest.run(["rm", "-f", self.socket, self.pidfile])

    def commands(self, pattern):
        """How many commands with this begin reached the server."""
        return len(re.findall(pattern + r".* \.\.\.$", self.guest.output(["cat", self.log]), re.MULTILINE))


class Tool:
    def __init__(self, guest):
        self.guest = guest

    def __call__(self, *words, check=True, timeout=120):
        return self.guest.run(["nbd-tool", *map(str, words)], check=check, timeout=timeout)

    def connect(self, server, *more, mark=MARK):
        """(index, "made" or "there", sockets replaced, size, connections)"""
        return parse(self("connect", server.socket, "", mark, *more).stdout)

    def reconfigure(self, server, *more, mark=MARK):
        return parse(self("reconfigure", server.socket, "", mark, *more).stdout)

    def find(self, prefix="weft:"):
        """{index: (size, connections, mark)}"""
        lines = (line.split() for line in self("find", prefix).stdout.splitlines())
        return {int(name[3:]): (int(size), int(connections), mark) for name, size, connections, mark in lines}

    def refused(self, *words):
        outcome = self(*words, check=False)
        assert outcome.code == 1, outcome.stdout
        return outcome.stderr


def parse(line):
    index, made, replaced, size, connections = line.split()
    return int(index.removeprefix("nbd")), made, int(replaced), int(size), int(connections)


class Watch:
    """nbd-tool watch, and what it has said."""

    def __init__(self, guest):
        self.command = guest.popen(["nbd-tool", "watch"])
        wait_for(lambda: self.command.stdout.startswith("look\n"), 60, "the watch to listen")

    def losses(self, index):
        return self.command.stdout.count(f"lost nbd{index}\n")

    def stop(self):
        self.command.signal(15)
        self.command.wait(60)


@pytest.fixture
def tool(guest):
    guest.run(["nbd-tool", "load"])
    made = Tool(guest)
    yield made
    # Servers first: nothing waits for a stopped one then, and what still uses a device ends with errors.
    guest.run("pkill -KILL nbdkit || true; ! mountpoint -q /mnt || umount --lazy /mnt")
    for _size, _connections, mark in made.find().values():
        made("disconnect", mark, 20000)
    assert made.find() == {}
    guest.run(["rm", "-rf", "/run/nbd"])


@pytest.fixture
def watch(guest, tool):
    made = Watch(guest)
    yield made
    made.stop()


@pytest.fixture
def server(guest, tool):
    return Server(guest)


def requests_in_flight(guest, index):
    return sum(map(int, guest.output(["cat", f"/sys/block/nbd{index}/inflight"]).split()))


def test_without_the_driver_every_call_says_what_to_do(guest):
    guest.run("modprobe --remove nbd || true; test ! -e /sys/module/nbd")
    for words in (["connect", "/run/none", "", MARK], ["watch"]):
        outcome = guest.run(["nbd-tool", *words], check=False)
        assert outcome.code == 1 and "unavailable" in outcome.stderr and "modprobe nbd" in outcome.stderr
    assert guest.output(["nbd-tool", "find", "weft:"]) == ""
    guest.run(["nbd-tool", "load"])
    guest.run(["test", "-e", "/sys/module/nbd"])


@pytest.mark.parametrize("filesystem, size, connections", [
    ("ext4", 64, 1), pytest.param("ext4", 64, 4, marks=pytest.mark.long),
    pytest.param("xfs", 320, 4, marks=pytest.mark.long)])
def test_a_file_system_lives_on_it_and_disconnect_leaves_nothing(guest, tool, filesystem, size, connections):
    server = Server(guest, ("memory", f"{size}M"))
    asked, connections = connections, min(connections, int(guest.output("nproc")))  # a queue per processor at most
    index, made, replaced, found, sockets = tool.connect(server, asked)
    assert (made, replaced, found, sockets) == ("made", 0, size * MIB, connections)
    assert tool.find() == {index: (size * MIB, connections, MARK)}
    device = f"/dev/nbd{index}"
    assert guest.output(["blockdev", "--getss", "--getpbsz", device]).split() == ["4096", "4096"]
    guest.run(["mkfs." + filesystem, "-q", device])
    guest.run("mkdir /run/nbd/data && cd /run/nbd/data && for ((n = 1; n <= 200; n++)); do "
              "head -c $((n * 500)) /dev/urandom >$n; done")
    guest.run(f"mount {device} /mnt && cp -r /run/nbd/data /mnt && umount /mnt")
    guest.run(f"fsck.ext4 -fn {device}" if filesystem == "ext4" else f"xfs_repair -n {device}", timeout=300)
    guest.run(f"mount {device} /mnt && diff -r /run/nbd/data /mnt/data && umount /mnt", timeout=300)
    tool("disconnect", MARK)
    assert tool.find() == {}
    assert guest.output(["cat", f"/sys/block/nbd{index}/size"]) == "0"
    assert guest.run(f"ls /sys/block/nbd{index}/pid /sys/block/nbd{index}/backend", check=False).stdout == ""
    assert guest.output(["cat", f"/sys/block/nbd{index}/queue/io_timeout"]) == "30000"
    tool("disconnect", MARK)


def test_connecting_again_finds_the_device_and_changes_nothing(guest, tool, server):
    first = tool.connect(server, 2)
    assert tool.connect(server, 2) == (first[0], "there", 0, *first[3:])
    assert tool.reconfigure(server, 2) == (first[0], "there", 0, *first[3:])
    assert len(tool.find()) == 1
    assert guest.output(["cat", f"/sys/block/nbd{first[0]}/queue/io_timeout"]) == "10000"


def test_flush_fua_and_trim_reach_the_server(guest, tool, server):
    index = tool.connect(server)[0]
    device = f"/dev/nbd{index}"
    before = server.commands("Flush")
    guest.run(f"dd if=/dev/urandom of={device} bs=64k count=1 conv=fsync status=none")
    assert server.commands("Flush") > before
    assert server.commands(r"Write id=\d+ offset=0x0 count=0x10000") == 1
    guest.run(f"dd if=/dev/zero of={device} bs=4k count=1 seek=100 oflag=direct,dsync status=none")
    assert server.commands(r"Write id=\d+ offset=0x64000 count=0x1000 fua=1") == 1
    guest.run(f"blkdiscard --offset 8192 --length 1048576 {device}")
    assert server.commands(r"Trim id=\d+ offset=0x2000 count=0x100000") == 1
    assert guest.output(["cat", f"/sys/block/nbd{index}/queue/discard_granularity"]) == "4096"
    assert guest.output(["cat", f"/sys/block/nbd{index}/queue/write_cache"]) == "write back"
    assert guest.output(["cat", f"/sys/block/nbd{index}/queue/fua"]) == "1"


def test_a_read_only_server_makes_a_read_only_device(guest, tool):
    server = Server(guest, ("-r", "memory", "64M"))
    index = tool.connect(server)[0]
    assert guest.output(["blockdev", "--getro", f"/dev/nbd{index}"]) == "1"
    assert guest.run(f"dd if=/dev/zero of=/dev/nbd{index} bs=4k count=1 oflag=direct", check=False).code != 0


def test_one_connection_when_the_server_cannot_share(guest, tool):
    server = Server(guest, filters=["multi-conn"], more=["multi-conn-mode=disable"])
    assert tool.connect(server, 4)[4] == 1


def test_racing_connects_of_different_extents_get_different_devices(guest, tool, server):
    marks = [f"weft:guest:{VOLUME}:{number}" for number in range(6)]
    racing = [guest.popen(["nbd-tool", "connect", server.socket, "", mark]) for mark in marks]
    outcomes = [command.wait(120) for command in racing]
    assert all(outcome.code == 0 for outcome in outcomes), outcomes
    got = [parse(outcome.stdout) for outcome in outcomes]
    assert len({index for index, *_rest in got}) == len(marks)
    assert {made for _index, made, *_rest in got} == {"made"}
    assert {index: mark for index, (_size, _connections, mark) in tool.find().items()} == \
        {index: mark for (index, *_rest), mark in zip(got, marks)}


def test_racing_connects_of_one_extent_get_one_device(guest, tool, server):
    racing = [guest.popen(["nbd-tool", "connect", server.socket, "", MARK]) for _ in range(6)]
    got = [parse(command.wait(120).stdout) for command in racing]
    assert len(tool.find()) == 1 == len({index for index, *_rest in got})
    assert sorted(made for _index, made, *_rest in got) == ["made"] + ["there"] * 5


# Passes that write and then read all of it back, until told that it is enough; the first bad block or error ends it.
LOAD = ("while ! test -e /run/nbd/enough; do fio --name=load --filename=/dev/nbd{index} --direct=1 --ioengine=libaio "
        "--iodepth=16 --rw=randwrite --bs=16k --size=8m --verify=crc32c --verify_fatal=1 --fsync=64 --randseed=$RANDOM "
        "--output-format=terse; done")


@pytest.mark.parametrize("connections", [1, 2])
def test_the_server_is_killed_and_replaced_under_load(guest, tool, watch, connections):
    guest.run("mkdir -p /run/nbd && truncate -s 64M /run/nbd/disk")
    server = Server(guest, ("file", "/run/nbd/disk"))
    index = tool.connect(server, connections, 3000)[0]
    load = guest.popen(LOAD.format(index=index))
    for turn in range(1, 4):
        written = server.commands("Write")
        wait_for(lambda: server.commands("Write") > written + 25, 120, "fio to write")
        server.kill()
        wait_for(lambda: watch.losses(index) == turn * connections, 60, "the kernel to tell of each lost connection")
        assert load.running, load.stderr
        server.start()
        assert tool.reconfigure(server, connections, 3000)[1:3] == ("there", connections)
    guest.run(["touch", "/run/nbd/enough"])
    outcome = load.wait(600)
    assert outcome.code == 0, outcome.stdout + outcome.stderr
    assert tool.find() == {index: (64 * MIB, connections, MARK)}
    assert watch.losses(index) == 3 * connections


def test_a_held_request_is_sent_once_over_one_connection(guest, tool, watch):
    guest.run(["dmesg", "--clear"])
    server = Server(guest, filters=["delay"], more=["delay-write=8"])
    index = tool.connect(server, 1, 1000)[0]
    guest.run(f"dd if=/dev/zero of=/dev/nbd{index} bs=4k count=1 oflag=direct status=none")
    assert server.commands("Write") == 1
    assert watch.losses(index) == 0
    guest.run("dmesg | grep --quiet 'Possible stuck request'")


def test_a_held_request_is_sent_again_over_several_connections(guest, tool, watch):
    """Not wanted, but what the kernel does: the reason for one connection. It must at least end in order."""
    server = Server(guest, filters=["delay"], more=["delay-write=600"])
    index = tool.connect(server, 2, 1000)[0]
    writer = guest.popen(f"dd if=/dev/zero of=/dev/nbd{index} bs=4k count=1 oflag=direct status=none")
    wait_for(lambda: watch.losses(index) == 2, 120, "the kernel to give both connections up")
    assert server.commands("Write") == 2
    assert writer.running
    tool("disconnect", MARK, 60000)
    assert "Input/output error" in writer.wait(60).stderr


def test_a_server_that_never_comes_back_can_be_disconnected(guest, tool, watch, server):
    index = tool.connect(server)[0]
    guest.run(f"dd if=/dev/nbd{index} of=/dev/null bs=4k count=1 iflag=direct status=none")
    guest.run(["dmesg", "--clear"])
    server.kill(signal="STOP")
    sent = guest.popen(f"dd if=/dev/zero of=/dev/nbd{index} bs=4k count=1 oflag=direct status=none")
    wait_for(lambda: requests_in_flight(guest, index) == 1, 60, "a request that the server owes")
    server.kill()
    wait_for(lambda: watch.losses(index) == 1, 60, "the kernel to see the end")
    later = guest.popen(f"dd if=/dev/zero of=/dev/nbd{index} bs=4k count=1 seek=9 oflag=direct status=none")
    guest.wait_until("dmesg | grep --quiet 'failed to find a fallback'", 60, "a request to wait for a new connection")
    assert sent.running and later.running
    tool("disconnect", MARK, 60000)
    for command in (sent, later):
        outcome = command.wait(60)
        assert outcome.code == 1 and "Input/output error" in outcome.stderr
    assert tool.find() == {}


def test_a_mounted_device_is_disconnected_but_stays_until_it_is_let_go(guest, tool, server):
    index = tool.connect(server)[0]
    guest.run(f"mkfs.ext4 -q /dev/nbd{index} && mount /dev/nbd{index} /mnt")
    try:
        why = tool.refused("disconnect", MARK, 1000)
        assert "busy" in why and f"/dev/nbd{index}" in why
        assert guest.run("echo x >/mnt/file && sync /mnt/file", check=False).code != 0
        assert "still holds it open" in tool.refused("connect", server.socket, "", MARK)
        assert "busy" in tool.refused("disconnect", MARK, 1000)
    finally:
        guest.run("umount /mnt")
    tool("disconnect", MARK)
    assert tool.find() == {}
    assert tool.connect(server)[1] == "made"


def test_disconnect_returns_as_soon_as_the_last_opener_lets_go(guest, tool, server):
    index = tool.connect(server)[0]
    guest.run(["dmesg", "--clear"])
    holder = guest.popen(f"exec 3</dev/nbd{index}; echo open; exec tail -f /dev/null")
    wait_for(lambda: holder.stdout == "open\n", 60, "the device to be open")
    waiting = guest.popen(["nbd-tool", "disconnect", MARK, "100000"])
    guest.wait_until("dmesg | grep --quiet NBD_DISCONNECT", 60, "the kernel to hear it")
    assert waiting.running
    holder.signal(9)
    assert waiting.wait(60).code == 0
    assert tool.find() == {}


def test_a_device_grows_with_its_export(guest, tool, watch):
    guest.run("mkdir -p /run/nbd && truncate -s 32M /run/nbd/disk")
    server = Server(guest, ("file", "/run/nbd/disk"))
    index = tool.connect(server)[0]
    guest.run(f"mkfs.ext4 -q /dev/nbd{index} && mount /dev/nbd{index} /mnt && echo kept >/mnt/file")
    server.kill()
    guest.run("truncate -s 64M /run/nbd/disk")
    server.start()
    wait_for(lambda: watch.losses(index) == 1, 60, "the kernel to see the end")
    tool.reconfigure(server)
    tool("grow", MARK, 64 * MIB)
    assert tool.find()[index][0] == 64 * MIB
    guest.run(f"resize2fs /dev/nbd{index} && head -c 40M /dev/urandom >/mnt/big && sync -f /mnt && cat /mnt/file")
    guest.run(f"umount /mnt && fsck.ext4 -fn /dev/nbd{index}")
    assert "never made smaller" in tool.refused("grow", MARK, 32 * MIB)


def test_an_export_that_shrank_is_refused(guest, tool, watch):
    guest.run("mkdir -p /run/nbd && truncate -s 32M /run/nbd/disk")
    server = Server(guest, ("file", "/run/nbd/disk"))
    index = tool.connect(server)[0]
    server.kill()
    guest.run("truncate -s 16M /run/nbd/disk")
    server.start()
    wait_for(lambda: watch.losses(index) == 1, 60, "the kernel to see the end")
    assert "conflict" in tool.refused("reconfigure", server.socket, "", MARK)


STEPS = """
# Kills the tool by strace at its n-th system call of the kinds that touch something, for every {stride}th n until it
# lives to the end; after each kill a second run must find or make exactly one device that works, or leave none.
set -u
kinds=socket,connect,bind,sendto,sendmsg,recvmsg,openat,flock,write,fcntl,getdents64,close,poll
kinds+=,clone,clone3,fork,vfork,wait4
connect() { nbd-tool connect {socket} '' {mark} 2; }
count() { nbd-tool find {mark} | wc -l; }
fail() { echo "killed at call $n of {verb}: $*" >&2; exit 1; }
for ((n = {first}; n < 2000; n += {stride})); do
    {before}
    strace --follow-forks --quiet=all --output=/dev/null --trace=$kinds --inject=$kinds:signal=KILL:when=$n \\
        nbd-tool {words} >/dev/null 2>&1
    code=$?
    [ "$(count)" -le 1 ] || fail "several devices: $(nbd-tool find {mark})"
    {after}
    nbd-tool disconnect {mark} 20000 || fail "disconnect failed"
    [ "$(count)" = 0 ] || fail "something is left: $(nbd-tool find {mark})"
    [ "$code" = 0 ] && break
    echo "killed at call $n: repaired" >>/run/nbd/steps
done
echo "$n"
"""

WORKS = """
    connect >/run/nbd/said || fail "the second connect failed"
    [ "$(count)" = 1 ] || fail "not one device: $(nbd-tool find {mark})"
    device=$(cut -d' ' -f1 /run/nbd/said)
    timeout 20 dd if=/dev/$device of=/dev/null bs=4k count=1 iflag=direct status=none || fail "cannot be read"
    [ "$(cat /sys/block/$device/queue/io_timeout)" = 10000 ] || fail "io_timeout is not set"
"""


def kill_at_each_step(guest, server, verb, words, before="", after=""):
    fields = {"socket": server.socket, "mark": MARK, "verb": verb}
    script = STEPS
    for name, value in {"before": before, "after": after, "words": words, "first": "1",
                        "stride": "9" if os.environ.get("WEFT_LONG") else "29", **fields}.items():
        script = script.replace("{" + name + "}", value)
    for name, value in fields.items():
        script = script.replace("{" + name + "}", value)
    return int(guest.output(["bash", "-c", script], timeout=840))


def test_connect_killed_at_each_step_is_finished_by_the_next(guest, tool, server):
    steps = kill_at_each_step(guest, server, "connect", "connect {socket} '' {mark} 2", after=WORKS)
    assert steps > 20


def test_disconnect_killed_at_each_step_is_finished_by_the_next(guest, tool, server):
    steps = kill_at_each_step(guest, server, "disconnect", "disconnect {mark}",
                              before="connect >/dev/null || fail connect")
    assert steps > 20


def test_reconfigure_killed_at_each_step_is_finished_by_the_next(guest, tool, watch):
    """A new server each time would take minutes: the device is asked for while its connections live, too."""
    server = Server(guest)
    steps = kill_at_each_step(guest, server, "reconfigure", "reconfigure {socket} '' {mark} 2",
                              before="connect >/dev/null || fail connect", after=WORKS)
    assert steps > 20
