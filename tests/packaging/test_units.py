# SPDX-License-Identifier: Apache-2.0
"""systemd's own judgement of our units, and the promises that it cannot check."""
import re
import shutil

import pytest
from conftest import make, run

UNITS = "usr/lib/systemd/system"
OURS = ["weftd.service", "weft-plugin.socket", "weft-admin.socket", "weft-shutdown.service", "weft.slice",
        "weft-replica@.service", "weft-volume@.service", "weft-nbdfuse@.service"]
SERVERS = ["weft-replica@.service", "weft-volume@.service", "weft-nbdfuse@.service"]
ID = "3f0a2c1e-0000-4000-8000-000000000001"

# systemd-analyze's figure, 0 (tight) to 10. weftd mounts for the whole machine, so it has the namespace of it:
# everything that would give it another one is missing, and most of the figure is that.
EXPOSURE_MAX = {"weftd.service": 5.7, f"weft-replica@{ID}.service": 4.2, f"weft-volume@{ID}.service": 4.2,
                f"weft-nbdfuse@{ID}.service": 4.6}

# systemd.exec(5), "Sandboxing": each of these implies a mount namespace; dockerd sees no volume mounted in one.
MOUNT_NAMESPACE = ["PrivateMounts", "PrivateTmp", "PrivateDevices", "ProtectSystem", "ProtectHome", "ProtectProc",
                   "ProtectKernelTunables", "ProtectKernelModules", "ProtectKernelLogs", "ProtectControlGroups",
                   "ReadOnlyPaths", "ReadWritePaths", "InaccessiblePaths", "ExecPaths", "NoExecPaths", "BindPaths",
                   "TemporaryFileSystem", "RootDirectory", "RootImage", "MountFlags", "DynamicUser", "ProcSubset",
                   "PrivateIPC", "ProtectHostname", "ProtectClock"]


def settings(root, unit):
    """Section -> key -> values, in order."""
    found = {}
    section = None
    for line in (root / UNITS / unit).read_text().splitlines():
        if match := re.fullmatch(r"\[(\w+)\]", line):
            section = found.setdefault(match[1], {})
        elif line and not line.startswith("#"):
            key, value = line.split("=", 1)
            section.setdefault(key, []).append(value)
    return found


def instance(unit):
    return unit.replace("@.", f"@{ID}.")


def verify(root, *units):
    return run("systemd-analyze", "verify", "--man=no", f"--root={root}", *units, check=False)


def test_systemd_finds_nothing_wrong_with_any_unit(root):
    done = verify(root, *map(instance, OURS))
    assert done.returncode == 0 and not done.stdout.strip(), done.stdout


def test_verify_would_see_a_mistake(root, tmp_path):
    broken = tmp_path / "root"
    shutil.copytree(root, broken)
    unit = broken / UNITS / "weftd.service"
    unit.write_text(unit.read_text().replace("ExecStart=/usr/sbin/weftd", "ExecStart=/usr/sbin/wefd"))
    done = verify(broken, "weftd.service")
    assert done.returncode != 0 and "wefd is not executable" in done.stdout


@pytest.mark.parametrize("unit", EXPOSURE_MAX)
def test_the_sandbox_is_as_tight_as_it_was(root, unit):
    done = run("systemd-analyze", "security", "--offline=yes", "--no-pager", f"--root={root}",
               f"--threshold={int(EXPOSURE_MAX[unit] * 10)}", unit, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("unit", ["weftd.service", *SERVERS])
def test_no_setting_gives_a_mount_namespace_of_its_own(root, unit):
    assert not set(settings(root, unit)["Service"]) & set(MOUNT_NAMESPACE)


@pytest.mark.parametrize("unit", SERVERS)
def test_a_server_outlives_weftd_and_is_never_started_again_by_systemd(root, unit):
    found = settings(root, unit)
    assert found["Service"]["Restart"] == ["no"]
    assert not set(found["Unit"]) & {"BindsTo", "PartOf", "Requires", "Requisite", "StopWhenUnneeded"}
    assert found["Service"]["OOMScoreAdjust"] == ["-1000"]
    assert "Install" not in found


def test_a_stop_of_weftd_ends_weftd_alone_and_keeps_its_runtime_directory(root):
    service = settings(root, "weftd.service")["Service"]
    assert service["KillMode"] == ["process"]
    assert service["RuntimeDirectoryPreserve"] == ["yes"]


def test_at_shutdown_containers_then_volumes_then_weftd_then_servers(root):
    """Stops run in the reverse order of starts."""
    def before(unit):
        return " ".join(settings(root, unit)["Unit"].get("Before", [])).split()

    def after(unit):
        return " ".join(settings(root, unit)["Unit"].get("After", [])).split()
    assert "docker.service" in before("weftd.service")
    assert {"weftd.service", "docker.service"} <= set(before("weft-shutdown.service"))
    assert "network-online.target" in after("weft-shutdown.service")
    for unit in SERVERS:
        assert "weft-shutdown.service" in before(unit)
    for mounts in ("var-lib-weft-mounts-", "var-lib-weft-drives-", "run-weft-volumes-"):
        text = (root / UNITS / f"{mounts}.mount.d" / "10-weft-mounts.conf").read_text()
        assert "\nBefore=weft-shutdown.service\n" in text


def test_dockerd_cannot_find_the_plugin_missing(root):
    socket = settings(root, "weft-plugin.socket")
    assert socket["Unit"]["Before"] == ["docker.service"]
    assert socket["Socket"]["ListenStream"] == ["/run/docker/plugins/weft.sock"]
    assert socket["Socket"]["FileDescriptorName"] == ["docker-plugin"]
    assert settings(root, "weftd.service")["Service"]["Sockets"] == ["weft-plugin.socket weft-admin.socket"]
    assert socket["Install"]["WantedBy"] == ["sockets.target"]


def test_sysusers_and_tmpfiles_make_what_they_should(root, tmp_path):
    (tmp_path / "etc").mkdir()
    for name in ("passwd", "group"):
        (tmp_path / "etc" / name).write_text("root:x:0:0::/:/bin/sh\n" if name == "passwd" else "root:x:0:\n")
    for _ in range(2):  # idempotent
        run("systemd-sysusers", f"--root={tmp_path}", root / "usr/lib/sysusers.d/weft.conf")
        run("systemd-tmpfiles", "--create", f"--root={tmp_path}", root / "usr/lib/tmpfiles.d/weft.conf")
    assert re.search(r"^weft:x:\d+:$", (tmp_path / "etc/group").read_text(), re.MULTILINE)
    assert (tmp_path / "run/weft").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "var/lib/weft").stat().st_mode & 0o777 == 0o700


def test_the_example_config_is_good(root):
    example = root / "usr/share/doc/weft/examples/weftd.conf"
    done = run(root / "usr/sbin/weftd", "--config", example, "--check-config")
    assert done.stdout == f"{example}: good\n"


def test_another_prefix_is_written_into_the_units(tmp_path):
    make("install", f"DESTDIR={tmp_path}", "PREFIX=/opt/weft")
    unit = (tmp_path / "opt/weft/lib/systemd/system/weftd.service").read_text()
    assert "ExecStart=/opt/weft/sbin/weftd " in unit and "/usr/" not in unit
