# SPDX-License-Identifier: Apache-2.0
"""The torture's own judgement: what its ledger must call a lie, and that a seed is a round."""
import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]

from faults import KINDS  # noqa: E402
from ledger import BLOCK, ZEROS, Ledger, Violation, content  # noqa: E402
from schedule import ELSEWHERE, NODES, SURVIVABLE, VIOLENT, make_round  # noqa: E402


@pytest.fixture
def ledger():
    """Block 3 has version 1 acknowledged and version 2 under way."""
    made = Ledger(8)
    made.acknowledge(3, 1, made.issue(3, 1))
    made.issue(3, 1)
    return made


def read(ledger, data, block=3):
    ledger.end_read(block, ledger.begin_read(block, 1), data)


@pytest.mark.parametrize("data, why", [
    (ZEROS, "zeros"), (content(3, 3), "version 3"), (content(4, 1), "block 4"),
    (content(3, 1)[:512] + content(3, 2)[512:], "torn")], ids=["lost", "from the future", "misplaced", "torn"])
def test_a_lie_is_seen(ledger, data, why):
    with pytest.raises(Violation, match=why):
        read(ledger, data)


@pytest.mark.parametrize("version", [1, 2])
def test_a_change_under_way_may_be_seen_or_not(ledger, version):
    read(ledger, content(3, version))


def test_what_was_seen_once_does_not_go_away(ledger):
    read(ledger, content(3, 2))
    with pytest.raises(Violation, match="version 1"):
        read(ledger, content(3, 1))


def test_a_read_that_began_before_another_ended_may_be_older(ledger):
    least = ledger.begin_read(3, 1)
    read(ledger, content(3, 2))
    ledger.end_read(3, least, content(3, 1))


def test_zeros_are_right_only_where_something_was_zeroed_since(ledger):
    ledger.acknowledge(3, 1, ledger.issue(3, 1, zeros=True))
    read(ledger, ZEROS)
    with pytest.raises(Violation, match="version 2"):
        read(ledger, content(3, 2))
    ledger.acknowledge(3, 1, ledger.issue(3, 1))
    with pytest.raises(Violation, match="zeros"):
        read(ledger, ZEROS)


def test_every_block_of_a_long_read_is_judged(ledger):
    least = ledger.begin_read(2, 2)
    with pytest.raises(Violation, match="block 3"):
        ledger.end_read(2, least, ZEROS + bytes(BLOCK))


def test_a_seed_is_a_round_and_every_kind_of_fault_comes():
    rounds = [make_round(seed) for seed in range(1, 2001)]
    assert [str(one) for one in rounds] == [str(make_round(one.seed)) for one in rounds]
    kinds = {fault.kind for one in rounds for fault in one.faults}
    assert kinds == set(SURVIVABLE) | set(ELSEWHERE) | set(VIOLENT) == set(KINDS)
    assert {one.load for one in rounds} == {"block", "steady", "fio", "database"}
    assert all(one.faults for one in rounds)


def test_faults_on_one_node_do_not_overlap():
    for seed in range(1, 2001):
        for node in NODES:
            busy = sorted((fault.begin, fault.begin + fault.duration) for fault in make_round(seed).faults
                          if fault.kind == "kill_cluster" or
                          (fault.node == node and fault.kind not in ("cut", "isolate")))
            assert all(end <= begin for (_, end), (begin, _) in zip(busy, busy[1:])), make_round(seed)
