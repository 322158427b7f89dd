# SPDX-License-Identifier: Apache-2.0
"""The kind of run that proves the content of a recovery point: each volume is brought back into a
throw-away one at a backup site, compared block by block, and removed. The active site is not
called.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from taskflow import task
from taskflow.patterns import linear_flow

from antipode import logs
from antipode.engine.deployment import Deployment
from antipode.engine.flow_runner import guarded, run_flow
from antipode.engine.kind import Persona, Priority, RunKind
from antipode.engine.run import Run, new_run, state_of
from antipode.errors import (
    AntipodeError,
    Busy,
    InvalidInput,
    NotFound,
    PreflightFailed,
    RecoveryPointInvalid,
)
from antipode.model.base import Model
from antipode.model.plan import RecoveryPlan, VolumePlan
from antipode.model.point import RecoveryPoint
from antipode.model.quota import quota_needs
from antipode.model.steps import StepName, Timeline
from antipode.model.topology import Volume
from antipode.model.vnf import Vnf
from antipode.recover import rollback
from antipode.recover.existing import Found
from antipode.recover.recovery import Recovery
from antipode.recover.sources import PROVIDERS
from antipode.runs import find_kind, orphans
from antipode.store.tables import RunRow
from antipode.vault import points
from antipode.vault.verify import Finding

if TYPE_CHECKING:
    from antipode.cloud.objects import Objects
    from antipode.cloud.site import Site

LOG = logging.getLogger(__name__)
Json = dict[str, Any]
AGAIN_S = 6 * 3600.0
"""After a periodic proof that did not succeed, the next one begins so many seconds after it."""


class VerifySteps(StepName):
    CHECK = "", "check before anything is restored"
    VERIFY_VOLUME = "", "verify volume"


class VerifyRequest(Model):
    """A proof of content as it was asked for."""

    recovery_point: str
    site: str
    """where the throw-away volumes are made"""

    @classmethod
    def of(cls, row: RunRow) -> VerifyRequest:
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


def requested(deployment: Deployment, point: RecoveryPoint, site: str | None) -> RunRow:
    """A proof of a recovery point's content that is not kept yet.

    Args:
        site: where; by default the first site of the VNF at which the point was not taken.

    Raises:
        NotFound: there is no such site.
        InvalidInput: the site is none of the VNF's, or no backup store is configured, or the point
            has sources whose content cannot be proven.
        Busy: a recovery of the VNF has not ended.
    """
    point = _as_defined_here(deployment, point)
    vnf = point.vnf
    elsewhere = [s for s in vnf.sites if s != point.site]
    chosen = site or (elsewhere[0] if elsewhere else point.site)
    deployment.config.site(chosen)
    if chosen not in vnf.sites:
        raise InvalidInput(f"{chosen} is no site of {vnf.vnf}: {', '.join(vnf.sites)}")
    if deployment.config.store_name(point.site, vnf.store) is None:
        raise InvalidInput(
            f"no backup store is configured for {point.site}, and the digests of the backups of"
            f" {vnf.vnf} are read from it: add it to `stores` in antipode.yaml"
        )
    for volume in point.captured_disks:
        source = point.sources[volume.id]
        if why := PROVIDERS.get(source.kind).unprovable(source):
            raise InvalidInput(f"volume {volume.name or volume.id} cannot be verified deep: {why}")
    no_recovery_in_the_way(deployment, vnf.vnf)
    request = VerifyRequest(recovery_point=point.id, site=chosen)
    return new_run(KIND, vnf.vnf, request.model_dump(mode="json"))


def _as_defined_here(deployment: Deployment, point: RecoveryPoint) -> RecoveryPoint:
    """A point with the definition of this host, if it has one, as a failover takes it: its map may
    have been mended.
    """
    local = deployment.vnfs.find(point.vnf.vnf)
    return point if local is None else point.model_copy(update={"vnf": local})


def no_recovery_in_the_way(deployment: Deployment, vnf: str) -> None:
    """See that no run is open beside which a recovery point must not be restored.

    Raises:
        Busy: one is.
    """
    for row in deployment.runs.open(vnf):
        other = find_kind(row.kind)
        if other is not None and not KIND.may_begin_beside(other):
            raise Busy(
                f"{row.id} of {vnf} is {state_of(row, deployment)}, and needs the backups itself."
                f" Verify when it has ended"
            )


class Verify(RunKind):
    name = "verify"
    flow_version = 1
    priority = Priority.UPKEEP
    persona = Persona.MEMBER
    rolls_back_failures = True
    works_at_active_site = False
    creates = "throw-away volumes and backups"
    is_clean_when_done = True
    volume_step = (VerifySteps.VERIFY_VOLUME, "verified")

    @property
    def command(self) -> str:
        return "recovery-point verify --deep"

    @property
    def gives_way(self) -> bool:
        return True  # Cinder restores a backup into one volume at a time

    def site_of(self, row: RunRow) -> str:
        return VerifyRequest.of(row).site

    def execute(self, run: Run) -> None:
        _verify(run)

    def roll_back(self, run: Run) -> list[str]:
        site = run.site(self.site_of(run.row))
        return rollback.remove_throw_away(site, run.id, run.timeline, run.go_on)

    def point_of_no_return(self, run: Run) -> str | None:
        return None

    def may_have_orphans(self, row: RunRow) -> bool:
        return row.state != "succeeded" or orphans.may_have_come_late(row)

    def remove_orphans(
        self,
        deployment: Deployment,
        rows: Sequence[RunRow],
        timeline: Timeline,
        alone: Callable[[], None],
    ) -> list[str]:
        site = deployment.site(self.site_of(rows[0]), rows[0]).under(alone)
        return [
            what
            for row in rows
            for what in rollback.remove_throw_away(site, row.id, timeline, alone)
        ]


KIND = Verify()


def is_verification(row: RunRow) -> bool:
    """Whether a run is a deep verification."""
    return row.kind == KIND.name


def submit_due(
    deployment: Deployment,
    vnfs: Sequence[Vnf],
    enqueue: Callable[[RunRow], None],
    now: Callable[[], float] = time.time,
) -> None:
    """Have the content of the newest recovery point proven for each VNF whose `verify_every` is
    over.

    After a run that did not succeed it is tried again in `AGAIN_S`. What keeps one from being
    queued is logged; the others are queued all the same.

    Args:
        now: seconds since the epoch.
    """
    for vnf in vnfs:
        try:
            if vnf.verify_every is None or not _is_due(deployment, vnf, vnf.verify_every, now()):
                continue
            enqueue(requested(deployment, points.read(deployment.vault, vnf.vnf), None))
        except (Busy, NotFound) as error:
            LOG.debug("%s is not verified now: %s", vnf.vnf, error)
        except AntipodeError as error:
            LOG.warning("%s is due to be verified, and cannot be: %s", vnf.vnf, error)
        except Exception:
            LOG.exception("whether %s is due to be verified is unknown", vnf.vnf)


def _is_due(deployment: Deployment, vnf: Vnf, every_s: float, now: float) -> bool:
    found = deployment.runs.of_kind(KIND.name, vnf.vnf)
    if any(row.ended_at is None for row in found):
        return False
    # one of the future was begun while the clock was wrong, and says nothing
    newest = next((row for row in found if row.started_at <= now), None)
    if newest is None:
        return True
    pause_s = every_s if newest.state == "succeeded" else min(every_s, AGAIN_S)
    return now >= newest.started_at + pause_s


@dataclass(frozen=True)
class Job:
    """All that the tasks of one proof work with."""

    run: Run
    point: RecoveryPoint
    site: Site
    store: Objects
    recovery: Recovery


def throw_away(point: RecoveryPoint, volume: Volume, site: Site) -> VolumePlan:
    """A volume as a recovery at a site would bring it back, without all that is no content.

    It has the size of the capture: the digests are of that.
    """
    source, names = point.sources[volume.id], point.vnf.map_between(point.site, site.name)
    return VolumePlan(
        source_id=volume.id,
        source_kind=source.kind,
        source_reference=source.reference,
        name=volume.name,
        description=f"throw-away volume: {volume.name or volume.id} is verified",
        size_gib=source.size_gib or volume.size_gib,
        volume_type=names.volume_types.get(volume.volume_type, volume.volume_type),
        availability_zone=None,
        metadata={},
        image_metadata={},
        is_root=False,
        delete_on_termination=False,
        tag=None,
        way=PROVIDERS.get(source.kind).way(source, site),
    )


def _verify(run: Run) -> None:
    request, began = VerifyRequest.of(run.row), time.monotonic()
    no_recovery_in_the_way(run.deployment, run.vnf)
    point = _as_defined_here(
        run.deployment, points.read(run.deployment.vault, run.vnf, request.recovery_point)
    )
    site = run.site(request.site)
    store = run.deployment.store_of(point.site, point.vnf.store)
    if store is None:
        raise InvalidInput(f"no backup store is configured for {point.site} any more")
    pool = ThreadPoolExecutor(1, "volume", initializer=logs.adopt, initargs=(run.id,))
    recovery = Recovery(
        run=run.id,
        point=point,
        plan=RecoveryPlan(recovery_point=point.id, vnf=run.vnf, site=site.name, servers=[]),
        site=site,
        found=Found(site),
        slots=run.deployment.limits.restores(site.name, run.party),
        pool=pool,
        timeline=run.timeline,
        stalls_after_s=run.deployment.config.limits.restore_stalls_after.seconds,
        imports_within_s=run.deployment.config.limits.imports_within,
        boots_within_s=run.deployment.config.limits.boots_within,
        go_on=run.go_on,
        keys=run.id,
    )
    run.result.update(vnf=run.vnf, recovery_point=point.id, site=site.name, volumes=[])
    run.touches_clouds()
    job = Job(run, point, site, store.under(run.go_on), recovery)
    try:
        results = run_flow(verify_flow(job), run)
    finally:
        pool.shutdown(wait=False)
    findings = [Finding.model_validate(results[f"finding of {v.id}"]) for v in point.captured_disks]
    run.result["volumes"] = [f.model_dump(mode="json") for f in findings]
    run.result["bytes_compared"] = sum(f.bytes for f in findings)
    run.result["verify_s"] = round(time.monotonic() - began, 3)
    if wrong := [f for f in findings if not f.ok]:
        raise RecoveryPointInvalid(
            f"recovery point {point.id} of {run.vnf} does not bring back what was captured, at"
            f" {site.name}: " + "; ".join(f"volume {f.volume}: {f.detail}" for f in wrong)
        )


def verify_flow(job: Job) -> Any:
    """The recipe: one volume after another, so that one volume and one backup of quota suffice."""
    planned = [throw_away(job.point, v, job.site) for v in job.point.captured_disks]
    flow = linear_flow.Flow(f"verify {job.point.vnf.vnf}").add(Check(job, planned))
    for volume in planned:
        flow.add(VerifyVolume(job, volume), Remove(job, volume))
    return flow


class Check(task.Task):  # type: ignore[misc]
    """Finds all that would fail later, before anything is restored."""

    def __init__(self, job: Job, planned: Sequence[VolumePlan]) -> None:
        super().__init__(name=type(self).__name__)
        self.run, self._job, self._planned = job.run, job, planned

    @guarded
    def execute(self) -> None:
        job = self._job
        with self.run.timeline.step(VerifySteps.CHECK, job.site.name) as step:
            sizes = {v.label: v.size_gib << 30 for v in self._planned}
            step.result(bytes_of_volumes=sizes)
            if problems := self._problems():
                raise PreflightFailed(
                    f"verification of {job.point.id} at {job.site.name}", problems
                )

    def _problems(self) -> list[str]:
        point, site = self._job.point, self._job.site
        problems: list[str] = []
        providers = {v.source_kind: PROVIDERS.get(v.source_kind) for v in self._planned}
        making = {k for k, p in providers.items() if p.makes_volumes and not p.proves_in_store}
        restored = [v for v in self._planned if v.source_kind in making]
        largest = max((v.size_gib for v in restored), default=0)
        # and a backup of the throw-away volume
        needed = Counter[str]()
        if restored:
            needed += Counter(volumes=1, gigabytes=largest, backups=1, backup_gigabytes=largest)
        for kind in sorted({v.source_kind for v in self._planned}):
            problems += PROVIDERS.get(kind).check(point, site)
            needed += PROVIDERS.get(kind).quotas(point, site)
        types = {t["name"] for t in site.volumes.types()}
        problems += [
            f"there is no volume type {v.volume_type}, needed for volume {v.label}; create it, or"
            " map the name in the VNF's file"
            for v in self._planned
            if v.volume_type and v.volume_type not in types
        ]
        quotas = quota_needs(needed, site.volumes.quota(site.project_id))
        return problems + [str(need) for need in quotas if need.is_short]


class VerifyVolume(task.Task):  # type: ignore[misc]
    """Proves one volume."""

    def __init__(self, job: Job, volume: VolumePlan) -> None:
        super().__init__(
            name=f"{type(self).__name__} {volume.source_id}",
            provides=f"finding of {volume.source_id}",
        )
        self.run, self._job, self._volume = job.run, job, volume

    @guarded
    def execute(self) -> Json:
        job, volume = self._job, self._volume
        provider, source = PROVIDERS.get(volume.source_kind), job.point.sources[volume.source_id]
        with self.run.timeline.step(VerifySteps.VERIFY_VOLUME, volume.label) as step:
            finding = provider.prove(job.recovery, volume, source, job.store)
            step.result(**finding.model_dump(mode="json"))
        return finding.model_dump(mode="json")


class Remove(task.Task):  # type: ignore[misc]
    """Removes what was made for the proof of a volume, and by late requests for those before it.

    A task of its own: a proof whose result is kept is not done again.
    """

    def __init__(self, job: Job, volume: VolumePlan) -> None:
        super().__init__(name=f"{type(self).__name__} {volume.source_id}")
        self.run, self._job = job.run, job

    @guarded
    def execute(self) -> None:
        left = rollback.remove_throw_away(
            self._job.site, self.run.id, self.run.timeline, self.run.go_on
        )
        if left:
            self.run.result["left"] = left
