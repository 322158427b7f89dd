"""A vault in a directory, on whatever is mounted there."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from antipode import private
from antipode.errors import NotFound, VaultError
from antipode.vault import PROBE, Vault


class DirectoryVault(Vault):
    """Documents as files; each is written beside its name, synced and then renamed, so that half a
    file never has a name.

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
        half = path.parent / f"{PROBE}{secrets.token_hex(8)}"
        try:
            private.make_folder(path.parent)
            try:
                with open(half, "xb", opener=private.opener) as file:
                    file.write(document)
                    file.flush()
                    os.fsync(file.fileno())
                half.rename(path)
            finally:
                half.unlink(missing_ok=True)
            _sync_directory(path.parent)
        except OSError as error:
            raise VaultError(
                f"{self.place} cannot be written: {path}: {error.strerror}; see that it is "
                "mounted and writable"
            ) from error

    def get(self, name: str) -> bytes:
        path = self._path(name)
        try:
            return path.read_bytes()
        except FileNotFoundError as error:
            raise NotFound(f"{self.place} has no {name}") from error
        except OSError as error:
            raise VaultError(f"{self.place} cannot be read: {path}: {error.strerror}") from error

    def list(self, prefix: str) -> list[str]:
        try:
            if not self._root.is_dir():
                raise VaultError(f"{self.place} is not there; see that it is mounted")
            names = [
                str(p.relative_to(self._root))
                for p in self._root.rglob("*")
                if p.is_file() and not p.name.startswith(PROBE)
            ]
        except OSError as error:
            raise VaultError(f"{self.place} cannot be read: {error.strerror}") from error
        return sorted(n for n in names if n.startswith(prefix))

    def delete(self, name: str) -> None:
        path = self._path(name)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise VaultError(f"{self.place}: {path} cannot be removed: {error.strerror}") from error

    def _path(self, name: str) -> Path:
        path = self._root / name
        if ".." in path.parts:
            raise VaultError(f"{name!r} is not a name for a document in a vault")
        return path


def _sync_directory(directory: Path) -> None:
    """Make a rename in a directory durable."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
