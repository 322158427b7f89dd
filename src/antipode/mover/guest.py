# SPDX-License-Identifier: Apache-2.0
"""The guest of a helper server over SSH: its disks, found by their serials and written by SFTP.
Nothing of antipode is installed there.
"""

from __future__ import annotations

import asyncio
import re
import shlex
import threading
import time
from collections import deque
from collections.abc import Awaitable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime
from contextlib import contextmanager, suppress
from typing import NamedTuple, TypeVar, cast

import asyncssh

from antipode.config import HelperConfig
from antipode.errors import HelperFailed, HelperUnreachable, HelperUntrusted, ResourceFailed

Found = TypeVar("Found")
CONNECT_S = 30.0
SILENT_S = 15.0
"""How long the guest may say nothing until it is asked whether it is there, four times."""
CALL_S = 300.0
"""How long one call may take, whatever is asked of the guest's kernel."""
APPEARS_S = 60.0
"""How long the guest may take to see a disk that Nova says is attached."""
LOOK_S = 0.2
SECTOR = 512
"""Bytes: the unit of `size` in sysfs, whatever the disk's."""
SERIAL_CHARACTERS = 20
"""What virtio-blk tells of a serial. SCSI disks tell all of it."""
PAGE_HEADER = 4
"""Bytes before the serial in page 0x80 of a SCSI disk."""
UNDER_WAY, UNDER_WAY_BYTES = 64, 8 << 20
"""Writes, and their bytes, that are sent before the first is acknowledged."""
ZEROS_AT_LEAST = 1 << 20
"""Bytes of zeros for which a command in the guest is worth it."""
DONE = "antipode-done"
"""What the guest says after a command that has ended well."""
_PIECE = 1 << 20
_NAME = re.compile(r"(vd|sd)[a-z]+")
"""Disks by virtio-blk, and those of SCSI."""
_SYSTEM = "/sys/block"


class _Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._run, name="ssh", daemon=True).start()

    def _run(self) -> None:
        self._loop.run_forever()
        self._loop.close()

    def begin(self, what: Awaitable[Found]) -> Future[Found]:
        async def of() -> Found:
            return await what

        return asyncio.run_coroutine_threadsafe(of(), self._loop)

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)


class _Line:
    """A connection, whose failures are errors of antipode."""

    def __init__(self, helper: HelperConfig, loop: _Loop) -> None:
        self.place = f"helper {helper.server} ({helper.user}@{helper.address}:{helper.port})"
        self._loop = loop

    def begin(self, what: Awaitable[Found]) -> Future[Found]:
        return self._loop.begin(what)

    def ask(self, what: Awaitable[Found], timeout_s: float = CALL_S) -> Found:
        return self.awaited(self.begin(what), timeout_s)

    def awaited(self, begun: Future[Found], timeout_s: float = CALL_S) -> Found:
        try:
            return begun.result(timeout_s)
        except NotInTime as error:
            begun.cancel()
            raise HelperUnreachable(
                f"{self.place} has not answered for {timeout_s:.0f} s: see that the server is up"
            ) from error
        except asyncssh.HostKeyNotVerifiable as error:
            raise HelperUntrusted(
                f"{self.place} has a host key that `known_hosts` of its settings does not have: put"
                " it there if the server was made again, else something else answers there"
            ) from error
        except asyncssh.PermissionDenied as error:
            raise HelperFailed(
                f"{self.place} does not take our key: put its public half into"
                " ~/.ssh/authorized_keys of that account"
            ) from error
        except (asyncssh.SFTPNoConnection, asyncssh.SFTPConnectionLost) as error:
            raise self._lost(error) from error
        except asyncssh.SFTPError as error:
            raise HelperFailed(f"{self.place}: {type(error).__name__}: {error.reason}") from error
        except (asyncssh.Error, OSError) as error:
            raise self._lost(error) from error

    def _lost(self, error: Exception) -> HelperUnreachable:
        return HelperUnreachable(
            f"{self.place} cannot be reached: {error}. See that the server is up, and that this"
            " host has a way to its SSH"
        )


class _Device(NamedTuple):
    """A disk of the guest."""

    name: str
    serial: str
    size: int
    """bytes"""

    @property
    def path(self) -> str:
        return f"/dev/{self.name}"

    def is_of(self, volume: str) -> bool:
        """Whether it is a volume, by its id."""
        return len(self.serial) >= SERIAL_CHARACTERS and volume.startswith(self.serial)


class Disk:
    """`Target` on a disk of the guest. Some writes are under way when `write` returns; all are done
    when anything else is.
    """

    def __init__(self, line: _Line, guest: Guest, device: _Device) -> None:
        self._line, self._guest, self._device = line, guest, device
        self.size = device.size
        self._under_way: deque[tuple[int, Future[int]]] = deque()
        self._bytes = 0
        self._zeros_by_command = True
        self._file = self._opened()
        self._line.ask(self._file.fsync())  # or it is not known what would outlive a loss of power

    def read(self, offset: int, length: int) -> bytes:
        self._settle()
        found = b""
        while len(found) < length:
            at = offset + len(found)
            asked = self._file.read(length - len(found), at)
            if not (piece := cast(bytes, self._line.ask(asked))):
                raise ResourceFailed(f"the volume ends at byte {at}")
            found += piece
        return found

    def write(self, offset: int, data: bytes) -> None:
        self._under_way.append((len(data), self._line.begin(self._file.write(data, offset))))
        self._bytes += len(data)
        while len(self._under_way) > UNDER_WAY or self._bytes > UNDER_WAY_BYTES:
            self._settle_one()

    def zero(self, offset: int, length: int) -> None:
        self._settle()
        if length >= ZEROS_AT_LEAST and self._zeros_by_command:
            # by BLKZEROOUT: they are not sent
            self._zeros_by_command = self._guest.does(
                self._device,
                f"blkdiscard --zeroout --offset {offset} --length {length} {self._device.path}",
            )
            if self._zeros_by_command:
                return
        for at in range(offset, offset + length, _PIECE):
            self.write(at, bytes(min(_PIECE, offset + length - at)))

    def is_known_as_zeros(self, offset: int, length: int) -> bool:
        self._settle()
        return length >= ZEROS_AT_LEAST and self._guest.does(
            self._device,
            f"cmp --silent --bytes={length} --ignore-initial={offset}:0 {self._device.path}"
            " /dev/zero",
        )

    def flush(self) -> None:
        self._settle()
        self._line.ask(self._file.fsync())
        # with its last opener the kernel forgets what it has of a disk: what is read again comes
        # from the storage
        self.close()
        self._file = self._opened()
        self._guest.must_have_alone(self._device)

    def close(self) -> None:
        self._line.ask(self._file.close())

    def _opened(self) -> asyncssh.SFTPClientFile:
        flags = asyncssh.FXF_READ | asyncssh.FXF_WRITE
        file = self._line.ask(self._guest.files.open(self._device.path, flags, encoding=None))
        # now: while a disk is open its kernel gives no other its name, but until then it may have
        self._guest.must_be(self._device)
        return file

    def _settle(self) -> None:
        while self._under_way:
            self._settle_one()

    def _settle_one(self) -> None:
        length, written = self._under_way.popleft()
        self._bytes -= length
        self._line.awaited(written)


class Guest:
    """A helper server that we are logged in to."""

    def __init__(
        self, line: _Line, connection: asyncssh.SSHClientConnection, files: asyncssh.SFTPClient
    ) -> None:
        self._line, self._connection, self.files = line, connection, files

    def must_not_have(self, volume: str) -> None:
        """See that no disk of the guest is a volume, before Nova attaches it.

        Raises:
            HelperFailed: one is, or says so.
        """
        if found := [d.path for d in self._devices() if d.is_of(volume)]:
            raise HelperFailed(
                f"{self._line.place} has volume {volume} as {found[0]}, and Nova does not say so:"
                " restart the server"
            )

    def must_be(self, device: _Device) -> None:
        """See that a disk that is open is still the one that was found by its serial.

        Raises:
            HelperFailed: it was detached meanwhile, and another may have its name.
        """
        now = self._device(device.name)
        if now is None or now.serial != device.serial:
            raise HelperFailed(
                f"{self._line.place} has another disk as {device.path} now, or none: the volume"
                " was detached meanwhile. Nothing was written into the other"
            )

    def must_have_alone(self, device: _Device) -> None:
        """See that the guest has made nothing of a disk, as LVM and RAID do by themselves of what
        they find on it: that may write it, and keeps what is read of it in the guest's memory.

        Raises:
            HelperFailed: it has.
        """
        folder = f"{_SYSTEM}/{device.name}"
        parts = [f"{folder}/{n}" for n in self._listed(folder) if n.startswith(device.name)]
        if held := [h for place in (folder, *parts) for h in self._listed(f"{place}/holders")]:
            raise HelperFailed(
                f"{self._line.place} has made {', '.join(held)} of {device.path}, which may write"
                " it: have the guest assemble no LVM, RAID or multipath of its disks"
            )

    @contextmanager
    def opened(self, volume: str) -> Iterator[Disk]:
        """A volume that Nova has attached to the server, open for reading and writing.

        Raises:
            HelperFailed: the guest does not see it, has made something of it, or the account may
                not write it.
        """
        device = self._appeared(volume, APPEARS_S)
        disk = Disk(self._line, self, device)
        try:
            self.must_have_alone(device)
            yield disk
        finally:
            with suppress(HelperFailed):  # of a line that is lost; the volume is detached anyhow
                disk.close()

    def check(self) -> str:
        """See that the account may open a disk for writing, which is not written; its path.

        Raises:
            HelperFailed: it may not, or the SFTP server has no fsync.
        """
        devices = self._devices()
        if not devices:
            raise HelperFailed(f"{self._line.place} shows no disk in {_SYSTEM}")
        device = min(devices, key=lambda d: d.name)
        Disk(self._line, self, device).close()
        return device.path

    def does(self, device: _Device, command: str) -> bool:
        """Whether a command in the guest ends well. One that is not there, or not allowed, does
        not: where an account is for SFTP alone, each command is answered by that, and ends well.

        Args:
            device: to which it is done, by its name. The guest compares the serial first: what
                arrives late, of a writer that has ended, must not hit another that has the name.
        """
        path = "PATH=$PATH:/usr/sbin:/sbin"  # an account that is not root has them not
        folder = f"{_SYSTEM}/{device.name}"
        places = f"{folder}/serial {folder}/device/vpd_pg80"
        is_it = f"grep -aqsF {shlex.quote(device.serial)} {places}"
        asked = f"{path}; {is_it} && {command} && echo {DONE}"
        try:
            done = self._line.ask(self._connection.run(asked, stdin=asyncssh.DEVNULL, check=False))
        except HelperUnreachable:
            if self._connection.is_closed():
                raise
            return False
        return str(done.stdout).strip() == DONE

    def _appeared(self, volume: str, within_s: float) -> _Device:
        deadline = time.monotonic() + within_s
        while not (found := [d for d in self._devices() if d.is_of(volume) and d.size]):
            if time.monotonic() > deadline:
                raise HelperFailed(
                    f"{self._line.place} shows no disk with the serial of volume {volume} after"
                    f" {within_s:.0f} s, though Nova has attached it: see that the guest takes"
                    " disks while it runs"
                )
            time.sleep(LOOK_S)
        if len(found) > 1:
            paths = ", ".join(d.path for d in found)
            raise HelperFailed(f"{self._line.place} has volume {volume} more than once: {paths}")
        return found[0]

    def _devices(self) -> list[_Device]:
        names = self._line.ask(self.files.listdir(_SYSTEM))
        return [d for n in names if (d := self._device(str(n))) is not None]

    def _device(self, name: str) -> _Device | None:
        """A disk by its name; None for one without a serial, or that is gone."""
        if not _NAME.fullmatch(name):
            return None
        serial = self._content(f"{_SYSTEM}/{name}/serial")
        if serial is None and (page := self._content(f"{_SYSTEM}/{name}/device/vpd_pg80")):
            serial = page[PAGE_HEADER:]
        size = self._content(f"{_SYSTEM}/{name}/size")
        if size is None or not size.strip().isdigit():
            return None
        shown = (serial or b"").strip(b"\0 \n").decode("ascii", "replace")
        return _Device(name, shown, int(size) * SECTOR)

    def _listed(self, folder: str) -> list[str]:
        try:
            names = [str(n) for n in self._line.ask(self.files.listdir(folder))]
        except HelperUnreachable:
            raise
        except HelperFailed:  # there is none
            return []
        return [n for n in names if n not in (".", "..")]

    def _content(self, path: str) -> bytes | None:
        try:
            return self._line.ask(self._read(path))
        except HelperUnreachable:
            raise
        except HelperFailed:  # there is none, or it is of no use to this account
            return None

    async def _read(self, path: str) -> bytes:
        async with self.files.open(path, "rb", encoding=None) as file:
            return cast(bytes, await file.read(4096, 0))


@contextmanager
def connected(helper: HelperConfig) -> Iterator[Guest]:
    """The guest of a helper server, while the block runs. Its host key is always verified.

    Raises:
        HelperUnreachable: it does not answer.
        HelperUntrusted: it has another host key.
        HelperFailed: it does not take our key, or has no SFTP; or the key cannot be read.
    """
    loop = _Loop()
    line = _Line(helper, loop)
    try:
        connection = line.ask(_connect(helper), 2 * CONNECT_S)
        try:
            yield Guest(line, connection, _files(line, connection))
        finally:
            loop.begin(_closed(connection)).result()
    finally:
        loop.end()


def _files(line: _Line, connection: asyncssh.SSHClientConnection) -> asyncssh.SFTPClient:
    try:
        return line.ask(connection.start_sftp_client(), CONNECT_S)
    except HelperUnreachable as error:
        if connection.is_closed():
            raise
        raise HelperFailed(
            f"{line.place} has no SFTP: enable the subsystem `sftp` of its SSH server"
        ) from error


async def _connect(helper: HelperConfig) -> asyncssh.SSHClientConnection:
    try:
        key = asyncssh.read_private_key(helper.key)
        known = asyncssh.read_known_hosts(str(helper.known_hosts))
    except (OSError, ValueError, asyncssh.Error) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise HelperFailed(
            f"`key` or `known_hosts` of helper {helper.server} cannot be used: {why}"
        ) from error
    return await asyncssh.connect(
        helper.address,
        helper.port,
        username=helper.user,
        client_keys=[key],
        known_hosts=known,
        config=None,  # that of an account of this host is not ours
        agent_path=None,
        preferred_auth="publickey",
        connect_timeout=CONNECT_S,
        login_timeout=CONNECT_S,
        keepalive_interval=SILENT_S,
        keepalive_count_max=4,
    )


async def _closed(connection: asyncssh.SSHClientConnection) -> None:
    """End a connection at once: what is under way is of no use any more."""
    connection.abort()
    await connection.wait_closed()
