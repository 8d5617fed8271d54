# SPDX-License-Identifier: Apache-2.0
"""The volume server against real replica servers and a scripted weftd: R2-R5, R7-R11 over the wire."""
import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbd
import pytest

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]

from lib.io_load import Fio, Writer  # noqa: E402
from lib.waiting import assert_stays, wait_for  # noqa: E402
from lib.workspace import Workspace  # noqa: E402
from fake_weftd import FakeWeftd  # noqa: E402
from plugin_tools import BUILD, program  # noqa: E402
from volume_rig import BLOCK, MIB, Rig  # noqa: E402


RIG_NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def workspace():
    with Workspace("volume") as made:
        yield made


@pytest.fixture
def rigs(workspace):
    """Makes rigs; shows their logs when the test fails; takes them away."""
    made = []

    def make(**options):
        made.append(Rig(workspace, f"r{next(RIG_NUMBERS)}", **options))  # short: socket paths have 107 bytes
        return made[-1]

    def over(_number, _frame):
        raise AssertionError("the test took longer than 150 s")
    signal.signal(signal.SIGALRM, over)
    signal.alarm(150)
    yield make
    signal.alarm(0)
    for rig in made:
        rig.close()
        print(rig.logs())  # pytest shows it only when the test failed


class FioLoop:
    """Verifying fio runs one after the other until they are told to stop; every one of them must be well."""

    def __init__(self, workspace, uri):
        self.workspace, self.uri, self.runs, self.problem = workspace, uri, 0, None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        while not self._stop.is_set():
            try:
                Fio(self.workspace, self.uri, size="32M", rate_iops=4000, name=f"fio{self.runs}").finish(100)
                self.runs += 1
            except AssertionError as problem:
                self.problem = problem
                return

    def check(self):
        if self.problem:
            raise self.problem

    def finish(self):
        self._stop.set()
        self._thread.join(120)
        self.check()
        assert self.runs > 0 and not self._thread.is_alive()


@contextlib.contextmanager
def connected(volume, export=""):
    handle = volume.connect(export)
    try:
        yield handle
    finally:
        with contextlib.suppress(nbd.Error):
            handle.shutdown()


def in_background(body):
    """Runs body() on a thread; returns (thread, list that gets the result or the exception)."""
    outcome = []

    def run():
        try:
            outcome.append(body())
        except nbd.Error as problem:
            outcome.append(problem)
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, outcome


# --- serving


def test_exports_sizes_and_abilities(rigs):
    rig = rigs(extents=(8 * MIB, 4 * MIB))
    volume = rig.attach()
    rig.wait_serving()
    with connected(volume) as handle:
        assert handle.get_size() == 12 * MIB
        assert [handle.get_block_size(n) for n in range(3)] == [4096, 4096, 32 * MIB]
        assert handle.can_multi_conn() and handle.can_flush() and handle.can_fua()
        assert handle.can_zero() and handle.can_trim() and not handle.can_fast_zero()
    for export, size in {"volume": 12 * MIB, "extent/0": 8 * MIB, "extent/1": 4 * MIB}.items():
        with connected(volume, export) as handle:
            assert handle.get_size() == size
    for export in ("extent/2", "extent/", "extent/00", "extent/-1", "extent/0x0", "Volume", "volume/", "e" * 4000):
        with pytest.raises(nbd.Error):
            volume.connect(export)
    listed = []
    handle = nbd.NBD()
    handle.set_opt_mode(True)
    handle.connect_uri(volume.uri())
    handle.opt_list(lambda name, _description: listed.append(name))
    handle.opt_abort()
    assert listed == ["volume", "extent/0", "extent/1"]


def test_requests_that_cross_extents_land_in_both(rigs):
    rig = rigs(extents=(8 * MIB, 4 * MIB, 8 * MIB))
    volume = rig.attach()
    content = os.urandom(16 * MIB)
    with connected(volume) as handle:
        handle.pwrite(content, 2 * MIB)
        assert handle.pread(16 * MIB, 2 * MIB) == content
        handle.zero(6 * MIB, 7 * MIB)
        handle.flush()
    with connected(volume, "extent/1") as handle:
        assert handle.pread(4 * MIB, 0) == bytes(4 * MIB)
    with connected(volume, "extent/2") as handle:
        assert handle.pread(MIB, MIB) == content[11 * MIB:12 * MIB]
    rig.assert_equal()


@pytest.mark.parametrize("what", [lambda h: h.pwrite(b"x" * 512, 0), lambda h: h.pread(4096, 512),
                                  lambda h: h.zero(4096, 100), lambda h: h.pwrite(b"x" * 4096, 8 * MIB),
                                  lambda h: h.trim(8 * MIB, 4096)],
                         ids=["short write", "read off the grid", "zero off the grid", "write beyond", "trim beyond"])
def test_what_is_not_a_request_is_refused(rigs, what):
    rig = rigs(replicas=1, extents=(8 * MIB,))
    volume = rig.attach()
    rig.wait_serving()
    with connected(volume) as handle:
        handle.set_strict_mode(0)
        with pytest.raises(nbd.Error) as refused:
            what(handle)
        assert refused.value.errno in ("EINVAL", "ENOSPC")
        handle.pwrite(b"y" * 4096, 0)  # and the connection goes on


def test_write_zero_trim_flush_and_fua_reach_every_replica(rigs):
    rig = rigs(replicas=3)
    volume = rig.attach()
    content = os.urandom(2 * MIB)
    with connected(volume) as handle:
        handle.pwrite(content, 4 * MIB)
        handle.pwrite(content[:BLOCK], 0, nbd.CMD_FLAG_FUA)
        handle.zero(MIB, 4 * MIB + 4096 * 8, nbd.CMD_FLAG_FUA)
        handle.trim(512 * 1024, 5 * MIB + 64 * 1024)
        handle.flush()
        served = bytes(handle.pread(8 * MIB, 0))
    expected = bytearray(8 * MIB)
    expected[4 * MIB:6 * MIB] = content
    expected[:BLOCK] = content[:BLOCK]
    expected[4 * MIB + 4096 * 8:5 * MIB + 4096 * 8] = bytes(MIB)
    expected[5 * MIB + 64 * 1024:5 * MIB + 576 * 1024] = bytes(512 * 1024)
    assert served == expected
    for server in rig.servers:
        data = server.data(rig.ids[0][server.number])
        with open(data, "rb") as file:
            assert file.read(8 * MIB) == expected
        assert data.stat().st_blocks * 512 <= 2 * MIB  # zero and trim made holes


def test_zero_of_a_whole_volume_in_one_request(rigs):
    rig = rigs(extents=(64 * MIB, 64 * MIB))
    volume = rig.attach()
    with connected(volume) as handle:
        handle.set_strict_mode(0)
        handle.pwrite(b"z" * MIB, 63 * MIB + 512 * 1024)
        handle.zero(128 * MIB, 0)  # four times the largest request that carries data
        assert handle.pread(2 * MIB, 63 * MIB) == bytes(2 * MIB)


# --- deaths


def test_ten_deaths_under_load_lose_nothing(rigs, workspace):
    """The requirement: fio --verify, 4 KiB random writes, depth 32, every server in turn killed with kill -9 and
    restarted, ten rounds: no I/O error, no verify error, replicas byte-equal at the end."""
    rig = rigs(replicas=2)
    volume = rig.attach()
    rig.wait_whole()
    load = FioLoop(workspace, volume.uri())
    for number in range(10):
        victim = number % 2
        victim_id, survivor_id = rig.ids[0][victim], rig.ids[0][1 - victim]
        rig.servers[victim].kill()
        if number % 3 != 2:  # every third time it is back within the reconnect window, mostly
            rig.wait_state(victim, "outdated")
        rig.servers[victim].start()
        rig.wait_whole()
        load.check()
        assert rig.states[0][survivor_id] == "up_to_date" and rig.states[0][victim_id] == "up_to_date"
    load.finish()
    with connected(volume) as handle:
        handle.flush()
    rig.assert_equal()
    assert [n for n in rig.weftd.notices if n["severity"] == "error"] == []
    assert rig.weftd.status()["longest_hold_ms"] < 10000


def test_a_server_back_within_the_window_is_not_demoted(rigs, workspace):
    rig = rigs(times={"reconnect_window_ms": 20000})
    volume = rig.attach()
    rig.wait_whole()
    load = FioLoop(workspace, volume.uri())
    wait_for(lambda: rig.weftd.status()["state"] == "serving", 5, "serving")
    for victim in (1, 0, 1):
        rig.servers[victim].kill()
        rig.servers[victim].start()
        rig.wait_whole()
    load.finish()
    assert rig.weftd.commits == [] and rig.weftd.proposals == []
    with connected(volume) as handle:
        handle.flush()
    rig.assert_equal()


def test_both_servers_dead_holds_until_one_returns(rigs, workspace):
    rig = rigs()
    volume = rig.attach()
    rig.wait_whole()
    writer = Writer(workspace, volume.uri(), blocks=256)
    writer.wait_progress()
    for server in rig.servers:
        server.kill()
    wait_for(lambda: rig.weftd.status()["holding"], 10, "the volume to hold")
    before = writer.count()
    assert_stays(lambda: writer.count() <= before + 1 and not writer.errors, 2, "nothing acknowledged, nothing failed")
    for server in rig.servers:
        server.start()
    writer.wait_progress()
    rig.wait_whole()
    writer.stop()
    assert writer.errors == []
    writer.assert_nothing_lost(volume.uri())
    with connected(volume) as handle:
        handle.flush()
    rig.assert_equal()


def test_a_hung_server_is_left_behind_and_resynced_when_it_wakes(rigs, workspace):
    rig = rigs()
    volume = rig.attach()
    rig.wait_whole()
    writer = Writer(workspace, volume.uri(), blocks=256)
    writer.wait_progress()
    rig.servers[1].freeze()
    rig.wait_state(1, "outdated")
    writer.wait_progress(100, what="writes to go on without the hung server")
    # It still accepts connections and never answers: that must hold nobody up.
    assert_stays(lambda: not rig.weftd.status()["holding"], 3, "no holding while connections to it hang")
    slot = rig.weftd.slot(rig.ids[0][1])
    assert slot["state"] == "outdated"
    rig.servers[1].thaw()
    rig.wait_whole()
    writer.wait_progress()
    writer.stop()
    assert writer.errors == []
    writer.assert_nothing_lost(volume.uri())
    with connected(volume) as handle:
        handle.flush()
    rig.assert_equal()


def test_a_server_that_wakes_up_survives_the_client_that_left(rigs, workspace):
    """Bug guarded against: nbdkit 1.32 aborts when a client hangs up while several answers are on their way."""
    rig = rigs(times={"request_timeout_ms": 500, "reconnect_window_ms": 100})
    volume = rig.attach()
    rig.wait_whole()
    load = FioLoop(workspace, volume.uri())
    for number in range(6):
        server = rig.servers[number % 2]
        server.freeze()
        rig.wait_state(number % 2, "outdated")
        server.thaw()
        rig.wait_whole()
        load.check()
        assert server.process.poll() is None, "the woken server died"
    load.finish()
    with connected(volume) as handle:
        handle.flush()
    rig.assert_equal()


def test_many_threads_against_dying_and_hanging_servers(rigs):
    """volume_stress.cpp says what it checks. For a sanitizer, build it and the libraries with SANITIZE by hand."""
    rig = rigs(extents=(48 * MIB, 16 * MIB))
    rig.epoch = 1
    (rig.path / "attach.json").write_text(json.dumps(rig.config()))
    stress = subprocess.Popen([program("volume_stress"), str(rig.path / "attach.json"), str(rig.path / "c.sock"), "24",
                               "1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              env=rig.environment)
    rig.weftd = FakeWeftd(rig.path / "c.sock", rig.states)
    rig.weftds.append(rig.weftd)
    try:
        rig.wait_whole()
        deaths = 0
        end = time.monotonic() + 9
        while time.monotonic() < end and stress.poll() is None:
            server = rig.servers[deaths % 2]
            if deaths % 3 == 2:
                server.freeze()
                rig.wait_state(deaths % 2, "outdated")
                server.thaw()
            else:
                server.kill()
                server.start()
            if deaths % 4 == 3:
                rig.weftd.disconnect()
                rig.weftd.reconnect()
            deaths += 1
            rig.wait_whole()
        said, _ = stress.communicate(timeout=60)  # the end of its input is its end
    finally:
        stress.kill()
    assert stress.returncode == 0, said
    assert deaths >= 3, f"only {deaths} deaths in that time"
    rig.assert_equal()


def test_reads_go_on_from_the_other_replica(rigs):
    rig = rigs()
    volume = rig.attach()
    content = os.urandom(4 * MIB)
    with connected(volume) as handle:
        handle.pwrite(content, 0)
        rig.servers[0].kill()  # the local one, which serves reads
        assert handle.pread(4 * MIB, 0) == content


def test_a_replica_that_missed_everything_is_resynced_without_filling_holes(rigs):
    rig = rigs()
    volume = rig.attach()
    rig.wait_whole()
    rig.servers[1].kill()
    content = os.urandom(MIB)
    with connected(volume) as handle:
        for offset in (0, 17 * MIB, 63 * MIB):
            handle.pwrite(content, offset)
        rig.wait_state(1, "outdated")
        rig.servers[1].start()
        rig.wait_whole()
        handle.flush()
    rig.assert_equal()
    assert rig.servers[1].data(rig.ids[0][1]).stat().st_blocks * 512 <= 8 * MIB


# --- the store and weftd


def test_store_outage_holds_writes_and_releases_them_when_it_is_back(rigs, workspace):
    rig = rigs()
    volume = rig.attach(weftd="silent")
    rig.wait_serving()
    writer = Writer(workspace, volume.uri(), blocks=256)
    writer.wait_progress()
    rig.servers[1].kill()
    wait_for(lambda: rig.weftd.unanswered, 10, "the demotion to be proposed")
    before = writer.count()
    assert_stays(lambda: writer.count() == before and not writer.errors, 3, "nothing acknowledged, nothing failed")
    assert rig.weftd.status()["holding"] and rig.weftd.status()["held_for_ms"] >= 0
    rig.weftd.answer_pending()
    writer.wait_progress()
    writer.stop()
    assert writer.errors == []
    assert rig.states[0][rig.ids[0][1]] == "outdated"
    wait_for(lambda: not rig.weftd.status()["holding"], 5, "the end of the hold to be told")
    assert rig.weftd.status()["longest_hold_ms"] >= 3000


def test_proposals_are_repeated_to_a_weftd_that_comes_back(rigs, workspace):
    rig = rigs()
    volume = rig.attach(weftd="silent")
    rig.wait_serving()
    writer = Writer(workspace, volume.uri(), blocks=64)
    rig.servers[1].kill()
    first = wait_for(lambda: list(rig.weftd.unanswered.values()), 10, "the demotion to be proposed")[0]
    rig.weftd.disconnect()
    rig.weftd.unanswered.clear()
    rig.weftd.reconnect()
    again = wait_for(lambda: list(rig.weftd.unanswered.values()), 10, "the same proposal again")[0]
    assert again == first
    assert len(rig.weftd.hellos) == 2
    rig.weftd.answer_pending()
    writer.wait_progress()
    writer.stop()
    assert writer.errors == []


def test_serves_without_weftd_and_holds_only_when_it_is_needed(rigs, workspace):
    rig = rigs()
    volume = rig.attach(weftd=None)
    writer = Writer(workspace, volume.uri(), blocks=64)
    writer.wait_progress(200)
    rig.servers[1].kill()
    # It may still acknowledge what both had answered; then it holds, because nobody can commit the demotion.
    counts = []
    wait_for(lambda: counts.append(writer.count()) or len(counts) > 20 and counts[-1] == counts[-20], 10, "holding")
    before = writer.count()
    assert_stays(lambda: writer.count() == before, 2, "held while weftd is away")
    rig.weftd = rig.join(volume)
    writer.wait_progress()
    writer.stop()
    assert writer.errors == []
    assert rig.states[0][rig.ids[0][1]] == "outdated"


def test_the_newest_weftd_wins_and_nonsense_is_cut_off(rigs):
    rig = rigs()
    volume = rig.attach()
    rig.wait_whole()
    for line in ("", "{", "[]", '{"type":"hello"}', '{"type":"propose","id":1}', '{"type":"members","extents":[]}',
                 '{"type":"result","id":"x"}', "x" * (1024 * 1024 + 2)):
        hellos = len(rig.weftd.hellos)
        with contextlib.suppress(OSError):
            rig.weftd.send_line(line)
        wait_for(lambda: len(rig.weftd.hellos) > hellos, 10, f"to be cut off after {line[:40]!r} and greeted again")
    rig.weftd.send({"type": "result", "id": 4711, "outcome": "fenced", "text": "an answer nobody waits for"})
    rig.weftd.stay_away_when_closed()
    second = rig.join(volume)
    wait_for(lambda: second.hellos and second.statuses, 10, "the newer one to be greeted")
    wait_for(lambda: not rig.weftd.connected(), 10, "the older one to be closed")
    assert_stays(second.connected, 0.5, "the newer one stays")
    with connected(volume) as handle:
        handle.pwrite(b"a" * BLOCK, 0)


def test_a_weftd_that_does_not_read_delays_nobody(rigs, workspace):
    rig = rigs()
    volume = rig.attach(weftd=None)
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.connect(str(volume.control))
        for _ in range(20000):  # 20 000 statuses that it never reads: more than every buffer on the way
            try:
                deaf.sendall(b'{"type":"get_status"}\n')
            except OSError:
                break  # cut off, as it must be
        with connected(volume) as handle:
            started = time.monotonic()
            for block in range(50):
                handle.pwrite(b"b" * BLOCK, block * BLOCK)
            assert time.monotonic() - started < 2
    rig.weftd = rig.join(volume)
    wait_for(lambda: rig.weftd.hellos, 10, "a weftd that reads to be served")


def test_status_is_silent_while_nothing_changes(rigs):
    rig = rigs()
    rig.attach()
    rig.wait_whole()
    time_of_last = len(rig.weftd.statuses)
    assert_stays(lambda: len(rig.weftd.statuses) == time_of_last, 2, "no status without a change")
    rig.weftd.send({"type": "get_status"})
    wait_for(lambda: len(rig.weftd.statuses) == time_of_last + 1, 5, "the status that was asked for")


def test_members_added_and_moved(rigs):
    """A replica is added on a third server: it is resynced and becomes up_to_date; then a server moves."""
    rig = rigs(replicas=3, extents=(32 * MIB,))
    third = rig.ids[0][2]
    del rig.states[0][third]
    volume = rig.attach()
    wait_for(lambda: (rig.weftd.status() or {}).get("state") == "serving", 10, "serving from two replicas")
    content = os.urandom(4 * MIB)
    with connected(volume) as handle:
        handle.pwrite(content, 8 * MIB)
        rig.states[0][third] = "inconsistent"
        rig.send_members()
        rig.wait_whole()
        rig.assert_equal()
        rig.servers[2].kill()
        rig.servers[2].port += 100
        rig.servers[2].start()
        rig.send_members()
        rig.wait_whole()
        handle.pwrite(content, 20 * MIB)
        handle.flush()
    rig.assert_equal()
    # And removed again: nobody waits for it.
    del rig.states[0][third]
    rig.ids[0].pop()
    rig.send_members()
    rig.servers[2].kill()
    with connected(volume) as handle:
        handle.pwrite(content, 0)
    assert rig.weftd.proposals[-1]["to"] == "up_to_date"


# --- fencing, detach, end


def test_a_higher_epoch_fences_the_first_writer_for_good(rigs, workspace):
    rig = rigs()
    first = rig.attach()
    rig.wait_whole()
    writer = Writer(workspace, first.uri(), blocks=256)
    writer.wait_progress(50)
    old_weftd = rig.weftd
    second = rig.attach(clean=False)
    rig.wait_serving()
    with connected(second) as handle:
        handle.pread(BLOCK, 0)
    served = time.monotonic()
    wait_for(lambda: writer.errors, 20, "the first writer to get errors")
    assert all(when <= served for _, when in writer.acknowledged[-1:]), "acknowledged after the second one served"
    assert_stays(lambda: all(when <= served for _, when in writer.acknowledged), 1, "no acknowledgement ever again")
    wait_for(lambda: old_weftd.status()["state"] == "fenced", 5, "the first one to say that it is fenced")
    assert "ESHUTDOWN" in writer.errors[0][2] or "shutdown" in writer.errors[0][2]
    writer.stop()
    writer.assert_nothing_lost(second.uri())
    rig.wait_whole()
    with connected(second) as handle:
        handle.flush()
    wait_for(lambda: rig.weftd.status()["recovery_left_bytes"] == 0, 30, "recovery (R7) to end")
    rig.assert_equal()


def test_a_fenced_answer_of_the_store_ends_all_io(rigs, workspace):
    rig = rigs()
    volume = rig.attach(weftd="fence")
    rig.wait_serving()
    writer = Writer(workspace, volume.uri(), blocks=64)
    writer.wait_progress()
    rig.servers[1].kill()
    wait_for(lambda: writer.errors, 20, "I/O to fail")
    told = writer.count()
    assert_stays(lambda: writer.count() == told, 1, "no acknowledgement after it")
    writer.stop()
    assert rig.weftd.status()["state"] == "fenced"


def test_a_killed_volume_server_leaves_replicas_that_the_next_makes_equal(rigs, workspace):
    rig = rigs()
    volume = rig.attach()
    rig.wait_whole()
    writer = Writer(workspace, volume.uri(), blocks=512)
    for _ in range(3):
        writer.wait_progress(200)
        volume.kill()
        writer.stop()
        volume = rig.attach(clean=False)
        rig.wait_serving()
        writer.assert_nothing_lost(volume.uri())
        wait_for(lambda: rig.weftd.status()["recovery_left_bytes"] == 0, 30, "recovery (R7) to end")
        with connected(volume) as handle:
            handle.flush()
        rig.assert_equal()
        writer = Writer(workspace, volume.uri(), blocks=512)
    writer.stop()


def test_detach_flushes_and_tells(rigs):
    rig = rigs(extents=(8 * MIB, 8 * MIB))
    volume = rig.attach()
    rig.wait_serving()
    with connected(volume) as handle:
        handle.pwrite(b"c" * MIB, 7 * MIB + 512 * 1024)
        rig.weftd.send({"type": "detach"})
        wait_for(lambda: rig.weftd.detached, 10, "detached")
        assert rig.weftd.detached[-1]["equal"] is True
        with pytest.raises(nbd.Error):
            handle.pread(BLOCK, 0)
    assert volume.process.poll() is None  # it goes on until weftd ends it
    rig.assert_equal()
    rig.weftd.disconnect()
    rig.weftd.reconnect()
    wait_for(lambda: len(rig.weftd.detached) >= 2, 10, "a new connection to be told again")


@pytest.mark.parametrize("held, client", [(False, False), (False, True), (True, True)],
                         ids=["idle", "idle client", "held requests"])
def test_sigterm_ends_it_at_once(rigs, held, client):
    rig = rigs()
    volume = rig.attach(weftd="silent")
    rig.wait_serving()
    handle = volume.connect() if client else None
    outcome = []
    if held:
        rig.servers[1].kill()
        _, outcome = in_background(lambda: handle.pwrite(b"d" * BLOCK, 0))
        wait_for(lambda: rig.weftd.status()["holding"], 10, "the write to be held")
        assert outcome == []
    started = time.monotonic()
    volume.process.terminate()
    volume.process.wait(10)
    assert time.monotonic() - started < 2
    assert not volume.control.exists()
    if held:
        wait_for(lambda: outcome, 5, "the held write to end")
        assert isinstance(outcome[0], nbd.Error)


def test_open_and_requests_wait_until_it_serves(rigs):
    rig = rigs(times={"attach_timeout_ms": 60000})
    rig.servers[1].freeze()
    volume = rig.attach()
    handle = volume.connect()  # succeeds although nothing can be served yet
    assert handle.get_size() == 64 * MIB
    _, outcome = in_background(lambda: bytes(handle.pread(BLOCK, 0)))
    assert_stays(lambda: not outcome, 1, "R2: not one byte before every replica is fenced")
    rig.servers[1].thaw()
    wait_for(lambda: outcome, 20, "the read")
    assert outcome[0] == bytes(BLOCK)


def test_attach_demotes_a_replica_that_cannot_be_reached(rigs):
    rig = rigs(times={"attach_timeout_ms": 1000})
    rig.servers[1].kill()
    volume = rig.attach()
    with connected(volume) as handle:
        handle.pwrite(b"e" * BLOCK, 0)
    assert rig.states[0][rig.ids[0][1]] == "outdated"


# --- bad beginnings


@pytest.mark.parametrize("spoil, named", [
    (lambda c: c.pop("epoch"), "epoch"), (lambda c: c.update(epoch=0), "epoch"),
    (lambda c: c.update(id="../x"), "id"), (lambda c: c.update(extents=[]), "extents"),
    (lambda c: c["extents"][0]["replicas"][0].update(host="localhost"), "host"),
    (lambda c: c["extents"][0].update(size_bytes=5), "size_bytes"), (None, "not JSON"),
], ids=["no epoch", "epoch 0", "id", "no extents", "host name", "size", "cut"])
def test_a_bad_configuration_is_refused_by_name(workspace, tmp_path, spoil, named):
    config = {"volume": "db", "id": "0b9c7a52-7f3a-4a68-9a55-0f7d6a0f0c01", "epoch": 1, "clean": True,
              "min_replicas": 1, "connections": 1, "request_timeout_ms": 1000, "reconnect_window_ms": 1000,
              "attach_timeout_ms": 1000, "policy": {"resync_rate": 0, "on_full": "hold", "scrub": 0, "min_replicas": 0},
              "extents": [{"size_bytes": MIB, "replicas": [{"id": "0b9c7a52-7f3a-4a68-9a55-0f7d6a0f0c02", "port": 1,
                                                            "state": "up_to_date", "local": True,
                                                            "recovering": False, "host": "127.0.0.1"}]}]}
    text = json.dumps(config)[:-9]
    if spoil:
        spoil(config)
        text = json.dumps(config)
    (tmp_path / "attach.json").write_text(text)
    for arguments, what in (([f"config={tmp_path}/attach.json", f"control={tmp_path}/c.sock"], named),
                            ([f"config={tmp_path}/none.json", f"control={tmp_path}/c.sock"], "none.json"),
                            ([f"control={tmp_path}/c.sock"], "config=FILE is missing"),
                            ([f"config={tmp_path}/attach.json", "shape=round"], "shape")):
        ended = subprocess.run(["nbdkit", "-f", "-U", f"{tmp_path}/nbd.sock",
                                str(BUILD / "nbdkit-weft-volume-plugin.so"), *arguments],
                               capture_output=True, text=True, timeout=20, env=workspace.environment())
        assert ended.returncode != 0 and what in ended.stderr, ended.stderr


def test_a_control_socket_in_use_is_not_taken_and_a_stale_one_is(rigs):
    rig = rigs()
    volume = rig.attach()
    rig.wait_serving()

    def second():
        return subprocess.run(["nbdkit", "-U", "-", str(BUILD / "nbdkit-weft-volume-plugin.so"),
                               f"config={volume.path}/attach.json", f"control={volume.control}", "--run", "true"],
                              capture_output=True, text=True, timeout=20, env=rig.environment)
    refused = second()
    assert refused.returncode != 0 and "another volume server" in refused.stderr
    wait_for(rig.weftd.connected, 10, "the first one to be reached as before")  # the attempt may have displaced weftd
    assert volume.control.exists()
    volume.kill()
    assert volume.control.exists()
    assert second().returncode == 0


def test_a_striped_volume_is_what_device_mapper_would_make_of_its_extents(rigs):
    """The portable attach and the kernel path must write the same volume (core/volume_layout.hpp)."""
    chunk = 64 * 1024
    rig = rigs(extents=(4 * MIB, 4 * MIB, 2 * MIB))
    volume = rig.attach(chunk_bytes=chunk, stripes=[2, 1])
    rig.wait_serving()
    whole, extents = volume.connect("volume"), [volume.connect(f"extent/{n}") for n in range(3)]
    assert whole.get_size() == 10 * MIB and [e.get_size() for e in extents] == [4 * MIB, 4 * MIB, 2 * MIB]
    content = b"".join(bytes([n % 251]) * BLOCK for n in range(10 * MIB // BLOCK))
    whole.pwrite(content[:3 * chunk // 2], 0)  # ends in the middle of a chunk
    whole.pwrite(content[3 * chunk // 2:], 3 * chunk // 2)
    striped = [content[n * chunk:(n + 1) * chunk] for n in range(8 * MIB // chunk)]
    assert extents[0].pread(4 * MIB, 0) == b"".join(striped[0::2])
    assert extents[1].pread(4 * MIB, 0) == b"".join(striped[1::2])
    assert extents[2].pread(2 * MIB, 0) == content[8 * MIB:]
    assert whole.pread(10 * MIB, 0) == content

    # A trim across chunks, extents and segments takes away exactly its bytes.
    whole.trim(5 * MIB, 4 * MIB - BLOCK)
    assert whole.pread(10 * MIB, 0) == content[:4 * MIB - BLOCK] + bytes(5 * MIB) + content[9 * MIB - BLOCK:]
    whole.flush()
    rig.assert_equal()


def test_a_volume_grows_while_it_is_written(rigs):
    rig = rigs(extents=(8 * MIB,))
    volume = rig.attach(chunk_bytes=65536, stripes=[1])
    rig.wait_serving()
    old = volume.connect("volume")
    old.pwrite(b"a" * MIB, 7 * MIB)

    # Before there is an engine for it, the new extent does not exist.
    with pytest.raises(nbd.Error):
        volume.connect("extent/1")
    rig.add_extent(4 * MIB)
    rig.add_extent(4 * MIB)
    rig.send_members(chunk_bytes=65536, stripes=[1, 2])
    wait_for(lambda: len(rig.weftd.statuses[-1]["extents"]) == 3, 20, "the volume server to have three engines")
    rig.wait_serving()

    grown = volume.connect("volume")
    assert grown.get_size() == 16 * MIB
    assert old.get_size() == 8 * MIB and old.pread(MIB, 7 * MIB) == b"a" * MIB
    grown.pwrite(b"b" * 9 * MIB, 7 * MIB)
    assert old.pread(MIB, 7 * MIB) == b"b" * MIB
    assert volume.connect("extent/2").pread(4 * MIB, 0) == b"b" * 4 * MIB
    grown.flush()
    rig.assert_equal()

    # Fewer extents, other sizes, or new ones in the middle are not this volume.
    for spoil in (lambda all: all[:1], lambda all: [{**all[0], "size_bytes": 4 * MIB}, *all[1:]]):
        hellos = len(rig.weftd.hellos)
        rig.weftd.send({"type": "members", "extents": spoil(rig.members()), "policy": rig.policy})
        wait_for(lambda: len(rig.weftd.hellos) > hellos, 20, "the volume server to hang up")
    assert grown.pread(MIB, 7 * MIB) == b"b" * MIB
