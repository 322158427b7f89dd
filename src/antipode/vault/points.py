# SPDX-License-Identifier: Apache-2.0
"""Recovery points as documents of a vault: commit, read, list.

A recovery point exists when, and only when, its manifest is here.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from typing import NamedTuple

from antipode.errors import NotFound, VaultCorrupt, VaultError
from antipode.model.point import RecoveryPoint
from antipode.model.point_v1 import seal, unseal
from antipode.vault import Vault, generations

LOG = logging.getLogger(__name__)
CLOCKS_DIFFER_BY = timedelta(minutes=2)
"""A point that is further ahead than that is of the future."""
MANIFEST, WITHDRAWN = ".json", ".withdrawn"


class Age(NamedTuple):
    """What the age of a recovery point goes by."""

    generation: int
    consistent_at: str
    """RFC 3339 with its offset"""
    id: str

    @property
    def key(self) -> tuple[int, datetime, str]:
        """In the order of these keys the newest point is the last: an older generation's is older,
        whatever its clock said.
        """
        return self.generation, datetime.fromisoformat(self.consistent_at), self.id

    def is_ahead_of(self, now: datetime) -> bool:
        """Whether it claims to be of the future: then a clock was wrong."""
        return datetime.fromisoformat(self.consistent_at) > now + CLOCKS_DIFFER_BY


def commit(vault: Vault, point: RecoveryPoint) -> str:
    """Write the manifest, the act that makes a recovery point exist, and read it back; its name in
    the vault. Again is fine: with several vaults it goes to those that do not have it yet.

    Raises:
        VaultError: it was not written everywhere, or what was written reads differently.
    """
    name, document = _name(point.vnf.vnf, point.id), seal(point)
    vault.put(name, document)
    written = vault.versions(name)
    if len(written) < len(vault.copies()):
        raise VaultError(f"{vault.place}: the manifest {name} that was just written is not there")
    for place, found in written:
        if unseal(found, name) != point:
            raise VaultCorrupt(f"{place}: {name} reads differently from what was written")
    return name


def withdraw(vault: Vault, vnf: str, point: str, on_its_way: bool) -> None:
    """Remove the manifest of a recovery point that was not made to the end.

    Args:
        on_its_way: a request to write it may still come through, when what it names is gone: it is
            noted beside it that it does not count.

    Raises:
        VaultError: nobody knows whether it is still there.
    """
    if on_its_way:
        vault.put(_note(vnf, point), b"This recovery point was withdrawn; its backups are gone.\n")
    vault.delete(_name(vnf, point))


def read(vault: Vault, vnf: str, point: str | None = None) -> RecoveryPoint:
    """The manifest of a recovery point, the newest by default.

    Of several vaults, one that holds it undamaged is enough.

    Raises:
        NotFound: there is no such recovery point.
        VaultCorrupt: its manifest does not pass its checksum; another point may.
        VaultError: the vault cannot be read.
    """
    if point is None:
        if (newest := _newest(vault, vnf, pass_over_damaged=False)) is None:
            raise NotFound(f"{vault.place} has no recovery point of {vnf}")
        return newest
    if vault.versions(_note(vnf, point)):
        raise NotFound(
            f"recovery point {point} of {vnf} was not made to the end; what it names is gone"
        )
    return _read(vault, vnf, point)


def newest_or_none(vault: Vault, vnf: str) -> RecoveryPoint | None:
    """The newest manifest that can be read, if there is any; damaged ones are passed over."""
    return _newest(vault, vnf, pass_over_damaged=True)


def _newest(vault: Vault, vnf: str, *, pass_over_damaged: bool) -> RecoveryPoint | None:
    """The newest point by generation and consistent time.

    Ids begin with the time of their run: what comes before a point of the present generation whose
    clock was right, by its id as by its consistent time, is older, and is not read.
    """
    ids = list_ids(vault, vnf)
    if not ids:
        return None
    generation, now = generations.active_generation(vault, vnf), datetime.now(UTC)
    future = f"{now + CLOCKS_DIFFER_BY:%Y%m%dT%H%M%SZ}"
    newest: RecoveryPoint | None = None
    for point in reversed(ids):
        try:
            manifest = _read(vault, vnf, point)
        except VaultCorrupt as error:
            if not pass_over_damaged:
                raise
            LOG.warning("recovery point %s of %s is passed over: %s", point, vnf, error)
            continue
        age = _age(manifest)
        if newest is None or age.key > _age(newest).key:
            newest = manifest
        if age.generation >= generation and not age.is_ahead_of(now) and point <= future:
            break
    if newest is not None and _age(newest).is_ahead_of(now):
        LOG.warning(
            "The newest recovery point of %s, %s, says that it is of %s, which is in the future: a "
            "clock was wrong. See the others: antipode recovery-point list %s",
            vnf,
            newest.id,
            newest.consistent_at,
            vnf,
        )
    return newest


def _age(manifest: RecoveryPoint) -> Age:
    return Age(manifest.generation, manifest.consistent_at, manifest.id)


def _read(vault: Vault, vnf: str, point: str) -> RecoveryPoint:
    """The manifest of a point that was not withdrawn, from any vault that holds it undamaged."""
    name = _name(vnf, point)
    damaged: VaultCorrupt | None = None
    for place, document in vault.versions(name):
        try:
            manifest = unseal(document, name)
            if (manifest.vnf.vnf, manifest.id) != (vnf, point):
                raise VaultCorrupt(
                    f"{name} holds the recovery point {manifest.id} of {manifest.vnf.vnf}: it was "
                    "put under a wrong name"
                )
            return manifest
        except VaultCorrupt as error:
            LOG.warning("%s: %s", place, error)
            damaged = error
    raise damaged or NotFound(f"{vault.place} has no {name}")


def list_ids(vault: Vault, vnf: str) -> list[str]:
    """The ids of all recovery points of a VNF, in the order of the times that they begin with."""
    names = vault.list(f"{vnf}/")
    written = [PurePosixPath(name) for name in names]
    withdrawn = {name.stem for name in written if name.suffix == WITHDRAWN}
    return [name.stem for name in written if name.suffix == MANIFEST and name.stem not in withdrawn]


def list_points(vault: Vault, vnf: str) -> Iterator[tuple[str, RecoveryPoint | VaultCorrupt]]:
    """Every recovery point of a VNF in the order of `list_ids`: its id and its manifest, or what is
    wrong with it.
    """
    for point in list_ids(vault, vnf):
        try:
            yield point, _read(vault, vnf, point)
        except VaultCorrupt as error:
            yield point, error


def named_backups(vault: Vault, vnf: str, points: Collection[str]) -> set[str]:
    """The backups that these recovery points, and newer ones, name.

    Older points cannot name backups of the runs that were to make these. They are asked for by name
    too, as a listing may lag behind.

    Raises:
        VaultCorrupt: it is unknown what one of them needs.
        NotFound: one that is listed cannot be read.
    """
    listed = [point for point in list_ids(vault, vnf) if point >= min(points)]
    named: set[str] = set()
    for point in {*listed, *points}:
        try:
            named |= set(read(vault, vnf, point).backups)
        except NotFound:
            if point in listed:
                raise
    return named


def _name(vnf: str, point: str) -> str:
    return f"{vnf}/{point}{MANIFEST}"


def _note(vnf: str, point: str) -> str:
    return f"{vnf}/{point}{WITHDRAWN}"
