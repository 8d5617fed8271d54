#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Checks replication.pml with spin:  tests/model/model.py [--full]

For every rule, the model without it: a run that breaks a law must be found. Then that the model can do something at
all: what a WITNESS names is reached. Last the protocol as it is: within the bounds of every SEARCH all states are
visited and no law is broken. Each is one test; --full adds searches that take minutes and gigabytes.
"""
import concurrent.futures
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MODEL = Path(__file__).resolve().parent / "replication.pml"
MEMORY_MIB = 6000  # a limit, not what the searches take: see the README
LIMIT = 1500  # seconds for one search; a hang ends, a busy machine does not fail
DEPTH = 200_000  # of the search; exceeding it makes the search incomplete, which fails

# name, writers, bounds
SEARCHES = [
    ("one link cut", 2, {"DROPS": 1}),
    ("one host restarted", 2, {"KERNELS": 1}),
    ("one server killed", 2, {"PROCESSES": 1}),
    ("three writers, one value", 3, {"VALUES": 1, "SESSIONS": 1}),
]
FULL_SEARCHES = [
    ("one link cut, one request asleep in a server", 2, {"DROPS": 1, "STALLS": 1}),
    ("one link cut, one server killed", 2, {"DROPS": 1, "PROCESSES": 1}),
    ("three writers, one host restarted", 3, {"KERNELS": 1, "VALUES": 1, "SESSIONS": 1}),
]

# the rule that is broken, what for, writers, bounds in which it is seen
NEGATIVES = [
    ("NO_FENCE", "R2: a lower epoch is refused", 2, {"DROPS": 1}),
    ("SERVE_EARLY", "R2: every up_to_date replica is fenced first", 2, {}),
    ("NO_DRAIN", "R2: what was admitted is waited for", 2, {"DROPS": 1, "STALLS": 1}),
    ("EPOCH_IN_MEMORY", "R2: the epoch is durable", 2, {"PROCESSES": 1}),
    ("NO_SESSION", "sessions: a twin cannot come late", 2, {"DROPS": 1}),
    ("ACK_EARLY", "R3: every up_to_date replica has answered", 2, {}),
    ("RELEASE_BEFORE_RECORD", "R4: the record first", 2, {"DROPS": 1}),
    ("DEMOTE_LAST", "R4, R12: the last one stays", 2, {"DROPS": 2}),
    ("NO_CAS", "R5: an old epoch changes no record", 2, {"DROPS": 1}),
    ("NO_BOOT_IDS", "R4, R7: a restarted host is not trusted", 2, {"KERNELS": 1}),
    ("BOOT_OF_EPOCH", "FORMAT.md: the kernel of the last change, not of the last epoch", 3, {"KERNELS": 1}),
    ("NO_RECOVERY", "R7: equal before it is read", 2, {"DROPS": 1}),
    ("PROMOTE_EARLY", "R8: copied first", 2, {}),
    ("PROMOTE_UNREQUIRED", "R8: required before the record says so", 2, {"DROPS": 1}),
    ("PROMOTE_UNFLUSHED", "R8: flushed before the record says so", 2, {"KERNELS": 1}),
    ("DETACH_UNEQUAL", "R11: clean only when equal", 3, {}),
    ("NO_SIGN_OF_LIFE", "E7: a deposed writer reads no more", 2, {"DROPS": 1}),
]
WITNESSES = [
    ("WITNESS_TAKEOVER", "a successor writes after a demotion", 3, {}),
    ("WITNESS_PROMOTED", "a replica that came back takes part in a write", 2, {"DROPS": 1}),
    ("WITNESS_KERNEL", "a successor writes after a host's restart", 2, {"KERNELS": 1}),
]


def numbers():
    """The values of OFF by name."""
    names = [name for name, *_ in NEGATIVES + WITNESSES]
    defined = dict(re.findall(r"^#define ((?:\w+)) (\d+)$", MODEL.read_text(), re.MULTILINE))
    return {name: defined[name] for name in names}


def build(folder, writers):
    """spin's checker for that many writers. Exact: every state is kept in full; no partial-order reduction."""
    folder = folder / f"writers-{writers}"
    folder.mkdir()
    subprocess.run(["spin", f"-DWRITERS={writers}", "-a", MODEL], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    subprocess.run([os.environ.get("CC", "gcc"), "-O1", "-w", "-DSAFETY", "-DNOREDUCE", f"-DMEMLIM={MEMORY_MIB}",
                    "-o", "pan", "pan.c"], cwd=folder, check=True)
    return folder / "pan"


def search(pan, bounds, off="0"):
    """Returns (errors, states, complete, output, trail or None)."""
    settings = {"DROPS": 0, "STALLS": 0, "PROCESSES": 0, "KERNELS": 0, "VALUES": 2, "SESSIONS": 2, **bounds, "OFF": off}
    environment = {**os.environ, **{name: str(value) for name, value in settings.items()}}
    with tempfile.TemporaryDirectory(dir=pan.parent) as folder:
        try:
            outcome = subprocess.run([pan, f"-m{DEPTH}"], cwd=folder, env=environment, capture_output=True, text=True,
                                     timeout=LIMIT)
        except subprocess.TimeoutExpired:
            return 0, 0, False, f"no end within {LIMIT} s", ""
        text = outcome.stdout + outcome.stderr
        errors = re.search(r"errors: (\d+)", text)
        states = re.search(r"(\d+(?:\.\d+e\+\d+)?) states, stored", text)
        complete = bool(errors and states) and outcome.returncode == 0 and not re.search(
            r"Search not completed|max search depth too small|out of memory|aborting|truncated", text)
        trail = ""
        if errors and int(errors[1]):
            replay = subprocess.run([pan, "-r", f"{MODEL.name}.trail"], cwd=folder, env=environment,
                                    capture_output=True, text=True)
            trail = "".join(f"       {line.strip()}\n" for line in replay.stdout.splitlines()
                            if re.match(r"\s*(a change|epoch|the |r\d is)", line))
    return (int(errors[1]) if errors else 0), (int(float(states[1])) if states else 0), complete, text, trail


def check_law(pan, name, writers, bounds):
    began = time.monotonic()
    errors, states, complete, text, trail = search(pan[writers], bounds)
    if complete and not errors:
        print(f"ok   model: {name}: {states} states, all of them, {time.monotonic() - began:.0f} s", flush=True)
        return True
    print(f"FAIL model: {name}: {'a law is broken' if errors else 'the search is incomplete'}\n{trail or text}",
          flush=True)
    return False


def check_broken(pan, off, number, what, writers, bounds):
    errors, states, _, text, trail = search(pan[writers], bounds, number)
    if errors:
        steps = trail.count("\n")
        print(f"ok   model without {off} ({what}): seen after {states} states, in a run of {steps} steps", flush=True)
        return True
    print(f"FAIL model without {off} ({what}): nothing is seen in {states} states\n{text}", flush=True)
    return False


def check_witness(pan, off, number, what, writers, bounds):
    errors, states, _, text, _ = search(pan[writers], bounds, number)
    print(f"{'ok  ' if errors else 'FAIL'} model reaches: {what}" + ("" if errors else f"\n{text}"), flush=True)
    return bool(errors)


def check(full=False):
    """Returns (passed, failed)."""
    known = numbers()
    with tempfile.TemporaryDirectory(prefix="weft-model-") as folder, \
            concurrent.futures.ThreadPoolExecutor(2) as pool:
        built = {writers: pool.submit(build, Path(folder), writers) for writers in (2, 3)}
        pan = {writers: one.result() for writers, one in built.items()}
        work = [pool.submit(check_broken, pan, off, known[off], *rest) for off, *rest in NEGATIVES]
        work += [pool.submit(check_witness, pan, off, known[off], *rest) for off, *rest in WITNESSES]
        work += [pool.submit(check_law, pan, *one) for one in SEARCHES + (FULL_SEARCHES if full else [])]
        results = [one.result() for one in work]
    return sum(results), len(results) - sum(results)


if __name__ == "__main__":
    if sys.argv[1:] not in ([], ["--full"]):
        sys.exit(__doc__)
    passed, failed = check(full=bool(sys.argv[1:]))
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed or not passed else 0)
