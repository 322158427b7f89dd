"""Removes orphans of runs that have ended: resources that a request of a dead process has made
late, or that could not be removed then.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from antipode.engine.run import Run, point_of, state_of
from antipode.engine.timeline import RecordedTimeline, Unobserved
from antipode.errors import AntipodeError, Busy, NotFound, SiteUnreachable
from antipode.model.plan import RecoveryPlan
from antipode.model.steps import Timeline
from antipode.protect import remains
from antipode.recover import rollback
from antipode.vault import PROBE, Vault, points

if TYPE_CHECKING:
    from antipode.cloud.site import Site
    from antipode.engine.deployment import Deployment
    from antipode.store.tables import RunRow

LOG = logging.getLogger(__name__)
LATE_S = 86400.0
"""How long after a run's end its requests may still take effect.

A kernel sends for minutes what a network that was cut off has held back.
"""
RESUMABLE = ("failover",)
"""Kinds of runs that can be resumed after a failure, and then use what they had made."""


def collect(deployment: Deployment) -> None:
    """Remove the orphans of runs that ended in the last `LATE_S`, and of those that ended without
    success and were not collected since.

    What cannot be removed now is tried again the next time.
    """
    of_site: defaultdict[str, defaultdict[str, list[RunRow]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for run in filter(may_have_left, deployment.runs.to_collect(time.time() - LATE_S)):
        of_site[site_of(run)][run.vnf].append(run)
    for site, of_vnf in of_site.items():
        for vnf, runs in of_vnf.items():
            try:
                remove(deployment, runs)
            except (Busy, NotFound) as error:  # NotFound: the site was taken off the configuration
                LOG.debug("orphans of %s at %s are not looked for now: %s", vnf, site, error)
            except SiteUnreachable as error:
                LOG.info("orphans at %s cannot be looked for now: %s", site, error)
                break
            except AntipodeError as error:
                LOG.warning("orphans of %s at %s could not be removed: %s", vnf, site, error)


def dead_protections(deployment: Deployment, vnf: str) -> list[RunRow]:
    """The protections of a VNF that ended without success and may have orphans, and those that are
    lost.

    One whose state is `running` is dead only if it is known that no process executes it.
    """
    runs = deployment.runs
    found = [*runs.open(vnf), *runs.to_collect(time.time() - LATE_S, vnf)]
    return [
        run
        for run in found
        if run.kind == "protect" and state_of(run, deployment) in ("failed", "aborted", "lost")
    ]


def collect_protections(
    deployment: Deployment, site: Site, vault: Vault, timeline: Timeline, besides: Run
) -> None:
    """Remove the orphans of the protections of a VNF, except those of `besides`, the run that does
    it.

    Raises:
        VaultCorrupt, AntipodeError: as `remove_of_protections`.
    """
    since = time.time() - LATE_S
    over = [run for run in dead_protections(deployment, besides.vnf) if run.id != besides.id]
    over += filter(may_have_come_late, deployment.runs.to_collect(since, besides.vnf))
    remove_of_protections(site, vault, over, timeline)
    _note_collected(deployment, over)


def _note_collected(deployment: Deployment, runs: Sequence[RunRow]) -> None:
    """Note of runs whose orphans are removed that they need not be looked for again, where no
    request can take effect any more.
    """
    final = time.time() - LATE_S
    deployment.runs.collected([r for r in runs if r.ended_at is not None and r.ended_at < final])


def is_collected(run: RunRow) -> bool:
    """Whether a run that has ended has no orphans, and none can appear any more."""
    return run.collected_at is not None or not may_have_left(run)


def may_have_come_late(run: RunRow) -> bool:
    """Whether requests of a protection that succeeded may have taken effect after its end: those of
    a process that died while it executed the run.

    A single process that executed it from beginning to end has had all its answers.
    """
    lately = run.ended_at is not None and run.ended_at > time.time() - LATE_S
    return run.kind == "protect" and run.state == "succeeded" and run.claim > 1 and lately


def may_have_left(run: RunRow) -> bool:
    """Whether a run that has ended may have orphans.

    What a failed recovery has made is none: the run can be resumed.
    """
    if run.kind == "protect":
        return (run.state != "succeeded" or may_have_come_late(run)) and "vnf" in (
            run.request or {}
        )
    return run.kind == "failover" and run.state != "failed" and "plan" in (run.request or {})


def site_of(run: RunRow) -> str:
    """The site at which a run makes resources."""
    assert run.request is not None
    return str(run.request["vnf"]["primary"] if run.kind == "protect" else run.request["to"])


def remove(deployment: Deployment, runs: Sequence[RunRow]) -> list[str]:
    """Remove the orphans of runs of one VNF that have ended, at one site; what stays all the same,
    and why. It can be repeated.

    Raises:
        Busy: another run of the VNF is open, or can be resumed, and may use what these have made.
        AntipodeError: not all could be removed.
    """
    newest = max(runs, key=lambda run: run.started_at)

    def alone() -> None:
        if (other := deployment.runs.user_of_orphans(newest, RESUMABLE)) is not None:
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
    if not left:
        _note_collected(deployment, runs)
    return left


def remove_of_protections(
    site: Site, vault: Vault, runs: Sequence[RunRow], timeline: Timeline
) -> None:
    """Remove the orphans of protections of one VNF at its active site and in the vault, but nothing
    that a recovery point needs.

    Raises:
        VaultCorrupt: it is unknown what a recovery point needs; no backup was removed.
        AntipodeError: not all could be removed.
    """
    for run in runs:
        if run.ending is not None:
            # its recovery point was withdrawn: a manifest that is there all the same does not count
            points.withdraw(vault, run.vnf, point_of(run.id), on_its_way=False)
    for run in (r for r in runs if r.state == "succeeded"):
        remains.remove_left_by(
            site,
            {run.id},
            points.read(vault, run.vnf, point_of(run.id)).backups.keys,
            timeline,
        )
    if over := {run.id for run in runs if run.state != "succeeded"}:
        remains.remove_left_by(
            site,
            over,
            lambda: points.named_backups(vault, runs[0].vnf, [point_of(run) for run in over]),
            timeline,
        )
