# SPDX-License-Identifier: Apache-2.0
"""One guest: a QEMU process of ours, its disks, and the channel to the agent inside.

  <workspace>/<name>/console.log, journal.log    of every boot, one after another
  <workspace>/<name>/layer/                      layer.py
  <workspace>/<name>/*.raw                       disks; they live as long as the Guest, over any number of boots

Without KVM: a guest's times are those of an emulator on a busy machine, so each wait is generous and says what it waits
for. The root file system is the host's, as it is now, and forgets at each boot; `persistent=True` keeps what the guest
changes. Use a guest from one thread at a time.
"""
import json
import os
import shutil
import signal
import subprocess
import termios
import time
from pathlib import Path

from lib.waiting import wait_for

from . import layer
from .channel import Channel, ChannelError, CommandError
from .disk import Disk
from .qmp import Qmp

BOOT_SECONDS = 400  # a limit for a machine that does other things, not a promise: it takes 20 s when it does not
STOP_SECONDS = 180
GIB = 1 << 30
# A panic reboots at once, which -no-reboot turns into the end of QEMU. A stalled emulator is no stalled kernel.
KERNEL_PARAMETERS = (
    "console=ttyS0", "quiet", "loglevel=5", "panic=1", "rcupdate.rcu_cpu_stall_timeout=120", "apparmor=0",
    "lsm=landlock,bpf", "audit=0", "mitigations=off", "8250.nr_uarts=1", "net.ifnames=0",
    "systemd.unit=multi-user.target", "systemd.condition-needs-update=0", "systemd.show_status=0")
REPOSITORY = Path(__file__).resolve().parents[3]
PROGRAM = "qemu-system-x86_64"
# With AES and CRC instructions, without AVX: emulated, that makes memcpy dearer. "max" takes 20 % more CPU time.
PROCESSOR = "Westmere"


class GuestDied(ChannelError):
    """QEMU ended by itself: a panic, or it could not start."""


class Guest:
    """`machine`: harness.machine.Machine. `memory` in MiB; `disks`: {name: size in bytes, or dict of Disk's arguments};
    `number` (1..3) puts it into `network`; `enable`, `files`: layer.write. `progress(text)` hears what happens."""

    def __init__(self, machine, name="guest", memory=1024, cpus=1, disks=None, network=None, number=1, hosts=None,
                 enable=(), files=None, persistent=False, parameters=(), progress=lambda _text: None):
        self.machine, self.name, self.memory, self.cpus = machine, name, memory, cpus
        self.network, self.number, self.parameters, self.progress = network, number, tuple(parameters), progress
        self.path = machine.workspace.path / name
        self.path.mkdir()
        self.console, self.journal = self.path / "console.log", self.path / "journal.log"
        self.address = network.address(number) if network else None
        self.shell = None
        self._layer = {"hosts": hosts or ({name: self.address} if network else {}), "enable": enable, "files": files}
        self.disks, self._upper = {}, None
        for disk, how in (disks or {}).items():
            self._make_disk(disk, how)
        if persistent:
            self._upper = Disk(self.path, "upper", 8 * GIB, label="upper")
        self._process = self._qmp = self._channel = None
        self.boot_seconds = None  # of the last boot

    def _make_disk(self, name, how):
        self.disks[name] = Disk(self.path, name, **(how if isinstance(how, dict) else {"size": how}))
        return self.disks[name]

    # ---- life ----
    @property
    def running(self):
        return self._process is not None and self._process.poll() is None

    def start(self, timeout=BOOT_SECONDS):
        """Boots, and returns when systemd has finished starting. The disks are those of the boot before."""
        self.launch()
        return self.wait_ready(timeout)

    def launch(self):
        """Begins to boot, so that several guests can at the same time; wait_ready() is to follow."""
        assert not self.running, f"{self.name} runs already"
        self._began = time.monotonic()
        self._write_layer()
        self.progress(f"{self.name}: booting, {self.memory} MiB")
        for disk in self.disks.values():
            disk.power_on(self.machine.workspace.environment())
        with open(self.path / "qemu.log", "a") as log:
            self._process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                             cwd=self.path, env=self.machine.workspace.environment(),
                                             start_new_session=True)
        def connect():
            self._assert_alive()
            return Channel(self.path / "agent.sock", self.name)
        self._channel = wait_for(connect, 60, f"{self.name}: QEMU's sockets", retry_on=(OSError,))
        self._qmp = wait_for(lambda: Qmp(self.path / "qmp.sock", 60), 60, "QEMU's monitor", retry_on=(OSError,))
        return self

    def talk(self):
        """For a person: the serial console is this terminal, with a shell; returns when the guest has ended."""
        size = shutil.get_terminal_size()
        self.shell = {"cwd": REPOSITORY, "path": self.machine.search_path, "term": os.environ.get("TERM", "linux"),
                      "rows": size.lines, "columns": size.columns}
        self._write_layer()
        settings = termios.tcgetattr(0)
        print(f"Booting, about half a minute. `exit` powers off, Ctrl-A X ends at once. Disks: "
              f"{' '.join(disk.path for disk in self.disks.values())}")
        self._process = subprocess.Popen(self.command(), cwd=self.path, env=self.machine.workspace.environment())
        try:
            self._process.wait()
        finally:
            termios.tcsetattr(0, termios.TCSADRAIN, settings)

    def _write_layer(self):
        if not (self.path / "layer").exists():
            layer.write(self.path / "layer", self.name, address=self.address, shell=self.shell, **self._layer)

    def wait_ready(self, timeout=BOOT_SECONDS):
        deadline = self._began + timeout
        def spoken():
            self._assert_alive()
            return self._channel.wait_hello(0.5)
        try:
            wait_for(spoken, timeout, f"{self.name}: the agent in the guest", interval=0)
            self.progress(f"{self.name}: agent answers after {time.monotonic() - self._began:.1f} s")
            # Its exit code speaks of units, which is up to the caller.
            self.run(["systemctl", "is-system-running", "--wait"], timeout=max(1, deadline - time.monotonic()),
                     check=False)
        except AssertionError as problem:
            self._assert_alive()
            raise AssertionError(f"{problem}\n--- end of the console\n{self.console_tail()}") from problem
        self.boot_seconds = time.monotonic() - self._began
        self.progress(f"{self.name}: ready after {self.boot_seconds:.1f} s")
        return self

    def shutdown(self, timeout=STOP_SECONDS):
        """An orderly end; AssertionError when QEMU has not ended in time. Returns the seconds it took."""
        began = time.monotonic()
        self.run(["systemctl", "poweroff", "--no-block"])
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name}: still running {timeout} s after poweroff\n"
                                 f"{self.console_tail()}") from None
        self._let_go()
        self.progress(f"{self.name}: powered off after {time.monotonic() - began:.1f} s")
        return time.monotonic() - began

    def reboot(self, stop_timeout=STOP_SECONDS, boot_timeout=BOOT_SECONDS):
        """Orderly; the machine is a new QEMU, so nothing is left in any cache of the emulated hardware."""
        self.shutdown(stop_timeout)
        return self.start(boot_timeout)

    def power_cut(self):
        """kill -9 of QEMU: what the guest had in memory is gone, and what volatile disks had not flushed. start() boots
        it again. Idempotent."""
        if self._process:
            self._process.send_signal(signal.SIGSTOP)  # so that the guest sees no disk die before it dies itself
            for disk in self.disks.values():
                disk.power_off()
            self._process.kill()
            self._process.wait()
            self._let_go()
            self.progress(f"{self.name}: power cut")

    def _let_go(self):
        for disk in self.disks.values():
            disk.power_off()
        for connection in (self._channel, self._qmp):
            if connection:
                connection.close()
        self._process = self._channel = self._qmp = None
        for name in ("agent.sock", "qmp.sock"):
            (self.path / name).unlink(missing_ok=True)

    def _assert_alive(self):
        if not self.running:
            code = self._process.returncode if self._process else None
            said = (self.path / "qemu.log").read_text(errors="replace")[-2000:]
            raise GuestDied(f"{self.name}: QEMU ended with {code}\n{said}\n"
                            f"--- end of the console\n{self.console_tail()}")

    # ---- commands ----
    def popen(self, command, env=None, cwd="/", stdin=b"", on_output=None):
        """Starts a command: a list, or a text for bash -e. Returns a channel.Command."""
        if self._channel is None:
            raise ChannelError(f"{self.name} does not run")
        argv = ["/bin/bash", "-ec", command] if isinstance(command, str) else [str(part) for part in command]
        environment = {"PATH": self.machine.search_path, "LC_ALL": "C.UTF-8", "HOME": "/root", **(env or {})}
        stdin = stdin.encode() if isinstance(stdin, str) else stdin
        return self._channel.run(argv, environment, str(cwd), stdin, on_output)

    def run(self, command, timeout=120, check=True, stream=False, **more):
        """popen() and its Outcome. A code that is not 0 raises CommandError unless check=False; a time-out (seconds)
        kills it and raises AssertionError. stream=True: its output goes to `progress` as it comes."""
        if stream:
            more["on_output"] = lambda data: self.progress(f"{self.name}| {data.decode(errors='replace').rstrip()}")
        started = self.popen(command, **more)
        outcome = started.wait(timeout)
        if check and outcome.code != 0:
            raise CommandError(self.name, started.argv, outcome)
        return outcome

    def output(self, command, **more):
        """The standard output of a command that must succeed, without white space around it."""
        return self.run(command, **more).stdout.strip()

    def wait_until(self, command, timeout, what):
        """Repeats a command until it exits with 0; returns its output."""
        def succeeded():
            outcome = self.run(command, check=False, timeout=timeout)
            return outcome if outcome.code == 0 else None
        return wait_for(succeeded, timeout, f"{self.name}: {what}", interval=0.2).stdout

    def put(self, path, data, mode=0o644):
        """A small file; folders above it are made."""
        outcome = self._channel.put(str(path), data.encode() if isinstance(data, str) else data, mode).wait(120)
        assert outcome.code == 0

    def get(self, path):
        """The bytes of a small file."""
        return self.run(["cat", path]).out

    # ---- hardware ----
    def pull(self, name, timeout=120):
        """The disk is pulled: its device goes, whatever uses it. The guest's kernel writes back what the device's page
        cache holds before the device is gone. The file stays."""
        disk = self.disks[name]
        self._qmp.execute("device_del", id=disk.device["id"])
        self._qmp.wait_event("DEVICE_DELETED", timeout, device=disk.device["id"])
        self.progress(f"{self.name}: disk {name} pulled")

    def fail(self, name):
        """A volatile disk dies without a word: from now on its requests fail with EIO. A reboot revives it, with what
        was flushed."""
        assert self.disks[name].cache == "volatile", "only a volatile disk can die"
        self.disks[name].power_off()
        self.progress(f"{self.name}: disk {name} dead")

    def plug(self, name, size=None, timeout=120, **how):
        """Puts a pulled disk back; with a size, puts in a new one. Returns when the guest's udev knows it."""
        if size is not None:
            self._make_disk(name, {"size": size, **how}).power_on(self.machine.workspace.environment())
            self._qmp.execute("blockdev-add", **self.disks[name].node)
        self._qmp.execute("device_add", **self.disks[name].device)
        self.wait_until(["test", "-b", self.disks[name].path], timeout, f"disk {name} to appear")
        self.progress(f"{self.name}: disk {name} plugged in")
        return self.disks[name]

    # ---- evidence ----
    def console_tail(self, lines=60):
        return _tail(self.console, lines)

    def journal_tail(self, lines=200):
        """Of what the guest sent to the host; works for a dead guest."""
        return _tail(self.journal, lines)

    def command(self):
        """QEMU's command line."""
        kernel = [f"weft.modules={self.machine.kernel.root}/lib/modules", f"weft.layer={self.path}/layer",
                  *KERNEL_PARAMETERS, *self.parameters]
        disks = list(self.disks.values())
        if self._upper:
            kernel.append(f"weft.upper={self._upper.name}")
            disks.append(self._upper)
        if any(char.isspace() for word in kernel for char in word):
            raise AssertionError(f"the paths of build folder and workspace must have no white space: {kernel}")
        arguments = [
            *(self.network.prefix() if self.network else []),
            PROGRAM, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-name", self.name,
            "-machine", "pc,usb=off,vmport=off", "-accel", "tcg,thread=multi", "-cpu", PROCESSOR,
            "-m", str(self.memory), "-smp", str(self.cpus),
            "-kernel", str(self.machine.kernel.image), "-initrd", str(self.machine.initramfs),
            "-append", " ".join(kernel),
            "-virtfs", "local,path=/,mount_tag=hostroot,security_model=passthrough,multidevs=remap,readonly=on",
            "-device", "virtio-serial-pci",
            "-chardev", f"socket,id=agent,path={self.path}/agent.sock,server=on,wait=off",
            "-device", "virtserialport,chardev=agent,name=org.weft.agent",
            "-chardev", f"file,id=journal,path={self.journal},append=on",
            "-device", f"virtserialport,chardev=journal,name={layer.JOURNAL_PORT}",
            "-chardev", f"socket,id=qmp,path={self.path}/qmp.sock,server=on,wait=off",
            "-mon", "chardev=qmp,mode=control"]
        if self.shell:
            arguments += ["-chardev", f"stdio,id=console,mux=on,signal=off,logfile={self.console},logappend=on",
                          "-mon", "chardev=console,mode=readline"]
        else:
            arguments += ["-chardev", f"file,id=console,path={self.console},append=on"]
        arguments += ["-serial", "chardev:console"]
        for disk in disks:
            arguments += ["-blockdev", json.dumps(disk.node), "-device", json.dumps(disk.device)]
        return arguments + (self.network.options(self.number) if self.network else ["-nic", "none"])


def _tail(path, lines):
    text = path.read_text(errors="replace").splitlines() if os.path.exists(path) else []
    return "\n".join(text[-lines:])
