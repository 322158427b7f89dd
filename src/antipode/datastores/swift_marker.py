# SPDX-License-Identifier: Apache-2.0
"""The object by which a copy of a container is seen to follow: it is written at the original, and
container sync carries it as any other object, with its time.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from antipode.errors import NotFound, ResourceFailed

if TYPE_CHECKING:
    from antipode.cloud.objects import Objects, StoredObject

NAME = ".antipode-marker"
LARGEST = 8 << 20
"""Bytes of a marker."""
TICK_S = 1e-5
"""What Swift tells two times apart by."""
History = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{12}$")]
Time = Annotated[float, Field(gt=0, lt=1e11)]
"""Seconds since the epoch, by the clock of the Swift where it was written."""
Text = Annotated[str, StringConstraints(max_length=1024)]


@dataclass(frozen=True)
class Position:
    """A moment of the data: a history of it, and a time in that."""

    history: str
    at: float

    def __str__(self) -> str:
        return f"{self.history}@{self.at:.5f}"

    @classmethod
    def of(cls, text: str) -> Position:
        """
        Raises:
            ResourceFailed: it is no position.
        """
        history, _, at = text.partition("@")
        try:
            found = Marker(history=history, origin="", past={"0" * 12: float(at)})
        except (ValidationError, ValueError) as error:
            raise ResourceFailed(f"{text} is no position of containers") from error
        return cls(found.history, float(at))


class Seen(BaseModel):
    """The objects of a container when it was listed."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    since: Time
    """the listing was made after this moment"""
    objects: dict[Text, tuple[Text, Text]] | None
    """name -> when it was written, the MD5 of its bytes; None: they are too many"""

    def missed_by(self, listing: Sequence[StoredObject]) -> Iterator[str]:
        """What keeps a copy from being this state or a later one, by its own listing: a sentence
        each.
        """
        if self.objects is None:
            return
        there = {o.name: o for o in listing if o.name != NAME}
        for name, (written, md5) in self.objects.items():
            copy = there.get(name)
            if copy is None:
                yield f"{name} is not there"
            elif copy.last_modified < written:
                yield f"{name} is there as it was at {copy.last_modified}"
            elif copy.last_modified == written and copy.etag != md5:
                yield f"{name} has other bytes"
        for name, copy in there.items():
            known = self.objects.get(name)
            if seconds(copy.last_modified) < self.since and (
                known is None or known[0] < copy.last_modified
            ):
                yield f"{name} is there and not in the original, or is older in that"


class Marker(BaseModel):
    """The content of a marker. Its time is that of the object, as Swift has it."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    version: Literal[1] = 1
    mark: Text = ""
    """tells it from every other one"""
    history: History
    vnf: Text = ""
    """whose data it is"""
    origin: Text
    """the reference of the account where it was written"""
    past: dict[History, Time] = {}
    """earlier histories of the data -> how far they are in this one"""
    seen: Seen | None = None
    """None: one with a list follows, by which alone a copy is believed"""


@dataclass(frozen=True)
class Found:
    """A marker as it lies in a container."""

    marker: Marker
    at: float
    is_noted: bool = False
    """whether it is there no more, and was noted as the last one"""

    @property
    def position(self) -> Position:
        return Position(self.marker.history, self.at)

    @property
    def past(self) -> Mapping[str, float]:
        return {**self.marker.past, self.marker.history: self.at}

    def has(self, position: Position) -> bool:
        return self.past.get(position.history, 0.0) >= position.at

    def shows(self, position: Position) -> bool:
        """Whether a copy that is as its list says has all that was written before a position: the
        list was made later. Its own time does not show that: a marker may have waited.
        """
        if self.marker.history != position.history:
            return self.has(position)
        seen = self.marker.seen
        return seen is not None and seen.since >= position.at


def read(objects: Objects, container: str) -> Found | None:
    """The marker of a container; None where there is none.

    Raises:
        ResourceFailed: an object of its name is none.
    """
    try:
        # its time first: one that replaces it now is newer, so too little is claimed and never
        # too much
        at = float(objects.changed_at(container, NAME))
        content = objects.get(container, NAME, LARGEST + 1)
        return Found(Marker.model_validate_json(content), at)
    except NotFound:
        return None
    except ValidationError as error:
        raise ResourceFailed(
            f"{NAME} in container {container} is no marker of antipode: remove it, if it is yours"
        ) from error


def write(objects: Objects, container: str, marker: Marker) -> tuple[Found | None, bool]:
    """Write a marker; the one that is there then, and whether it is this one. One that is newer by
    its time stays: it was written since, or by a clock that is ahead.
    """
    mark = uuid.uuid4().hex
    objects.put(container, NAME, bytes_of(marker.model_copy(update={"mark": mark})))
    found = read(objects, container)
    return found, found is not None and found.marker.mark == mark


def bytes_of(marker: Marker) -> bytes:
    return marker.model_dump_json().encode()


def seconds(written: str) -> float:
    """The time of a listing as seconds since the epoch; 0 where it is none."""
    try:
        return datetime.fromisoformat(written).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return 0.0
