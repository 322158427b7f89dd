# SPDX-License-Identifier: Apache-2.0
"""Where a recovery gets the bytes of a volume from: one class for each kind of source.

A recovery point and a plan name a source for each volume. The kinds are open: a package that adds
one registers its class here, and its provider in `antipode.recover.sources`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, ClassVar, Self, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, SerializeAsAny, model_validator

from antipode.model.base import Model


class VolumeSource(Model):
    """A source of one volume; `kind` names it wherever it is written."""

    has_bytes: ClassVar[bool] = True
    """whether anything is stored for it, and not only for another one"""
    kind: str
    backend_reference: str | None = None
    """the volume's real reference in the storage that held it when it was captured"""

    @property
    def size_gib(self) -> int:
        """The size of the captured volume in GiB; 0 when the source does not know it."""
        return 0

    @property
    def reference(self) -> str:
        """That which is restored, for people."""
        return self.backend_reference or ""

    @property
    def new_bytes(self) -> int | None:
        """The bytes that this source added to the store of its kind; None when unknown."""
        return None

    @property
    def incremental(self) -> bool:
        """Whether the source rests on an earlier one."""
        return False


Source = TypeVar("Source", bound=VolumeSource)
_KINDS: dict[str, type[VolumeSource]] = {}


def source_kind(kind: type[Source]) -> type[Source]:
    """Register a kind of source under the default of its field `kind`; a class decorator."""
    _KINDS[str(kind.model_fields["kind"].default)] = kind
    return kind


def kind_has_bytes(kind: str) -> bool:
    """Whether anything is stored for a source of a kind, as far as that is known here."""
    return kind not in _KINDS or _KINDS[kind].has_bytes


def _of_its_kind(value: object) -> object:
    if not isinstance(value, Mapping):
        return value
    name = value.get("kind")
    if not isinstance(name, str) or name not in _KINDS:
        raise ValueError(
            f"kind {name!r} of volume source is unknown here; a newer antipode made it"
        )
    return _KINDS[name].model_validate(value)


AnySource = Annotated[SerializeAsAny[VolumeSource], BeforeValidator(_of_its_kind)]
"""A source of whichever kind, as a field of a model."""


class StoredObjects(Model):
    """The objects of one backup in the backup store when the recovery point was made.

    `sha256` is over the lines `name <TAB> bytes <TAB> etag <LF>` of its objects, sorted by name.
    """

    prefix: str
    """what the names of all its objects begin with"""
    objects: int
    bytes: int
    sha256: str


YEARS = range(1970, 9999)
"""Of the moments that are taken: in any zone they have a date."""


def of_a_year_to_reckon_with(moment: str) -> str:
    """A moment as it is given, if it can be compared with others in any time zone.

    Raises:
        ValueError: it is none of ISO 8601, or of another year than YEARS.
    """
    if datetime.fromisoformat(moment).year not in YEARS:
        raise ValueError(f"{moment} is not of the years {YEARS[0]} to {YEARS[-1]}")
    return moment


CinderTime = Annotated[str, AfterValidator(of_a_year_to_reckon_with)]
"""A moment as Cinder gives it: of UTC, with or without a zone."""


class BackupRecord(Model):
    """One Cinder backup, and the record that makes it known to another Cinder (export_record)."""

    id: str
    volume_id: str
    parent_id: str | None
    """the backup this increment is based on; None for a full backup"""
    size_gib: int
    object_count: int
    container: str
    created_at: CinderTime
    service: str
    """backup_service of the record: the driver class, the same at both sites"""
    url: str
    """backup_url of the record, opaque"""
    stored: StoredObjects | None = None
    """None when no backup store is configured"""

    @property
    def incremental(self) -> bool:
        return self.parent_id is not None


class VolumeKey(Model):
    """The key of an encrypted volume, by reference: the key itself is in key managers only."""

    key_id: str
    """in the key manager of the site where the volume was captured"""
    type_id: str
    """of its volume type, which is the same at each site that can restore it"""
    type_name: str
    """of the type where the volume was captured"""
    provider: str
    cipher: str | None
    key_size: int | None
    kept: dict[str, str] = {}
    """site -> the id of the same key in the key manager there"""


@source_kind
class BackupChain(VolumeSource):
    """A full Cinder backup and its increments, base first; the last one is restored."""

    kind: str = "backup-chain"
    backups: list[BackupRecord]
    key: VolumeKey | None = None
    """None for a volume that is not encrypted"""

    @model_validator(mode="after")
    def is_a_chain(self) -> Self:
        if problem := chain_problem(self.backups):
            raise ValueError(problem)
        return self

    @property
    def last(self) -> BackupRecord:
        return self.backups[-1]

    @property
    def reference(self) -> str:
        return self.last.id

    @property
    def size_gib(self) -> int:
        return self.last.size_gib

    @property
    def new_bytes(self) -> int | None:
        return None if self.last.stored is None else self.last.stored.bytes

    @property
    def incremental(self) -> bool:
        return self.last.incremental


class Delta(Model):
    """One delta of a change stream (docs/change-stream.md)."""

    id: str
    run: str
    """which made it"""
    container: str
    prefix: str
    """of the names of its objects"""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """of its index"""
    stored: StoredObjects
    state: str
    """the snapshot that it goes up to, as the storage names it"""
    snapshot_id: str
    """the same in the Cinder that made it"""
    made_at: CinderTime


@source_kind
class ChangeStream(VolumeSource):
    """What the storage says of a volume's changes: a delta of all of it, and those after it;
    the last one is restored.
    """

    kind: str = "change-stream"
    volume_id: str
    """the captured volume"""
    gib: Annotated[int, Field(ge=1)]
    deltas: Annotated[list[Delta], Field(min_length=1, max_length=1000)]
    """base first"""

    @property
    def last(self) -> Delta:
        return self.deltas[-1]

    @property
    def reference(self) -> str:
        return self.last.id

    @property
    def size_gib(self) -> int:
        return self.gib

    @property
    def new_bytes(self) -> int | None:
        return self.last.stored.bytes

    @property
    def incremental(self) -> bool:
        return len(self.deltas) > 1


@source_kind
class Image(VolumeSource):
    """The root disk of a server that boots from an image: an image in Glance, with the same bytes
    at each site at which the disk may be needed.
    """

    kind: str = "image"
    sha512: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
    """over all bytes of the image"""
    image_bytes: Annotated[int, Field(ge=0)]
    disk_format: str
    copies: Annotated[dict[str, str], Field(min_length=1)]
    """site -> the id of the image there"""
    carried_bytes: Annotated[int, Field(ge=0)]
    """what this point has brought to each of these sites: 0 where they had the bytes already"""

    @property
    def reference(self) -> str:
        return f"sha512:{self.sha512[:12]}"

    @property
    def new_bytes(self) -> int | None:
        return self.carried_bytes


class MadeAgain(VolumeSource):
    """The root disk of a server that is made again: nothing of it was captured. It comes from the
    image that the server was created from, wherever Glance has that.
    """

    name: str
    """of the image at the captured site"""
    disk_format: str
    """as which its bytes are read: the same bytes are another disk in another format"""
    properties: dict[str, str] = {}
    """of the image, as far as they say how a server is made from it"""
    sites: list[str] = []
    """those at which such an image is needed"""

    @property
    @abstractmethod
    def known_by(self) -> tuple[str, ...]:
        """By what the image is found at any site."""

    @property
    def new_bytes(self) -> int | None:
        return 0


@source_kind
class BaseImage(MadeAgain):
    """It comes from an image of the same bytes."""

    kind: str = "base-image"
    sha512: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
    """over all bytes of the image"""

    @property
    def known_by(self) -> tuple[str, ...]:
        return self.kind, self.sha512, self.disk_format

    @property
    def reference(self) -> str:
        return f"{self.name} (sha512:{self.sha512[:12]})"


@source_kind
class NamedImage(MadeAgain):
    """It comes from an image of the same name, as Glance had no digest of its bytes."""

    kind: str = "named-image"
    name: Annotated[str, Field(min_length=1)]
    disk_format: str = ""
    """empty where Glance did not say it"""
    size: int | None = None
    """of the image, in bytes; None where Glance did not say it"""

    @property
    def known_by(self) -> tuple[str, ...]:
        return self.kind, self.name, self.disk_format, str(self.size)

    @property
    def reference(self) -> str:
        return f"{self.name} (by its name)"


@source_kind
class Copy(VolumeSource):
    """A volume that was not captured, and is recovered with the bytes of one of the same point that
    was: its member is a clone of another.
    """

    has_bytes: ClassVar[bool] = False
    kind: str = "copy"
    of: Annotated[str, Field(min_length=1)]
    """id of the captured volume"""

    @property
    def reference(self) -> str:
        return f"as volume {self.of}"

    @property
    def new_bytes(self) -> int | None:
        return 0


@source_kind
class ReplicatedState(VolumeSource):
    """A state of a volume in a storage that replicates by itself: a snapshot of Cinder's at the
    active site, which the storage has brought to the others.
    """

    kind: str = "replicated-state"
    storage: str
    """its name in antipode.yaml"""
    image: str
    """the volume as the storage names it, at each site"""
    state: str
    """the snapshot as the storage names it, at each site"""
    snapshot_id: str
    """the snapshot's id in the Cinder that made it"""
    gib: Annotated[int, Field(ge=0)]
    sites: Annotated[list[str], Field(min_length=1)]
    """those at which it was whole when the point was made, beside that where it was made"""

    @property
    def reference(self) -> str:
        return f"{self.image}@{self.state}"

    @property
    def size_gib(self) -> int:
        return self.gib

    @property
    def new_bytes(self) -> int | None:
        return 0


OF_HEADS = "+heads"
"""Behind the id of a recovery point in keys of what is made of its heads, not of its states."""


class ReplicatedHead(ReplicatedState):
    """The newest that has arrived of a replicated volume, in the place of a state. It is in no
    recovery point: a failover makes it of one.
    """

    kind: str = "replicated-head"
    kept_state: str
    """the state that the recovery point has"""


def image_copies(source: VolumeSource) -> Mapping[str, str]:
    """The images that a source consists of, site -> id; none for another kind of source."""
    return source.copies if isinstance(source, Image) else {}


def chain_problem(backups: Sequence[BackupRecord]) -> str | None:
    """Why these backups, base first, are no complete chain of one volume; None when they are."""
    if not backups:
        return "a chain of backups is empty"
    parent: str | None = None
    for backup in backups:
        if backup.parent_id != parent:
            return f"backup {backup.id} rests on {backup.parent_id}, not on {parent or 'nothing'}"
        if backup.volume_id != backups[0].volume_id:
            return f"backups {backups[0].id} and {backup.id} of one chain are of two volumes"
        parent = backup.id
    return None


def backup_chain(source: VolumeSource) -> Sequence[BackupRecord]:
    """The backups that a source consists of, base first; none for another kind of source."""
    return source.backups if isinstance(source, BackupChain) else ()


def deltas_of(source: VolumeSource) -> Sequence[Delta]:
    """The deltas that a source consists of, base first; none for another kind of source."""
    return source.deltas if isinstance(source, ChangeStream) else ()
