# SPDX-License-Identifier: Apache-2.0
"""Small C++ programs of the plugin tests: compiled against the product's libraries when a test first wants them."""
import os
import subprocess
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("BUILD", "build"))
BUILD = BUILD if BUILD.is_absolute() else REPOSITORY / BUILD


@cache
def program(name):
    """Path of tests/plugin/<name>.cpp as a program in the build folder; made again when it or a library is newer."""
    source = REPOSITORY / "tests" / "plugin" / f"{name}.cpp"
    target = BUILD / "tests" / "plugin" / name
    libraries = [BUILD / "lib" / f"nbd-backend-{layer}.a" for layer in ("io", "core", "base")]
    newest = max(path.stat().st_mtime for path in (source, *libraries))
    if not target.exists() or target.stat().st_mtime < newest:
        target.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["g++", "-std=c++20", "-O1", "-g", "-pthread", "-Wall", "-Wextra", "-I", str(REPOSITORY),
                        str(source), *map(str, libraries), "-lboost_json", "-lboost_system", "-lnbd", "-lfmt", "-luuid",
                        "-o", str(target)], check=True)
    return target


def drive_tool(*arguments):
    subprocess.run([program("drive_tool"), *map(str, arguments)], check=True)
