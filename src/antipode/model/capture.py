# SPDX-License-Identifier: Apache-2.0
"""The result of capturing a batch of members, and of transferring what was captured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal

from antipode.model.base import Model
from antipode.model.datastore import KeptPosition, Line
from antipode.model.source import AnySource, VolumeSource
from antipode.model.topology import Topology

Consistency = Literal["application", "group", "member", "replica", "volume"]
_STRONGEST_FIRST: tuple[Consistency, ...] = ("application", "group", "member", "replica", "volume")
OF_RUNNING_MEMBERS: tuple[Consistency, ...] = ("group", "volume")
"""The labels that a point of members can have which were not quiesced."""


def at_best(limit: Consistency, label: Consistency) -> Consistency:
    """A label that says no more than a limit does."""
    return max(limit, label, key=_STRONGEST_FIRST.index)


def is_worse(label: Consistency, than: Consistency) -> bool:
    """Whether a label promises less than another."""
    return _STRONGEST_FIRST.index(label) > _STRONGEST_FIRST.index(than)


class QuiesceWindow(Model):
    """How long members were frozen, in seconds: in all, and each until its confirmed unquiesce."""

    total_s: float
    per_member_s: dict[str, float]


class Capture(Model):
    """The volumes of a batch of members at one consistent moment.

    A captured volume is either a snapshot that is still to be transferred, or a source that is
    at the other site already.
    """

    snapshots: dict[str, str] = {}
    """volume id -> snapshot id"""
    sources: Mapping[str, AnySource] = {}
    """volume id -> source, for volumes that need no transfer"""
    images: dict[str, str] = {}
    """root disk id -> id of the image of it, still to be transferred"""
    consistent_at: str
    """RFC 3339, UTC: the moment whose state was captured"""
    window: QuiesceWindow | None
    consistency: Consistency = "application"
    moments: Mapping[str, str] = {}
    """server -> its own moment (RFC 3339, UTC); empty where all servers have the same one"""
    positions: Mapping[str, Line] = {}
    """datastore -> the position of its data that was made while the members were quiesced"""


class Transferred(Model):
    """Every captured volume as a source that the other site can use."""

    sources: Mapping[str, AnySource]
    """volume id -> source"""
    datastores: Mapping[str, KeptPosition] = {}
    """datastore -> its data, which has arrived"""
    full_because: dict[str, str] = {}
    """volume id -> why all of its bytes were transferred"""


def new_bytes(
    sources: Mapping[str, VolumeSource], topology: Topology
) -> tuple[int | None, dict[str, int]]:
    """The bytes that the sources added to their stores: in all (None when one does not know), and
    by the name of the volume where it is known.
    """
    stored = [v for v in topology.disks if sources[v.id].has_bytes]
    found = {v.name or v.id: sources[v.id].new_bytes for v in stored}
    known = {name: size for name, size in found.items() if size is not None}
    return (sum(known.values()) if len(known) == len(found) else None), known


def merged(captures: Sequence[Capture]) -> Capture:
    """The captures of all batches of one recovery point as one.

    The moment is the oldest, as nothing newer is promised for every member. The label is the
    weakest of the batches; members captured one after another are at best consistent by member.
    """
    if len(captures) == 1:
        return captures[0]
    windows = [c.window for c in captures if c.window is not None]
    labels: set[Consistency] = {"member", *(c.consistency for c in captures)}
    return Capture(
        snapshots={v: s for c in captures for v, s in c.snapshots.items()},
        sources={v: s for c in captures for v, s in c.sources.items()},
        images={d: i for c in captures for d, i in c.images.items()},
        consistent_at=min((c.consistent_at for c in captures), key=datetime.fromisoformat),
        window=QuiesceWindow(
            total_s=max(w.total_s for w in windows),
            per_member_s={m: s for w in windows for m, s in w.per_member_s.items()},
        )
        if windows
        else None,
        consistency=max(labels, key=_STRONGEST_FIRST.index),
        moments={s: at for c in captures for s, at in c.moments.items()},
        positions={d: p for c in captures for d, p in c.positions.items()},
    )
