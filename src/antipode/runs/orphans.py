"""Removes what is left of runs that have ended: made by a request of a dead process that came
through late, or not removable then.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from antipode.engine.run import point_of
from antipode.engine.timeline import RecordedTimeline, Unobserved
from antipode.errors import AntipodeError, Busy, SiteUnreachable
from antipode.model.plan import RecoveryPlan
from antipode.model.steps import Timeline
from antipode.protect import remains
from antipode.recover import rollback
from antipode.store.runs import OPEN
from antipode.vault import PROBE, Vault, points

if TYPE_CHECKING:
    from antipode.cloud.site import Site
    from antipode.engine.deployment import Deployment
    from antipode.store.tables import RunRow

LOG = logging.getLogger(__name__)
LATE_S = 86400.0
"""How long after its run's end what came late is looked for.

A kernel sends for minutes what a network that was cut off has kept back.
"""


def collect(deployment: Deployment) -> None:
    """Remove what is left of runs that ended not long ago.

    What cannot be removed now is tried again the next time.
    """
    of_site: defaultdict[str, defaultdict[str, list[RunRow]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for run in filter(may_have_left, deployment.runs.ended_after(time.time() - LATE_S)):
        of_site[site_of(run)][run.vnf].append(run)
    for site, of_vnf in of_site.items():
        for vnf, runs in of_vnf.items():
            try:
                remove(deployment, runs)
            except Busy as error:
                LOG.debug(
                    "what runs of %s have left at %s is not looked for now: %s", vnf, site, error
                )
            except SiteUnreachable as error:
                LOG.info("what runs have left at %s cannot be looked for now: %s", site, error)
                break
            except AntipodeError as error:
                LOG.warning(
                    "what runs of %s may have left at %s could not be removed: %s", vnf, site, error
                )


def may_have_come_late(run: RunRow) -> bool:
    """Whether requests of a protection that succeeded not long ago may have come through late:
    those of a process that died at it.

    One process that carried it out from its begin to its end has had an answer to all that it asked
    for.
    """
    lately = run.ended_at is not None and run.ended_at > time.time() - LATE_S
    return run.kind == "protect" and run.state == "succeeded" and run.claim > 1 and lately


def may_have_left(run: RunRow) -> bool:
    """Whether something may be there of a run that has ended.

    What a failed recovery has made is not left over: it is gone on with.
    """
    if run.kind == "protect":
        return (run.state != "succeeded" or may_have_come_late(run)) and "vnf" in (
            run.request or {}
        )
    return run.kind == "failover" and run.state != "failed" and "plan" in (run.request or {})


def site_of(run: RunRow) -> str:
    """Where a run makes what it makes."""
    assert run.request is not None
    return str(run.request["vnf"]["primary"] if run.kind == "protect" else run.request["to"])


def remove(deployment: Deployment, runs: Sequence[RunRow]) -> list[str]:
    """Remove what runs of one VNF, which have ended, should not have left at a site; what stays all
    the same, and why. Again is fine.

    Raises:
        Busy: another run of the VNF is open, or is to be gone on with, and may use what these have
            made.
        AntipodeError: not all could be removed.
    """
    newest = max(runs, key=lambda run: run.started_at)

    def alone() -> None:
        for other in deployment.runs.all(newest.vnf):
            resumable = (
                other.kind == "failover"
                and other.state == "failed"
                and other.started_at > newest.started_at
            )
            if other.state in OPEN or resumable:
                raise Busy(f"{other.id} of {newest.vnf} is {other.state}")

    alone()
    site = deployment.site(site_of(newest)).under(alone)
    protections = [run for run in runs if run.kind == "protect"]
    left: list[str] = []
    with RecordedTimeline(deployment.runs, newest.id, newest.claim, Unobserved()) as timeline:
        for run in (r for r in runs if r.kind == "failover"):
            assert run.request is not None
            plan = RecoveryPlan.model_validate(run.request["plan"])
            if run.state == "aborted":
                left += rollback.remove(site, run.id, plan, timeline, alone)
            else:
                left += rollback.remove_twins(site, plan, timeline, alone)
        if protections:
            vault = deployment.vault_under(alone)
            for run in protections:
                vault.delete(f"{PROBE}{run.id}")
            remove_of_protections(site, vault, protections, timeline)
    return left


def remove_of_protections(
    site: Site, vault: Vault, runs: Sequence[RunRow], timeline: Timeline
) -> None:
    """Remove what protections of one VNF have left at its primary and in the vault, and no recovery
    point that counts.

    Raises:
        VaultCorrupt: nobody knows what a recovery point needs; no backup was removed.
        AntipodeError: not all could be removed.
    """
    for run in runs:
        if (
            run.ending is not None
            # its recovery point was taken back; a manifest that is there all the same does not
            # count
        ):
            points.withdraw(vault, run.vnf, point_of(run.id), on_its_way=False)
    for run in (r for r in runs if r.state == "succeeded"):
        remains.remove_left_by(
            site, {run.id}, points.read(vault, run.vnf, point_of(run.id)).backups, timeline
        )
    if over := {run.id for run in runs if run.state != "succeeded"}:
        needed = points.named_backups(vault, runs[0].vnf, [point_of(run) for run in over])
        remains.remove_left_by(site, over, needed, timeline)
