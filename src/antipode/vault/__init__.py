# SPDX-License-Identifier: Apache-2.0
"""Vaults: named documents away from the active site; one small interface, one module per place."""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import NamedTuple, TypeVar

from antipode.errors import NotFound, VaultError
from antipode.model import point_v1
from antipode.vault.keys import NO_KEYS, Keyring

Answer = TypeVar("Answer")

PROBE = ".probe-"
"""What names begin with that are not listed: probes and half-written files."""
LARGEST_DOCUMENT = point_v1.LARGEST_BYTES
"""Bytes of the largest document that any reader takes: a manifest of format 1."""
MAKE_ROOM = (
    "Give it room, or have recovery points removed: antipode recovery-point expire VNF, or delete"
)
"""What to do about a vault that is full."""

CLOCKS_DIFFER_BY = timedelta(minutes=2)
"""A clock that is further away from ours than that is wrong."""


def clock_remarks(place: str, date: str) -> list[str]:
    """What is to be said of a vault's clock.

    Args:
        date: the time there, as HTTP writes it; empty where it is not known.
    """
    try:
        ahead = parsedate_to_datetime(date) - datetime.now(UTC)
    except (ValueError, TypeError):  # not known, or without its offset
        return []
    if abs(ahead) <= CLOCKS_DIFFER_BY:
        return []
    return [
        f"the clock of {place} is {abs(ahead).total_seconds():.0f} s "
        f"{'ahead of' if ahead > timedelta(0) else 'behind'} that of this host; keep both on time "
        "by NTP, as the storage may order writes by its clock"
    ]


class Version(NamedTuple):
    """A document as one vault holds it."""

    place: str
    document: bytes


class Vault(ABC):
    """Named documents. A document is there whole or not at all; names are `folder/file`."""

    keys: Keyring = NO_KEYS
    """what recovery points in it are sealed and opened with"""
    largest = LARGEST_DOCUMENT
    """bytes of a document that are read at most, and one more, which says that there are more"""

    @abstractmethod
    def put(self, name: str, document: bytes) -> None:
        """Write a document in one act, over one of that name.

        Raises:
            VaultError: it was not written, or that is unknown.
        """

    @abstractmethod
    def create(self, name: str, document: bytes) -> bool:
        """Write a document in one act unless there is one of that name.

        Returns:
            whether this call has written it. Of several that write at once, one has.

        Raises:
            VaultError: it was not written, or that is unknown: read it to find out.
        """

    @abstractmethod
    def get(self, name: str) -> bytes:
        """Read a document, or the beginning of one that is larger than any reader takes: what lies
        there may have been put there to fill the memory of this host.

        Raises:
            NotFound: there is none of this name.
            VaultError: the vault cannot be read.
        """

    @abstractmethod
    def list(self, prefix: str) -> list[str]:
        """The names that begin with `prefix`, sorted.

        Raises:
            VaultError: the vault cannot be read.
        """

    def identities(self, prefix: str) -> Mapping[str, str]:
        """The names that begin with `prefix`, each with what tells its content from any other that
        was there; empty where that is not known.

        Raises:
            VaultError: the vault cannot be read.
        """
        return dict.fromkeys(self.list(prefix), "")

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove a document; one that is not there is no error.

        Raises:
            VaultError: it was not removed, or that is unknown.
        """

    @property
    @abstractmethod
    def place(self) -> str:
        """Where it is, for messages."""

    def remembers(self, name: str) -> bool:
        """Whether `get` need not read this document."""
        return False

    def again(self) -> Vault:
        """The same vault, where each document is read."""
        return self

    def copies(self) -> Sequence[Vault]:
        """The vaults that hold each document by themselves: this one, or those that it is made of
        and that answer.

        Raises:
            VaultError: one that is needed does not answer.
        """
        return [self]

    def each(self, question: Callable[[Vault], Answer]) -> Sequence[Answer]:
        """What each of the `copies` answers; all are asked at once.

        Raises:
            VaultError: one that is needed does not answer, or has no answer.
        """
        return [question(self)]

    def decides(self, places: Collection[str], apart_from: str = "") -> bool:
        """Whether the vaults at these places decide what may be done once only: no others can
        decide otherwise.

        Args:
            apart_from: the site whose vaults have no say, as it is the one that may have failed.
        """
        return self.place in places

    def leave_out(self, copy: Vault, error: VaultError) -> None:
        """Go on without one of the `copies`, which has failed.

        Raises:
            VaultError: `error`, as it cannot be done without.
        """
        raise error

    def versions(self, name: str) -> Sequence[Version]:
        """A document as each of the vaults that answer holds it; none where there is none.

        Raises:
            VaultError: the vault cannot be read.
        """
        try:
            return [Version(self.place, self.get(name))]
        except NotFound:
            return []

    def remarks(self) -> Sequence[str]:
        """What does not keep the vault from being used and should be mended all the same, in
        sentences.

        Raises:
            VaultError: it cannot be found out.
        """
        return []

    def check(self, by: str = "") -> None:
        """See that the vault can be written, created in, read and cleaned, by two probes that are
        removed again.

        Args:
            by: names the probes, so that a process that was killed before it removed them writes,
                and removes, the same ones when it is resumed.

        Raises:
            VaultError: it cannot.
        """
        name, content = f"{PROBE}{by or secrets.token_hex(8)}", secrets.token_bytes(16)
        self.put(name, content)
        try:
            if self.create(name, b""):
                raise VaultError(f"{self.place} creates a document over one of the same name")
            self.delete(name)
            if not self.create(name, content):
                raise VaultError(f"{self.place} holds a document that was just removed")
            found = self.get(name)
        except NotFound as error:
            raise VaultError(
                f"{self.place}: a document that was just written is not there: {error}"
            ) from error
        finally:
            self.delete(name)
        if found != content:
            raise VaultError(f"{self.place}: a document that was just written reads differently")
