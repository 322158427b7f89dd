"""Removes orphans of runs that have ended: resources that a late request of a dead process created,
or that could not be removed then.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from antipode.engine.timeline import RecordedTimeline, Unobserved
from antipode.errors import AntipodeError, Busy, SiteUnreachable
from antipode.runs import find_kind, kind_of
from antipode.store.runs import OPEN

if TYPE_CHECKING:
    from antipode.engine.deployment import Deployment
    from antipode.store.tables import RunRow

LOG = logging.getLogger(__name__)
LATE_S = 86400.0
"""How long after its end orphans of a run are looked for.

A kernel sends for minutes what it has kept back while a network was cut off.
"""


def collect(deployment: Deployment) -> None:
    """Remove orphans of runs that ended not long ago.

    What cannot be removed now is tried again the next time.
    """
    of_site: defaultdict[str, defaultdict[str, list[RunRow]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for run in deployment.runs.ended_after(time.time() - LATE_S):
        if (kind := find_kind(run.kind)) is not None and kind.may_have_orphans(run):
            of_site[kind.site_of(run)][run.vnf].append(run)
    for site, of_vnf in of_site.items():
        for vnf, runs in of_vnf.items():
            try:
                remove(deployment, runs)
            except Busy as error:
                LOG.debug("orphans of %s at %s are not looked for now: %s", vnf, site, error)
            except SiteUnreachable as error:
                LOG.info("orphans at %s cannot be looked for now: %s", site, error)
                break
            except AntipodeError as error:
                LOG.warning("orphans of %s at %s could not be removed: %s", vnf, site, error)


def may_have_come_late(run: RunRow) -> bool:
    """Whether late requests of a run that succeeded may have come through: those of a process that
    died.

    A process that executed the run from its beginning to its end has had an answer to everything.
    """
    lately = run.ended_at is not None and run.ended_at > time.time() - LATE_S
    return run.state == "succeeded" and run.claim > 1 and lately


def remove(deployment: Deployment, runs: Sequence[RunRow]) -> list[str]:
    """Remove the orphans of runs of one VNF, which have ended, at a site; it may be called again.

    Returns:
        what stays, and why.

    Raises:
        Busy: another run of the VNF is open, or can be resumed, and may use these resources.
        AntipodeError: not all could be removed.
    """
    newest = max(runs, key=lambda run: run.started_at)

    def alone() -> None:
        for other in deployment.runs.all(newest.vnf):
            kind = find_kind(other.kind)
            resumable = (
                kind is not None
                and not kind.rolls_back_failures
                and other.state == "failed"
                and other.started_at > newest.started_at
            )
            if other.state in OPEN or resumable:
                raise Busy(f"{other.id} of {newest.vnf} is {other.state}")

    alone()
    of_kind: dict[str, list[RunRow]] = {}
    for run in runs:
        of_kind.setdefault(run.kind, []).append(run)
    left: list[str] = []
    with RecordedTimeline(deployment.runs, newest.id, newest.claim, Unobserved()) as timeline:
        for name, rows in sorted(of_kind.items(), key=lambda item: kind_of(item[0]).priority):
            left += kind_of(name).remove_orphans(deployment, rows, timeline, alone)
    return left
