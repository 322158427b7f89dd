# SPDX-License-Identifier: Apache-2.0
"""An object storage in memory, as a vault uses it."""

from __future__ import annotations

from collections.abc import Callable
from email.utils import formatdate

from antipode.cloud.objects import ContainerFacts, StoredObject
from antipode.errors import NotFound


class MemoryObjects:
    """An object storage that compares before it takes a body in, as Swift does."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}
        self.account = "https://b/v1/AUTH_1"
        self.facts = ContainerFacts("", "", formatdate(usegmt=True))
        self.between: Callable[[], None] = lambda: None

    def about(self, container: str) -> ContainerFacts:
        return self.facts

    def ensure_container(self, container: str) -> None: ...

    def put(self, container: str, name: str, data: bytes) -> None:
        self.held[name] = data

    def create(self, container: str, name: str, data: bytes) -> bool:
        if name in self.held:
            return False
        self.between()
        self.held[name] = data
        return True

    def get(self, container: str, name: str, at_most: int | None = None) -> bytes:
        if name not in self.held:
            raise NotFound(name)
        return self.held[name][:at_most]

    def delete(self, container: str, name: str) -> None:
        self.held.pop(name, None)

    def listing(self, container: str, prefix: str = "") -> list[StoredObject]:
        return [StoredObject(n, len(d), "") for n, d in self.held.items() if n.startswith(prefix)]
