# SPDX-License-Identifier: Apache-2.0
"""An object storage in memory, as a vault uses it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from email.utils import formatdate

from antipode.cloud.objects import ContainerFacts, Refused, StoredObject
from antipode.errors import NotFound


class MemoryObjects:
    """An object storage that compares before it takes a body in, as Swift does."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}
        self.has_etags = True
        self.reads = 0
        self.capacity: int | None = None
        """bytes that a quota allows"""
        self.looks_before_room = 0
        """writes that are still refused although there is room, as Swift remembers what is used"""
        self.account = "https://b/v1/AUTH_1"
        self.facts = ContainerFacts("", "", formatdate(usegmt=True))
        self.between: Callable[[], None] = lambda: None

    def about(self, container: str) -> ContainerFacts:
        return self.facts

    def ensure_container(self, container: str) -> None: ...

    def under(self, go_on: Callable[[], None]) -> MemoryObjects:
        return self

    def put(self, container: str, name: str, data: bytes) -> None:
        self._must_have_room(data)
        self.held[name] = data

    def create(self, container: str, name: str, data: bytes) -> bool:
        self._must_have_room(data)
        if name in self.held:
            return False
        self.between()
        self.held[name] = data
        return True

    def _must_have_room(self, data: bytes) -> None:
        """As the quotas of Swift: whether an object is there that is replaced does not matter."""
        if self.capacity is None:
            return
        used = sum(len(held) for held in self.held.values())
        if used + len(data) <= self.capacity and self.looks_before_room > 0:
            self.looks_before_room -= 1
        elif used + len(data) <= self.capacity:
            return
        raise Refused("Upload exceeds quota.", 413)

    def get(self, container: str, name: str, at_most: int | None = None) -> bytes:
        self.reads += 1
        if name not in self.held:
            raise NotFound(name)
        return self.held[name][:at_most]

    def delete(self, container: str, name: str) -> None:
        self.held.pop(name, None)

    def listing(self, container: str, prefix: str = "") -> list[StoredObject]:
        return [
            StoredObject(name, len(data), self._etag(data))
            for name, data in self.held.items()
            if name.startswith(prefix)
        ]

    def _etag(self, data: bytes) -> str:
        return hashlib.md5(data, usedforsecurity=False).hexdigest() if self.has_etags else ""
