"""Recovery points as documents of a vault: commit, read, list.

A recovery point exists when, and only when, its manifest is here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import PurePosixPath

from antipode.errors import NotFound, VaultCorrupt, VaultError
from antipode.model.point import RecoveryPoint
from antipode.model.point_v1 import seal, unseal
from antipode.vault import Vault

MANIFEST, WITHDRAWN = ".json", ".withdrawn"


def commit(vault: Vault, point: RecoveryPoint) -> str:
    """Write the manifest, the act that makes a recovery point exist, and read it back; its name in
    the vault.

    Raises:
        VaultError: it was not written, or what was written reads differently.
    """
    name, document = _name(point.vnf.vnf, point.id), seal(point)
    vault.put(name, document)
    try:
        written = vault.get(name)
    except NotFound as error:
        raise VaultError(f"the manifest that was just written is not there: {error}") from error
    if unseal(written, name) != point:
        raise VaultCorrupt(f"{vault.place}: {name} reads differently from what was written")
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
        vault.put(
            _note(vnf, point), b"This recovery point was taken back; what it names is gone.\n"
        )
    vault.delete(_name(vnf, point))


def read(vault: Vault, vnf: str, point: str | None = None) -> RecoveryPoint:
    """The manifest of a recovery point, the newest by default.

    Raises:
        NotFound: there is no such recovery point.
        VaultCorrupt: its manifest does not pass its checksum; another point may.
        VaultError: the vault cannot be read.
    """
    if point is None:
        ids = list_ids(vault, vnf)
        if not ids:
            raise NotFound(f"{vault.place} has no recovery point of {vnf}")
        point = ids[-1]
    elif _is_withdrawn(vault, vnf, point):
        raise NotFound(
            f"recovery point {point} of {vnf} was not made to the end; what it names is gone"
        )
    name = _name(vnf, point)
    found = unseal(vault.get(name), name)
    if (found.vnf.vnf, found.id) != (vnf, point):
        raise VaultCorrupt(
            f"{name} holds the recovery point {found.id} of {found.vnf.vnf}: it was put "
            "under a wrong name"
        )
    return found


def newest_or_none(vault: Vault, vnf: str) -> RecoveryPoint | None:
    """The newest manifest that can be read, if there is any; damaged ones are passed over."""
    for point in reversed(list_ids(vault, vnf)):
        try:
            return read(vault, vnf, point)
        except VaultCorrupt:
            continue
    return None


def list_ids(vault: Vault, vnf: str) -> list[str]:
    """The ids of all recovery points of a VNF, oldest first."""
    names = vault.list(f"{vnf}/")
    written = [PurePosixPath(name) for name in names]
    withdrawn = {name.stem for name in written if name.suffix == WITHDRAWN}
    return [name.stem for name in written if name.suffix == MANIFEST and name.stem not in withdrawn]


def list_points(vault: Vault, vnf: str) -> Iterator[tuple[str, RecoveryPoint | VaultCorrupt]]:
    """Every recovery point of a VNF, oldest first: its id and its manifest, or what is wrong with
    it.
    """
    for point in list_ids(vault, vnf):
        try:
            yield point, read(vault, vnf, point)
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


def _is_withdrawn(vault: Vault, vnf: str, point: str) -> bool:
    try:
        vault.get(_note(vnf, point))
    except NotFound:
        return False
    return True


def _name(vnf: str, point: str) -> str:
    return f"{vnf}/{point}{MANIFEST}"


def _note(vnf: str, point: str) -> str:
    return f"{vnf}/{point}{WITHDRAWN}"
