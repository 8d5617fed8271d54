#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""`make bench`: Weft beside QEMU's quorum driver and beside one plain file server, in turns, on this machine.

Rounds go A B C, B C A, C A B, … per cell, so that whatever else the machine does hits all alike. Prints a table per
number of replicas, writes everything as JSON, and ends with 1 if something falls short of what is required.
"""
import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[1] / "plugin")]
sys.dont_write_bytecode = True

import report  # noqa: E402
import resync  # noqa: E402
from cells import CELLS, fill, measure  # noqa: E402
from lib.workspace import Workspace  # noqa: E402
from plugin_tools import BUILD  # noqa: E402
from systems import Bench  # noqa: E402

MIB = 1024 * 1024


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=1, help="of one fio run (default 1)")
    parser.add_argument("--rounds", type=int, default=7, help="per cell and system (default 7)")
    parser.add_argument("--replicas", default="2,3", help="numbers of replicas, with commas (default 2,3)")
    parser.add_argument("--cells", default="", help="only cells whose name contains this")
    parser.add_argument("--size-mib", type=int, default=256, help="of the volume (default 256)")
    parser.add_argument("--resync-mib", type=int, default=1024, help="of the resynced volume; 0: no resync")
    parser.add_argument("--json", type=Path, default=BUILD / "bench.json", help="where results go")
    options = parser.parse_args()
    if options.seconds <= 0 or options.rounds < 1 or options.size_mib < 1:
        parser.error("seconds, rounds and size must be above zero")
    if not set(options.replicas.split(",")) <= {"2", "3"}:
        parser.error(f"--replicas {options.replicas}: a quorum of 2 or 3 can be measured")
    return options


def measure_cells(workspace, replicas, options):
    """Returns {cell: {system: figures}}."""
    environment, size = workspace.environment(), options.size_mib * MIB
    found = {}
    with Bench(workspace, replicas, size) as bench:
        for system in bench.systems:
            fill(system, size, environment)
        for cell in CELLS:
            if options.cells not in cell.name:
                continue
            rounds = {system.name: [] for system in bench.systems}
            for number in range(options.rounds):
                turn = number % len(bench.systems)
                for system in bench.systems[turn:] + bench.systems[:turn]:
                    rounds[system.name].append(measure(system, cell, options.seconds, size, environment))
            found[cell.name] = report.summarise(rounds)
            found[cell.name]["rounds"] = {name: [m.as_json() for m in all_of] for name, all_of in rounds.items()}
            print(f"  {replicas} replicas, {cell.name}: {found[cell.name]['weft']['of_quorum']:.2f} x quorum",
                  flush=True)
    return found


def main():
    options = parse_arguments()
    results = {"when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "kernel": platform.release(),
               "cpus": os.cpu_count(), "seconds": options.seconds, "round_count": options.rounds,
               "size_mib": options.size_mib, "cells": {}}
    with Workspace("bench") as workspace:
        for replicas in options.replicas.split(","):
            results["cells"][replicas] = measure_cells(workspace, int(replicas), options)
        if options.resync_mib:
            results["resync"] = resync.run(workspace, options.rounds, options.resync_mib * MIB)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(results, indent=1) + "\n")
    print()
    for replicas, cells in results["cells"].items():
        print(report.cells_table(replicas, cells), end="\n\n")
    if "resync" in results:
        print(report.resync_lines(results["resync"]), end="\n\n")
    short = report.breaches(results)
    for sentence in short:
        print(f"FALLS SHORT  {sentence}")
    print(f"{'falls short' if short else 'everything required is there'}; all figures: {options.json}")
    return 1 if short else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted; everything that was started is gone")
