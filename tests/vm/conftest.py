# SPDX-License-Identifier: Apache-2.0
"""What the scenarios share: one workspace for the session, guests, journals and consoles when a test fails.

  guest        one for the scenarios of a file, booted by the first, booted again when a test left it dead; how it is
               made is the file's GUEST = dict(…), the arguments of harness.guest.Guest
  guests       the same for up to three on a network, n1, n2, n3; GUESTS = their number, or a list of such dicts. What
               the test before cut is healed, the dead are booted again
  make_guest   make_guest(name, …) for the test's own; not started
  make_guests  make_guests(n, …) boots two or three at the same time, on a network
What a fixture made is gone when it ends, and it looks: QEMU, namespaces, files.
"""
import os
import re
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import machine as machines  # noqa: E402
from harness.guest import BOOT_SECONDS, PROGRAM, Guest  # noqa: E402
from harness.kernel import KernelError  # noqa: E402
from harness.network import GuestNetwork  # noqa: E402
from lib import belongings  # noqa: E402
from lib.workspace import Workspace  # noqa: E402

LIMIT = 900  # seconds for a scenario with its boots


def pytest_configure(config):
    config.addinivalue_line("markers", "long: only with LONG=1, not in make test: a repetition that takes many minutes")
    config.addinivalue_line("markers", f"limit(seconds): how long a test may take, boots included; {LIMIT} unless told")
    if os.geteuid() != 0:
        raise pytest.UsageError("guests see the host's files and use taps: run the scenarios as root")
    if not shutil.which(PROGRAM):
        raise pytest.UsageError(f"{PROGRAM} is missing: run scripts/install-deps vm")


def pytest_collection_modifyitems(config, items):
    """WEFT_LONG: empty, all but the long ones; `only`, only these; anything else, all."""
    wanted = os.environ.get("WEFT_LONG")
    if wanted and wanted != "only":
        return
    left = [item for item in items if bool(item.get_closest_marker("long")) != (wanted == "only")]
    config.hook.pytest_deselected(items=left)
    items[:] = [item for item in items if item not in left]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item):
    """A scenario that hangs fails, with its journals; it does not hang the suite. Fixtures' boots count."""
    marker = item.get_closest_marker("limit")
    seconds = marker.args[0] if marker else LIMIT

    def over(_number, _frame):
        raise AssertionError(f"the test took longer than {seconds} s")
    signal.signal(signal.SIGALRM, over)
    signal.alarm(seconds)
    yield
    signal.alarm(0)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.failed and call.when != "teardown":
        for guest in item.session.guests:
            kept = keep(guest, machines.BUILD / "vm" / "failed" / re.sub(r"\W+", "-", item.name))
            report.sections.append((f"console of {guest.name}", guest.console_tail()))
            report.sections.append((f"journal of {guest.name}; all of it in {kept}", guest.journal_tail()))


def keep(guest, folder):
    """Copies what the guest said to where the user finds it after the workspace is gone."""
    folder.mkdir(parents=True, exist_ok=True)
    for log in (guest.console, guest.journal, guest.path / "qemu.log"):
        if log.exists():
            shutil.copyfile(log, folder / f"{guest.name}-{log.name}")
    return folder


def pytest_sessionstart(session):
    session.guests = []  # that exist now


@pytest.fixture(scope="session")
def progress(request):
    """Passes a line on to the person who watches, at once, whatever pytest captures."""
    reporter = request.config.pluginmanager.get_plugin("terminalreporter")
    capture = request.config.pluginmanager.get_plugin("capturemanager")
    began, lock = time.monotonic(), threading.Lock()

    def tell(text):
        with lock, capture.global_and_fixture_disabled():
            reporter.ensure_newline()
            reporter.write_line(f"  [{time.monotonic() - began:6.1f} s] {text}")
            reporter.flush()
    return tell


@pytest.fixture(scope="session")
def workspace():
    with Workspace("v") as made:
        yield made


@pytest.fixture(scope="session")
def machine(workspace):
    try:
        return machines.make(workspace)
    except KernelError as problem:
        pytest.exit(str(problem), returncode=1)


def take_away(session, guest):
    """Ends a guest and looks whether anything of it is left."""
    guest.power_cut()
    session.guests.remove(guest)
    commands = [" ".join(belongings.command_line(pid)) for pid in belongings.processes_of(guest.machine.workspace.path)]
    left = [command for command in commands if f"{guest.path}/" in command]
    shutil.rmtree(guest.path)
    assert not left, f"cannot be taken away: {left}"


def make(session, machine, progress, name, **how):
    guest = Guest(machine, name, progress=progress, **how)
    session.guests.append(guest)
    return guest


@pytest.fixture(scope="module")
def module_guest(request, machine, progress):
    made = make(request.session, machine, progress, "guest", **getattr(request.module, "GUEST", {}))
    yield made
    take_away(request.session, made)


@pytest.fixture(scope="module")
def ready_guest(module_guest):
    """ready_guest() is `guest` for fixtures that outlive a test."""
    def ready():
        if not module_guest.running:
            module_guest.power_cut()
            module_guest.start()
        return module_guest
    return ready


@pytest.fixture
def guest(ready_guest):
    return ready_guest()


@pytest.fixture
def make_guest(request, machine, progress):
    made = []

    def one(name="own", **how):
        made.append(make(request.session, machine, progress, name, **how))
        return made[-1]
    yield one
    for guest in made:
        take_away(request.session, guest)


@pytest.fixture(scope="module")
def network(workspace):
    made = GuestNetwork(workspace)
    yield made
    made.remove()


def members(network, arguments):
    """[(name, arguments of Guest)] of guests who know one another by name."""
    hosts = {f"n{number}": network.address(number) for number in range(1, len(arguments) + 1)}
    return [(name, {"network": network, "number": number, "hosts": hosts, **how})
            for number, (name, how) in enumerate(zip(hosts, arguments), 1)]


def boot(guests):
    """All at the same time."""
    for guest in guests:
        guest.launch()
    for guest in guests:
        guest.wait_ready(BOOT_SECONDS * len(guests))
    return guests


@pytest.fixture
def make_guests(network, make_guest):
    def several(count, **how):
        return boot([make_guest(name, **arguments) for name, arguments in members(network, [how] * count)])
    return several


@pytest.fixture(scope="module")
def module_guests(request, machine, progress, network):
    wanted = request.module.GUESTS
    arguments = [{}] * wanted if isinstance(wanted, int) else wanted
    made = [make(request.session, machine, progress, name, **how) for name, how in members(network, arguments)]
    yield made
    for guest in made:
        take_away(request.session, guest)


@pytest.fixture
def guests(module_guests, network):
    dead = [guest for guest in module_guests if not guest.running]
    for guest in module_guests:
        network.heal(guest.number)
    for guest in dead:
        guest.power_cut()
    boot(dead)
    return module_guests
