# SPDX-License-Identifier: Apache-2.0
"""The kind of run that removes what drills of a VNF have left at a site: those that were kept for a
person to look around, and those whose own clean-up was not complete.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from antipode.engine.deployment import Deployment
from antipode.engine.kind import Persona, Priority, RunKind
from antipode.engine.run import Run, new_run
from antipode.errors import AntipodeError, Busy, InvalidInput, NotFound, ResourceFailed
from antipode.model.base import Model
from antipode.recover import inventory, rollback
from antipode.recover.sources import PROVIDERS
from antipode.runs import drill
from antipode.store.runs import AWAITING, ENDED
from antipode.store.tables import RunRow

LOG = logging.getLogger(__name__)


class CleanupRequest(Model):
    """A clean-up as it was asked for."""

    site: str
    drills: list[str]
    """the runs"""


def uncleaned(deployment: Deployment, vnf: str) -> list[RunRow]:
    """The drills of a VNF that have ended and may have left something, the newest first."""
    return [
        row
        for row in deployment.runs.uncollected(drill.KIND.name, vnf)
        if row.state in ENDED and drill.KIND.may_have_orphans(row)
    ]


def held_at(deployment: Deployment, site: str) -> list[str]:
    """The drills of any VNF that hold resources at a site, and how to remove these; for people."""
    found = []
    for row in deployment.runs.uncollected(drill.KIND.name):
        if drill.KIND.site_of(row) != site or row.state == AWAITING:
            continue
        if row.state not in ENDED:
            found.append(f"{row.id} is under way at {site}; stop it: antipode run abort {row.id}")
        elif drill.is_kept(row) or row.result.get("left"):
            found.append(
                f"{row.id} holds resources at {site}; remove them: antipode drill cleanup"
                f" {row.vnf} --at {site}"
            )
    return found


def requested(vnf: str, site: str, drills: Sequence[str]) -> RunRow:
    """A clean-up of drills of a VNF at one site that is not kept yet.

    Args:
        drills: the runs; those that the database does not know are known by their marks.
    """
    request = CleanupRequest(site=site, drills=list(drills))
    return new_run(KIND, vnf, request.model_dump(mode="json"))


class DrillCleanup(RunKind):
    name = "drill-cleanup"
    flow_version = 1
    priority = Priority.UPKEEP
    persona = Persona.MEMBER
    rolls_back_failures = True
    works_at_active_site = False
    creates = ""

    @property
    def command(self) -> str:
        return "drill cleanup"

    def site_of(self, row: RunRow) -> str:
        return CleanupRequest.model_validate(row.request or {}).site

    def execute(self, run: Run) -> None:
        _clean_up(run)

    def roll_back(self, run: Run) -> list[str]:
        return []

    def point_of_no_return(self, run: Run) -> str | None:
        return None


KIND = DrillCleanup()


def _clean_up(run: Run) -> None:
    request = CleanupRequest.model_validate(run.request)
    site = run.site(request.site)
    run.result.update(vnf=run.vnf, site=site.name, drills=request.drills)
    rows = known(run.deployment, run.vnf, site.name, request.drills)
    before, left = inventory.take(site), list[str]()
    kinds = {row.id: drill.kinds_of(row) for row in rows}
    for made_by in request.drills:
        # of one that this database does not know it is not known either
        of_any = kinds.get(made_by, PROVIDERS.names)
        left += rollback.remove_throw_away(site, made_by, run.timeline, run.go_on, of_any)
        left += drill.made_at(site, made_by)
    after = inventory.take(site)
    gone = inventory.counts(inventory.appeared(after, before))
    run.result.update(removed=gone, leaks=left)
    if left:
        raise ResourceFailed(f"left at {site.name}: {'; '.join(left)}")
    run.deployment.runs.collected(rows)


def known(deployment: Deployment, vnf: str, site: str, drills: Sequence[str]) -> list[RunRow]:
    """Those of these drills that the database knows, once they may be cleaned up.

    Raises:
        InvalidInput: one is no drill of this VNF at this site, where nothing of it would be found.
        Busy: one has not ended.
    """
    rows = [row for i in drills if (row := _row(deployment, i)) is not None]
    for row in rows:
        if row.kind != drill.KIND.name:
            raise InvalidInput(f"{row.id} is no drill, but a run of kind {row.kind}")
        if (row.vnf, drill.KIND.site_of(row)) != (vnf, site):
            raise InvalidInput(
                f"{row.id} is a drill of {row.vnf} at {drill.KIND.site_of(row)}, and is cleaned up"
                f" there: antipode drill cleanup {row.vnf} --at {drill.KIND.site_of(row)}"
            )
    if working := [r.id for r in rows if r.state not in ENDED]:
        raise Busy(f"{', '.join(working)} has not ended: antipode run abort {working[0]}")
    return rows


def _row(deployment: Deployment, drill_run: str) -> RunRow | None:
    try:
        return deployment.runs.get(drill_run)
    except NotFound:
        return None  # of another host's database, or pruned


def expired(deployment: Deployment) -> list[RunRow]:
    """The drills that were kept, whose time is over, and of which something may be left."""
    return [
        row
        for row in deployment.runs.uncollected(drill.KIND.name)
        if row.state in ENDED and drill.is_kept(row) and drill.has_expired(row)
    ]


def submit_due(deployment: Deployment, enqueue: Callable[[RunRow], None]) -> None:
    """Have those drills removed that were kept and whose time is over.

    What keeps one from being queued is logged; the others are queued all the same.
    """
    due: dict[tuple[str, str], list[RunRow]] = {}
    for row in expired(deployment):
        due.setdefault((row.vnf, drill.KIND.site_of(row)), []).append(row)
    for (vnf, site), rows in due.items():
        try:
            enqueue(requested(vnf, site, [row.id for row in rows]))
        except Busy as error:
            LOG.debug("drills of %s at %s are not removed now: %s", vnf, site, error)
        except AntipodeError as error:
            LOG.warning("drills of %s at %s are due to be removed: %s", vnf, site, error)
