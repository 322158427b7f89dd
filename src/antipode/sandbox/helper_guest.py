# SPDX-License-Identifier: Apache-2.0
"""The guest of a helper server: an SSH server of this machine, whose disks are the volumes that are
attached to the server, as a kernel shows them.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import asyncssh

from antipode.sandbox import blocks

SERIAL = 20
"""Characters of a serial that virtio-blk tells."""
USER = "mover"
_PIECE = 1 << 20
_COMMAND = re.compile(
    r"PATH=\S+; grep -aqsF (?P<serial>\S+) /sys/block/\w+/serial /sys/block/\w+/device/vpd_pg80 && "
    r"(?:(?P<zeroout>blkdiscard --zeroout --offset (?P<at>\d+) --length (?P<length>\d+))"
    r"|cmp --silent --bytes=(?P<bytes>\d+) --ignore-initial=(?P<from>\d+):0)"
    r" /dev/(?P<disk>\w+)(?: /dev/zero)? && echo (?P<done>\S+)"
)
"""`blkdiscard` and `cmp`, as the mover has them run once the serial of the disk was compared."""


class Off(Exception):
    """The server is not running."""


class Disk(NamedTuple):
    """A volume that is attached."""

    volume: str
    path: Path
    holders: tuple[str, ...] = ()
    """what the guest has made of it, as `dm-0`"""


Disks = Callable[[], Mapping[str, Disk]]
"""The disks of the guest at this moment, by their names, as `vdb`; raises `Off`."""


class Guest(NamedTuple):
    """What an SSH client has to know."""

    port: int
    host_key: str
    """as in a `known_hosts`"""
    listener: asyncssh.SSHAcceptor


async def listen(
    disks: Disks, authorized: str, host_key: asyncssh.SSHKey | None = None, *, runs: bool = True
) -> Guest:
    """Serve until the listener is closed.

    Args:
        authorized: the public key that may log in.
        runs: whether commands are run, beside SFTP.
    """
    key = host_key or asyncssh.generate_private_key("ssh-ed25519")
    listener = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_host_keys=[key],
        authorized_client_keys=asyncssh.import_authorized_keys(authorized),
        sftp_factory=lambda channel: _Files(channel, disks),
        process_factory=_commands(disks) if runs else None,
        password_auth=False,
        kbdint_auth=False,
    )
    port = listener.get_port()
    public = key.export_public_key().decode().strip()
    return Guest(port, f"[127.0.0.1]:{port} {public}\n", listener)


class _Open:
    """A disk that a client has open; it is of no use when the volume was detached."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.file = disk.path.open("r+b", buffering=0)


class _Files(asyncssh.SFTPServer):
    """`/sys/block` and `/dev` of the guest."""

    def __init__(self, channel: asyncssh.SSHServerChannel[bytes], disks: Disks) -> None:
        super().__init__(channel)
        self._disks = disks

    def _now(self) -> Mapping[str, Disk]:
        try:
            return self._disks()
        except Off as error:
            self.connection.abort()
            raise asyncssh.SFTPConnectionLost("the server is off") from error

    def _file_of(self, opened: _Open) -> io.FileIO:
        if opened.disk.path not in {disk.path for disk in self._now().values()}:
            raise asyncssh.SFTPFailure("Input/output error")
        return opened.file

    async def scandir(self, path: bytes) -> AsyncIterator[asyncssh.SFTPName]:
        disks = self._now()
        folders: dict[str, Collection[str]] = {"/sys/block": ["vda", *disks, "loop0"]}
        for device, disk in disks.items():
            folder = f"/sys/block/{device}"
            folders |= {folder: ["size", f"{device}1"], f"{folder}/holders": []}
            folders |= {f"{folder}/{device}1/holders": disk.holders}
        names = folders.get(path.decode())
        if names is None:
            raise asyncssh.SFTPNoSuchFile("No such file or directory")
        for name in (".", "..", *names):
            yield asyncssh.SFTPName(name.encode(), attrs=asyncssh.SFTPAttrs())

    def open(self, path: bytes, pflags: int, attrs: asyncssh.SFTPAttrs) -> Any:
        disks = self._now()
        folder, _, name = path.decode().rpartition("/")
        if folder == "/dev" and name in disks:
            return _Open(disks[name])
        if folder == "/dev" and name == "vda":  # its root: there are no bytes behind it
            return io.BytesIO()
        _, _, device = folder.rpartition("/")
        if folder == f"/sys/block/{device}" and (device in disks or device == "vda"):
            if name == "size":
                size = disks[device].path.stat().st_size if device in disks else 1 << 30
                return io.BytesIO(b"%d\n" % (size // 512))
            if name == "serial" and device in disks:
                return io.BytesIO(disks[device].volume[:SERIAL].encode())
        raise asyncssh.SFTPNoSuchFile("No such file or directory")

    def read(self, file_obj: Any, offset: int, size: int) -> bytes:
        if isinstance(file_obj, _Open):
            return os.pread(self._file_of(file_obj).fileno(), size, offset)
        file_obj.seek(offset)
        return bytes(file_obj.read(size))

    def write(self, file_obj: Any, offset: int, data: bytes) -> int:
        return os.pwrite(self._file_of(file_obj).fileno(), data, offset)

    def fsync(self, file_obj: Any) -> None:
        if isinstance(file_obj, _Open):
            os.fsync(self._file_of(file_obj).fileno())

    def close(self, file_obj: Any) -> None:
        (file_obj.file if isinstance(file_obj, _Open) else file_obj).close()


def _commands(disks: Disks) -> Callable[[asyncssh.SSHServerProcess[str]], None]:
    """What the guest runs for a client; it has no other command."""

    def run(process: asyncssh.SSHServerProcess[str]) -> None:
        wanted = _COMMAND.fullmatch(process.command or "")
        disk = disks().get(wanted["disk"]) if wanted is not None else None
        if wanted is None or disk is None:
            process.exit(127)
        elif not disk.volume.startswith(wanted["serial"]):
            process.exit(1)
        elif wanted["zeroout"]:
            with disk.path.open("r+b", buffering=0) as file:
                os.pwrite(file.fileno(), bytes(int(wanted["length"])), int(wanted["at"]))
            _end(process, wanted["done"])
        elif _has_zeros(disk.path, int(wanted["from"]), int(wanted["bytes"])):
            _end(process, wanted["done"])
        else:
            process.exit(1)

    return run


def _end(process: asyncssh.SSHServerProcess[str], says: str) -> None:
    process.stdout.write(f"{says}\n")
    process.exit(0)


def _has_zeros(path: Path, begin: int, length: int) -> bool:
    with blocks.Image(path) as image:
        pieces = range(begin, begin + length, _PIECE)
        return not any(
            not image.is_hole(at, _PIECE) and any(image.read(at, min(_PIECE, begin + length - at)))
            for at in pieces
        )
