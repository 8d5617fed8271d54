# SPDX-License-Identifier: Apache-2.0
"""The files that a guest has on top of the host's: who it is, the agent's unit, what does not run, what is enabled.

Made as a tree on the host, copied over the guest's root by init.sh. Directories have mode 755 so that the copy changes
none that is there.
"""
import hashlib
import re
from pathlib import Path

UNITS = Path("etc/systemd/system")
SYSTEM = Path("/lib/systemd/system")
AGENT = Path(__file__).with_name("agent.py")
JOURNAL_PORT = "org.weft.journal"

# They wait for what a guest has not, or write what nobody reads. systemd-tmpfiles-setup alone takes half of a boot over
# 9p; units that need something of it in /run declare it (RuntimeDirectory=) or a test calls systemd-tmpfiles.
MASKED = (
    "systemd-tmpfiles-setup.service", "systemd-tmpfiles-clean.timer", "systemd-random-seed.service",
    "systemd-update-utmp.service", "systemd-update-utmp-runlevel.service", "systemd-timesyncd.service",
    "systemd-journal-flush.service", "systemd-machine-id-commit.service", "systemd-firstboot.service",
    "systemd-pcrphase.service", "systemd-pcrphase-sysinit.service", "systemd-binfmt.service",
    "proc-sys-fs-binfmt_misc.automount", "dev-hugepages.mount", "sys-kernel-tracing.mount", "getty.target",
    "systemd-user-sessions.service", "systemd-logind.service", "systemd-ask-password-wall.path",
    "systemd-ask-password-console.path", "systemd-remount-fs.service",
    "systemd-modules-load.service", "modprobe@configfs.service", "modprobe@dm_mod.service", "modprobe@drm.service",
    "modprobe@efi_pstore.service", "modprobe@fuse.service", "modprobe@loop.service", "dev-mqueue.mount",
    "sys-kernel-debug.mount", "sys-kernel-config.mount", "sys-fs-fuse-connections.mount")

# Programs that systemd runs one after another before the first unit. The others find nothing in a guest.
GENERATORS = Path("/lib/systemd/system-generators")
KEPT_GENERATORS = ("systemd-debug-generator", "systemd-fstab-generator")

# udev hears again of what was there before it, without the hundreds of devices that no scenario looks at.
COLDPLUG = """[Service]
ExecStart=
ExecStart=-udevadm trigger --type=devices --action=add --prioritized-subsystem=block,net \\
    """ + " ".join(f"--subsystem-nomatch={name}" for name in (
        "acpi", "clockevents", "clocksource", "container", "cpu", "dmi", "event_source", "graphics", "input",
        "machinecheck", "memory", "memory_tiering", "msr", "node", "pci_bus", "platform", "pnp", "rtc", "scsi_host",
        "serio", "thermal", "tty", "vc", "vtconsole", "wakeup", "workqueue")) + "\n"

AGENT_UNIT = f"""[Unit]
Description=Weft test agent
DefaultDependencies=no
IgnoreOnIsolate=yes

[Service]
ExecStart=/usr/bin/python3 -S -E {AGENT}
Restart=always
RestartSec=1
KillMode=process
OOMScoreAdjust=-1000
"""

# The journal as it grows, so that the host has it when the guest is dead. The copy is written after the host's, and so
# says how far the host's has come.
JOURNAL_COPY = "/run/weft-vm-journal"
JOURNAL_UNIT = f"""[Unit]
Description=Journal to the host
DefaultDependencies=no
IgnoreOnIsolate=yes
BindsTo=dev-virtio\\x2dports-{JOURNAL_PORT}.device
After=systemd-journald.socket dev-virtio\\x2dports-{JOURNAL_PORT}.device

[Service]
ExecStart=/bin/sh -c "journalctl --boot --follow --no-tail --output=short-monotonic | tee {JOURNAL_COPY}"
StandardOutput=file:/dev/virtio-ports/{JOURNAL_PORT}
Restart=on-failure
RestartSec=1
OOMScoreAdjust=-1000
"""

# The last unit of an orderly end: the power goes off when the host has what was said until then. On a busy machine it
# went before.
LAST_WORDS_UNIT = f"""[Unit]
Description=End of the journal to the host
DefaultDependencies=no
After=umount.target
Before=final.target

[Service]
Type=oneshot
ExecStart=/bin/echo end of the journal
ExecStart=/bin/sh -c "until grep --quiet 'end of the journal$' {JOURNAL_COPY}; do sleep 0.1; done"
TimeoutStartSec=60
"""

NETWORK_UNIT = """[Unit]
Description=Address of this guest
DefaultDependencies=no
BindsTo=sys-subsystem-net-devices-eth0.device
After=sys-subsystem-net-devices-eth0.device
Before=network.target network-online.target
Wants=network.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=ip address replace {address}/24 dev eth0
ExecStart=ip link set eth0 up
"""

SHELL_UNIT = """[Unit]
Description=Shell on the console
After=multi-user.target
SuccessAction=poweroff
FailureAction=poweroff

[Service]
Type=idle
ExecStart=/bin/bash --login
WorkingDirectory={cwd}
Environment=HOME=/root TERM={term} PATH={path} LC_ALL=C.UTF-8 "PROMPT_COMMAND=stty rows {rows} columns {columns}"
StandardInput=tty
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
"""


def write(root, name, hosts, address=None, enable=(), files=None, shell=None):
    """Makes the tree at `root`. `hosts`: {name: address} of all guests; `enable`: units, as their [Install] says;
    `files`: {absolute path: text}; `shell`: fields of SHELL_UNIT."""
    def put(path, text):
        target = root / str(path).lstrip("/")
        for part in reversed(target.relative_to(root).parents):
            (root / part).mkdir(exist_ok=True)
            (root / part).chmod(0o755)
        target.write_text(text)

    def link(path, to):
        put(path, "")
        (root / path).unlink()
        (root / path).symlink_to(to)

    put("etc/hostname", f"{name}\n")
    known = {"localhost": "127.0.0.1", name: "127.0.1.1", **hosts}
    put("etc/hosts", "".join(f"{where} {host}\n" for host, where in known.items()))
    put("etc/machine-id", hashlib.md5(f"{root}".encode()).hexdigest() + "\n")
    put("etc/fstab", "")
    put("etc/systemd/journald.conf.d/weft-vm.conf", "[Journal]\nStorage=volatile\nRateLimitBurst=0\n")
    put(UNITS / "weft-vm-agent.service", AGENT_UNIT)
    put(UNITS / "weft-vm-journal.service", JOURNAL_UNIT)
    link(UNITS / "sysinit.target.wants/weft-vm-agent.service", "../weft-vm-agent.service")
    put(UNITS / "weft-vm-last-words.service", LAST_WORDS_UNIT)
    link(UNITS / "sysinit.target.wants/weft-vm-journal.service", "../weft-vm-journal.service")
    link(UNITS / "final.target.wants/weft-vm-last-words.service", "../weft-vm-last-words.service")
    if address:
        put(UNITS / "weft-vm-network.service", NETWORK_UNIT.format(address=address))
        link(UNITS / "multi-user.target.wants/weft-vm-network.service", "../weft-vm-network.service")
        link(UNITS / "network-online.target.wants/weft-vm-network.service", "../weft-vm-network.service")
    if shell:
        put(UNITS / "weft-vm-shell.service", SHELL_UNIT.format(**shell))
        enable = (*enable, "weft-vm-shell.service")
    for unit in MASKED:
        if unit not in enable:
            link(UNITS / unit, "/dev/null")
    for generator in GENERATORS.iterdir():
        if generator.name not in KEPT_GENERATORS:
            link(Path("etc/systemd/system-generators") / generator.name, "/dev/null")
    put(UNITS / "systemd-udev-trigger.service.d/weft-vm.conf", COLDPLUG)
    for path, text in (files or {}).items():
        put(path, text)
    for unit in enable:
        source = next((path for path in (root / UNITS / unit, SYSTEM / unit) if path.exists()), None)
        if not source:
            raise FileNotFoundError(f"no unit {unit} in {SYSTEM}, nor among the files given to the guest")
        for target in re.findall(r"(?m)^WantedBy=(.*)$", source.read_text()) or ["multi-user.target"]:
            for one in target.split():
                link(UNITS / f"{one}.wants" / unit, source if source.parent == SYSTEM else f"/{UNITS / unit}")
