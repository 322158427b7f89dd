# SPDX-License-Identifier: Apache-2.0
"""A recovery point as sealed documents: the signed manifest, and the records of its backups.

The records of a chain lie in documents of their own, named by the SHA-256 of their bytes. Each
names the one before it, and the manifest the last one: the signature of the manifest covers them
all. The document that ends with the n-th record of a chain holds as many records as the lowest bit
of n says, 64 at most. So a manifest does not grow with its chains, a protection writes a few small
documents, and a chain of n backups is read with n / 64 + 6 requests or fewer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import Enum, auto
from typing import NamedTuple

from pydantic import ValidationError

from antipode.errors import KeyMissing, PointMisplaced, PointUnsigned, VaultCorrupt
from antipode.model import point_v1, point_v2
from antipode.model.base import Model
from antipode.model.point import RecoveryPoint, age_s
from antipode.model.point_v2 import Manifest, Record, Records, Sealed, Secret, Source
from antipode.model.source import BackupRecord, backup_chain, kind_has_bytes
from antipode.vault import signing
from antipode.vault.keys import Keyring

MANIFEST, RECORDS = ".json", "_records"
"""How the name of a manifest ends; the folder of records, which no VNF can be named like."""
LARGEST_ENVELOPE = 2 * point_v2.LARGEST_MANIFEST
READS_AT_ONCE = 8
"""Chains of one point that are read at once."""
Fetch = Callable[[str, str], bytes]
"""Gets a document by its name and its SHA-256."""


class Trust(Enum):
    """Whose points are read."""

    SIGNED = auto()
    """those that a trusted key has signed"""
    UNSIGNED_TOO = auto()
    """and those of format 1, which has no signatures"""
    ANYBODY = auto()
    """to learn what a point may need, never to recover from it"""


class SealedPoint(Model):
    """All documents of a recovery point, by their names in the vault."""

    name: str
    """of the manifest"""
    manifest: str
    records: dict[str, str]
    """each after the one that it rests on"""


class Opened(NamedTuple):
    """A recovery point that was read."""

    point: RecoveryPoint
    digest: str
    """SHA-256 of the bytes that were signed, or that the checksum of format 1 is over"""
    signed_by: str | None
    """the id of the key; None for one without a signature"""

    def must_be_open(self) -> None:
        """See that a recovery has all of it.

        Raises:
            KeyMissing: no identity of this host opens what is encrypted.
        """
        if self.point.locked:
            raise KeyMissing(
                f"user_data, keypairs and commands of recovery point {self.point.id} are encrypted,"
                " and no identity of this host opens them. Import the recovery kit: antipode key"
                " import KIT; or decrypt with the escrow key, see docs/keys.md"
            )


class Summary(NamedTuple):
    """What a manifest says by itself: no record was read."""

    id: str
    format: int
    signed_by: str | None
    generation: int
    option: str
    site: str
    consistent_at: str
    consistency: str
    incremental: bool
    volumes: int
    stored_bytes: int | None
    """of all backups that the point rests on; None when unknown"""

    @property
    def age_s(self) -> float:
        """Seconds since the moment whose state it holds."""
        return age_s(self.consistent_at)


def manifest_name(vnf: str, point: str) -> str:
    return f"{vnf}/{point}{MANIFEST}"


def records_folder(vnf: str) -> str:
    """What the names of all records of a VNF begin with; then follows the id of a backup."""
    return f"{RECORDS}/{vnf}/"


def backup_of(vnf: str, name: str) -> str:
    """The last backup in the document of records of this name."""
    return name.removeprefix(records_folder(vnf)).rsplit(".", 2)[0]


def seal(point: RecoveryPoint, keys: Keyring) -> SealedPoint:
    """The documents of a point, signed and encrypted.

    Raises:
        KeyMissing, KeyUnusable: there is no key to do it with.
    """
    records: dict[str, str] = {}
    chains: dict[str, Sealed] = {}
    for volume, source in point.sources.items():
        if backups := backup_chain(source):
            for end, document in _pieces(point.vnf.vnf, backups):
                chains[volume] = end
                records[_records_name(point.vnf.vnf, end)] = document.decode()
    secret = keys.encrypt(point_v2.dumped(point_v2.secret_of(point)))
    payload = point_v2.dumped(point_v2.manifest_of(point, chains, secret))
    return SealedPoint(
        name=manifest_name(point.vnf.vnf, point.id),
        manifest=keys.sign(point_v2.POINT_TYPE, payload).decode(),
        records=records,
    )


def unseal(
    document: bytes,
    vnf: str,
    point: str,
    keys: Keyring,
    fetch: Fetch,
    trust: Trust,
    known: dict[str, Records] | None = None,
) -> Opened:
    """The recovery point of a manifest.

    Args:
        vnf, point: whose manifest it is to be.
        fetch: gets its records.
        known: records that were read, by the name of their document; brought up to date.

    Raises:
        PointUnsigned, PointUntrusted: it is not of those that are trusted.
        PointMisplaced: it is the manifest of another point.
        VaultCorrupt: it, or a record that it rests on, is damaged or not valid.
        KeyUnusable: the keys of this host cannot be used.
    """
    name = manifest_name(vnf, point)
    if point_v1.is_format_1(document):
        return _unseal_format_1(document, vnf, point, trust)
    manifest, digest, signed_by = _open(document, vnf, point, keys, trust)
    chains = _read_chains(manifest, fetch, {} if known is None else known)
    plain = keys.decrypt(manifest.secret)
    secret = (
        None
        if plain is None
        else point_v2.parsed(Secret, plain, f"the secret of {name}", point_v2.LARGEST_MANIFEST)
    )
    try:
        return Opened(point_v2.point_of(manifest, chains, secret), digest, signed_by)
    except (ValidationError, ValueError) as error:
        raise VaultCorrupt(f"{name} is not valid: {point_v2.reason(error)}") from error


def summarize(document: bytes, vnf: str, point: str, keys: Keyring) -> Summary:
    """What a manifest says, without its records; one of format 1 is summarized too.

    Raises:
        PointUntrusted, PointMisplaced, VaultCorrupt, KeyUnusable: as `unseal`.
    """
    if point_v1.is_format_1(document):
        old = _unseal_format_1(document, vnf, point, Trust.UNSIGNED_TOO).point
        stored = [b.stored for b in old.backups.values()]
        return Summary(
            old.id,
            point_v1.FORMAT,
            None,
            old.generation,
            old.option,
            old.site,
            old.consistent_at,
            old.consistency,
            old.incremental,
            len(old.sources),
            None if None in stored else sum(s.bytes for s in stored if s),
        )
    manifest, _, signed_by = _open(document, vnf, point, keys, Trust.SIGNED)
    sizes = [s.bytes for s in manifest.sources.values() if kind_has_bytes(s.kind)]
    return Summary(
        manifest.id,
        manifest.format,
        signed_by,
        manifest.generation,
        manifest.option,
        manifest.site,
        manifest.consistent_at,
        manifest.consistency,
        any(source.length and source.length > 1 for source in manifest.sources.values()),
        len(manifest.sources),
        None if None in sizes else sum(s for s in sizes if s),
    )


def is_intact(document: bytes, sha256: str) -> bool:
    """Whether these are the bytes that were sealed."""
    return hashlib.sha256(document).hexdigest() == sha256


def _open(
    document: bytes, vnf: str, point: str, keys: Keyring, trust: Trust
) -> tuple[Manifest, str, str | None]:
    """A manifest, the digest of what was signed, and the id of the key."""
    name = manifest_name(vnf, point)
    if len(document) > LARGEST_ENVELOPE:
        raise VaultCorrupt(f"{name} has {len(document)} bytes, and may have {LARGEST_ENVELOPE}")
    signed_by: str | None = None
    if trust is Trust.ANYBODY:
        payload = signing.unverified(document, name, point_v2.POINT_TYPE)
    else:
        payload, signed_by = keys.open_envelope(document, name, point_v2.POINT_TYPE)
    manifest = point_v2.read_manifest(payload, name)
    _must_be_in_its_place(manifest.vnf, manifest.id, vnf, point)
    return manifest, hashlib.sha256(payload).hexdigest(), signed_by


def _unseal_format_1(document: bytes, vnf: str, point: str, trust: Trust) -> Opened:
    name = manifest_name(vnf, point)
    found, digest = point_v1.unseal(document, name)
    _must_be_in_its_place(found.vnf.vnf, found.id, vnf, point)
    if trust is Trust.SIGNED:
        raise PointUnsigned(
            f"{name} is of format 1, which has no signature: anybody that can write to the vault"
            " may have changed it. To recover from it all the same: --accept-unsigned"
        )
    return Opened(found, digest, None)


def _must_be_in_its_place(found_vnf: str, found: str, vnf: str, point: str) -> None:
    if (found_vnf, found) != (vnf, point):
        raise PointMisplaced(
            f"{manifest_name(vnf, point)} holds the recovery point {found} of {found_vnf}: it was"
            " put under a wrong name"
        )


def _pieces(vnf: str, backups: Sequence[BackupRecord]) -> Iterator[tuple[Sealed, bytes]]:
    """The documents that a chain, base first, is read from: their names and contents."""
    end: Sealed | None = None
    for first, last in _bounds(len(backups)):
        records = backups[first:last]
        document = point_v2.dumped(point_v2.records_of(vnf, last, records, end))
        end = Sealed(backup=records[-1].id, sha256=hashlib.sha256(document).hexdigest())
        yield end, document


def _bounds(length: int) -> list[tuple[int, int]]:
    """Where the pieces of a chain of this length begin and end, as in a Fenwick tree."""
    found: list[tuple[int, int]] = []
    while length:
        size = min(length & -length, point_v2.SEGMENT)
        found.append((length - size, length))
        length -= size
    return found[::-1]


def _read_chains(
    manifest: Manifest, fetch: Fetch, known: dict[str, Records]
) -> Mapping[str, Sequence[Record]]:
    """The records of each volume that has a chain."""
    vnf = manifest.vnf
    chained = {v: source for v, source in manifest.sources.items() if source.chain is not None}

    def read(source: Source) -> Sequence[Record]:
        return _read_chain(vnf, source, fetch, known)

    if all(s.chain and _records_name(vnf, s.chain) in known for s in chained.values()):
        return {v: read(source) for v, source in chained.items()}
    with ThreadPoolExecutor(READS_AT_ONCE, "chain") as pool:
        return dict(zip(chained, pool.map(read, chained.values()), strict=True))


def _read_chain(
    vnf: str, source: Source, fetch: Fetch, known: dict[str, Records]
) -> Sequence[Record]:
    """The records of a chain, base first. It ends: each piece lies before the one that names it."""
    pieces: list[Sequence[Record]] = []
    end, left = source.chain, source.length or 0
    while end is not None:
        name = _records_name(vnf, end)
        if (piece := known.get(name)) is None:  # its name has the digest in it
            document = fetch(name, end.sha256)
            piece = point_v2.parsed(Records, document, name, point_v2.LARGEST_RECORDS)
            known[name] = piece
        if (piece.vnf, piece.position, piece.records[-1].id) != (vnf, left, end.backup):
            raise VaultCorrupt(f"{name} is not the part of a chain that it is named as")
        pieces.append(piece.records)
        left -= len(piece.records)
        end = piece.parent
    return [record for piece in reversed(pieces) for record in piece]


def _records_name(vnf: str, end: Sealed) -> str:
    return f"{records_folder(vnf)}{end.backup}.{end.sha256}{MANIFEST}"
