# SPDX-License-Identifier: Apache-2.0
"""The kind of run that brings the standing volumes of a VNF at a backup site to a recovery point.
The active site is not called.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from pydantic import ValidationError

from antipode.engine.deployment import Deployment
from antipode.engine.kind import Persona, Priority, RunKind
from antipode.engine.run import Run, new_run, state_of
from antipode.errors import AntipodeError, Busy, InvalidInput, ResourceFailed
from antipode.model.base import Model
from antipode.model.point import RecoveryPoint
from antipode.model.source import VolumeSource, backup_chain, deltas_of
from antipode.model.topology import Volume
from antipode.model.vnf import ANY, Protection, Vnf
from antipode.recover.sources import zeros
from antipode.recover.standing import Hands, StandingSteps, Want, bring
from antipode.runs import find_kind
from antipode.runs.standing_status import (
    APPLY,
    active_site,
    applies_at,
    doubt,
    newest_point,
    removed_since,
    wanted,
)
from antipode.store.tables import RunRow
from antipode.vault import points
from antipode.vault.sealing import Trust

if TYPE_CHECKING:
    from antipode.cloud.site import Site

LOG = logging.getLogger(__name__)
AGAIN_S = 600.0
"""After a run that did not succeed, the next one for the same point begins so much later."""


class StandingRequest(Model):
    """Standing volumes that are to be brought to a recovery point."""

    site: str
    recovery_point: str

    @classmethod
    def of(cls, row: RunRow) -> StandingRequest:
        """The request of a run.

        Raises:
            InvalidInput: this antipode cannot read it.
        """
        try:
            return cls.model_validate(row.request or {})
        except ValidationError as error:
            raise InvalidInput(
                f"the request of {row.id} for {row.vnf} cannot be read: another version of antipode"
                " made it; use that version"
            ) from error


def requested(deployment: Deployment, vnf: str, site: str, point: str) -> RunRow:
    """A run that is not kept yet.

    Raises:
        NotFound: there is no such site.
        InvalidInput: this host has no way to its storage.
        Busy: a recovery of the VNF has not ended.
    """
    if deployment.config.site(site).mover is None:
        raise InvalidInput(
            f"this host attaches no volumes at {site}: give the site `mover` in antipode.yaml"
        )
    no_recovery_in_the_way(deployment, vnf)
    request = StandingRequest(site=site, recovery_point=point)
    return new_run(KIND, vnf, request.model_dump(mode="json"))


def no_recovery_in_the_way(deployment: Deployment, vnf: str) -> None:
    """See that no recovery is open, which may take the standing volumes.

    Raises:
        Busy: one is.
    """
    for row in deployment.runs.open(vnf):
        other = find_kind(row.kind)
        if other is not None and not KIND.may_begin_beside(other):
            raise Busy(
                f"{row.id} of {vnf} is {state_of(row, deployment)}, and may take the standing"
                " volumes. Apply the point when it has ended"
            )


class StandingApply(RunKind):
    name = APPLY
    flow_version = 1
    priority = Priority.PROTECTION
    persona = Persona.MEMBER
    rolls_back_failures = True
    works_at_active_site = False
    creates = ""
    volume_step = (StandingSteps.WRITE, "written")

    @property
    def command(self) -> str:
        return "standing apply"

    @property
    def gives_way(self) -> bool:
        return True

    def site_of(self, row: RunRow) -> str:
        return StandingRequest.of(row).site

    def execute(self, run: Run) -> None:
        _apply(run)

    def roll_back(self, run: Run) -> list[str]:
        """Nothing is undone: a volume that is half written does not count, and is finished by the
        next run or by a failover.
        """
        return []

    def point_of_no_return(self, run: Run) -> str | None:
        return None


KIND = StandingApply()


def why_not(volume: Volume, source: VolumeSource) -> str | None:
    """Why no volume can stand for one; None where one can."""
    chain = backup_chain(source)
    if not (chain or deltas_of(source)):
        return f"its source is of kind {source.kind}"
    if others := [r.service for r in chain if not zeros.is_chunked(r)]:
        return f"backups of {others[0]} are not read by the mover"
    if any(r.stored is None for r in chain):
        return "its backups carry no fingerprint, as no backup store was configured"
    if volume.encrypted:
        return "it is encrypted"
    return "several servers may have it" if volume.multiattach else None


def wants_of(point: RecoveryPoint, site: Site) -> Iterator[Want]:
    """The volumes of a point that can stand at a site, and what each is to hold."""
    names, zones = point.vnf.map_between(point.site, site.name), None
    for volume in point.captured_disks:
        source = point.sources[volume.id]
        if why_not(volume, source) is not None:
            continue
        zone = names.volume_zone(volume.availability_zone) if volume.availability_zone else ""
        if zone and zone != ANY:
            zones = site.volumes.availability_zones() if zones is None else zones
        yield Want(
            source=volume.id,
            label=volume.name or volume.id,
            chain=backup_chain(source),
            deltas=deltas_of(source),
            size_gib=max(volume.size_gib, source.size_gib),
            volume_type=names.volume_types.get(volume.volume_type, volume.volume_type),
            availability_zone=zone if zones is not None and zone in zones else None,
        )


def _apply(run: Run) -> None:
    request, began = StandingRequest.of(run.row), time.monotonic()
    deployment = run.deployment
    no_recovery_in_the_way(deployment, run.vnf)
    opened = points.find(deployment.vault, run.vnf, request.recovery_point, Trust.SIGNED)
    opened.must_be_open()
    local = deployment.vnfs.find(run.vnf)
    point = opened.point if local is None else opened.point.defined_by(local)
    if request.site == point.site:
        raise InvalidInput(f"{point.id} was taken at {request.site}: no volumes stand there")
    site = run.site(request.site)
    store = deployment.store_of(point.site, point.vnf.store)
    if store is None:
        raise InvalidInput(f"no backup store is configured for {point.site}")
    hands = Hands(
        site=site,
        vnf=run.vnf,
        mover=deployment.mover(site, point.site, point.vnf.store, run.party),
        timeline=run.timeline,
        go_on=run.go_on,
        afterwards=deployment.site(request.site, run.row),
    )
    wants = list(wants_of(point, site))
    of_none = {
        v.name or v.id: why
        for v in point.captured_disks
        if (why := why_not(v, point.sources[v.id])) is not None
    }
    run.result.update(
        vnf=run.vnf, site=site.name, recovery_point=point.id, consistent_at=point.consistent_at
    )
    run.touches_clouds()
    done = bring(hands, wants, store.under(run.go_on))
    outcomes = done.outcomes.values()
    run.result.update(
        volumes=len(wants),
        not_standing=of_none,
        fetched_bytes=sum(o.fetched for o in outcomes),
        written_bytes=sum(o.written + o.zeroed for o in outcomes),
        foreign_blocks=sum(o.foreign for o in outcomes),
        size_gib=done.size_gib,
        data_bytes=done.data_bytes,
        left=done.left,
        apply_s=round(time.monotonic() - began, 3),
    )
    if done.problems:
        raise ResourceFailed(
            f"standing volumes of {run.vnf} at {site.name} are not at {point.id}:"
            f" {'; '.join(done.problems)}"
        )


def submit_due(
    deployment: Deployment,
    vnfs: Sequence[Vnf],
    enqueue: Callable[[RunRow], None],
    now: Callable[[], float] = time.time,
) -> None:
    """Have the newest recovery point of each VNF applied to its standing volumes, at each backup
    site to whose storage this host has a way.

    What keeps a run from being queued is logged; the others are queued all the same.

    Args:
        now: seconds since the epoch.
    """
    for vnf in vnfs:
        protection = wanted(vnf)
        if protection is None:
            continue
        for site, point in due(deployment, vnf, protection, now()):
            try:
                enqueue(requested(deployment, vnf.vnf, site, point))
            except Busy as error:
                LOG.debug("standing volumes of %s at %s wait: %s", vnf.vnf, site, error)
            except AntipodeError as error:
                LOG.warning("standing volumes of %s at %s: %s", vnf.vnf, site, error)


def due(
    deployment: Deployment, vnf: Vnf, protection: Protection, now: float
) -> Iterator[tuple[str, str]]:
    """The sites where standing volumes are behind, each with the recovery point that they are to
    hold.
    """
    made = newest_point(deployment, vnf, protection)
    if made is None:
        return
    point = str(made.result["recovery_point"])
    for site in vnf.sites:
        if site == active_site(deployment, vnf) or deployment.config.site(site).mover is None:
            continue
        if removed_since(deployment, vnf.vnf, site, made.ended_at or made.started_at) is not None:
            continue  # the next point is applied
        same = applies_at(deployment, vnf.vnf, site)
        if any(r.ended_at is None for r in same):
            continue
        tried = [r for r in same if (r.request or {}).get("recovery_point") == point]
        if good := [r for r in tried if r.state == "succeeded"]:
            doubtful = doubt(deployment, vnf.vnf, site, good[0])
            # a failover that has failed may be resumed, and needs what it has taken
            if doubtful is None or (doubtful.state == "failed" and doubtful.kind != KIND.name):
                continue
            tried = [doubtful, *tried]
        ended = max((r.ended_at for r in tried if r.ended_at is not None), default=None)
        if ended is None or not now - AGAIN_S < ended <= now:
            yield site, point
