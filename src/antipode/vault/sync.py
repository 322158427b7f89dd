# SPDX-License-Identifier: Apache-2.0
"""Vaults that were away are caught up: each gets what others hold of a VNF and it lacks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

from antipode.errors import AntipodeError, NotFound, Stopped, VaultCorrupt, VaultError
from antipode.vault import (
    Vault,
    generations,
    points,
    reserve,
    sealing,
    statements,
    windows,
    withdrawals,
)
from antipode.vault.sealing import MANIFEST, Trust
from antipode.vault.statements import AnyStatement, Kind
from antipode.vault.windows import COMMITTED
from antipode.vault.withdrawals import WITHDRAWN


class Lack(NamedTuple):
    """A document that some vaults do not hold and others do."""

    name: str
    without: Sequence[Vault]


class CaughtUp(NamedTuple):
    """How many documents were written, by the place of each vault, and what could not be."""

    written: dict[str, int]
    trouble: list[str]


def lacking(vault: Vault, vnf: str) -> Iterator[Lack]:
    """What some of the vaults lack of a VNF, in an order in which it can be written at any time:
    where it is active, what was withdrawn or committed, recovery points, the newest first, and
    records.

    Raises:
        VaultError: a vault that is needed cannot be read.
    """
    for there, name, _document in generations.lacking(vault, vnf):
        yield Lack(name, [there])
    if len(vault.copies()) < 2:
        return
    listed = {copy: _names(vault, copy, vnf) for copy in vault.copies()}
    held = {copy: names for copy, names in listed.items() if names is not None}
    known = set[str]().union(*held.values())
    hidden = points.list_all(vault, vnf).hidden
    records = sealing.records_folder(vnf)
    manifests = {
        name
        for name in known
        if name.startswith(f"{vnf}/")
        and name.endswith(MANIFEST)
        and name.removeprefix(f"{vnf}/").removesuffix(MANIFEST) not in hidden
    }
    for name in (
        *sorted(name for name in known if name.endswith(WITHDRAWN)),
        *sorted(name for name in known if statements.base_of(name).endswith(COMMITTED)),
        *sorted(manifests, reverse=True),
        *sorted(name for name in known if name.startswith(records)),
    ):
        if without := [copy for copy, names in held.items() if name not in names]:
            yield Lack(name, without)


def catch_up(vault: Vault, vnf: str, at_most: int | None = None) -> CaughtUp:
    """Write to each of the vaults that answer what it lacks of a VNF. A document that is there
    is never written over, and a damaged one is not written. Safe to repeat.

    Args:
        at_most: how many documents are looked at; the rest is left to the next time.

    Raises:
        VaultError: a vault that is needed does not answer.
    """
    done = CaughtUp({}, [])
    for number, lack in enumerate(lacking(vault, vnf)):
        if number == at_most:
            break
        try:
            documents = _intact(vault, vnf, lack.name)
        except Stopped:
            raise
        except AntipodeError as error:
            done.trouble.append(f"{lack.name}: {error}")
            continue
        for there in lack.without:
            try:
                for name, document in documents.items():
                    if _create(there, name, document):
                        done.written[there.place] = done.written.get(there.place, 0) + 1
            except VaultError as error:
                vault.leave_out(there, error)
                done.trouble.append(str(error))
    return done


def _create(there: Vault, name: str, document: bytes) -> bool:
    """As `Vault.create`; a statement has the room of the reserve, too."""
    create = partial(there.create, name, document)
    return create() if name.endswith(MANIFEST) else reserve.write(there, create)


def _names(vault: Vault, copy: Vault, vnf: str) -> set[str] | None:
    """All that one of the vaults lists of a VNF; None where it has failed and is left out."""
    try:
        return {*copy.list(f"{vnf}/"), *copy.list(sealing.records_folder(vnf))}
    except VaultError as error:
        vault.leave_out(copy, error)
        return None


def _intact(vault: Vault, vnf: str, name: str) -> dict[str, bytes]:
    """A document as one of the vaults holds it undamaged, and as it may be written to others, after
    those that it rests on.

    Raises:
        NotFound: it is not there any more.
        VaultCorrupt: it is damaged wherever it is, or is not signed by a trusted key.
    """
    if name.startswith(generations.prefix(vnf)):
        if (document := generations.to_spread(vault, vnf, name)) is None:
            raise VaultCorrupt("it is damaged, or not decided")
        return {name: document}
    if name.startswith(sealing.records_folder(vnf)):
        return {name: _record(vault, name, name.removesuffix(MANIFEST).rpartition(".")[2])}
    if name.endswith(WITHDRAWN):
        return {name: _statement(vault, withdrawals.KIND, name)}
    if statements.base_of(name).endswith(COMMITTED):
        return {name: _statement(vault, windows.COMMITMENT, name)}
    point = name.removeprefix(f"{vnf}/").removesuffix(MANIFEST)
    records: dict[str, bytes] = {}

    def keep(record: str, sha256: str) -> bytes:
        records[record] = _record(vault, record, sha256)
        return records[record]

    damaged: VaultCorrupt | None = None
    for place, document in vault.versions(name):
        try:
            sealing.unseal(document, vnf, point, vault.keys, keep, Trust.UNSIGNED_TOO)
            return {**records, name: document}
        except VaultCorrupt as error:
            damaged = VaultCorrupt(f"{place}: {error}")
    raise damaged or NotFound(f"{vault.place} has it no more")


def _statement(vault: Vault, kind: Kind[AnyStatement], name: str) -> bytes:
    """A statement, such as the note that a recovery point was withdrawn, from any vault that has
    one which counts.
    """
    for place, document in vault.versions(name):
        if statements.counting(vault.keys, kind, place, name, document) is not None:
            return document
    raise VaultCorrupt(f"{vault.place}: no key that is trusted here has signed it")


def _record(vault: Vault, name: str, sha256: str) -> bytes:
    """A document with this digest, from any vault that holds it."""
    for _place, document in vault.versions(name):
        if sealing.is_intact(document, sha256):
            return document
    raise VaultCorrupt(f"{vault.place}: {name} is damaged or not there")
