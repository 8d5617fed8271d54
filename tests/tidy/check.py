#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The house rules that a machine can check. Prints a line per rule, every breach under it, and counts at the end.

Rules: SPDX line first; lines <= 120 columns; files <= 800 lines; no unfinished-work marks; includes from the repository
root and only downwards in the layer picture; core is pure (no clock, lock, thread, socket, file); shellcheck is
content; `make help` explains every target that people type; Python compiles.
"""
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# folder -> folders that it may include (itself always). base <- core <- io <- plugin, daemon; no arrow back.
LAYERS = {
    "nbd-backend/base": [],
    "nbd-backend/core": ["nbd-backend/base"],
    "nbd-backend/io": ["nbd-backend/base", "nbd-backend/core"],
    "nbd-backend/plugin": ["nbd-backend/base", "nbd-backend/core", "nbd-backend/io"],
    "orchestrator/core": ["nbd-backend/base", "nbd-backend/core"],
    "orchestrator/api": ["nbd-backend/base", "nbd-backend/core", "orchestrator/core"],
    "orchestrator/io": ["nbd-backend/base", "nbd-backend/core", "nbd-backend/io", "orchestrator/core",
                        "orchestrator/api", "dm-tables/core", "dm-tables/io"],
    "orchestrator/daemon": ["nbd-backend/base", "nbd-backend/core", "nbd-backend/io", "orchestrator/core",
                            "orchestrator/api", "orchestrator/io"],
    "orchestrator/cli": ["nbd-backend/base", "nbd-backend/core", "nbd-backend/io", "orchestrator/core",
                         "orchestrator/api", "orchestrator/io"],
    "dm-tables/core": ["nbd-backend/base"],
    "dm-tables/io": ["nbd-backend/base", "dm-tables/core"],
}
PURE = ("nbd-backend/core", "orchestrator/core", "orchestrator/api", "dm-tables/core")
IMPURE = re.compile(r"#include <(thread|mutex|shared_mutex|condition_variable|fstream|iostream|future|unistd\.h|"
                    r"fcntl\.h|pthread\.h|sys/(?!types)[a-z_]+\.h|libnbd\.h|sqlite3\.h|nbdkit-plugin\.h|"
                    r"libdevmapper\.h|libcryptsetup\.h|boost/(asio|beast).*)>|\b(steady_clock|system_clock)::now\b")
UNFINISHED = re.compile(r"\b(" + "TO" + r"DO|FIX" + r"ME|X" + r"XX)\b")
TARGETS = ("all", "check", "test", "demo", "deps", "clean", "help")


def listed_files():
    """What git would ship, and what is new; without git, everything outside build folders."""
    outcome = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT,
                             capture_output=True, text=True)
    names = outcome.stdout.splitlines() if outcome.returncode == 0 else [
        str(path.relative_to(ROOT)) for path in ROOT.rglob("*")
        if not any(part.startswith((".git", "build")) for part in path.relative_to(ROOT).parts)]
    return sorted(name for name in names if (ROOT / name).is_file())


def is_script(name):
    with open(ROOT / name, "rb") as file:
        return file.read(2) == b"#!"


def text_of(name):
    return (ROOT / name).read_text(errors="replace")


def is_source(name):
    return name.endswith((".cpp", ".hpp", ".py", ".sh")) or Path(name).name == "Makefile" or is_script(name)


def spdx_line_first(names):
    for name in filter(is_source, names):
        head = text_of(name).splitlines()[:2]
        if text_of(name) and not any("SPDX-License-Identifier: Apache-2.0" in line for line in head):
            yield f"{name}: no SPDX line at its top"


def lines_at_most_120_columns(names):
    for name in filter(is_source, names):
        for number, line in enumerate(text_of(name).splitlines(), 1):
            if len(line) > 120:
                yield f"{name}:{number}: {len(line)} columns"


def files_at_most_800_lines(names):
    for name in filter(is_source, names):
        count = text_of(name).count("\n")
        if count > 800:
            yield f"{name}: {count} lines"


def makefile_at_most_200_lines(_names):
    count = text_of("Makefile").count("\n")
    if count > 200:
        yield f"Makefile: {count} lines"


def no_unfinished_work(names):
    for name in filter(is_source, names):
        for number, line in enumerate(text_of(name).splitlines(), 1):
            if UNFINISHED.search(line):
                yield f"{name}:{number}: {line.strip()}"


def includes_point_downwards(names):
    for name in names:
        folder = str(Path(name).parent)
        if folder not in LAYERS or not name.endswith((".cpp", ".hpp")):
            continue
        for number, line in enumerate(text_of(name).splitlines(), 1):
            found = re.match(r'\s*#include "([^"]+)"', line)
            if not found:
                continue
            target = str(Path(found.group(1)).parent)
            if target not in LAYERS:
                yield f"{name}:{number}: {found.group(1)} is not named from the repository root"
            elif target != folder and target not in LAYERS[folder]:
                yield f"{name}:{number}: {folder} must not include {target}"


def core_is_pure(names):
    for name in names:
        if str(Path(name).parent) in PURE and name.endswith((".cpp", ".hpp")):
            for number, line in enumerate(text_of(name).splitlines(), 1):
                found = IMPURE.search(line.split("//")[0])
                if found:
                    yield f"{name}:{number}: {found.group(0)}"


def shellcheck_is_content(names):
    scripts = [name for name in names if name.endswith(".sh") or
               (is_script(name) and re.match(r"#!.*\b(ba|da)?sh\b", text_of(name).splitlines()[0]))]
    if scripts:
        if not shutil.which("shellcheck"):
            yield "shellcheck is not installed; run scripts/install-deps test"
            return
        outcome = subprocess.run(["shellcheck", "--external-sources", *scripts], cwd=ROOT, capture_output=True,
                                 text=True)
        if outcome.returncode:
            yield from outcome.stdout.splitlines()


def make_help_explains_the_targets(_names):
    outcome = subprocess.run(["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True,
                             env={**os.environ, "MAKEFLAGS": ""})
    for target in TARGETS:
        if not re.search(rf"^\s*{target}\s+\S", outcome.stdout, re.MULTILINE):
            yield f"`make help` says nothing about {target}"


def python_compiles(names):
    for name in names:
        if name.endswith(".py") or (is_script(name) and "python" in text_of(name).splitlines()[0]):
            try:
                compile(text_of(name), name, "exec")
            except SyntaxError as problem:
                yield f"{name}: {problem}"


RULES = [spdx_line_first, lines_at_most_120_columns, files_at_most_800_lines, makefile_at_most_200_lines,
         no_unfinished_work, includes_point_downwards, core_is_pure, shellcheck_is_content,
         make_help_explains_the_targets, python_compiles]


def run():
    """Returns (passed, failed)."""
    names, failed = listed_files(), 0
    for rule in RULES:
        breaches = list(rule(names))
        failed += bool(breaches)
        print(f"{'FAIL' if breaches else 'ok  '} {rule.__name__.replace('_', ' ')}")
        for breach in breaches:
            print(f"       {breach}")
    return len(RULES) - failed, failed


if __name__ == "__main__":
    sys.exit(1 if run()[1] else 0)
