# SPDX-License-Identifier: Apache-2.0
"""A vault in a Swift container; a Swift PUT is there whole or not at all."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from antipode.errors import AntipodeError, NotFound, Stopped, VaultError, VaultFull
from antipode.vault import MAKE_ROOM, PROBE, Vault, clock_remarks

if TYPE_CHECKING:
    from antipode.cloud.objects import Objects

_FULL = (413, 507)
"""What Swift answers to a write where a quota is exhausted, or the storage."""


class SwiftVault(Vault):
    """Documents as objects of one container, which is made when something is written first."""

    def __init__(self, objects: Objects, container: str, site: str) -> None:
        """`site` is the place of the object storage, for messages."""
        self._objects = objects
        self._container = container
        self._site = site
        self._made = False
        self._lock = threading.Lock()

    @property
    def place(self) -> str:
        return f"vault container {self._container} at {self._site}"

    def put(self, name: str, document: bytes) -> None:
        with self._writing():
            self._objects.put(self._container, name, document)

    def create(self, name: str, document: bytes) -> bool:
        """As `Vault.create`.

        Swift compares before it takes the body in: of two writes within the same few milliseconds
        both may be accepted, and the later one stays. So what stays is read back.
        """
        with self._writing():
            if not self._objects.create(self._container, name, document):
                return False
            return self.get(name) == document

    def get(self, name: str) -> bytes:
        try:
            return self._objects.get(self._container, name, self.largest + 1)
        except NotFound as error:
            raise NotFound(f"{self.place} has no {name}") from error
        except Stopped:
            raise
        except AntipodeError as error:
            raise VaultError(f"{self.place} cannot be read: {error}") from error

    def list(self, prefix: str) -> list[str]:
        return sorted(self.identities(prefix))

    def identities(self, prefix: str) -> Mapping[str, str]:
        """As `Vault.identities`, by the MD5 of the content."""
        try:
            listing = self._objects.listing(self._container, prefix)
        except NotFound:
            return {}
        except Stopped:
            raise
        except AntipodeError as error:
            raise VaultError(f"{self.place} cannot be read: {error}") from error
        return {
            o.name: f"{o.etag} {o.bytes}" if o.etag else ""
            for o in listing
            if not o.name.startswith(PROBE)
        }

    def delete(self, name: str) -> None:
        try:
            self._objects.delete(self._container, name)
        except NotFound:
            return
        except Stopped:
            raise
        except AntipodeError as error:
            raise VaultError(f"{self.place}: {name} cannot be removed: {error}") from error

    def remarks(self) -> Sequence[str]:
        try:
            facts = self._objects.about(self._container)
        except NotFound:
            return []
        except Stopped:
            raise
        except AntipodeError as error:
            raise VaultError(f"{self.place} cannot be read: {error}") from error
        shared = [
            f"{self.place} may be {what} by others ({acl}): take that away with {how}"
            for what, acl, how in (
                ("written", facts.writers, f"swift post --write-acl '' {self._container}"),
                ("read", facts.readers, f"swift post --read-acl '' {self._container}"),
            )
            if acl
        ]
        return [*shared, *clock_remarks(self.place, facts.date)]

    @property
    def account(self) -> str:
        """The URL of the account that the container is in; it names the project."""
        return self._objects.account

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """The container is there while the block runs, and what fails in it is the vault's."""
        try:
            with self._lock:
                if not self._made:
                    self._objects.ensure_container(self._container)
                    self._made = True
            yield
        except Stopped:
            raise
        except AntipodeError as error:
            if getattr(error, "status", None) in _FULL:
                raise VaultFull(f"{self.place} is full: {error}. {MAKE_ROOM}") from error
            raise VaultError(f"{self.place} cannot be written: {error}") from error
