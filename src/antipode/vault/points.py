# SPDX-License-Identifier: Apache-2.0
"""Recovery points as documents of a vault: commit, read, list.

A recovery point exists when, and only when, its manifest is here. The records that it rests on are
written before it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import NamedTuple, TypeVar

from antipode.errors import (
    KeyMissing,
    NotFound,
    PointUnsigned,
    PointUntrusted,
    VaultCorrupt,
    VaultError,
)
from antipode.model.point import RecoveryPoint
from antipode.model.point_v2 import Records
from antipode.model.source import VolumeSource, backup_chain, image_copies
from antipode.vault import CLOCKS_DIFFER_BY, Vault, generations, sealing, withdrawals
from antipode.vault.sealing import MANIFEST, Opened, SealedPoint, Summary, Trust
from antipode.vault.withdrawals import WITHDRAWN

LOG = logging.getLogger(__name__)
AnyResult = TypeVar("AnyResult")


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


def prepare_keys(vault: Vault, *vnfs: str, foreign: str | None = None) -> None:
    """See that recovery points of VNFs, and plans over them, can be sealed; keys that this host
    lacks are generated.

    Args:
        foreign: something else in the vault that was signed elsewhere, in words.

    Raises:
        KeyMissing: there is such, or a VNF has points that were signed elsewhere, and this host has
            no keys: with keys of its own it could not read them, and their hosts could not read
            what it writes.
        KeyUnusable: a key file is not safe, or holds something else.
        VaultError: the vault cannot be read.
    """
    keys = vault.keys
    if not keys.can_sign:
        found = ((vnf, _signed_elsewhere(vault, vnf)) for vnf in vnfs)
        its = foreign or next((f"recovery point {id_} of {vnf}" for vnf, id_ in found if id_), None)
        if its is not None:
            raise KeyMissing(
                f"this host has no keys, and {its} is signed by another host's. Import the"
                " recovery kit of that host: antipode key import KIT; or, to begin with other keys"
                " and full backups: antipode key generate"
            )
    for path in keys.prepare():
        LOG.warning(
            "generated %s. Keep a recovery kit away from both sites: antipode key export DIRECTORY",
            path,
        )
    keys.signing_key()
    keys.recipients()


def _signed_elsewhere(vault: Vault, vnf: str) -> str | None:
    """The newest recovery point of a VNF that is signed, where its key is not trusted here."""
    for point in reversed(list_ids(vault, vnf)):
        try:
            summary(vault, vnf, point)
            return None
        except PointUntrusted:
            return point
        except VaultCorrupt as error:
            LOG.warning("recovery point %s of %s is passed over: %s", point, vnf, error)
    return None


def commit(vault: Vault, point: RecoveryPoint) -> str:
    """Seal a recovery point and write it; its name in the vault.

    Raises:
        KeyMissing, KeyUnusable: there is no key to seal it with.
        VaultError: as `write`.
    """
    return write(vault, sealing.seal(point, vault.keys))


def write(vault: Vault, sealed: SealedPoint) -> str:
    """Write a recovery point: its records, and then the manifest, the act that makes it exist. All
    is read back. Safe to repeat: with several vaults it goes to those that do not have it yet.

    Returns:
        the name of the manifest.

    Raises:
        VaultError: it was not written everywhere, or what was written reads differently.
    """

    def write_to(copy: Vault) -> None:
        for name, document in sealed.records.items():
            _have_record(copy, name, document.encode())
        _have_manifest(copy, sealed.name, sealed.manifest.encode())

    vault.each(write_to)
    return sealed.name


def _have_record(copy: Vault, name: str, document: bytes) -> None:
    """Have a document whose name holds its digest: one that differs is damaged, and replaced."""
    try:
        found: bytes | None = copy.get(name)
    except NotFound:
        found = None
    if found == document:
        return
    if found is not None:
        LOG.warning("%s: %s was damaged, and is written again", copy.place, name)
        copy.put(name, document)
    else:
        copy.create(name, document)
    _must_read_as(copy, name, document)


def _have_manifest(copy: Vault, name: str, document: bytes) -> None:
    """Have a manifest. It is created only: one that is there under its name must be the same.

    Raises:
        VaultCorrupt: something else is there.
    """
    copy.create(name, document)
    _must_read_as(copy, name, document)


def _must_read_as(copy: Vault, name: str, document: bytes) -> None:
    try:
        found = copy.get(name)
    except NotFound as error:
        raise VaultError(f"{copy.place}: {name}, which was just written, is not there") from error
    if found != document:
        raise VaultCorrupt(f"{copy.place}: {name} reads differently from what was written")


def spread(vault: Vault, vnf: str, point: str) -> None:
    """Have a recovery point that one vault holds in all of them, as it is.

    Raises:
        NotFound, VaultCorrupt: as `read`.
        VaultError: it was not written everywhere.
    """
    if withdrawals.places_of(vault, vnf, point):
        raise NotFound(f"recovery point {point} of {vnf} was withdrawn")
    name, records = sealing.manifest_name(vnf, point), dict[str, str]()

    def fetch_and_keep(record: str, sha256: str) -> bytes:
        document = _fetch(vault, record, sha256)
        records[record] = document.decode()
        return document

    def intact(document: bytes) -> Opened:
        return sealing.unseal(document, vnf, point, vault.keys, fetch_and_keep, Trust.UNSIGNED_TOO)

    document, _ = _first_intact(vault, vnf, point, intact)
    write(vault, SealedPoint(name=name, manifest=document.decode(), records=records))


def withdraw(vault: Vault, vnf: str, point: str, on_its_way: bool) -> None:
    """Remove the manifest of a recovery point that was not made to the end.

    Args:
        on_its_way: a request to write it may still come through, when what it names is gone: it is
            noted beside it that it does not count.

    Raises:
        VaultError: it is unknown whether it is still there.
    """
    if on_its_way:
        withdrawals.write(vault, vnf, point, "It was not made to the end.")
    vault.delete(sealing.manifest_name(vnf, point))


def hide(vault: Vault, vnf: str, point: str, why: str) -> None:
    """Withdraw a recovery point that was made to the end, before anything that it names is removed:
    no host finds it any more. Its manifest stays until it is forgotten. Safe to repeat.

    Args:
        why: a sentence, for people who look into the vault.

    Raises:
        VaultError: it is unknown whether it is hidden everywhere.
    """
    withdrawals.write(vault, vnf, point, why)
    if not is_hidden_everywhere(vault, vnf, point):
        note = withdrawals.name_of(vnf, point)
        raise VaultError(f"{vault.place}: {note} was just written and is not there")


def is_hidden_everywhere(vault: Vault, vnf: str, point: str) -> bool:
    """Whether every vault has the note that a recovery point was withdrawn.

    Raises:
        VaultError: the vault cannot be read.
    """
    return len(withdrawals.places_of(vault, vnf, point)) >= len(vault.copies())


def must_stand(vault: Vault, vnf: str, point: str) -> None:
    """See that a recovery point was not withdrawn.

    Raises:
        NotFound: it was.
        VaultError: the vault cannot be read.
    """
    if withdrawals.places_of(vault, vnf, point):
        raise NotFound(
            f"recovery point {point} of {vnf} was withdrawn: it was not made to the end, has"
            f" expired or was deleted. See the others: antipode recovery-point list {vnf}",
            resource=f"recovery point {point}",
        )


def forget_records(vault: Vault, vnf: str, backups: Collection[str]) -> int:
    """Remove the records of backups that are gone; how many documents. Before the manifests that
    rest on them: of a withdrawn point nothing else is needed any more.

    Raises:
        VaultError: it is unknown whether all are removed.
    """
    folder = sealing.records_folder(vnf)
    ending = (name for name in vault.list(folder) if sealing.backup_of(vnf, name) in backups)
    removed = 0
    for name in ending:
        vault.delete(name)
        removed += 1
    return removed


def forget(vault: Vault, vnf: str, point: str) -> None:
    """Remove the manifest of a hidden recovery point, when what it names is gone. The note that it
    was withdrawn stays: a vault that was away may still bring the manifest back.

    Raises:
        VaultError: it is unknown whether it is still there.
    """
    vault.delete(sealing.manifest_name(vnf, point))


def read(
    vault: Vault, vnf: str, point: str | None = None, trust: Trust = Trust.SIGNED
) -> RecoveryPoint:
    """The recovery point that `find` finds. Raises as that."""
    return find(vault, vnf, point, trust).point


def find(
    vault: Vault,
    vnf: str,
    point: str | None = None,
    trust: Trust = Trust.SIGNED,
    digest: str | None = None,
) -> Opened:
    """A recovery point, the newest by default. Of several vaults, one that holds it undamaged is
    enough.

    Args:
        digest: as `Opened.digest`: only a point with this one is taken.

    Raises:
        NotFound: there is no such recovery point.
        PointUnsigned, PointUntrusted: it is not signed by a key that is trusted here.
        PointMisplaced, VaultCorrupt: it is another point's, or damaged. Another point may be
            valid; where no point was asked for, the message names the newest one that is.
        KeyUnusable: the keys of this host cannot be used.
        VaultError: the vault cannot be read.
    """
    if point is None:
        return _newest_of_all(vault, vnf, trust)
    must_stand(vault, vnf, point)
    return _open(vault, vnf, point, trust, digest)


def read_though_withdrawn(vault: Vault, vnf: str, point: str, trust: Trust) -> RecoveryPoint:
    """A recovery point, withdrawn or not, to find out what it needs; never to recover from.

    Raises:
        NotFound: its manifest is not there.
        PointUnsigned, PointUntrusted, VaultCorrupt: as `find`.
        VaultError: the vault cannot be read.
    """
    return _open(vault, vnf, point, trust).point


class Examined(NamedTuple):
    """A recovery point, to find out what it needs; never to recover from."""

    point: RecoveryPoint
    trusted: bool
    """whether a key that is trusted here has signed it"""


def examine(
    vault: Vault, vnf: str, point: str, records: dict[str, Records] | None = None
) -> Examined:
    """A recovery point, withdrawn or not, signed by a trusted key or not.

    Args:
        records: those that were read, by the name of their document; brought up to date. Points
            on one chain have most of them in common.

    Raises:
        NotFound: its manifest is not there.
        VaultCorrupt: it is damaged, or another point's.
        VaultError: the vault cannot be read.
    """
    try:
        return Examined(_open(vault, vnf, point, Trust.SIGNED, records=records).point, True)
    except (PointUnsigned, PointUntrusted):
        return Examined(_open(vault, vnf, point, Trust.ANYBODY, records=records).point, False)


def _newest_of_all(vault: Vault, vnf: str, trust: Trust) -> Opened:
    try:
        newest = _newest(vault, vnf, trust, pass_over_damaged=False)
    except VaultCorrupt as error:
        valid = _newest(vault, vnf, trust, pass_over_damaged=True)
        offer = (
            f"No recovery point of {vnf} is valid"
            if valid is None
            else f"The newest recovery point of {vnf} that is valid is {valid.point.id}, as of"
            f" {valid.point.consistent_at}: give this id to use it"
        )
        raise type(error)(f"{error}. {offer}") from error
    if newest is None:
        raise NotFound(f"{vault.place} has no recovery point of {vnf}")
    return newest


def newest_or_none(vault: Vault, vnf: str, trust: Trust = Trust.SIGNED) -> RecoveryPoint | None:
    """The newest manifest that can be read, if there is any; those that are damaged or not trusted
    are passed over.
    """
    found = _newest(vault, vnf, trust, pass_over_damaged=True)
    return None if found is None else found.point


def _is_stored(source: VolumeSource) -> bool:
    """Whether a source has a backup or an image."""
    return bool(backup_chain(source) or image_copies(source))


def newest_stored(
    vault: Vault,
    vnf: str,
    disks: Collection[str],
    has: Callable[[VolumeSource], bool] = _is_stored,
) -> dict[str, RecoveryPoint]:
    """The newest recovery point that has a backup or an image of each of these disks; those of a
    protection by replication may lie in between. Points that are damaged or not trusted are passed
    over.

    Args:
        disks: their ids.
        has: whether a source is one of those that are looked for.

    Raises:
        VaultError: the vault cannot be read.
    """
    found: dict[str, RecoveryPoint] = {}
    records: dict[str, Records] = {}
    now = datetime.now(UTC)
    future = f"{now + CLOCKS_DIFFER_BY:%Y%m%dT%H%M%SZ}"
    for opened in _from_the_last(vault, vnf, Trust.SIGNED, records):
        point = opened.point
        for disk in disks:
            source = point.sources.get(disk)
            if source is None or not has(source):
                continue
            if disk not in found or _age(point).key > _age(found[disk]).key:
                found[disk] = point
        is_of_now = point.id <= future and not _age(point).is_ahead_of(now)
        if is_of_now and len(found) == len(disks):
            break
    return found


def next_serial(vault: Vault, vnf: str) -> int:
    """The serial number of a recovery point that is made now: milliseconds since 1970, or one more
    than the last one's where this clock is behind (a hybrid logical clock).

    Raises:
        VaultError: the vault cannot be read.
    """
    found = _last(vault, vnf, Trust.SIGNED, pass_over_damaged=True)
    now = int(datetime.now(UTC).timestamp() * 1000)
    return max(now, 1 + max((opened.point.serial for opened in found), default=0))


def _newest(vault: Vault, vnf: str, trust: Trust, *, pass_over_damaged: bool) -> Opened | None:
    """The newest point by generation and consistent time."""
    newest: Opened | None = None
    for found in _last(vault, vnf, trust, pass_over_damaged=pass_over_damaged):
        if newest is None or _age(found.point).key > _age(newest.point).key:
            newest = found
    if newest is not None and _age(newest.point).is_ahead_of(datetime.now(UTC)):
        LOG.warning(
            "The newest recovery point of %s, %s, says that it is of %s, which is in the future: a "
            "clock was wrong. See the others: antipode recovery-point list %s",
            vnf,
            newest.point.id,
            newest.point.consistent_at,
            vnf,
        )
    return newest


def _last(vault: Vault, vnf: str, trust: Trust, *, pass_over_damaged: bool) -> Iterator[Opened]:
    """The points of which one is the newest, the last id first.

    Ids begin with the time of their run: those before a point of the present generation whose
    clock was right, by its id as by its consistent time, are older, and are not read.
    """
    generation, now = -1, datetime.now(UTC)
    future = f"{now + CLOCKS_DIFFER_BY:%Y%m%dT%H%M%SZ}"
    for found in _from_the_last(vault, vnf, trust, pass_over_damaged=pass_over_damaged):
        yield found
        if generation < 0:
            generation = generations.active_generation(vault, vnf)
        age = _age(found.point)
        if age.generation >= generation and not age.is_ahead_of(now) and found.point.id <= future:
            return


def _from_the_last(
    vault: Vault,
    vnf: str,
    trust: Trust,
    records: dict[str, Records] | None = None,
    *,
    pass_over_damaged: bool = True,
) -> Iterator[Opened]:
    """Every recovery point, the last id first."""
    for point in reversed(list_ids(vault, vnf)):
        try:
            found = _open(vault, vnf, point, trust, records=records)
        except VaultCorrupt as error:
            if not pass_over_damaged:
                raise
            LOG.warning("recovery point %s of %s is passed over: %s", point, vnf, error)
            continue
        yield found


def _age(manifest: RecoveryPoint) -> Age:
    return Age(manifest.generation, manifest.consistent_at, manifest.id)


def _open(
    vault: Vault,
    vnf: str,
    point: str,
    trust: Trust,
    digest: str | None = None,
    records: dict[str, Records] | None = None,
) -> Opened:
    """A point that was not withdrawn, from any vault that holds it undamaged."""
    known = {} if records is None else records

    def fetch(name: str, sha256: str) -> bytes:
        return _fetch(vault, name, sha256)

    def intact(document: bytes) -> Opened:
        opened = sealing.unseal(document, vnf, point, vault.keys, fetch, trust, known)
        if digest is not None and opened.digest != digest:
            raise VaultCorrupt(
                f"recovery point {point} of {vnf} is not the one that was confirmed: it was changed"
                " in the vault since. Nothing was created from it; plan the failover again"
            )
        return opened

    return _first_intact(vault, vnf, point, intact)[1]


def _fetch(vault: Vault, name: str, sha256: str) -> bytes:
    """A document with this digest, from any vault that holds it.

    Raises:
        VaultCorrupt: it is not there, or damaged everywhere.
    """
    found = vault.versions(name)
    for version in found:
        if sealing.is_intact(version.document, sha256):
            return version.document
        LOG.warning("%s: %s is damaged", version.place, name)
    state = "is damaged" if found else "is not there"
    raise VaultCorrupt(f"{vault.place}: {name} {state}, and a recovery point rests on it")


def _first_intact(
    vault: Vault, vnf: str, point: str, read: Callable[[bytes], AnyResult]
) -> tuple[bytes, AnyResult]:
    """The first of the vaults' versions of a manifest that can be read, and what it says.

    Raises:
        NotFound: no vault has one.
        VaultCorrupt: none can be read; the reason of the last one.
    """
    damaged: VaultCorrupt | None = None
    for place, document in vault.versions(sealing.manifest_name(vnf, point)):
        try:
            return document, read(document)
        except VaultCorrupt as error:
            LOG.warning("%s: %s", place, error)
            damaged = error
    raise damaged or NotFound(
        f"There is no recovery point {point} of VNF {vnf} in {vault.place}. See those that there"
        f" are: antipode recovery-point list {vnf}",
        resource=f"recovery point {point}",
    )


def list_ids(vault: Vault, vnf: str) -> list[str]:
    """The ids of all recovery points of a VNF, in the order of the times that they begin with."""
    return list_all(vault, vnf).ids


class Listing(NamedTuple):
    """What the vault holds of a VNF by its names, each in the order of the ids."""

    ids: list[str]
    """the recovery points"""
    hidden: list[str]
    """points that were withdrawn, and whose manifests are still there"""
    notes: list[str]
    """points that are said to be withdrawn, and whose manifests are gone"""


def list_all(vault: Vault, vnf: str) -> Listing:
    """The recovery points of a VNF, and those that were withdrawn. Notes beside manifests are read:
    one that no trusted key has signed hides nothing.

    Raises:
        KeyMissing: there is a signed note, and this host has no key at all to judge it by.
        VaultError: the vault cannot be read.
    """
    written = [PurePosixPath(name) for name in vault.list(f"{vnf}/")]
    noted = [name.stem for name in written if name.suffix == WITHDRAWN]
    manifests = [name.stem for name in written if name.suffix == MANIFEST]
    there = set(manifests)
    hidden = {p for p in noted if p in there and withdrawals.places_of(vault, vnf, p)}
    return Listing(
        ids=[point for point in manifests if point not in hidden],
        hidden=[point for point in manifests if point in hidden],
        notes=[point for point in noted if point not in there],
    )


def list_points(
    vault: Vault, vnf: str, last: int | None = None
) -> Iterator[tuple[str, Summary | VaultCorrupt]]:
    """The recovery points of a VNF in the order of `list_ids`: the id of each and its summary, or
    what is wrong with it. One document is read for each.

    Args:
        last: only so many, the last ones.
    """
    ids = list_ids(vault, vnf)
    for point in ids if last is None else ids[max(len(ids) - last, 0) :]:
        try:
            yield point, summary(vault, vnf, point)
        except VaultCorrupt as error:
            yield point, error


def summary(vault: Vault, vnf: str, point: str) -> Summary:
    """What the manifest of a recovery point says.

    Raises:
        PointUntrusted, PointMisplaced, VaultCorrupt: it is not trusted, another's, or damaged.
        NotFound: there is none.
    """

    def read_summary(document: bytes) -> Summary:
        return sealing.summarize(document, vnf, point, vault.keys)

    return _first_intact(vault, vnf, point, read_summary)[1]


def named_resources(vault: Vault, vnf: str, points: Collection[str]) -> set[str]:
    """The backups and images that these recovery points, and newer ones, name.

    Older points cannot name those of the runs that were to make these. They are asked for by name
    too, as a listing may lag behind. Signatures do not matter here: one too many is kept.

    Raises:
        VaultCorrupt: it is unknown what one of them needs.
        NotFound: one that is listed cannot be read.
    """
    listed = [point for point in list_ids(vault, vnf) if point >= min(points)]
    named: set[str] = set()
    for point in {*listed, *points}:
        try:
            named |= read(vault, vnf, point, Trust.ANYBODY).needed_ids()
        except NotFound:
            if point in listed:
                raise
    return named
