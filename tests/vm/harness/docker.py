# SPDX-License-Identifier: Apache-2.0
"""A guest with Debian's Docker Engine: dockerd and containerd as the units that they are on any host.

Its data root is a disk, since Docker's overlay cannot lie on the guest's own. No registry and no network: images are
imported.
"""
import io
import tarfile
from pathlib import Path

DISK = "docker"
MOUNT = f"""[Mount]
What=/dev/disk/by-id/virtio-{DISK}
Where=/var/lib/docker
Type=ext4
"""
DROP_IN = """[Unit]
RequiresMountsFor=/var/lib/docker
"""
SETTINGS = '{"bridge": "none", "iptables": false, "ip6tables": false, "storage-driver": "overlay2"}\n'


def arguments(size=2 << 30, **more):
    """What Guest needs for it, with what `more` says: disks, files and enable are added to."""
    return {**more,
            "disks": {DISK: {"size": size, "label": "docker"}, **more.get("disks", {})},
            "files": {"/etc/systemd/system/var-lib-docker.mount": MOUNT, "/etc/docker/daemon.json": SETTINGS,
                      "/etc/systemd/system/docker.service.d/weft-vm.conf": DROP_IN, **more.get("files", {})},
            "enable": ["containerd.service", "docker.service", *more.get("enable", ())]}


def import_busybox(guest):
    """Makes the image `busybox` from the host's static one."""
    program = Path("/bin/busybox").read_bytes()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo("bin/busybox")
        entry.size, entry.mode = len(program), 0o755
        tar.addfile(entry, io.BytesIO(program))
        for name in ("cat", "dd", "df", "echo", "ls", "md5sum", "mount", "rm", "sh", "sleep", "sync", "touch", "true"):
            entry = tarfile.TarInfo(f"bin/{name}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(entry)
    guest.run(["docker", "import", "--change", "ENV PATH=/bin", "-", "busybox"], stdin=buffer.getvalue(), timeout=300)
