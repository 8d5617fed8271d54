# SPDX-License-Identifier: Apache-2.0
"""The initramfs: busybox, the modules that reach the host's / and init.sh. The same input gives the same bytes.

Cached as $BUILD/vm/initramfs-<hash of the inputs>.cpio; a file with that name is complete (renamed into place).
"""
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from .kernel import KernelError

BUSYBOX = Path("/bin/busybox")
INIT = Path(__file__).with_name("init.sh")
MODULES = ("virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay")
APPLETS = ("sh", "cat", "cp", "insmod", "ln", "mkdir", "modprobe", "mount", "poweroff", "rm", "switch_root", "umount")


def load_order(text, names):
    """Paths of modules in the order in which insmod needs them. `text` is a modules.dep, whose lines name a module's
    dependencies so that the last is to be loaded first (depmod(8), modules.dep(5))."""
    needs = {}
    for line in text.splitlines():
        path, _, rest = line.partition(":")
        needs[Path(path).name.removesuffix(".ko")] = [*reversed(rest.split()), path]
    order = []
    for name in names:
        if name not in needs:
            raise KernelError(f"the kernel has no module {name}: is it the cloud flavour?")
        order += [path for path in needs[name] if path not in order]
    return order


def prepare(directory, kernel):
    """The path of the initramfs for this kernel below `directory` ($BUILD/vm). Raises KernelError."""
    if not BUSYBOX.exists():
        raise KernelError(f"{BUSYBOX} is missing: run scripts/install-deps vm")
    order = load_order((kernel.modules / "modules.dep").read_text(), MODULES)
    files = {"bin/busybox": BUSYBOX, "init": INIT,
             **{f"modules/{Path(path).name}": kernel.modules / path for path in order}}
    names = "".join(f"{Path(path).name}\n" for path in order)
    digest = hashlib.sha256(repr((names, APPLETS)).encode())
    for name, source in sorted(files.items()):
        digest.update(name.encode() + hashlib.sha256(source.read_bytes()).digest())
    made = Path(directory) / f"initramfs-{digest.hexdigest()[:16]}.cpio"
    if not made.exists():
        _make(made, files, names)
    return made


def _make(target, files, order):
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="initramfs-") as scratch:
        root = Path(scratch) / "root"
        for name, source in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, root / name)
            (root / name).chmod(0o755)
        (root / "modules" / "order").write_text(order)
        for applet in APPLETS:
            (root / "bin" / applet).symlink_to("busybox")
        entries = sorted(path.relative_to(root) for path in root.rglob("*"))
        for path in (root, *(root / entry for entry in entries)):
            if path.is_dir():
                path.chmod(0o755)
            os.utime(path, (0, 0), follow_symlinks=False)
        with open(Path(scratch) / "cpio", "wb") as output:
            subprocess.run(["cpio", "--create", "--format=newc", "--reproducible", "--owner=+0:+0", "--null",
                            "--quiet"], cwd=root, input=b"".join(bytes(entry) + b"\0" for entry in entries),
                           stdout=output, check=True)
        os.rename(Path(scratch) / "cpio", target)
