# SPDX-License-Identifier: Apache-2.0
"""A vault in a directory, on whatever is mounted there."""

from __future__ import annotations

import errno
import logging
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from antipode import private
from antipode.errors import NotFound, VaultError, VaultFull
from antipode.vault import MAKE_ROOM, PROBE, Vault

LOG = logging.getLogger(__name__)
_FULL = (errno.ENOSPC, errno.EDQUOT)


class DirectoryVault(Vault):
    """Documents as files; each is written beside its name, synced and then renamed or linked, so
    that half a file never has a name.

    Files have mode 0600 and folders 0700, as user_data of servers is in them. The vault's own
    directory keeps the mode that it was given.
    """

    def __init__(self, directory: Path) -> None:
        self._root = directory

    @property
    def place(self) -> str:
        return f"vault directory {self._root}"

    def put(self, name: str, document: bytes) -> None:
        path = self._path(name)
        with self._written(path, document) as half:
            half.rename(path)
            _sync_directory(path.parent)

    def create(self, name: str, document: bytes) -> bool:
        path = self._path(name)
        with self._written(path, document) as half:
            try:
                os.link(half, path)
            except FileExistsError:
                # the answer to a link that was made may have been lost on its way (NFS)
                return half.stat().st_nlink > 1
            _sync_directory(path.parent)
            return True

    def get(self, name: str) -> bytes:
        """As `Vault.get`. Anything but a file is a document without content, which no reader takes:
        a folder or a pipe under the name of a document must not keep a reader from the others.
        """
        path = self._path(name)
        try:
            return self._read(path)
        except FileNotFoundError as error:
            if path.is_symlink():
                return b""
            raise NotFound(f"{self.place} has no {name}") from error
        except OSError as error:
            if error.errno == errno.ELOOP:
                return b""
            raise VaultError(f"{self.place} cannot be read: {path}: {error.strerror}") from error

    def _read(self, path: Path) -> bytes:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                LOG.warning("%s is no file", path)
                return b""
            with open(handle, "rb", closefd=False) as file:
                return file.read(self.largest + 1)
        finally:
            os.close(handle)

    def list(self, prefix: str) -> list[str]:
        folder = self._root / prefix.rpartition("/")[0]
        try:
            if not self._root.is_dir():
                raise VaultError(f"{self.place} does not exist; see that it is mounted")
            names = [
                f"{above}{name}"
                for above, files in _folders_below(folder, self._root)
                for name in files
                if not name.startswith(PROBE)
            ]
        except FileNotFoundError as error:
            if error.filename == str(folder) and self._root.is_dir():
                return []
            # else these would not be all names that there are
            raise VaultError(
                f"{self.place} went away while it was read: {error.filename}"
            ) from error
        except OSError as error:
            raise VaultError(f"{self.place} cannot be read: {error.strerror}") from error
        return sorted(n for n in names if n.startswith(prefix) and self._is_text(n))

    def identities(self, prefix: str) -> Mapping[str, str]:
        """As `Vault.identities`: each write makes another file, or changes the times of this one.
        The files are not read.
        """
        try:
            return {name: _identity(self._root / name) for name in self.list(prefix)}
        except OSError as error:
            raise VaultError(f"{self.place} cannot be read: {error.strerror}") from error

    def delete(self, name: str) -> None:
        path = self._path(name)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise VaultError(f"{self.place}: {path} cannot be removed: {error.strerror}") from error

    def _path(self, name: str) -> Path:
        path = self._root / name
        if ".." in path.parts or "\0" in name or not self._is_text(name):
            raise VaultError(f"{name!r} is not a name for a document in a vault")
        return path

    def _is_text(self, name: str) -> bool:
        """Whether a file's name is UTF-8; antipode has not given a file any other."""
        try:
            name.encode()
        except UnicodeEncodeError:
            LOG.warning("%s: the file %r is passed over: its name is not UTF-8", self.place, name)
            return False
        return True

    @contextmanager
    def _written(self, path: Path, document: bytes) -> Iterator[Path]:
        """The document in a file beside `path`, under a name that is not listed; removed again."""
        half = path.parent / f"{PROBE}{secrets.token_hex(8)}"
        if not self._root.is_dir():
            # not made here: a file system that is not mounted would go unseen
            raise VaultError(f"{self.place} does not exist; mount it, or create it")
        try:
            private.make_folder(path.parent)
            try:
                with open(half, "xb", opener=private.opener) as file:
                    file.write(document)
                    file.flush()
                    os.fsync(file.fileno())
                yield half
            finally:
                half.unlink(missing_ok=True)
        except OSError as error:
            if error.errno in _FULL:
                raise VaultFull(f"{self.place}: {error.strerror}. {MAKE_ROOM}") from error
            raise VaultError(
                f"{self.place} cannot be written: {path}: {error.strerror}; see that it is "
                "mounted and writable, and that its file system has hard links"
            ) from error


def _folders_below(folder: Path, root: Path) -> Iterator[tuple[str, list[str]]]:
    """Each folder with its files: as names in a vault begin; a folder that cannot be read is an
    error.
    """

    def fail(error: OSError) -> None:
        raise error

    for above, _folders, files in os.walk(folder, onerror=fail):
        below = Path(above).relative_to(root)
        yield (f"{below}/" if below.parts else ""), files


def _identity(path: Path) -> str:
    """What tells a file from any other of its name; empty for what is no file, or not any more."""
    try:
        about = path.lstat()
    except FileNotFoundError:
        return ""
    if not stat.S_ISREG(about.st_mode):
        return ""
    return f"{about.st_ino} {about.st_size} {about.st_mtime_ns} {about.st_ctime_ns}"


def _sync_directory(directory: Path) -> None:
    """Make a rename or a link in a directory durable."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
