# SPDX-License-Identifier: Apache-2.0
"""Notes that recovery points were withdrawn, `<vnf>/<point>.withdrawn`: signed, with the time of
the withdrawal. One that no trusted key has signed counts for nothing, and is written over.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Literal

from pydantic import Field

from antipode.model.base import Model
from antipode.model.state import Moment
from antipode.model.vnf import Name
from antipode.vault import Vault, reserve, statements
from antipode.vault.keys import Keyring
from antipode.vault.statements import Kind

WITHDRAWN = ".withdrawn"


class Withdrawal(Model):
    """That a recovery point does not count any more, as it is written to the vaults."""

    format: Literal[1] = 1
    vnf: Name
    point: Annotated[str, Field(min_length=1, max_length=63)]
    at: Moment
    why: Annotated[str, Field(max_length=1000)]
    """a sentence for human readers of the vault"""


def name_of(vnf: str, point: str) -> str:
    return f"{vnf}/{point}{WITHDRAWN}"


KIND = Kind(
    Withdrawal,
    "application/vnd.antipode.withdrawal+json",
    lambda note: name_of(note.vnf, note.point),
)


def write(vault: Vault, vnf: str, point: str, why: str) -> None:
    """Note in every vault that a recovery point was withdrawn. Safe to repeat: a note that counts
    stays, and keeps its time.

    Raises:
        KeyMissing, KeyUnusable: there is no key to sign it with.
        VaultError: it is unknown whether it is noted everywhere.
    """
    name, keys = name_of(vnf, point), vault.keys
    note = Withdrawal(
        vnf=vnf, point=point, at=datetime.now(UTC).isoformat(timespec="seconds"), why=why
    )
    document = statements.sealed(keys, KIND, note)

    def have(copy: Vault) -> None:
        # a vault that is full refuses what it has, too
        if _counting(copy, keys, name):
            return
        if not copy.create(name, document) and not _counting(copy, keys, name):
            copy.put(name, document)

    def write_to(copy: Vault) -> None:
        reserve.write(copy, partial(have, copy))

    vault.each(write_to)


def places_of(vault: Vault, vnf: str, point: str) -> list[str]:
    """The places of the vaults that have a note on a recovery point which counts.

    Raises:
        KeyMissing: there is a signed one, and this host has no key at all to judge it by.
        VaultError: the vault cannot be read.
    """
    return [place for place, _ in _counting(vault, vault.keys, name_of(vnf, point))]


def is_older(vault: Vault, vnf: str, point: str, than: datetime) -> bool:
    """Whether a recovery point was withdrawn before a moment by every note on it that counts; one
    that counts for nothing is as old as anything.
    """
    notes = _counting(vault, vault.keys, name_of(vnf, point))
    return all(datetime.fromisoformat(note.at) < than for _, note in notes)


def forget(vault: Vault, vnf: str, points: Collection[str]) -> None:
    """Remove notes on recovery points that are gone.

    Raises:
        VaultError: it is unknown whether they are still there.
    """
    for point in points:
        vault.delete(name_of(vnf, point))


def adopt(vault: Vault, vnf: str) -> list[str]:
    """Sign the notes that an unreleased antipode has left unsigned, as the operator says that they
    are true; their names.

    Raises:
        KeyMissing, KeyUnusable, VaultError: as `write`.
    """
    adopted: list[str] = []
    for name in vault.list(f"{vnf}/"):
        point = name.removeprefix(f"{vnf}/").removesuffix(WITHDRAWN)
        if name != name_of(vnf, point) or places_of(vault, vnf, point):
            continue
        write(vault, vnf, point, "It was withdrawn by an antipode that did not sign.")
        adopted.append(name)
    return adopted


def _counting(vault: Vault, keys: Keyring, name: str) -> list[tuple[str, Withdrawal]]:
    found = [
        (place, statements.counting(keys, KIND, place, name, document))
        for place, document in vault.versions(name)
    ]
    return [(place, note) for place, note in found if note is not None]
