# SPDX-License-Identifier: Apache-2.0
"""A drive and its replicas written and read from nbd-backend/FORMAT.md alone, and the server that serves them.

A second implementation of the format on purpose: the tests would not notice a mistake that writer and reader share.
"""
import json
import os
import signal
import struct
import subprocess
import uuid
from pathlib import Path

import nbd

from lib.belongings import listening_paths
from lib.cluster import BUILD
from lib.waiting import wait_for

PLUGIN = BUILD / "nbdkit-weft-replica-plugin.so"
MIB = 1024 * 1024
SLOT = 4096
PAGE_BITS = 8 * (4096 - 32)
REGION = 4 * MIB
BITMAP_KEPT, SUMS_KEPT, THICK = 1, 2, 4
# magic, version, checksum, incompat, compat, generation, replica, volume, size, region, bitmap at, bitmap bytes, epoch,
# birth, change boot id
FIELDS = struct.Struct("<8sIIQQQ16s16sQQQQQQ64s")


def _crc_table():
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_TABLE = _crc_table()


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def block_sum(block):
    """What is stored for a block of 4096 bytes."""
    return crc32c(block) ^ 0x98F94189


def encode_slot(generation, replica, volume, size, region=REGION, epoch=0, birth=0, change_boot="", version=1,
                incompat=BITMAP_KEPT):
    pages = -(-(-(-size // region)) // PAGE_BITS)

    def pack(checksum):
        return FIELDS.pack(b"WEFTREPL", version, checksum, incompat, 0, generation, uuid.UUID(replica).bytes,
                           uuid.UUID(volume).bytes, size, region, 2 * SLOT, 4096 * pages, epoch, birth,
                           change_boot.encode()).ljust(SLOT, b"\0")
    return pack(crc32c(pack(0))), pages


def encode_page(index, dirty=()):
    """`dirty`: regions of this page, counted from its first."""
    bits = bytearray(4096 - 32)
    for region in dirty:
        bits[region // 8] |= 1 << region % 8

    def pack(checksum):
        return struct.pack("<8sIIQ8x", b"WEFTBMAP", checksum, 0, index) + bits
    return pack(crc32c(pack(0)))


def decode_page(data, index):
    """The dirty regions of a page, counted from its first, or None when it is not good."""
    if data[:8] != b"WEFTBMAP" or crc32c(data[:8] + bytes(4) + data[12:]) != struct.unpack_from("<I", data, 8)[0]:
        return None
    if struct.unpack_from("<Q", data, 16)[0] != index:
        return None
    return [bit for bit in range(PAGE_BITS) if data[32 + bit // 8] >> bit % 8 & 1]


def decode_slot(data):
    """The fields by name, or None when the slot is not good."""
    names = ("magic", "version", "checksum", "incompat", "compat", "generation", "replica", "volume", "size", "region",
             "bitmap_at", "bitmap_bytes", "epoch", "birth", "change_boot")
    slot = dict(zip(names, FIELDS.unpack_from(data)))
    good = slot["magic"] == b"WEFTREPL" and slot["checksum"] == crc32c(data[:12] + bytes(4) + data[16:])
    slot["change_boot"] = slot["change_boot"].rstrip(b"\0").decode("latin1")
    return slot if good else None


class Drive:
    def __init__(self, path, node="n1"):
        self.path = Path(path)
        for name in ("replicas", "trash"):
            (self.path / name).mkdir(parents=True)
        self.id = str(uuid.uuid4())
        identity = {"version": 1, "drive": self.id, "cluster": str(uuid.uuid4()), "node": node}
        (self.path / "weft.json").write_text(json.dumps(identity))
        (self.path / "lock").touch()

    @classmethod
    def at(cls, path):
        """A drive that somebody else made."""
        drive = cls.__new__(cls)
        drive.path = Path(path)
        return drive

    def replica_path(self, replica):
        return self.path / "replicas" / replica

    def add_replica(self, size=64 * MIB, **fields):
        replica = str(uuid.uuid4())
        path = self.replica_path(replica)
        path.mkdir()
        with open(path / "data", "wb") as data:
            data.truncate(size)
        if fields.get("incompat", 0) & SUMS_KEPT:
            with open(path / "sums", "wb") as sums:
                os.posix_fallocate(sums.fileno(), 0, size // 1024)
        volume = str(uuid.uuid4())
        slots = [encode_slot(generation, replica, volume, size, **fields) for generation in (2, 1)]
        pages = b"".join(encode_page(index) for index in range(slots[0][1]))
        (path / "meta").write_bytes(slots[0][0] + slots[1][0] + pages)
        return replica

    def slots(self, replica):
        meta = (self.replica_path(replica) / "meta").read_bytes()
        return [decode_slot(meta[:SLOT]), decode_slot(meta[SLOT:2 * SLOT])]

    def meta(self, replica):
        """What a server that starts now takes for the truth."""
        return max((slot for slot in self.slots(replica) if slot), key=lambda slot: slot["generation"])


    def sums(self, replica):
        """All of them, as numbers."""
        stored = (self.replica_path(replica) / "sums").read_bytes()
        return struct.unpack(f"<{len(stored) // 4}I", stored)

    def flip(self, replica, offset, name="data"):
        """Changes a byte behind the server's back, as a drive does that loses what it was given."""
        with open(self.replica_path(replica) / name, "r+b") as file:
            file.seek(offset)
            byte = file.read(1)[0]
            file.seek(offset)
            file.write(bytes([byte ^ 0x10]))

    def dirty(self, replica):
        """The regions that the first page of the bitmap has as dirty; None: it is bad."""
        with open(self.replica_path(replica) / "meta", "rb") as meta:
            meta.seek(2 * SLOT)
            return decode_page(meta.read(4096), 0)


class Server:
    """nbdkit with the plugin, on a unix socket in the workspace."""

    def __init__(self, workspace, drive, *parameters, plugin=PLUGIN):
        self.drive = drive
        self.socket = workspace.path / "replica.sock"
        self.socket.unlink(missing_ok=True)
        self.log = workspace.path / "replica.log"
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                ["nbdkit", "-f", "-t", "8", "-U", self.socket, plugin, f"drive={drive.path}", *parameters],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=workspace.environment(), close_fds=True)
        # Not only its file: between bind and listen a connect is refused.
        wait_for(lambda: self.socket in listening_paths([self.process.pid]) or self.process.poll() is not None, 20,
                 "the replica server to listen")
        assert self.process.poll() is None, self.log_text()

    def log_text(self):
        return self.log.read_text(errors="replace")

    def kill(self, number=signal.SIGKILL):
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout=20)

    def uri(self, name):
        return f"nbd+unix:///{name}?socket={self.socket}"

    def connect(self, name):
        """A libnbd handle. libnbd itself checks nothing, so that the server's own checks are what is tested."""
        handle = nbd.NBD()
        handle.set_strict_mode(0)
        handle.set_full_info(True)
        handle.add_meta_context("base:allocation")
        handle.set_export_name(name)
        handle.connect_unix(str(self.socket))
        return handle

    def threads_in(self, syscall):
        """How many threads are in this system call now."""
        numbers = {"x86_64": {"pwrite64": 18}, "aarch64": {"pwrite64": 68}}[os.uname().machine]
        count = 0
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            try:
                count += (task / "syscall").read_text().split()[0] == str(numbers[syscall])
            except OSError:  # the thread ended
                continue
        return count

    def open_files(self):
        """What the server has open below its drive, by name."""
        names = []
        for entry in Path(f"/proc/{self.process.pid}/fd").iterdir():
            try:
                target = os.readlink(entry)
            except OSError:
                continue
            if target.startswith(str(self.drive.path)):
                names.append(target)
        return names


def described(handle):
    """The export's description as a dict."""
    first, *words = handle.get_export_description().split(" ")
    assert first == "weft-replica"
    return dict(word.split("=", 1) for word in words)
