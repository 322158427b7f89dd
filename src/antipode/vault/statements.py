# SPDX-License-Identifier: Apache-2.0
"""Signed statements about a VNF in its vaults: created once under a name, and what no trusted key
has signed counts for nothing.

It blocks nothing either: where something else lies under the name of a statement, the statement
is created under the next one, `NAME.1`, `NAME.2` and so on, and found there.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Generic, NamedTuple, TypeVar

from pydantic import ValidationError

from antipode.errors import NotFound, PointMisplaced, PointUnsigned, VaultCorrupt, VaultError
from antipode.model.base import Model
from antipode.vault import Vault, reserve
from antipode.vault.keys import Keyring

LOG = logging.getLogger(__name__)
AnyStatement = TypeVar("AnyStatement", bound=Model)
LARGEST_BYTES = 1 << 16
MOST_NAMES = 10_000
"""Names that are tried for one statement, so that a search has an end."""


class Kind(NamedTuple, Generic[AnyStatement]):
    """A kind of statement."""

    model: type[AnyStatement]
    payload_type: str
    name_of: Callable[[AnyStatement], str]
    """the name that a statement has in a vault: under another one it counts for nothing"""


class Created(NamedTuple, Generic[AnyStatement]):
    """The content of a vault after the attempt to create a statement in it."""

    name: str
    is_new: bool
    """whether this call has written it"""
    statement: AnyStatement
    """the one that was there, if it is not new"""


def sealed(keys: Keyring, kind: Kind[AnyStatement], statement: AnyStatement) -> bytes:
    """The document of a statement.

    Raises:
        KeyMissing, KeyUnusable: this host has no key to sign it with.
    """
    return keys.sign_statement(kind.payload_type, statement.model_dump_json().encode())


def create(
    there: Vault, keys: Keyring, kind: Kind[AnyStatement], statement: AnyStatement
) -> Created[AnyStatement]:
    """Create a statement in one vault, unless it has one of that name.

    Raises:
        KeyMissing, KeyUnusable: as `sealed`.
        VaultError: it was not written, or it is unknown whether it was.
    """
    base, document = kind.name_of(statement), sealed(keys, kind, statement)
    # something else may have been removed from below the name of a statement
    for name in (base, *_further(there, base)):
        for version in there.versions(name):
            if (found := counting(keys, kind, version.place, name, version.document)) is not None:
                return Created(name, False, found)
    for number in range(MOST_NAMES):
        name = f"{base}.{number}" if number else base
        if reserve.write(there, partial(there.create, name, document)):
            return Created(name, True, statement)
        try:
            present = there.get(name)
        except NotFound as error:
            raise VaultError(f"{there.place}: {name} is there and cannot be read") from error
        if (found := counting(keys, kind, there.place, name, present)) is not None:
            return Created(name, False, found)
    raise VaultError(f"{there.place}: {MOST_NAMES} documents lie in the way of {base}; remove them")


def read(
    vault: Vault, keys: Keyring, kind: Kind[AnyStatement], name: str
) -> list[tuple[str, AnyStatement]]:
    """A statement as each vault holds it that holds one which counts, with the vault's place.

    Raises:
        KeyMissing: there is a signed one, and this host has no key at all to judge it by.
        VaultError: a vault cannot be read.
    """
    found = _read(vault, keys, kind, name, {})
    if len(found) < len(vault.copies()):
        for further in _further(vault, name):
            found = _read(vault, keys, kind, further, found)
    return list(found.items())


def document_of(
    vault: Vault, keys: Keyring, kind: Kind[AnyStatement], statement: AnyStatement
) -> bytes | None:
    """A statement as a vault holds it that has it, to be copied to others.

    Raises:
        VaultError: a vault cannot be read.
    """
    base = kind.name_of(statement)
    for name in (base, *_further(vault, base)):
        for place, document in vault.versions(name):
            if counting(keys, kind, place, name, document) == statement:
                return document
    return None


def base_of(name: str) -> str:
    """The name of a statement that may lie under a further one."""
    return _FURTHER.sub("", name)


def free_name(name: str, taken: Callable[[str], bool]) -> str:
    """The first name under which a statement may be created."""
    return next(n for n in _numbered(name) if not taken(n))


def _numbered(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name}.{number}" for number in range(1, MOST_NAMES))


def _read(
    vault: Vault,
    keys: Keyring,
    kind: Kind[AnyStatement],
    name: str,
    known: dict[str, AnyStatement],
) -> dict[str, AnyStatement]:
    """The documents known by the place of each vault, and those under one more name."""
    more = {
        place: found
        for place, document in vault.versions(name)
        if place not in known and (found := counting(keys, kind, place, name, document)) is not None
    }
    return known | more


def _further(vault: Vault, name: str) -> list[str]:
    listed = [n for n in vault.list(f"{name}.") if base_of(n) == name]
    return sorted(listed, key=lambda n: int(n.rpartition(".")[2]))


def counting(
    keys: Keyring, kind: Kind[AnyStatement], place: str, name: str, document: bytes
) -> AnyStatement | None:
    """The statement in a document; None if it counts for nothing."""
    try:
        return opened(keys, kind, name, document)
    except VaultCorrupt as error:
        LOG.warning("%s: %s. It counts for nothing", place, error)
        return None


def opened(keys: Keyring, kind: Kind[AnyStatement], name: str, document: bytes) -> AnyStatement:
    """The statement in a document.

    Raises:
        PointUnsigned, PointUntrusted, PointMisplaced, VaultCorrupt: why none counts.
        KeyMissing: it is signed, and this host has no key at all to judge it by.
    """
    if len(document) > LARGEST_BYTES:
        raise VaultCorrupt(f"{name} has {len(document)} bytes, and may have {LARGEST_BYTES}")
    if b'"payloadType"' not in document:
        raise PointUnsigned(
            f"{name} is not signed. If an unreleased antipode of yours wrote it: antipode vault"
            " sync --accept-unsigned"
        )
    payload = keys.open_statement(document, name, kind.payload_type)
    try:
        found = kind.model.model_validate_json(payload)
    except (ValidationError, ValueError) as error:
        raise VaultCorrupt(f"{name} is not valid ({type(error).__name__})") from error
    if kind.name_of(found) != base_of(name):
        raise PointMisplaced(f"{name} holds {kind.name_of(found)}: it was put under a wrong name")
    return found


_FURTHER = re.compile(r"\.[1-9]\d{0,3}$", re.ASCII)
