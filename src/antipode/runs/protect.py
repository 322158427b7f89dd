# SPDX-License-Identifier: Apache-2.0
"""The kind of run that makes a recovery point: discover, check, capture, transfer, commit."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import Field, ValidationError
from taskflow import task
from taskflow.patterns import linear_flow

from antipode import __version__
from antipode.engine import activity
from antipode.engine.deployment import Deployment
from antipode.engine.flow_runner import guarded, run_flow
from antipode.engine.kind import Persona, Priority, RunKind
from antipode.engine.run import Run, new_run, state_of
from antipode.errors import (
    AntipodeError,
    Busy,
    ClaimLost,
    InvalidInput,
    NotFound,
    PreflightFailed,
    ResourceFailed,
    SiteUnreachable,
    Stopped,
    VaultCorrupt,
    VaultError,
)
from antipode.freezes.reaper import thaw_left_by
from antipode.model.base import Model
from antipode.model.capture import Capture, Transferred, merged, new_bytes
from antipode.model.point import RecoveryPoint
from antipode.model.quota import QuotaNeed
from antipode.model.retention import ALL, Dated
from antipode.model.room import AHEAD
from antipode.model.source import deltas_of
from antipode.model.state import ProtectedVnf
from antipode.model.steps import Steps, Timeline
from antipode.model.topology import Topology
from antipode.model.vnf import Protection, Vnf, from_first_edition, recovery_words
from antipode.protect import application_data, base_images, checks, labels, offsite
from antipode.protect.option import (
    OPTIONS,
    Option,
    Protecting,
    avoided_hours,
    may_capture_as_they_run,
    settings_of,
)
from antipode.protect.partial import Choice, Part, choose
from antipode.runs import expire, find_kind, history, orphans
from antipode.store.tables import RunRow
from antipode.topology import discovery
from antipode.topology.losses import losses
from antipode.topology.members import select_members
from antipode.topology.unchanged import must_be_as_discovered
from antipode.transfer import TRANSFERS, Transfer, expiry
from antipode.vault import PROBE, Vault, generations, points, reserve, sealing, sync
from antipode.vault.ensemble import Vaults
from antipode.vault.sealing import SealedPoint, Trust

if TYPE_CHECKING:
    from antipode.cloud.objects import Objects
    from antipode.cloud.site import Site

LOG = logging.getLogger(__name__)
Json = dict[str, Any]
CAUGHT_UP = 200
"""How many documents a protection writes to vaults that were away: `vault sync` writes all."""
SILENCE_S = 30.0
"""How long a service may have given no answer before removals there are left to the next run."""


class ProtectRequest(Model):
    """A protection as it was asked for."""

    vnf: Vnf
    option: str
    site: str
    """the active site"""
    generation: int = 1
    full: bool = False
    due_at: float | None = None
    """the slot of the schedule that it was begun for, in seconds since the epoch; None where
    somebody asked for it
    """
    part_of: str | None = None
    """the run that it is a part of"""
    switched_off: list[str] = Field(default_factory=list)
    """the ids of members that are off only while the VNF moves: a recovery boots them"""

    @classmethod
    def of(cls, row: RunRow) -> ProtectRequest:
        """The request of a run, one of antipode 0.1 included.

        Raises:
            InvalidInput: the run has no request that this antipode can read.
        """
        request = dict(row.request or {})
        try:
            vnf = Vnf.model_validate(from_first_edition(request["vnf"]))
            first = vnf.protections[0].option
            found = {"option": first, "site": vnf.primary, **request, "vnf": vnf}
            return cls.model_validate(found)
        except (ValidationError, KeyError, TypeError, AttributeError, ValueError) as error:
            raise InvalidInput(
                f"the request of {row.id} for {row.vnf} cannot be read: another version of antipode"
                " made it; use that version"
            ) from error


def requested(
    vnf: Vnf,
    state: ProtectedVnf,
    *,
    option: str | None = None,
    full: bool = False,
    due_at: float | None = None,
    switched_off: Sequence[str] = (),
) -> RunRow:
    """A protection that is not kept yet.

    Args:
        state: of the VNF: it is protected at its active site.
        option: which of the VNF's protections; the first by default.
        full: whether every volume is transferred whole.
        due_at: the slot of the schedule that it is begun for, in seconds since the epoch.
        switched_off: the ids of members that are off only while the VNF moves.

    Raises:
        InvalidInput: the VNF has no such protection, or its settings are wrong.
    """
    protection = vnf.protection(option)
    if protection is None:
        has = ", ".join(p.option for p in vnf.protections)
        raise InvalidInput(f"{vnf.vnf} has no protection {option}; its file names: {has}")
    settings_of(protection)
    request = ProtectRequest(
        vnf=vnf,
        option=protection.option,
        site=state.active_site,
        generation=state.generation,
        full=full,
        due_at=due_at,
        switched_off=list(switched_off),
    )
    return new_run(KIND, vnf.vnf, request.model_dump(mode="json"))


def point_of(run: str) -> str:
    """The recovery point that a protection makes.

    It has its run's name, so that it can be looked up when only the run is known.
    """
    return run.removeprefix(f"{Protect.name}-")


class Protect(RunKind):
    name = "protect"
    flow_version = 3
    priority = Priority.PROTECTION
    persona = Persona.MEMBER
    rolls_back_failures = True
    works_at_active_site = True
    creates = "snapshots and backups"
    is_clean_when_done = True
    volume_step = (Steps.BACK_UP, "backed up")
    adds_points = True

    def site_of(self, row: RunRow) -> str:
        return ProtectRequest.of(row).site

    def execute(self, run: Run) -> None:
        if run.claim.number > 1 and (made := _committed(run)) is not None:
            _finish(run, made)
            return
        _protect(run)

    def roll_back(self, run: Run) -> list[str]:
        return _roll_back(run)

    def point_of_no_return(self, run: Run) -> str | None:
        if (made := _committed(run)) is None:
            return None
        held = _held(run, made)
        if not held.is_enough:
            # Somebody may recover from a point that a process which died has committed.
            is_older = run.claim.number > 1 and run.row.ending is None
            if is_older or held.may_be_enough:
                raise VaultError(held.too_few(made, run))
            return None
        run.result.update(_record(made, run))
        return f"recovery point {made.id} is committed"

    def may_have_orphans(self, row: RunRow) -> bool:
        has_come_late = row.state == "succeeded" and orphans.may_have_come_late(row)
        return (row.state != "succeeded" or has_come_late) and "vnf" in (row.request or {})

    def remove_orphans(
        self,
        deployment: Deployment,
        rows: Sequence[RunRow],
        timeline: Timeline,
        alone: Callable[[], None],
    ) -> list[str]:
        site = deployment.site(self.site_of(rows[0]), rows[0]).under(alone)
        wanted = ProtectRequest.of(rows[0]).vnf.vaults
        vault = deployment.vaults(wanted, all_needed=True, go_on=alone)
        for row in rows:
            vault.delete(f"{PROBE}{row.id}")

        def connect(name: str) -> Site:
            return deployment.site(name, rows[0]).under(alone)

        def brought_to(some: Sequence[RunRow]) -> Iterator[Site]:
            return _brought_to(deployment, some, connect)

        def store() -> Objects | None:
            request = ProtectRequest.of(rows[0])
            return deployment.store_of(request.site, request.vnf.store)

        remove_orphans_of(site, vault, rows, timeline, brought_to, store)
        return []


KIND = Protect()


@dataclass(frozen=True)
class Job:
    """All that the tasks of one protection work with."""

    run: Run
    request: ProtectRequest
    protecting: Protecting
    option: Option
    transfer: Transfer
    vault: Vaults
    untouched: Mapping[str, str] = field(default_factory=dict)
    """members that are not captured -> how they come back"""

    @property
    def part(self) -> Part:
        """The members that are captured, and the others; options know only the former."""
        return Part(self.request.vnf, self.untouched, self.request.switched_off)

    @property
    def point(self) -> str:
        """The id that the recovery point is going to have."""
        return point_of(self.run.id)

    def earlier(self, disks: Collection[str]) -> Mapping[str, RecoveryPoint]:
        """The recovery points on which the new one may rest; see `Earlier`."""
        vault = expire.remembering(self.run.deployment, self.vault)
        return points.newest_stored(vault, self.run.vnf, disks)

    @classmethod
    def of(cls, run: Run) -> Job:
        """Connect to everything that a protection needs."""
        deployment, request = run.deployment, ProtectRequest.of(run.row)
        protection = request.vnf.protection(request.option)
        if protection is None:
            raise InvalidInput(f"{run.id} has no protection {request.option} in its VNF file")
        option = OPTIONS.get(protection.option)
        protecting = Protecting(
            run=run.id,
            vnf=request.vnf,
            settings=settings_of(protection),
            site=run.site(request.site),
            ledger=deployment.freezes.of(run.id, run.project),
            timeline=run.timeline,
            store=deployment.store_of(request.site, request.vnf.store),
            slots=deployment.limits.backups(request.site, run.party),
            at_once=deployment.config.limits.backups,
            stalls_after_s=deployment.config.limits.backup_stalls_after.seconds,
            accepts=protection.consistency,
            quiesces=not _captures_as_they_run(request, protection),
            full=request.full,
            full_every=protection.chain_ends,
            streams=option.streams(settings_of(protection)),
            streamed=partial(_streamed, run, request.vnf.vaults),
            go_on=run.go_on,
            elsewhere=lambda: answering_sites(request.vnf, request.site, run.site),
            storages_at=deployment.storages_at,
        )
        transfer = TRANSFERS.get(option.transfer)
        vault = _vaults(run, request.vnf.vaults)
        return cls(run, request, protecting, option, transfer, vault)

    def of_members(self, selected: Mapping[str, Sequence[str]]) -> Job:
        """The same work with the servers that selectors have found."""
        vnf = self.request.vnf.with_selected(selected)
        return replace(
            self,
            request=self.request.model_copy(update={"vnf": vnf}),
            protecting=replace(self.protecting, vnf=vnf),
        )

    def of_choice(self, chosen: Choice) -> Job:
        """The same work with the members that are captured, and those that are left untouched."""
        vnf = self.request.vnf.without(chosen.absent)
        return replace(
            self,
            request=self.request.model_copy(update={"vnf": vnf}),
            untouched=chosen.untouched,
            protecting=replace(self.protecting, vnf=Part(vnf, chosen.untouched).captured),
        )

    @property
    def every_vault(self) -> Vaults:
        """The vaults where backups are to be removed: one that is silent may have a point that
        names them.
        """
        run, wanted = self.run, self.request.vnf.vaults
        return run.deployment.vaults(wanted, all_needed=True, go_on=run.go_on)

    def must_be_active(self) -> ProtectedVnf:
        """The state of the VNF, which is still active where it is protected, by so many of its
        vaults that the others cannot have let it fail over.

        Raises:
            Busy: it is active elsewhere, or failing over.
            VaultError, SiteUnreachable: too few vaults answer.
        """
        state = activity.read(self.run.deployment, self.request.vnf, self.vault)
        activity.must_be_active_at(state, self.request.site)
        if state.generation != self.request.generation:
            raise Busy(f"{state}: it has changed its site and come back since {self.run.id} began")
        heard = [vault.place for vault in self.vault.copies()]
        if not self.vault.decides(heard, state.active_site):
            raise VaultError(
                f"VNF {self.run.vnf} may have been failed over: the vaults that are silent could "
                f"have decided it. These answer: {', '.join(heard)}"
            )
        return state


def _captures_as_they_run(request: ProtectRequest, protection: Protection) -> bool:
    """Whether a run of a schedule is in hours to avoid, and need not wait until they are over."""
    return (
        request.due_at is not None
        and may_capture_as_they_run(protection)
        and avoided_hours(protection, time.time()) is not None
    )


def _elsewhere(request: ProtectRequest) -> list[str]:
    """The sites of the VNF beside the one where it is protected."""
    return [name for name in request.vnf.sites if name != request.site]


def answering_sites(vnf: Vnf, active: str, connect: Callable[[str], Site]) -> list[Site]:
    """The sites of a VNF that answer, beside the one where it is protected, for bytes to be brought
    there.

    Raises:
        SiteUnreachable: none answers.
    """
    found: list[Site] = []
    silent: list[SiteUnreachable] = []
    for name in (name for name in vnf.sites if name != active):
        try:
            found.append(connect(name))
        except SiteUnreachable as error:
            silent.append(error)
    if silent and not found:
        raise silent[0]
    for why in silent:
        LOG.warning("%s cannot be recovered there from the point that is made: %s", vnf.vnf, why)
    return found


def _brought_to(
    deployment: Deployment, rows: Iterable[RunRow], connect: Callable[[str], Site]
) -> Iterator[Site]:
    """The other sites to which protections may have brought bytes by themselves; none are connected
    to for those that did not begin to. A site that cannot be connected to keeps no other back.

    Raises:
        ResourceFailed: at the end: one of them is not configured any more, or does not answer.
    """
    began = (
        row
        for row in rows
        if any(s.name == Steps.CONNECT_ELSEWHERE.words for s in deployment.runs.steps(row.id))
    )
    missing: dict[str, str] = {}
    for name in {name: None for row in began for name in _elsewhere(ProtectRequest.of(row))}:
        try:
            site = connect(name)
        except (NotFound, SiteUnreachable) as error:
            missing[name] = str(error)
        else:
            yield site
    if missing:
        raise ResourceFailed(
            f"what was brought to {', '.join(missing)} stays for now: {'; '.join(missing.values())}"
        )


def _vaults(run: Run, wanted: Sequence[str]) -> Vaults:
    """The vaults of a VNF, of which as many must answer as need a recovery point of it."""
    needed = run.deployment.config.vaults_needed
    return run.deployment.vaults(
        wanted, all_needed=needed is None, needed=needed or 1, go_on=run.go_on
    )


def _streamed(
    run: Run, wanted: Sequence[str], volumes: Collection[str]
) -> Mapping[str, RecoveryPoint]:
    """Of volumes, the newest recovery point that has a change stream of each."""
    vault = expire.remembering(run.deployment, _vaults(run, wanted))
    return points.newest_stored(vault, run.vnf, volumes, lambda source: bool(deltas_of(source)))


def _protect(run: Run) -> None:
    request = ProtectRequest.of(run.row)
    no_run_in_the_way(run.deployment, run.vnf, request.part_of)
    with run.timeline.step(Steps.CONNECT, request.site):
        site = run.site(request.site)
    # Before anything else that could hang, and before the deadline: a member that is frozen cannot
    # be quiesced again.
    for dead in {run.id, *dead_runs(run.deployment, run.vnf)}:
        thaw_left_by(run.deployment.freezes, site, dead)
    with run.timeline.step(Steps.CONNECT, "vaults and backup store"):
        job = Job.of(run)
        state = job.must_be_active()
        generations.spread(job.vault, run.vnf)
        generations.teach(job.vault, state)
    if job.request.vnf.selects:
        job = job.of_members(_selected(job))
    job = job.of_choice(_choice(job))
    run.touches_clouds()
    run.result["recovery_point"] = None
    flow = protect_flow(job)
    # Nothing is kept of a try that was killed before the last capture: a topology that is hours
    # old must not be trusted.
    last_capture = [t.name for t, _ in flow.iter_nodes() if isinstance(t, CaptureBatch)][-1]
    results = run_flow(flow, run, restart_without=last_capture)
    run.result.update(_record(RecoveryPoint.model_validate(results["point"]), run))


def _selected(job: Job) -> dict[str, list[str]]:
    """The servers that the selectors of the VNF file find: those of the first try of a run, which
    may have captured them.
    """
    run, vnf = job.run, job.request.vnf
    for kept in run.timeline.kept():
        if kept.name == Steps.SELECT_MEMBERS.words and kept.state == "succeeded":
            return {name: list(ids) for name, ids in kept.result["selected"].items()}
    with run.timeline.step(Steps.SELECT_MEMBERS, run.vnf) as step:
        selected = select_members(vnf, job.protecting.site)
        step.result(selected=selected)
    run.timeline.flush()  # a process that resumes the run has the same members
    return selected


def _choice(job: Job) -> Choice:
    """Which members are captured: as the first try of a run has chosen. Where the VNF is off
    because it moves, all are.
    """
    run, vnf = job.run, job.request.vnf
    if not vnf.capture:
        return Choice()
    for kept in run.timeline.kept():
        if kept.name == Steps.CHOOSE_CAPTURED.words and kept.state == "succeeded":
            return Choice.model_validate(kept.result)
    with run.timeline.step(Steps.CHOOSE_CAPTURED, run.vnf) as step:
        chosen = choose(
            vnf,
            job.protecting.site,
            all_captured=bool(job.request.switched_off),
            root_disks=job.option.captures_root_disks,
        )
        step.result(**chosen.model_dump(mode="json"))
    run.timeline.flush()  # a process that resumes the run captures the same members
    return chosen


def no_run_in_the_way(deployment: Deployment, vnf: str, whole: str | None = None) -> None:
    """See that no run is open beside which the VNF must not be protected.

    Args:
        whole: the run that the protection is a part of, which is not in its way.

    Raises:
        Busy: one is.
    """
    none_in_the_way(deployment, vnf, deployment.runs.open(vnf), whole)


def none_in_the_way(
    deployment: Deployment, vnf: str, opened: Sequence[RunRow], whole: str | None = None
) -> None:
    """As `no_run_in_the_way`, by the open runs of the VNF as they were read."""
    for row in opened:
        other = find_kind(row.kind)
        if other is not None and row.id != whole and not KIND.may_begin_beside(other):
            raise Busy(
                f"{row.id} of {vnf} is {state_of(row, deployment)}, and the VNF is not protected"
                f" meanwhile. If its process died: antipode run resume {row.id}, or antipode run"
                f" abort {row.id}"
            )


def under_way(deployment: Deployment, vnf: str) -> str | None:
    """The protection of a VNF that is queued or has not ended, if there is one."""
    return under_way_of(deployment.runs.open(vnf))


def under_way_of(opened: Sequence[RunRow]) -> str | None:
    """As `under_way`, by the open runs of the VNF as they were read."""
    return next((row.id for row in opened if row.kind == KIND.name), None)


def dead_runs(deployment: Deployment, vnf: str) -> set[str]:
    """The protections of a VNF that ended without success, or were killed, and may have orphans."""
    return {row.id for row in _dead_protections(deployment, vnf)}


def _dead_protections(deployment: Deployment, vnf: str) -> list[RunRow]:
    """The protections of a VNF that ended without success and may have orphans, and lost ones.

    A run that is kept as running is dead only if it is known that no process has it.
    """
    found = [*deployment.runs.open(vnf), *orphans.to_collect(deployment, vnf, KIND)]
    return [
        row
        for row in found
        if row.kind == KIND.name and state_of(row, deployment) in ("failed", "aborted", "lost")
    ]


def protect_flow(job: Job) -> Any:
    """The recipe. A capture is one task, so that nothing of the engine comes between a quiesce and
    its unquiesce.
    """
    batches = job.option.batches(job.protecting.vnf, job.protecting.settings)
    return linear_flow.Flow(f"protect {job.request.vnf.vnf}").add(
        CollectOrphans(job),
        Discover(job),
        MakeRoom(job),
        Check(job),
        *(CaptureBatch(job, number, batch) for number, batch in enumerate(batches, 1)),
        TransferCaptures(job, len(batches)),
        Seal(job, len(batches)),
        Commit(job),
        Release(job),
    )


class ProtectTask(task.Task):  # type: ignore[misc]
    """A task of a protection."""

    def __init__(self, job: Job, number: int | None = None, **names: Any) -> None:
        super().__init__(name=f"{type(self).__name__}{number or ''}", **names)
        self.job = job
        self.run = job.run


class CollectOrphans(ProtectTask):
    """Removes the orphans of protections of the VNF that failed or were killed, what a try of this
    run has captured that was killed, and prunes the history.

    What cannot be removed now is left to the next run.
    """

    @guarded
    def execute(self) -> None:
        p, deployment = self.job.protecting, self.run.deployment
        try:
            if self.run.claim.number > 1:
                # All is captured again. Until then it counts for the quotas that are checked.
                self.job.option.release(p, set)
            over = [r for r in _dead_protections(deployment, p.vnf.vnf) if r.id != self.run.id]
            over += [
                row
                for row in orphans.to_collect(deployment, p.vnf.vnf, KIND)
                if orphans.may_have_come_late(row)
            ]
            here = [row for row in over if _is_of(row, p.site.name)]
            if here:
                remove_orphans_of(
                    p.site,
                    self.job.every_vault,
                    here,
                    p.timeline,
                    partial(_brought_to, deployment, connect=self.run.site),
                    lambda: p.store,
                )
            orphans.note_collected(deployment, here)
        except ClaimLost:
            raise
        except VaultCorrupt as error:
            LOG.warning(
                "orphans of dead runs of %s are kept, as a recovery point may need them: %s",
                p.vnf.vnf,
                error,
            )
        except AntipodeError as error:
            LOG.warning(
                "not all orphans of dead runs of %s at %s could be removed: %s",
                p.vnf.vnf,
                p.site.name,
                error,
            )
        history.prune(deployment)


def _is_of(row: RunRow, site: str) -> bool:
    """Whether a protection worked at a site; False for one that only another antipode can read."""
    try:
        return not row.request or ProtectRequest.of(row).site == site
    except InvalidInput as error:
        LOG.warning("orphans of %s are not looked for: %s", row.id, error)
        return False


class Discover(ProtectTask):
    default_provides = "topology"

    @guarded
    def execute(self) -> Json:
        p, vnf = self.job.protecting, self.job.request.vnf
        with p.timeline.step(Steps.DISCOVER, vnf.vnf) as step:
            topology = discovery.discover(vnf, p.site)
            if vnf.selected:
                step.result(**_changed_members(self.job, topology))
            captured = self.job.part.of(topology)
            sizes = {v.name or v.id: v.size_gib << 30 for v in captured.disks}
            step.result(
                servers=len(topology.servers),
                volumes=len(captured.volumes),
                bytes_of_volumes=sizes,
            )
        return topology.model_dump(mode="json")


def _changed_members(job: Job, topology: Topology) -> Json:
    """Which members have come and gone since the newest recovery point; said in the log, too."""
    previous = points.newest_or_none(job.vault, job.run.vnf)
    before = {} if previous is None else {s.id: s.name for s in previous.topology.servers}
    now = {s.id: s.name for s in topology.servers}
    if previous is None or previous.site != topology.site:
        return {}  # servers have other ids at another site
    added = sorted(now[i] for i in now.keys() - before.keys())
    removed = sorted(before[i] for i in before.keys() - now.keys())
    if added or removed:
        LOG.warning(
            "members of %s have changed since recovery point %s: new %s, gone %s",
            job.run.vnf,
            previous.id,
            ", ".join(added) or "none",
            ", ".join(removed) or "none",
        )
    return {"members_added": added, "members_removed": removed}


class MakeRoom(ProtectTask):
    """Removes recovery points that have expired, where their backups take the room of the new ones;
    and has chains end while there is room for new ones beside them.
    """

    default_provides = "no_room"

    @guarded
    def execute(self, topology: Json) -> str:
        job = self.job
        found = job.part.of(Topology.model_validate(topology))
        needs = job.transfer.needs(job.protecting, found)
        if not any(need.limit >= 0 for need in needs):
            return ""
        try:
            if any(need.is_short for need in needs):
                # A vault that is silent may have a point that needs what another lets go.
                work = expire.expiry_of(self.run, job.request.vnf)
                expire.make_room(work, self.run.id, job.must_be_active())
                needs = job.transfer.needs(job.protecting, found)
            return self._why_chains_end(needs, found)
        except Stopped:
            raise
        except AntipodeError as error:
            LOG.warning("no room could be made for the backups of %s: %s", self.run.vnf, error)
            return ""

    def _why_chains_end(self, needs: Sequence[QuotaNeed], topology: Topology) -> str:
        """Why all backups are full ones now: the chains that they end can go before the quota is
        exhausted, and could not any more after one more increment. Empty if that is not so.
        """
        protection = self.job.request.vnf.protection(self.job.option.name)
        if self.job.protecting.full or protection is None:
            return ""
        if protection.keeps == ALL:
            return ""  # no chain ever goes
        plenty = protection.keeps.most + (protection.chain_ends.backups or AHEAD) + 1
        scarce = [n for n in needs if n.resource in expiry.OF_BACKUPS and n.is_near(plenty)]
        if not scarce:
            return ""
        previous = self.job.earlier([v.id for v in topology.volumes])
        if not previous:
            return ""
        now = datetime.now(UTC)
        first = Dated(self.run.id, self.job.option.name, self.job.request.generation, now, now)
        since_s = max(min(point.age_s for point in previous.values()), 1.0)
        chains = {b.id for volume, point in previous.items() for b in point.chain(volume)}
        vault = expire.remembering(self.run.deployment, self.job.vault)
        looking = replace(expire.expiry_of(self.run, self.job.request.vnf), vault=vault)
        for need in scarce:
            new = {v.id: 1 if need.resource == "backups" else v.size_gib for v in topology.volumes}
            room, every = expiry.room(looking, need, new), timedelta(seconds=since_s)
            if room.lasts(first, chains, every) or not room.lasts(first, (), every):
                continue
            return (
                f"the quota {need.resource} ({need.used} of {need.limit} are used) has no room for"
                " a longer chain beside the next one"
            )
        return ""


class Check(ProtectTask):
    @guarded
    def execute(self, topology: Json) -> None:
        p, whole = self.job.protecting, Topology.model_validate(topology)
        found = self.job.part.of(whole)
        with p.timeline.step(Steps.CHECK, p.vnf.vnf) as step:
            warnings = list(self.job.option.warnings(p, found))
            for warning in warnings:
                LOG.warning("%s: %s", p.vnf.vnf, warning)
            step.result(warnings=warnings)
            problems = checks.side_by_side(
                [
                    lambda: problems_of(p, found, self.job.option, self.job.transfer),
                    lambda: self.job.part.problems(p, whole, self.job.option),
                    lambda: labels.problems(p, found, self.job.option, self.job.part),
                    self._vault_problems,
                    self._store_problems,
                ]
            )
            problems += self._places_problems()
            problems += claimed_twice(self.run.deployment, p.vnf, p.site.name)
            problems += self._hours_problems()
            if problems:
                raise PreflightFailed(f"protection of {p.vnf.vnf}", problems)

    def _vault_problems(self) -> Iterator[str]:
        vault = self.job.vault

        def can_be_written() -> None:
            vault.check(self.run.id)
            reserve.come_first(vault)

        for see in (
            can_be_written,
            lambda: points.prepare_keys(vault, self.job.request.vnf.vnf),
        ):
            try:
                see()
            except Stopped:
                raise
            except AntipodeError as error:
                yield str(error)

    def _places_problems(self) -> list[str]:
        return offsite.problems(
            self.run.deployment.config, self.job.request.vnf, self.job.request.site
        )

    def _hours_problems(self) -> list[str]:
        """A run of a schedule may have been queued until the hours to avoid have begun."""
        request = self.job.request
        protection = request.vnf.protection(request.option)
        if request.due_at is None or protection is None or not self.job.protecting.quiesces:
            return []
        hours = avoided_hours(protection, time.time())
        return [f"{hours} are hours that its schedule avoids"] if hours else []

    def _store_problems(self) -> list[str]:
        config, request = self.run.deployment.config, self.job.request
        store, name = self.job.protecting.store, config.store_name(request.site, request.vnf.store)
        if store is None or name is None:
            return []
        container = config.store(name).container
        try:
            store.listing(container, "antipode-reads-this-container")
        except NotFound:
            LOG.info("backup container %s does not exist; Cinder makes it", container)
        except AntipodeError as error:
            return [f"the backup store cannot be read: {error}"]
        return []


def claimed_twice(deployment: Deployment, vnf: Vnf, site: str) -> list[str]:
    """One sentence for each volume of no server that another VNF of the site names, too: both could
    not be recovered at one site, and the removal of one's old copy would take it from the other.
    """
    every = deployment.vnfs.all() if vnf.volumes else []
    others = [v for v in every if v.vnf != vnf.vnf and site in v.sites]
    return [
        f"volume {name} is named by the file of VNF {other.vnf}, too; remove it from one of them"
        for other in others
        for name in vnf.volumes
        if name in other.volumes
    ]


def problems_of(
    protecting: Protecting, topology: Topology, option: Option, transfer: Transfer
) -> list[str]:
    """Everything that keeps a VNF from being protected now; one sentence for each problem."""
    batches = option.batches(protecting.vnf, protecting.settings)
    captured = [member for batch in batches for member in batch]
    members = [m.server for m in protecting.vnf.members]
    problems = [
        f"member {member} is captured {captured.count(member)} times by option {option.name}"
        for member in members
        if captured.count(member) != 1
    ]
    return problems + checks.side_by_side(
        [
            lambda: checks.problems(
                protecting.vnf,
                topology,
                protecting.site,
                may_be_off=option.captures_members_that_are_off,
                may_be_encrypted=option.captures_encrypted,
                may_boot_from_image=option.captures_root_disks,
            ),
            lambda: checks.shared_volumes(topology, batches),
            lambda: checks.unattached_volumes(
                topology, protecting.site, are_captured=option.captures_unattached
            ),
            lambda: base_images.problems(protecting, topology),
            lambda: option.check(protecting, topology),
            lambda: transfer.check(protecting, topology),
            lambda: application_data.problems(protecting),
        ]
    )


class CaptureBatch(ProtectTask):
    """Captures one batch of members."""

    def __init__(self, job: Job, number: int, batch: Sequence[str]) -> None:
        super().__init__(job, number, provides=f"capture_{number}")
        self.batch = batch

    @guarded
    def execute(self, topology: Json) -> Json:
        p, found = self.job.protecting, self.job.part.of(Topology.model_validate(topology))
        of_member = dict(zip((m.server for m in p.vnf.members), found.servers, strict=True))
        servers = [of_member[member] for member in self.batch]
        batch = found.model_copy(update={"servers": servers})
        self.job.option.await_turn(p, found, self.batch)
        captured = self.job.option.capture(p, batch)
        must_be_as_discovered(p.site, batch)
        return captured.model_dump(mode="json")


class TransferCaptures(ProtectTask):
    default_provides = "transferred"

    def __init__(self, job: Job, batches: int) -> None:
        super().__init__(job, requires=["topology", "no_room", *_captures(batches)])

    @guarded
    def execute(self, topology: Json, no_room: str, **captures: Json) -> Json:
        p, whole = self.job.protecting, Topology.model_validate(topology)
        p, found = replace(p, no_room=no_room), self.job.part.of(whole)
        taken = _merged(captures)
        labels.of_point(p, taken, self.job.part)  # before anything is sent
        if taken.images:
            with p.timeline.step(Steps.CONNECT_ELSEWHERE, p.vnf.vnf) as step:
                step.result(sites=[site.name for site in p.elsewhere()])
            self.run.timeline.flush()  # a rollback knows that they may have something of this run
        rebuilt = base_images.sources(p, found)
        captured = base_images.without_rebuilt(p.vnf, found)
        made = self.job.transfer.transfer(p, captured, taken, self.job.earlier)
        sources = {**made.sources, **rebuilt, **self.job.part.sources(p, whole)}
        data = application_data.arrived(p, taken.positions)
        made = made.model_copy(update={"sources": sources, "datastores": data})
        return made.model_dump(mode="json")


class Seal(ProtectTask):
    """Makes the recovery point and its documents. Their bytes are kept, as encryption gives others
    each time: a process that resumes the run writes the same.
    """

    default_provides = ("point", "sealed")

    def __init__(self, job: Job, batches: int) -> None:
        super().__init__(job, requires=["topology", "transferred", *_captures(batches)])

    @guarded
    def execute(self, topology: Json, transferred: Json, **captures: Json) -> tuple[Json, Json]:
        job, p, taken = self.job, self.job.protecting, _merged(captures)
        there, whole = Transferred.model_validate(transferred), Topology.model_validate(topology)
        point = RecoveryPoint(
            id=job.point,
            vnf=job.request.vnf,
            run=p.run,
            option=job.option.name,
            generation=job.request.generation,
            serial=points.next_serial(job.vault, p.vnf.vnf),
            consistent_at=taken.consistent_at,
            created_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            consistency=labels.of_point(p, taken, job.part),
            quiesce_window=taken.window,
            moments=job.part.moments(taken, whole),
            topology=job.part.whole(whole).with_on(job.request.switched_off),
            sources=there.sources,
            datastores=there.datastores,
            made_by=f"antipode {__version__}",
        )
        sealed = sealing.seal(point, job.vault.keys)
        return point.model_dump(mode="json"), sealed.model_dump(mode="json")


class Commit(ProtectTask):
    @guarded
    def execute(self, sealed: Json) -> None:
        job, p = self.job, self.job.protecting
        with p.timeline.step(Steps.COMMIT, f"{p.vnf.vnf}/{job.point}"):
            self.run.timeline.flush()  # a rollback knows that the point may be on its way
            self.run.go_on()
            job.must_be_active()
            points.write(job.vault, SealedPoint.model_validate(sealed))
        self.run.cannot_be_aborted()


class Release(ProtectTask):
    """The recovery point is committed: a failure here is a warning, and no failure of the run."""

    @guarded
    def execute(self) -> None:
        _release(self.job)
        _catch_up(self.job)


def _release(job: Job) -> None:
    p = replace(job.protecting, site=job.protecting.site.impatient(SILENCE_S))
    try:

        def needed() -> set[str]:
            return points.read(job.vault, p.vnf.vnf, job.point, Trust.UNSIGNED_TOO).needed_ids()

        if job.run.claim.number == 1:
            job.option.release(p, needed)
        else:
            # A request of the process before this one may have come through late, and have made
            # resources that the recovery point does not name.
            sites = partial(_brought_to, job.run.deployment, [job.run.row], job.run.site)
            gone = _remove(p.site, {p.run}, needed, job.option, p.timeline, sites)
            if gone:
                points.forget_records(job.vault, p.vnf.vnf, gone)
    except ClaimLost:
        raise
    except AntipodeError as error:
        LOG.warning(
            "the recovery point is committed, but snapshots of run %s are left at %s: %s",
            p.run,
            p.site.name,
            error,
        )
        # they are orphans, and this has them looked for
        job.run.result["not_done"] = str(error)


def _catch_up(job: Job) -> None:
    """Write what vaults lack that were away, or are new; the next protection writes the rest."""
    try:
        done = sync.catch_up(job.vault, job.run.vnf, CAUGHT_UP)
    except Stopped:
        raise
    except AntipodeError as error:
        LOG.warning("vaults of %s that were away could not be caught up: %s", job.run.vnf, error)
        return
    for place, number in done.written.items():
        LOG.info("%s was away: %d documents of %s are written", place, number, job.run.vnf)
    for problem in done.trouble:
        LOG.warning("not in every vault of %s: %s", job.run.vnf, problem)


def _captures(batches: int) -> list[str]:
    return [f"capture_{number}" for number in range(1, batches + 1)]


def _merged(captures: dict[str, Json]) -> Capture:
    return merged([Capture.model_validate(captures[name]) for name in _captures(len(captures))])


def _finish(run: Run, made: RecoveryPoint) -> None:
    """End a run whose process died after its commit.

    A recovery from its point may be under way: nothing of it is made again, nor rolled back.

    Raises:
        VaultError: too few vaults have the point; the run can be resumed when more answer.
    """
    run.cannot_be_aborted()
    problems: list[str] = []
    _or_note(run.thaw, "servers of run %s may be frozen: %s", run, problems)
    with run.timeline.step(Steps.COMMIT, f"{run.vnf}/{made.id}") as step:
        step.result(found=True)
        # the process may have died between two vaults
        spread = partial(points.spread, _vaults(run, made.vnf.vaults), run.vnf, made.id)
        _or_note(spread, "the recovery point of run %s is not in every vault: %s", run, problems)
        if not (held := _held(run, made)).is_enough:
            raise VaultError(held.too_few(made, run))
    run.result.update(_record(made, run))
    release = lambda: _release(Job.of(run))  # noqa: E731
    _or_note(release, "snapshots of run %s are left: %s", run, problems)
    if problems:
        run.result["not_done"] = "; ".join(problems)


def _or_note(do: Callable[[], object], what: str, run: Run, problems: list[str]) -> None:
    """Do something that is no failure of a run whose recovery point is committed."""
    try:
        do()
    except Stopped:
        raise
    except AntipodeError as error:
        LOG.warning(what, run.id, error)
        problems.append(str(error))


def _roll_back(run: Run) -> list[str]:
    """Unquiesce; then remove the point if it was not committed for certain, the transferred bytes
    if there is no point, and the captures.

    What cannot be removed now is left to the next protection of the VNF, and named.
    """
    try:
        run.thaw()
        job = Job.of(run)
    except ClaimLost:
        raise
    except AntipodeError as error:
        return [_cannot_be_removed(f"the resources of {run.id} for {run.vnf}", error)]
    p = replace(job.protecting, site=job.protecting.site.impatient(SILENCE_S))
    left: list[str] = []

    def withdraw_and_remove() -> None:
        # The point is not there. A write of it that may still arrive is withdrawn before the
        # backups that it names are removed.
        started = any(s.name == Steps.COMMIT.words for s in run.timeline.kept())
        vault = job.every_vault if started else job.vault
        points.withdraw(vault, run.vnf, job.point, started)
        vault.delete(f"{PROBE}{run.id}")  # of a check that was stopped
        if gone := job.transfer.roll_back(p):
            points.forget_records(job.vault, run.vnf, gone)

    def remove_elsewhere() -> None:
        sites = _brought_to(run.deployment, [run.row], run.site)
        own = [job.point]
        named = cache(partial(points.named_resources, job.every_vault, run.vnf, own))
        job.transfer.remove_elsewhere(sites, {run.id}, named, p.timeline)

    for what, remove in (
        (f"the recovery point and backups of {run.id} at {p.site.name}", withdraw_and_remove),
        (f"copies of {run.id} at other sites", remove_elsewhere),
        (f"the snapshots of {run.id} at {p.site.name}", lambda: job.option.release(p, set)),
    ):
        try:
            remove()
        except ClaimLost:
            raise
        except Exception as error:
            # a bug too: the next removal is tried all the same
            left.append(_cannot_be_removed(what, error))
    return left


def _cannot_be_removed(what: str, error: Exception) -> str:
    LOG.error("left to the next protection, as it could not be removed (%s): %s", what, error)
    return f"{what}: {error}"


def remove_orphans_of(
    site: Site,
    vault: Vault,
    rows: Sequence[RunRow],
    timeline: Timeline,
    brought_to: Callable[[Sequence[RunRow]], Iterable[Site]],
    store: Callable[[], Objects | None] = lambda: None,
) -> None:
    """Remove what protections of one VNF left at a site, in the backup store and in the vault, and
    no recovery point that counts.

    Args:
        brought_to: connects to the other sites at which protections may have left something.
        store: connects to the backup store; None: there is none.

    Raises:
        VaultCorrupt: the needs of a recovery point are unknown; no backup was removed.
        AntipodeError: not all could be removed.
    """
    for row in rows:
        if row.ending is not None:
            # its point was withdrawn; one that is there all the same does not count
            points.withdraw(vault, row.vnf, point_of(row.id), on_its_way=False)
    of_option: dict[str, list[RunRow]] = {}
    for row in rows:
        of_option.setdefault(_option_of(row), []).append(row)
    gone: set[str] = set()
    streamed: dict[tuple[str, frozenset[str]], Callable[[], Collection[str]]] = {}
    for name, of_one in of_option.items():
        part = OPTIONS.get(name)
        for row in (r for r in of_one if r.state == "succeeded"):
            made = _what_it_made(vault, row)
            if made is not None:
                sites = partial(brought_to, [row])
                gone |= _remove(site, {row.id}, made.needed_ids, part, timeline, sites)
            else:
                part.remove_orphans(site, {row.id}, timeline)
        over = [r for r in of_one if r.state != "succeeded"]
        if over:
            own = [point_of(row.id) for row in over]
            named = partial(points.named_resources, vault, rows[0].vnf, own)
            runs = {row.id for row in over}
            places = partial(brought_to, over)
            gone |= _remove(site, runs, named, part, timeline, places)
            if runs := {row.id for row in over if _streams(row)}:
                streamed[part.transfer, frozenset(runs)] = named
    if gone:
        points.forget_records(vault, rows[0].vnf, gone)
    # last, and of runs that may have something there only: the store may be away
    for (transfer, ids), needed in streamed.items():
        if (objects := store()) is not None:
            TRANSFERS.get(transfer).remove_stored(objects, rows[0].vnf, ids, needed, timeline)


def _streams(row: RunRow) -> bool:
    """Whether a protection was to put something into the backup store by itself."""
    if not row.request:  # of antipode 0.1, which had no change streams
        return False
    request = ProtectRequest.of(row)
    protection = request.vnf.protection(request.option)
    option = OPTIONS.get(request.option)
    return protection is not None and option.streams(settings_of(protection))


def _what_it_made(vault: Vault, row: RunRow) -> RecoveryPoint | None:
    """The recovery point of a run that succeeded, which may have been withdrawn since; None where
    it is gone: whether another point rests on backups of the run is not known then, and they stay.
    """
    try:
        return points.read_though_withdrawn(vault, row.vnf, point_of(row.id), Trust.UNSIGNED_TOO)
    except NotFound as error:
        LOG.info("backups of %s are not looked for: %s", row.id, error)
        return None


def _option_of(row: RunRow) -> str:
    """The option of a protection; a run of antipode 0.1 may not say it."""
    return ProtectRequest.of(row).option if row.request else Protection().option


def _remove(
    site: Site,
    runs: Collection[str],
    needed: Callable[[], Collection[str]],
    option: Option,
    timeline: Timeline,
    elsewhere: Callable[[], Iterable[Site]],
) -> set[str]:
    """Remove the resources that these runs made and no recovery point needs; the backups that are
    gone. Resources at other sites come last, so that a site that is away does not stop the rest.
    """
    transfer, needed = TRANSFERS.get(option.transfer), cache(needed)
    # first, as Cinder deletes no snapshot that is being backed up
    gone = set(transfer.remove_orphans(site, runs, needed, timeline))
    option.remove_orphans(site, runs, timeline)
    # again: a late request may have begun one until the snapshot was gone
    gone |= set(transfer.remove_orphans(site, runs, needed, timeline))
    transfer.remove_elsewhere(elsewhere(), runs, needed, timeline)
    return gone


def _committed(run: Run) -> RecoveryPoint | None:
    """The recovery point that the run made: read by name, as a listing of Swift may lag behind.

    Raises:
        VaultError: whether there is one is unknown.
    """
    try:
        return points.read(run.deployment.vault, run.vnf, point_of(run.id), Trust.UNSIGNED_TOO)
    except NotFound:
        return None


class _Held(NamedTuple):
    """Which vaults have a recovery point, by their names."""

    needed: int
    having: list[str]
    lacking: list[str]
    silent: list[str]

    @property
    def is_enough(self) -> bool:
        return len(self.having) >= self.needed

    @property
    def may_be_enough(self) -> bool:
        """Whether those that do not answer could make it so."""
        return len(self.having) + len(self.silent) >= self.needed

    def too_few(self, made: RecoveryPoint, run: Run) -> str:
        """The vaults that lack it, and how it is mended."""
        lacking = f"; not in: {', '.join(self.lacking)}" if self.lacking else ""
        silent = f"; no answer from: {', '.join(self.silent)}" if self.silent else ""
        return (
            f"recovery point {made.id} of {run.vnf} is in {len(self.having)} of the {self.needed} "
            f"vaults that it needs{lacking}{silent}. It is kept; once they can be written: "
            f"antipode vault sync, then: antipode run resume {run.id}"
        )


def _held(run: Run, made: RecoveryPoint) -> _Held:
    """Which vaults of a VNF have a recovery point."""
    config = run.deployment.config
    names = config.vault_names(made.vnf.vaults)
    held = _Held(min(config.vaults_needed or len(names), len(names)), [], [], [])
    for name in names:
        try:
            points.read(run.deployment.vaults([name]), run.vnf, made.id, Trust.UNSIGNED_TOO)
            held.having.append(name)
        except (NotFound, VaultCorrupt):
            held.lacking.append(name)
        except (VaultError, SiteUnreachable) as error:
            LOG.warning("whether vault %s has %s is not known: %s", name, made.id, error)
            held.silent.append(name)
    return held


def _record(point: RecoveryPoint, run: Run) -> Json:
    window, budget_s = point.quiesce_window, _budget_s(run)
    if window is not None and budget_s is not None and window.total_s > budget_s:
        LOG.warning(
            "the quiesce window of %s took %.3f s, more than its budget of %g s; the recovery "
            "point is kept",
            run.vnf,
            window.total_s,
            budget_s,
        )
    total, each = new_bytes(point.sources, point.topology)
    return {
        "vnf": point.vnf.vnf,
        "recovery_point": point.id,
        "option": point.option,
        "generation": point.generation,
        "consistency": point.consistency,
        "consistent_at": point.consistent_at,
        "incremental": point.incremental,
        "volumes": len(point.sources),
        "stored_bytes": total,
        "stored_bytes_per_volume": each,
        "quiesce_window_s": round(window.total_s, 3) if window else None,
        "quiesce_budget_s": budget_s,
        "quiesce_window_per_member_s": {m: round(s, 3) for m, s in window.per_member_s.items()}
        if window
        else {},
        "time_to_point_s": round(datetime.now(UTC).timestamp() - run.started_at, 3),
        "rpo_s": round(point.age_s, 3),
        "members": [s.name for s in point.topology.servers],
        "not_captured": {s: recovery_words(how) for s, how in point.not_captured.items()},
        **_member_changes(run),
        "moments": dict(point.moments),
        "moments_apart_s": round(point.moments_apart_s, 3),
        "warnings": list(losses(point.vnf, point.topology)),
    }


def _member_changes(run: Run) -> Json:
    """The members that have come and gone, as the step of the discovery has them."""
    found = [s.result for s in run.timeline.kept() if s.name == Steps.DISCOVER.words]
    names = ("members_added", "members_removed")
    return {n: found[-1][n] for n in names if found and n in (found[-1] or {})}


def _budget_s(run: Run) -> float | None:
    """The freeze budget of a protection in seconds, if it has one."""
    request = ProtectRequest.of(run.row)
    protection = request.vnf.protection(request.option)
    if protection is None:
        return None
    return OPTIONS.get(protection.option).budget_s(settings_of(protection))
