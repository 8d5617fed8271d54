#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the fuzzers that tests/fuzz/fuzz.mk builds, and keeps their corpus.

    fuzz.py hunt BUILD SECONDS TARGET...   look for new inputs; what breaks a target is in BUILD/fuzz/TARGET/
    fuzz.py minimise BUILD TARGET...       put what hunting found into the corpus: the fewest inputs that reach it all
    fuzz.py replay BUILD TARGET FILE       run one input

The corpus of a target is the text file corpus/TARGET.txt, one input per line: printable ASCII stands for itself, a
backslash and every other byte is \\xHH. So it can be reviewed, and a line that is added by hand is a seed.
"""
import concurrent.futures
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
TARGETS = sorted(path.name[:-len("_fuzz.cpp")] for path in HERE.glob("*_fuzz.cpp"))
# A canary is looked for from several seeds: a fuzzer spreads its runs over ever more inputs of its own, so that one
# that missed a bug near the corpus early on comes back to it less and less, and one that begins anew is soon there.
CANARY_SEEDS = range(1, 9)
CANARY_RUNS = 20_000  # from each
INPUT_MAX = 4096  # bytes
CORPUS_MAX = 24 * 1024  # bytes of one corpus file: small enough to read
# Time-outs and memory are bugs too: a stranger must not be able to spend ours.
OPTIONS = [f"-max_len={INPUT_MAX}", "-timeout=10", "-rss_limit_mb=1500"]


def escape(data):
    return "".join(chr(b) if 0x20 <= b < 0x7f and b != 0x5c else f"\\x{b:02x}" for b in data)


def unescape(line):
    return re.sub(r"\\x([0-9a-f]{2})", lambda found: chr(int(found[1], 16)), line).encode("latin-1")


def seeds(target):
    return [unescape(line) for line in (HERE / "corpus" / f"{target}.txt").read_text("ascii").splitlines()]


def unpack(target, folder):
    folder.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(seeds(target)):
        (folder / f"seed-{number:04}").write_bytes(data)
    return folder


def dictionary(target, path):
    """The words of the corpus: a fuzzer that knows them need not guess field names letter by letter."""
    is_word = rb"[A-Za-z_][A-Za-z0-9_-]{2,30}|%[0-9A-Fa-f]{2}"
    words = sorted({word for data in seeds(target) for word in re.findall(is_word, data)})
    path.write_text("".join(f'"{word.decode()}"\n' for word in words[:400]))
    return path


def run(program, folder, *options):
    """One fuzzer in a directory of its own; returns its exit code, its output and its seconds."""
    target = program.name.removesuffix("-canary")
    began = time.monotonic()
    outcome = subprocess.run(
        [program, *OPTIONS, f"-dict={dictionary(target, folder / 'words')}", f"-artifact_prefix={folder}/broken-",
         *options, unpack(target, folder / "corpus")], cwd=folder, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return outcome.returncode, outcome.stdout.decode(errors="replace"), time.monotonic() - began


def runs_of(output):
    found = re.findall(r"^#(\d+)", output, re.MULTILINE)
    return int(found[-1]) if found else 0


def tell_failure(target, output, folder):
    print("\n".join(output.splitlines()[-40:]))
    for broken in sorted(folder.glob("broken-*")):
        print(f"       the input, as a line of corpus/{target}.txt: {escape(broken.read_bytes())}")


def check_target(build, target, seconds):
    """The corpus and `seconds` of looking break nothing."""
    with tempfile.TemporaryDirectory(prefix="weft-fuzz-") as name:
        folder = Path(name)
        code, output, _ = run(build / "fuzz" / target, folder, f"-max_total_time={seconds}", "-print_final_stats=1")
        if code == 0 and runs_of(output):
            print(f"ok   fuzz {target}: {runs_of(output)} runs, {len(seeds(target))} of them the corpus", flush=True)
            return True
        print(f"FAIL fuzz {target}: exit code {code}")
        tell_failure(target, output, folder)
    return False


def check_canary(build, target):
    """The planted bug is found by a property, within CANARY_RUNS of a seed, and not by the corpus alone: by looking."""
    program = build / "fuzz" / f"{target}-canary"
    with tempfile.TemporaryDirectory(prefix="weft-fuzz-") as name:
        folder = Path(name)
        code, output, _ = run(program, folder, "-runs=0")
        if code != 0:
            print(f"FAIL fuzz {target} canary: the corpus itself has it; plant another one")
            tell_failure(target, output, folder)
            return False
    for seed in CANARY_SEEDS:
        with tempfile.TemporaryDirectory(prefix="weft-fuzz-") as name:
            folder = Path(name)
            # The corpus as it is: libFuzzer would drop, or shorten, what takes a path that another input takes, too.
            code, output, took = run(program, folder, f"-runs={CANARY_RUNS}", f"-seed={seed}", "-max_total_time=100",
                                     "-keep_seed=1", "-reduce_inputs=0")
            if code != 0 and "PROPERTY violated" in output:
                print(f"ok   fuzz {target} canary: seed {seed}, {runs_of(output)} runs, {took:.1f} s", flush=True)
                return True
            if code != 0:
                break
    print(f"FAIL fuzz {target} canary: exit code {code} after {runs_of(output)} runs of seed {seed}")
    print("\n".join(output.splitlines()[-40:]))
    return False


def check(build, seconds):
    """Every target and every canary, two at a time. Returns (passed, failed)."""
    build = Path(build).resolve()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        work = [pool.submit(check_canary, build, target) for target in TARGETS]
        work += [pool.submit(check_target, build, target, seconds) for target in TARGETS]
        results = [one.result() for one in work]
    return sum(results), len(results) - sum(results)


def hunt(build, seconds, targets):
    broken = []
    for target in targets:
        folder = build / "fuzz" / f"{target}.found"
        print(f"--- {target}: {seconds} s", flush=True)
        unpack(target, folder / "corpus")
        code = subprocess.run(
            [build / "fuzz" / target, *OPTIONS, f"-dict={dictionary(target, folder / 'words')}",
             f"-artifact_prefix={folder}/broken-", f"-max_total_time={seconds}", "-print_final_stats=1",
             folder / "corpus"], stdin=subprocess.DEVNULL).returncode
        if code:
            broken.append(f"{target} (see {folder})")
    if broken:
        sys.exit(f"broken: {', '.join(broken)}")


def minimise(build, targets):
    for target in targets:
        with tempfile.TemporaryDirectory(prefix="weft-fuzz-") as name:
            folder = Path(name)
            merged, found = folder / "merged", unpack(target, build / "fuzz" / f"{target}.found" / "corpus")
            merged.mkdir()
            subprocess.run([build / "fuzz" / target, f"-max_len={INPUT_MAX}", "-merge=1", merged, found],
                           stdin=subprocess.DEVNULL, check=True, capture_output=True)
            lines = sorted({escape(path.read_bytes()) for path in merged.iterdir()}, key=lambda line: (len(line), line))
        kept, size = [], 0
        for line in lines:
            size += len(line) + 1
            if size <= CORPUS_MAX:
                kept.append(line)
        (HERE / "corpus" / f"{target}.txt").write_text("".join(f"{line}\n" for line in kept), "ascii")
        print(f"{target}: {len(lines)} inputs reach everything, {len(kept)} of them kept")


def main():
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    verb, build, rest = sys.argv[1], Path(sys.argv[2]).resolve(), sys.argv[3:]
    if verb == "hunt":
        hunt(build, int(rest[0]), rest[1:] or TARGETS)
    elif verb == "minimise":
        minimise(build, rest)
    elif verb == "replay":
        sys.exit(subprocess.run([build / "fuzz" / rest[0], rest[1]]).returncode)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
