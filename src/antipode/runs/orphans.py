# SPDX-License-Identifier: Apache-2.0
"""Removes orphans of runs that have ended: resources that a late request of a dead process created,
or that could not be removed then.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from antipode import clock
from antipode.engine.timeline import RecordedTimeline, Unobserved
from antipode.errors import AntipodeError, Busy, NotFound, SiteUnreachable
from antipode.runs import KINDS, find_kind, kind_of

if TYPE_CHECKING:
    from antipode.engine.deployment import Deployment
    from antipode.engine.kind import RunKind
    from antipode.store.tables import RunRow

LOG = logging.getLogger(__name__)
LATE_S = 86400.0
"""How long after a run's end its requests may still take effect.

A kernel sends for minutes what it has kept back while a network was cut off.
"""


def collect(deployment: Deployment) -> None:
    """Remove the orphans of runs that ended in the last `LATE_S`, and of those that may have left
    some and were not collected since.

    What cannot be removed now is tried again the next time.
    """
    of_site: defaultdict[str, defaultdict[str, list[RunRow]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for run in to_collect(deployment):
        kind = find_kind(run.kind)
        if kind is None or not kind.may_have_orphans(run):
            continue
        try:
            of_site[kind.site_of(run)][run.vnf].append(run)
        except AntipodeError as error:
            LOG.warning("orphans of %s are not looked for: %s", run.id, error)
    for site, of_vnf in of_site.items():
        for vnf, runs in of_vnf.items():
            try:
                remove(deployment, runs)
            except (Busy, NotFound) as error:  # NotFound: the site is not configured any more
                LOG.debug("orphans of %s at %s are not looked for now: %s", vnf, site, error)
            except SiteUnreachable as error:
                LOG.info("orphans at %s cannot be looked for now: %s", site, error)
                break
            except AntipodeError as error:
                LOG.warning("orphans of %s at %s could not be removed: %s", vnf, site, error)


def to_collect(
    deployment: Deployment, vnf: str | None = None, kind: RunKind | None = None
) -> list[RunRow]:
    """The runs that may have left orphans which can still be found, of every VNF or of one, and of
    every kind or of one: then the modules of the others need not be loaded.
    """
    kinds = [kind_of(name) for name in KINDS.names] if kind is None else [kind]
    clean = [of.name for of in kinds if of.is_clean_when_done]
    wanted = None if kind is None else kind.name
    return deployment.runs.to_collect(clock.now() - LATE_S, vnf, clean, wanted)


def may_have_come_late(run: RunRow) -> bool:
    """Whether a run that succeeded may have orphans: its last steps failed, or requests of a
    process that died took effect after its end. Once they were collected long enough after its end,
    it has none.

    A process that executed the run from its beginning to its end has had an answer to everything.
    """
    incomplete = run.claim > 1 or "not_done" in run.result
    return run.state == "succeeded" and incomplete and run.collected_at is None


def ended_lately(run: RunRow) -> bool:
    """Whether a run ended so lately that its requests may still take effect."""
    return run.ended_at is not None and run.ended_at > clock.now() - LATE_S


def is_collected(run: RunRow) -> bool:
    """Whether a run that has ended has no orphans, and none can appear any more."""
    kind = find_kind(run.kind)
    return run.collected_at is not None or (kind is not None and not kind.may_have_orphans(run))


def note_collected(deployment: Deployment, runs: Sequence[RunRow]) -> None:
    """Note of runs whose orphans are removed that these need not be looked for again, where no
    request can take effect any more.
    """
    final = clock.now() - LATE_S
    deployment.runs.collected([r for r in runs if r.ended_at is not None and r.ended_at < final])


def remove(deployment: Deployment, runs: Sequence[RunRow]) -> list[str]:
    """Remove the orphans of runs of one VNF, which have ended, at a site; it may be called again.

    Returns:
        what stays, and why.

    Raises:
        Busy: another run of the VNF is open, or can be resumed, and may use these resources.
        AntipodeError: not all could be removed.
    """
    newest = max(runs, key=lambda run: run.started_at)
    resumable = [name for name in KINDS.names if not kind_of(name).rolls_back_failures]

    def alone() -> None:
        if (other := deployment.runs.user_of_orphans(newest, resumable)) is not None:
            raise Busy(f"{other.id} of {newest.vnf} is {other.state}")

    alone()
    of_kind: dict[str, list[RunRow]] = {}
    for run in runs:
        of_kind.setdefault(run.kind, []).append(run)
    left: list[str] = []
    with RecordedTimeline(deployment.runs, newest.id, newest.claim, Unobserved()) as timeline:
        for name, rows in sorted(of_kind.items(), key=lambda item: kind_of(item[0]).priority):
            left += kind_of(name).remove_orphans(deployment, rows, timeline, alone)
    if not left:
        note_collected(deployment, runs)
    return left
