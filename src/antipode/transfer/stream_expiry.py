# SPDX-License-Identifier: Apache-2.0
"""What expiry does with change streams: deltas that are gone, and those that no recovery point
needs any more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from antipode.change_stream import INDEX, Damaged, parse_index
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


def remove_deltas(
    vnf: str,
    doomed: Collection[Delta],
    needed: Collection[str],
    store: Objects,
    timeline: Timeline,
) -> str | None:
    """Remove the deltas of withdrawn points that no other needs; None, or why they stay.

    Deltas that no known point names may be of a point in another vault, or of a protection that is
    making one: they stay, and so does all that they rest on.

    Args:
        doomed: those of the withdrawn points.
        needed: the ids of deltas that points need.
    """
    folder = f"{vnf}/"
    # the document of a point may name any object
    ours = {d.id: d for d in doomed if d.prefix == f"{folder}{d.run}/{d.id}"}
    going = {i for i, d in ours.items() if d.container == CONTAINER and i not in needed}
    try:
        names = [o.name for o in store.listing(CONTAINER, folder)]
    except NotFound:
        return None
    there = {"/".join(parts[:3]) for n in names if len(parts := n.split("/")) > 3}
    for prefix in sorted(there):
        if prefix.rpartition("/")[2] in {*needed, *ours}:
            continue
        if (why := _rests_on(prefix, f"{prefix}/{INDEX}" in names, going, store)) is not None:
            return why
    prefixes = [f"{ours[i].prefix}/" for i in sorted(going) if ours[i].prefix in there]
    remove_objects(store, prefixes, timeline)
    return None


def _rests_on(prefix: str, has_index: bool, going: Collection[str], store: Objects) -> str | None:
    """Why deltas stay as far as one goes that no known point names."""
    run = prefix.split("/")[1]
    if not has_index:  # it is being written, or was not written to its end
        young = f"{datetime.now(UTC) - LEFT_AFTER:%Y%m%dT%H%M%SZ}"
        return f"{run} may build on them" if run.partition("-")[2] > young else None
    name = f"{prefix}/{INDEX}"
    try:
        base = parse_index(store.get(CONTAINER, name), name).base
    except (Damaged, NotFound) as error:
        return f"{run} has made a delta that cannot be read: {error}"
    if base is not None and base.delta in going:
        return f"delta {prefix} rests on them, which no recovery point names that is known here"
    return None


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
