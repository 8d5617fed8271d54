#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Random faults on real processes:  torture.py [--rounds N] [--seed S] [--load KIND] [--fail-fast] [--plan]

Round number i has the seed S + i; the seed alone makes the round, so `--seed X --rounds 1` replays round X. A failed
round leaves its logs in $BUILD/torture/<seed>; the next round gets a fresh cluster. The last line is `N passed, N
failed`.
"""
import argparse
import signal
import sys
import time
import traceback
from pathlib import Path

sys.dont_write_bytecode = True
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
sys.path.insert(0, str(HERE))

from arena import Arena  # noqa: E402
from lib.cluster import BUILD  # noqa: E402
from rounds import run_round  # noqa: E402
from schedule import make_round  # noqa: E402

ROUND_LIMIT = 400  # seconds; a round that hangs is a failed round


def on_alarm(_number, _frame):
    raise AssertionError(f"the round took longer than {ROUND_LIMIT} s")


class Torture:
    def __init__(self):
        self.arena, self.passed, self.failed = None, 0, []

    def play(self, plan):
        print(f"\nround {plan}", flush=True)
        if self.arena is None:
            self.arena = Arena()
        started = time.monotonic()
        signal.alarm(ROUND_LIMIT)
        try:
            said = run_round(self.arena, plan)
        except KeyboardInterrupt:
            raise
        except BaseException:
            signal.alarm(0)
            self.failed.append(plan.seed)
            print(f"FAIL seed {plan.seed} after {time.monotonic() - started:.1f} s\n{traceback.format_exc()}",
                  flush=True)
            self.discard(plan.seed)
            return
        signal.alarm(0)
        self.passed += 1
        print(f"ok {time.monotonic() - started:.1f} s: {said}", flush=True)

    def discard(self, seed):
        where = BUILD / "torture" / str(seed)
        try:
            self.arena.save_logs(where)
            print(f"logs: {where}; replay: make torture ROUNDS=1 SEED={seed}", flush=True)
        finally:
            arena, self.arena = self.arena, None
            arena.close()

    def close(self):
        if self.arena:
            self.arena.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--load", choices=("block", "steady", "fio", "database"))
    parser.add_argument("--fail-fast", action="store_true")
    parser.add_argument("--plan", action="store_true", help="only print the rounds")
    wanted = parser.parse_args()
    plans = [make_round(seed, wanted.load) for seed in range(wanted.seed, wanted.seed + wanted.rounds)]
    if wanted.plan:
        print("\n".join(map(str, plans)))
        return 0
    signal.signal(signal.SIGALRM, on_alarm)
    torture, began = Torture(), time.monotonic()
    try:
        for plan in plans:
            torture.play(plan)
            if torture.failed and wanted.fail_fast:
                break
    finally:
        torture.close()
    if torture.failed:
        print(f"\nfailed seeds: {' '.join(map(str, torture.failed))}")
    print(f"\n{time.monotonic() - began:.0f} s\n{torture.passed} passed, {len(torture.failed)} failed", flush=True)
    return 0 if torture.passed and not torture.failed else 1


if __name__ == "__main__":
    sys.exit(main())
