"""The vault: where manifests live, away from the primary; one small interface, one module per
place.
"""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod

from antipode.errors import NotFound, VaultError

PROBE = ".probe-"
"""What names begin with that are not listed: probes and half-written files."""


class Vault(ABC):
    """Named documents. A `put` is there whole or not at all; names are `folder/file`."""

    @abstractmethod
    def put(self, name: str, document: bytes) -> None:
        """Write a document in one act.

        Raises:
            VaultError: it was not written, or nobody knows.
        """

    @abstractmethod
    def get(self, name: str) -> bytes:
        """Read a document.

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

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove a document; one that is not there is no error.

        Raises:
            VaultError: it was not removed, or nobody knows.
        """

    @property
    @abstractmethod
    def place(self) -> str:
        """Where it is, for messages."""

    def check(self, by: str = "") -> None:
        """See that the vault can be written, read and cleaned: writes a probe, reads it and removes
        it.

        `by` names the probe, so that who was killed before it was removed writes, and removes, the
        same one again.

        Raises:
            VaultError: it cannot.
        """
        name, content = f"{PROBE}{by or secrets.token_hex(8)}", secrets.token_bytes(16)
        self.put(name, content)
        try:
            found = self.get(name)
        except NotFound as error:
            raise VaultError(
                f"{self.place}: what was just written is not there: {error}"
            ) from error
        finally:
            self.delete(name)
        if found != content:
            raise VaultError(f"{self.place}: what was just written reads differently")
