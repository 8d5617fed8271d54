# SPDX-License-Identifier: Apache-2.0
"""A private Docker Engine: Debian's dockerd and containerd with their own roots, sockets and cgroup.

It never talks to a Docker that is already there, needs no registry (images are imported from tar files made here) and
no network. Two places cannot be made private, so what lands there is declared to the workspace: legacy plugin sockets
are looked up in /run/docker/plugins only, and containerd's shims listen in /run/containerd/s.
"""
import io
import json
import os
import subprocess
import tarfile
from pathlib import Path

from . import belongings
from .waiting import wait_for

CLIENT = "/usr/bin/docker"  # docker.io's; another one may come first in PATH
SHIM_SOCKETS = Path("/run/containerd/s")


class DockerError(AssertionError):
    """A docker command failed; `stderr` is what it said."""

    def __init__(self, arguments, outcome):
        self.stderr = outcome.stderr.strip()
        super().__init__(f"docker {' '.join(arguments)}: exit {outcome.returncode}: {self.stderr}")


def overlay_works(directory):
    """Whether overlay mounts work on the directory's file system (they do not on another overlay)."""
    parts = [directory / name for name in ("lower", "upper", "work", "merged")]
    for part in parts:
        part.mkdir(parents=True)
    options = f"lowerdir={parts[0]},upperdir={parts[1]},workdir={parts[2]}"
    if subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, parts[3]], capture_output=True).returncode:
        return False
    subprocess.run(["umount", parts[3]], check=True)
    return True


class Docker:
    def __init__(self, workspace, name="docker"):
        self.workspace = workspace
        self.path = workspace.path / name
        self.path.mkdir()
        self.socket = self.path / "docker.sock"
        self.containerd_socket = self.path / "ctd.sock"
        self.cgroup = f"/weft-{workspace.path.name}-{name}"
        self.environment = workspace.environment(DOCKER_CONFIG=self.path / "client")
        self._containerd = self._dockerd = None
        driver = "overlay2" if overlay_works(self.path / "probe") else "vfs"
        (self.path / "daemon.json").write_text(json.dumps({
            "data-root": str(self.path / "data"), "exec-root": str(self.path / "exec"),
            "pidfile": str(self.path / "dockerd.pid"), "hosts": [f"unix://{self.socket}"],
            "containerd": str(self.containerd_socket), "storage-driver": driver, "bridge": "none", "iptables": False,
            "ip6tables": False, "deprecated-key-path": str(self.path / "key.json"), "cgroup-parent": self.cgroup,
            "log-driver": "json-file", "shutdown-timeout": 10}))
        (self.path / "containerd.toml").write_text(
            f'version = 2\nroot = "{self.path}/ctd-root"\nstate = "{self.path}/ctd-state"\n'
            'disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.btrfs",'
            ' "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper"]\n'
            f'[grpc]\n  address = "{self.containerd_socket}"\n[ttrpc]\n  address = "{self.containerd_socket}.ttrpc"\n')
        for controller in sorted(Path("/sys/fs/cgroup").iterdir()):
            workspace.own(controller / self.cgroup.lstrip("/"))
        workspace.own(Path("/sys/fs/cgroup") / self.cgroup.lstrip("/"))
        workspace.make_outside_directory("/run/docker/plugins")
        workspace.make_outside_directory(SHIM_SOCKETS)

    def start(self):
        self.start_containerd()
        self.start_dockerd()
        return self

    def _spawn(self, arguments, log):
        with open(self.path / log, "a") as output:
            return subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/",
                                    env=self.environment, start_new_session=True)

    def start_containerd(self):
        self._containerd = self._spawn(["/usr/bin/containerd", "--config", str(self.path / "containerd.toml"),
                                        "--log-level", "warn"], "containerd.log")
        wait_for(lambda: self.containerd_socket.exists() or self._died(self._containerd), 30, "containerd's socket")

    def start_dockerd(self):
        (self.path / "dockerd.pid").unlink(missing_ok=True)  # of a killed one: its number may be somebody else's now
        self._dockerd = self._spawn(["/usr/sbin/dockerd", "--config-file", str(self.path / "daemon.json"),
                                     "--log-level", "info"], "dockerd.log")
        wait_for(lambda: self.try_docker("version").returncode == 0 or self._died(self._dockerd), 60,
                 "dockerd to answer", interval=0.1)

    def _died(self, process):
        if process.poll() is not None:
            raise AssertionError(f"{process.args[0]} ended with {process.returncode}; see {self.path}/*.log")
        return False

    def kill_dockerd(self):
        """kill -9, as the OOM killer would; containers' shims live on."""
        self._dockerd.kill()
        self._dockerd.wait()

    def kill_container(self, container):
        """kill -9 of all processes of a container and its shim, behind dockerd's back."""
        pid = int(self.docker("inspect", "--format", "{{.State.Pid}}", container))
        belongings.kill(pid)

    def stop(self):
        """Removes every container, ends both daemons; what refuses is killed by the workspace. Idempotent."""
        if self._dockerd and self._dockerd.poll() is None:
            containers = self.try_docker("ps", "--all", "--quiet").stdout.split()
            if containers:
                self.try_docker("rm", "--force", *containers, timeout=60)
        for process in (self._dockerd, self._containerd):
            if process and process.poll() is None:
                process.terminate()
                try:
                    process.wait(timeout=20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        self._dockerd = self._containerd = None
        belongings.take_away(self.path)

    # ---- the client ----
    def try_docker(self, *arguments, timeout=150, **more):
        """Runs the docker client; returns the finished process, whatever its exit code."""
        return subprocess.run([CLIENT, "--host", f"unix://{self.socket}", *arguments], capture_output=True, text=True,
                              timeout=timeout, env=self.environment, **more)

    def docker(self, *arguments, **more):
        """As try_docker, but a failure raises DockerError. Returns stdout without the last newline."""
        outcome = self.try_docker(*arguments, **more)
        if outcome.returncode != 0:
            raise DockerError(arguments, outcome)
        return outcome.stdout.rstrip("\n")

    def popen(self, *arguments, **more):
        return subprocess.Popen([CLIENT, "--host", f"unix://{self.socket}", *arguments], env=self.environment, **more)

    # ---- images without a registry ----
    def import_image(self, name, files, directories=(), links=(), changes=()):
        """Makes an image of a few files: {path: bytes} (executable), empty directories and (path, target) links."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for path in directories:
                entry = tarfile.TarInfo(path)
                entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if path == "tmp" else 0o755
                tar.addfile(entry)
            for path, target in links:
                entry = tarfile.TarInfo(path)
                entry.type, entry.linkname = tarfile.SYMTYPE, target
                tar.addfile(entry)
            for path, content in files.items():
                entry = tarfile.TarInfo(path)
                entry.size, entry.mode = len(content), 0o755
                tar.addfile(entry, io.BytesIO(content))
        flags = [flag for change in changes for flag in ("--change", change)]
        subprocess.run([CLIENT, "--host", f"unix://{self.socket}", "import", *flags, "-", name], check=True,
                       input=buffer.getvalue(), capture_output=True, env=self.environment, timeout=60)
        return name

    def import_busybox(self):
        """`busybox`: one static program under all its names."""
        program = Path("/bin/busybox").read_bytes()
        names = subprocess.run(["/bin/busybox", "--list"], capture_output=True, text=True, check=True).stdout.split()
        links = [(f"bin/{name}", "busybox") for name in names if name != "busybox"]
        return self.import_image("busybox", {"bin/busybox": program}, ["bin", "data", "etc", "proc", "sys", "tmp"],
                                 links, ["CMD [\"/bin/sh\"]", "ENV PATH=/bin"])

    def import_host(self, files=None):
        """`host`: nothing but mount points (see host_mounts) and the files given."""
        links = [(name, f"usr/{name}") for name in ("bin", "sbin", "lib", "lib64")]
        return self.import_image("host", files or {}, ["usr", "etc", "proc", "sys", "tmp", "run", "data", "var"], links,
                                 ["ENV PATH=/usr/sbin:/usr/bin:/sbin:/bin", "ENV LC_ALL=C.UTF-8"])

    @staticmethod
    def host_mounts():
        """Flags of `docker run` that put the host's programs into an image made by import_host, read-only."""
        paths = ["/usr", *(p for p in ("/etc/passwd", "/etc/group", "/etc/ld.so.cache", "/etc/alternatives")
                           if os.path.exists(p))]
        return [flag for path in paths for flag in ("--volume", f"{path}:{path}:ro")]
