# SPDX-License-Identifier: Apache-2.0
"""The Debian package: what it needs, what it holds, what its scripts do."""
import os
import re
import subprocess

import pytest
from conftest import BUILD, make, run

SCRIPT = """
set -e
mount -t tmpfs none /run
mkdir -p /run/systemd/system
exec "$@"
"""


@pytest.fixture(scope="module")
def package(workspace):
    make("deb")
    found = sorted(BUILD.glob("weft_*.deb"))
    assert len(found) == 1
    return found[0]


@pytest.fixture(scope="module")
def tree(package, tmp_path_factory):
    path = tmp_path_factory.mktemp("package")
    run("dpkg-deb", "--raw-extract", package, path)
    return path


def field(package, name):
    return run("dpkg-deb", "--field", package, name).stdout.strip()


def test_it_holds_what_make_install_installs_and_its_papers(tree, root):
    def files(top):
        return {str(path.relative_to(top)) for path in top.rglob("*") if path.is_file()}
    ours = {name for name in files(root) if "weft" in name}
    papers = {"usr/share/doc/weft/copyright", "usr/share/doc/weft/changelog.gz"}
    assert {name for name in files(tree) if not name.startswith("DEBIAN/")} == ours | papers


def test_everything_belongs_to_root_and_nobody_else_may_write(package):
    for line in run("dpkg-deb", "--contents", package).stdout.splitlines():
        mode, owner = line.split()[:2]
        assert owner == "root/root" and mode[5] == mode[8] == "-" and "s" not in mode, line


def test_it_depends_on_every_library_that_it_links(package, tree):
    needed = set()
    for binary in ("usr/bin/weft", "usr/sbin/weftd", "usr/libexec/weft/nbdkit-weft-replica-plugin.so",
                   "usr/libexec/weft/nbdkit-weft-volume-plugin.so"):
        needed |= set(re.findall(r"NEEDED.*\[(.*)\]", run("readelf", "-d", tree / binary).stdout))
    assert len(needed) > 5
    depends = field(package, "Depends")
    for library in needed:
        owners = {line.split(":")[0] for line in run("dpkg-query", "--search", f"*/{library}").stdout.splitlines()}
        assert any(re.search(rf"(^|[ ,]){re.escape(owner)}( |,|$)", depends) for owner in owners), (library, owners)


@pytest.mark.parametrize("program", ["nbdkit", "nbdfuse", "mkfs.ext4", "mkfs.xfs", "losetup", "mount", "dmsetup",
                                     "udevadm", "systemctl", "fusermount3", "jq"])
def test_it_depends_on_the_package_of_every_program_that_is_run(package, program):
    where = run("sh", "-c", f"command -v {program}", env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}).stdout.strip()
    searched = run("dpkg-query", "--search", f"*/{program}", check=False).stdout
    owners = {line.split(":")[0] for line in searched.splitlines() if line.endswith(where.split("/", 2)[-1])}
    assert owners, (where, searched)
    depends = {re.split(r"[ (|]", name.strip())[0] for name in field(package, "Depends").split(",")}
    assert owners & depends, (program, owners)


def test_the_sums_are_right(tree):
    run("md5sum", "--check", "--quiet", "DEBIAN/md5sums", cwd=tree)


def test_dpkg_unpacks_it(package, tmp_path):
    for directory in ("var/lib/dpkg/info", "var/lib/dpkg/updates"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / "var/lib/dpkg/status").touch()
    run("dpkg", f"--root={tmp_path}", "--force-depends", "--force-not-root", "--unpack", package)
    assert "install ok unpacked" in run("dpkg", f"--root={tmp_path}", "--status", "weft").stdout
    run("dpkg", f"--root={tmp_path}", "--verify", "weft")


@pytest.fixture
def scripts(tree, tmp_path):
    """run(script, arguments…, units=text) runs a maintainer script on a machine with systemd whose tools only write
    down how they were called; `units` is what list-units says. Returns (exit code, calls, output)."""
    programs = tmp_path / "bin"
    programs.mkdir()
    calls = tmp_path / "calls"
    for name in ("systemctl", "systemd-sysusers", "systemd-tmpfiles", "udevadm", "docker", "service", "invoke-rc.d"):
        (programs / name).write_text(f'#!/bin/sh\necho "{name} $*" >>{calls}\n'
                                     f'[ "$1" != list-units ] || cat {tmp_path}/units\n')
        (programs / name).chmod(0o755)

    def run_script(script, *arguments, units=""):
        calls.write_text("")
        (tmp_path / "units").write_text(units)
        done = subprocess.run(["unshare", "--mount", "--propagation", "private", "bash", "-c", SCRIPT, "bash",
                               str(tree / "DEBIAN" / script), *arguments], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=60,
                              env={**os.environ, "PATH": f"{programs}:/usr/sbin:/usr/bin:/sbin:/bin"})
        return done.returncode, calls.read_text().splitlines(), done.stdout
    return run_script


def test_an_installation_enables_and_starts_nothing(scripts):
    for _ in range(2):  # idempotent
        code, calls, _ = scripts("postinst", "configure", "")
        assert code == 0
        assert calls == ["systemd-sysusers weft.conf", "systemd-tmpfiles --create weft.conf", "systemctl daemon-reload",
                         "udevadm control --reload"]


def test_an_upgrade_restarts_weftd_if_it_runs_and_nothing_else(scripts):
    code, calls, _ = scripts("postinst", "configure", "0.0.9")
    assert code == 0
    assert [call for call in calls if "start" in call or "stop" in call] == ["systemctl try-restart weftd.service"]
    code, calls, _ = scripts("prerm", "upgrade", "0.2.0")
    assert code == 0 and not calls


def test_a_removal_is_refused_while_a_volume_is_attached(scripts):
    code, calls, said = scripts("prerm", "remove", units="weft-volume@3f0a2c1e.service loaded active running\n")
    assert code == 1 and "volumes are attached" in said and "weft-volume@3f0a2c1e" in said
    assert not any("stop" in call or "disable" in call for call in calls)


def test_a_removal_stops_what_is_ours_and_leaves_docker_alone(scripts):
    code, calls, _ = scripts("prerm", "remove")
    assert code == 0
    assert any("disable --now" in call for call in calls) and not any("docker" in call for call in calls)
    code, _, said = scripts("postrm", "purge")
    assert code == 0
