# SPDX-License-Identifier: Apache-2.0
"""What expiry does with change streams: deltas that are gone, and those that no recovery point
needs any more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from typing import TYPE_CHECKING

from antipode.change_stream import INDEX, Base, Damaged, parse_index
from antipode.errors import AntipodeError, NotFound, SiteUnreachable
from antipode.model.point import RecoveryPoint
from antipode.model.source import Delta
from antipode.model.steps import Timeline
from antipode.protect import tracked
from antipode.transfer.change_streams import CONTAINER, remove_objects
from antipode.vault.verify import verify_delta

if TYPE_CHECKING:
    from antipode.cloud.objects import Objects
    from antipode.cloud.site import Site

LOG = logging.getLogger(__name__)
LEFT_AFTER = timedelta(days=7)
"""No protection takes so long: what it wrote, and no point names, is of no more use."""


def without_deltas(
    found: Iterable[RecoveryPoint], store: Callable[[str], Objects | None]
) -> set[str]:
    """The points of which a delta is gone or has changed, where the store answers.

    Args:
        store: the backup store of what is protected at a site.
    """
    gone: set[str] = set()
    known: dict[str, bool] = {}
    for point in found:
        try:
            place = store(point.site) if point.deltas else None
            if place is None:
                continue
            for delta in point.deltas.values():
                if delta.id not in known:
                    known[delta.id] = verify_delta(delta.id, delta, place).ok
        except (NotFound, SiteUnreachable) as error:
            LOG.warning("whether deltas of %s are gone is unknown: %s", point.site, error)
            continue
        if not all(known[delta] for delta in point.deltas):
            gone.add(point.id)
    return gone


@dataclass(frozen=True)
class Doomed:
    """What withdrawn points leave in the backup store."""

    deltas: Collection[Delta]
    """those that withdrawn points name"""
    damaged: Collection[str] = ()
    """withdrawn points that cannot be read: their deltas are found by the runs that made them"""


def remove_deltas(
    vnf: str, doomed: Doomed, needed: Collection[str], store: Objects, timeline: Timeline
) -> dict[str, str]:
    """Remove the deltas of withdrawn points that no other needs; those that stay, by id, and why.

    Deltas that no known point names may be of a point in another vault, or of a protection that is
    making one: they stay, and so does all that they rest on. Of a run that may still be making one
    nothing is known, so that all stays.

    Args:
        needed: the ids of deltas that points need.
    """
    folder = f"{vnf}/"
    # the document of a point may name any object
    ours = {d.id: d for d in doomed.deltas if d.prefix == f"{folder}{d.run}/{d.id}"}
    going = {i: d.prefix for i, d in ours.items() if d.container == CONTAINER and i not in needed}
    try:
        names = {o.name for o in store.listing(CONTAINER, folder)}
    except NotFound:
        return {}
    there = {"/".join(parts[:3]) for n in names if len(parts := n.split("/")) > 3}
    others: list[str] = []
    for prefix in sorted(there):
        _, run, delta = prefix.split("/")
        if delta in needed or delta in ours:
            continue
        if run.partition("-")[2] in doomed.damaged:
            going[delta] = prefix
        else:
            others.append(prefix)
    going = {i: prefix for i, prefix in going.items() if prefix in there}
    left: dict[str, str] = {}
    base_of = cache(partial(_base_of, store))  # chains have the same ones below
    for prefix in others:
        left |= _rests_on(prefix, names, going, base_of)
    remove_objects(store, [f"{p}/" for i, p in sorted(going.items()) if i not in left], timeline)
    return left


def _base_of(store: Objects, name: str) -> Base | None:
    """The delta below that of an index.

    Raises:
        Damaged, NotFound: the index cannot be read.
    """
    return parse_index(store.get(CONTAINER, name), name).base


def _rests_on(
    prefix: str,
    names: Collection[str],
    going: Mapping[str, str],
    base_of: Callable[[str], Base | None],
) -> dict[str, str]:
    """The deltas that stay as far as one goes that no known point names, and why."""
    run, name = prefix.split("/")[1], f"{prefix}/{INDEX}"
    is_young = run.partition("-")[2] > f"{datetime.now(UTC) - LEFT_AFTER:%Y%m%dT%H%M%SZ}"
    if name not in names:  # it is being written, or was not written to its end
        return dict.fromkeys(going, f"{run} may build on them") if is_young else {}
    why = f"delta {prefix} rests on them, which no recovery point names that is known here"
    found: dict[str, str] = {}
    seen: set[str] = set()
    while name in names and name not in seen:
        seen.add(name)
        try:
            base = base_of(name)
        except (Damaged, NotFound) as error:
            return dict.fromkeys(going, f"{name} cannot be read, on which {run} rests: {error}")
        if base is None:
            break
        if base.delta in going:
            if is_young:
                return dict.fromkeys(going, why)
            found[base.delta] = why
        name = f"{base.prefix}/{INDEX}"
    return found


def remove_snapshots(
    site: Site, vnf: str, points: Iterable[RecoveryPoint], needed: Collection[str], work: Timeline
) -> str | None:
    """Remove the snapshots that withdrawn points left at the site that made them; why that could
    not be done.
    """
    doomed = {s for p in points if p.site == site.name for s in p.tracked} - set(needed)
    try:
        tracked.drop(site, vnf, doomed, work)
    except AntipodeError as error:
        return str(error)
    return None
