# SPDX-License-Identifier: Apache-2.0
"""Sealed documents of vaults that this host has read before, so that an expiry need not read each
again.

The documents themselves lie in a file of the state directory, each with the identity that the
vault's listing gave its content when it was read. One from here is verified as one from the vault
is, under the keys of today: a manifest by its signature, records by the digest that names them. So
a memory that is lost, damaged or forged costs reads, and proves nothing that the vault would not.
"""

from __future__ import annotations

import logging
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TypeVar

from antipode.errors import NotFound
from antipode.store.files import make_private, one_at_a_time
from antipode.vault import Vault
from antipode.vault.sealing import MANIFEST, manifest_name, records_folder

LOG = logging.getLogger(__name__)
MOST_BYTES = 1 << 30
"""Bytes of documents that are remembered; above them, those that were read longest ago are
forgotten."""
LEAVES_FREE = 1 << 28
"""Bytes of the state directory's file system that are left to what runs need."""
AGAIN_S = 600.0
"""After this time a file that could not be used is tried again."""
_VERSION = 1
_TABLES = (
    "CREATE TABLE documents (place TEXT NOT NULL, name TEXT NOT NULL, identity TEXT NOT NULL,"
    " read_at REAL NOT NULL, size INTEGER NOT NULL, document BLOB NOT NULL,"
    " PRIMARY KEY (place, name))",
    "CREATE INDEX documents_by_age ON documents (read_at, size)",
    f"PRAGMA user_version = {_VERSION}",
)
_IN_THE_WAY = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
}
"""Errors by which the file itself is whole."""
_LAST = chr(0x10FFFF)
"""Is greater than the rest of any name."""
AnyResult = TypeVar("AnyResult")


class Memory:
    """The documents of all vaults that this host has read.

    Nothing here fails a caller: a file that cannot be used is made once more, and then done
    without.
    """

    def __init__(self, path: Path, most_bytes: int | None = None) -> None:
        self._path = path
        self._most = MOST_BYTES if most_bytes is None else most_bytes
        self._file: sqlite3.Connection | None = None
        self._tried_again_at = 0.0
        self._lock = threading.Lock()

    def find(self, place: str, name: str, identity: str) -> bytes | None:
        """A document of a vault, if its content had this identity when it was read."""

        def look(file: sqlite3.Connection) -> bytes | None:
            row = file.execute(
                "SELECT document FROM documents WHERE place = ? AND name = ? AND identity = ?",
                (place, name, identity),
            ).fetchone()
            return row[0] if row is not None and isinstance(row[0], bytes) else None

        return self._with_file(look, None)

    def identities(self, place: str, prefix: str) -> Mapping[str, str]:
        """The identity of each document of a vault whose name begins with `prefix`, by name."""

        def look(file: sqlite3.Connection) -> Mapping[str, str]:
            return dict(
                file.execute(
                    "SELECT name, identity FROM documents WHERE place = ? AND name BETWEEN ? AND ?",
                    (place, prefix, prefix + _LAST),
                ).fetchall()
            )

        return self._with_file(look, {})

    def keep(self, place: str, name: str, identity: str, document: bytes) -> None:
        """Remember a document that was just read.

        Args:
            identity: as a listing gave it before the document was read: one that is replaced in
                between has another one by the next listing.
        """

        def write(file: sqlite3.Connection) -> None:
            if shutil.disk_usage(self._path.parent).free < LEAVES_FREE + len(document):
                return
            # a number, as a clock that was wrong once would keep documents from their turn
            file.execute(
                "INSERT OR REPLACE INTO documents"
                " SELECT ?, ?, ?, 1 + coalesce(max(read_at), 0), ?, ? FROM documents",
                (place, name, identity, len(document), document),
            )

        self._with_file(write, None)

    def keep_only(self, place: str, prefix: str, listed: Mapping[str, str]) -> None:
        """Forget the documents of a vault whose names begin with `prefix` and that it does not list
        as they were; and those that were read longest ago, of any vault, where there are too many.

        Args:
            listed: the identities of all that there are now, by name.
        """
        known = self.identities(place, prefix)
        gone = [(place, n) for n, identity in known.items() if listed.get(n) != identity]

        def forget(file: sqlite3.Connection) -> None:
            file.executemany("DELETE FROM documents WHERE place = ? AND name = ?", gone)
            (size,) = file.execute("SELECT total(size) FROM documents").fetchone()
            if size > self._most:
                file.execute(
                    "DELETE FROM documents WHERE rowid IN (SELECT rowid FROM (SELECT rowid,"
                    " sum(size) OVER (ORDER BY read_at DESC, rowid) AS newer FROM documents)"
                    " WHERE newer > ?)",
                    (self._most,),
                )

        self._with_file(forget, None)

    def read_longest_ago(
        self, vnf: str, places: Collection[str], points: Collection[str]
    ) -> list[str]:
        """Those of the recovery points of a VNF whose manifests are remembered, the one that was
        read longest ago first.

        Args:
            places: of the vaults that are read now: a document of another one is not read again.
        """

        def look(file: sqlite3.Connection) -> list[str]:
            rows = file.execute(
                "SELECT name FROM documents WHERE name BETWEEN ? AND ?"
                f" AND place IN ({', '.join('?' * len(places))})"
                " GROUP BY name ORDER BY min(read_at), name",
                (f"{vnf}/", f"{vnf}/{_LAST}", *places),
            ).fetchall()
            return [name for (name,) in rows]

        nothing: list[str] = []
        of_name = {manifest_name(vnf, point): point for point in points}
        return [of_name[n] for n in self._with_file(look, nothing) if n in of_name]

    def forget(self, vnf: str) -> None:
        """Forget all documents of a VNF."""

        def remove(file: sqlite3.Connection) -> None:
            for prefix in (f"{vnf}/", records_folder(vnf)):
                file.execute(
                    "DELETE FROM documents WHERE name BETWEEN ? AND ?", (prefix, prefix + _LAST)
                )

        self._with_file(remove, None)

    def over(self, vault: Vault) -> Vault:
        """One vault, where documents that are remembered are not read; see `Vaults.viewed`."""
        return Remembering(vault, self)

    def _with_file(
        self, use: Callable[[sqlite3.Connection], AnyResult], otherwise: AnyResult
    ) -> AnyResult:
        with self._lock:
            for _ in range(2):
                if time.monotonic() < self._tried_again_at:
                    break
                try:
                    if self._file is None:
                        self._file = _opened(self._path)
                    return use(self._file)
                except OSError as error:
                    self._do_without(error)
                    break
                except sqlite3.Error as error:
                    self._close()
                    if getattr(error, "sqlite_errorcode", 0) & 0xFF in _IN_THE_WAY:
                        self._do_without(error)
                        break
                    LOG.warning("%s cannot be used, and is made once more: %s", self._path, error)
                    try:
                        _remove(self._path)
                    except OSError as obstacle:
                        self._do_without(obstacle)
            return otherwise

    def _do_without(self, error: Exception) -> None:
        LOG.warning("%s is done without for %.0f s: %s", self._path, AGAIN_S, error)
        self._tried_again_at = time.monotonic() + AGAIN_S

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class Remembering(Vault):
    """A vault whose sealed documents are read once, as long as its listing says that they are the
    same. All else is read and written as in the vault itself.

    The vault is listed once, when a document is first asked for; one that is not listed is not
    there. `again` has each document read from the vault.
    """

    def __init__(self, vault: Vault, memory: Memory) -> None:
        self.keys = vault.keys
        self._vault = vault
        self._memory = memory
        self._listed: dict[str, Mapping[str, str]] = {}
        self._known: dict[str, Mapping[str, str]] = {}
        self._lock = threading.Lock()

    @property
    def place(self) -> str:
        return self._vault.place

    def put(self, name: str, document: bytes) -> None:
        self._vault.put(name, document)

    def create(self, name: str, document: bytes) -> bool:
        return self._vault.create(name, document)

    def get(self, name: str) -> bytes:
        if not _is_sealed(name):
            return self._vault.get(name)
        if (identity := self._identities(name).get(name)) is None:
            raise NotFound(f"{self.place} does not list {name}")
        found = self._memory.find(self.place, name, identity) if identity else None
        return self.read(name) if found is None else found

    def read(self, name: str) -> bytes:
        """A document as it lies in the vault. Raises as `get`."""
        identity = self._identities(name).get(name) if _is_sealed(name) else None
        document = self._vault.get(name)
        if identity:
            self._memory.keep(self.place, name, identity, document)
        return document

    def list(self, prefix: str) -> list[str]:
        return self._vault.list(prefix)

    def identities(self, prefix: str) -> Mapping[str, str]:
        return self._vault.identities(prefix)

    def delete(self, name: str) -> None:
        self._vault.delete(name)

    def check(self, by: str = "") -> None:
        self._vault.check(by)

    def remembers(self, name: str) -> bool:
        identity = self._identities(name).get(name)
        return bool(identity) and self._known[_folder(name)].get(name) == identity

    def again(self) -> Vault:
        return _Again(self)

    def _identities(self, name: str) -> Mapping[str, str]:
        """What the vault has listed in the folder of a document."""
        folder = _folder(name)
        with self._lock:
            if folder not in self._listed:
                listed = self._vault.identities(folder)
                self._memory.keep_only(self.place, folder, listed)
                self._known[folder] = self._memory.identities(self.place, folder)
                self._listed[folder] = listed
            return self._listed[folder]


class _Again(Remembering):
    """The same, where each document is read from the vault, and remembered."""

    def __init__(self, first: Remembering) -> None:
        super().__init__(first._vault, first._memory)
        self._first = first

    def get(self, name: str) -> bytes:
        return self._first.read(name)

    def remembers(self, name: str) -> bool:
        return False


def _is_sealed(name: str) -> bool:
    """Whether a document proves by itself that it is the right one: a manifest, or records.
    Statements about a VNF may be removed at any time, and are always read.
    """
    return name.endswith(MANIFEST)


def _folder(name: str) -> str:
    return f"{name.rpartition('/')[0]}/"


def _opened(path: Path) -> sqlite3.Connection:
    """
    Raises:
        sqlite3.Error: it is no database, or not of this version.
        OSError: it cannot be made.
    """
    make_private(path)
    with one_at_a_time(path):
        file = sqlite3.connect(path, timeout=30, check_same_thread=False, isolation_level=None)
        try:
            file.execute("PRAGMA journal_mode = WAL")
            file.execute("PRAGMA synchronous = NORMAL")
            (version,) = file.execute("PRAGMA user_version").fetchone()
            if version not in (0, _VERSION):
                raise sqlite3.DatabaseError(f"its version is {version}, and {_VERSION} is known")
            for statement in () if version else _TABLES:
                file.execute(statement)
        except sqlite3.Error:
            file.close()
            raise
    return file


def _remove(path: Path) -> None:
    """Remove a memory that cannot be used, and what lies beside it.

    Raises:
        OSError: it cannot be removed.
    """
    for file in (path, *(path.with_name(path.name + s) for s in ("-wal", "-shm"))):
        file.unlink(missing_ok=True)
