# SPDX-License-Identifier: Apache-2.0
"""The kind of run that removes recovery points which have expired or are deleted, and the backups
that only they need.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from pydantic import ValidationError
from taskflow import task
from taskflow.patterns import linear_flow

from antipode.engine import activity
from antipode.engine.deployment import Deployment
from antipode.engine.flow_runner import guarded, run_flow
from antipode.engine.kind import Priority, RunKind
from antipode.engine.run import Run, new_run, successor
from antipode.errors import AntipodeError, Busy, InvalidInput
from antipode.model.base import Model
from antipode.model.plan_file import PREFIX
from antipode.model.retention import ALL
from antipode.model.state import ProtectedVnf
from antipode.model.steps import Steps, Unrecorded
from antipode.model.vnf import Vnf
from antipode.runs import find_kind
from antipode.store.runs import AWAITING, OPEN
from antipode.store.tables import RunRow
from antipode.transfer import expiry
from antipode.transfer.expiry import Expiry, Reading
from antipode.vault import points, reserve
from antipode.vault.ensemble import Vaults

LOG = logging.getLogger(__name__)
AGAIN_S = 3600.0
"""How long expiry waits before it retries a failed removal, unless an operator asks."""


class ExpireRequest(Model):
    """An expiry as it was asked for."""

    vnf: Vnf
    site: str
    """the active site"""
    delete: tuple[str, ...] = ()
    """recovery points that an operator wants removed; without any, those that have expired"""


def requested(vnf: Vnf, state: ProtectedVnf, delete: Sequence[str] = ()) -> RunRow:
    """An expiry that is not kept yet."""
    request = ExpireRequest(vnf=vnf, site=state.active_site, delete=tuple(delete))
    return new_run(KIND, vnf.vnf, request.model_dump(mode="json"))


class Expire(RunKind):
    name = "expire"
    flow_version = 2
    priority = Priority.UPKEEP
    rolls_back_failures = True
    works_at_active_site = True
    creates = ""
    is_clean_when_done = True

    def __init__(self, reading: Reading | None = None) -> None:
        """
        Args:
            reading: what the command has read to find out that this run is due: the run begins with
                it. One that is resumed, or that another process executes, reads all itself.
        """
        self._reading = reading

    @property
    def command(self) -> str:
        return "recovery-point expire"

    def site_of(self, row: RunRow) -> str:
        return _request(row).site

    def execute(self, run: Run) -> None:
        _expire(run, self._reading or Reading())

    def roll_back(self, run: Run) -> list[str]:
        """Nothing was made. Withdrawn points stay so: their backups may be gone already."""
        return []

    def point_of_no_return(self, run: Run) -> str | None:
        return None


KIND = Expire()


def _request(row: RunRow) -> ExpireRequest:
    try:
        return ExpireRequest.model_validate(row.request or {})
    except ValidationError as error:
        raise InvalidInput(
            f"the request of {row.id} for {row.vnf} cannot be read: another version of antipode"
            " made it; use that version"
        ) from error


@dataclass(frozen=True)
class Job:
    """All that the tasks of one expiry work with."""

    run: Run
    request: ExpireRequest
    state: ProtectedVnf
    expiry: Expiry


def _expire(run: Run, reading: Reading) -> None:
    request = _request(run.row)
    no_recovery_in_the_way(run.deployment, run.vnf)
    state = activity.read(run.deployment, request.vnf)
    activity.must_be_active_at(state, request.site)
    work = replace(expiry_of(run, request.vnf), asked=request.delete, reading=reading)
    run.touches_clouds()
    run.result.update(vnf=run.vnf, expired=[])
    job = Job(run, request, state, work)
    flow = linear_flow.Flow(f"expire {run.vnf}").add(Judge(job), Withdraw(job), Remove(job))
    # Until all are withdrawn, it is judged again: other points may be there by now.
    results = run_flow(flow, run, restart_without=Withdraw.__name__)
    run.result |= {"expired": sorted(results["withdrawn"]), **results["outcome"]}


class ExpireTask(task.Task):  # type: ignore[misc]
    """A task of an expiry."""

    def __init__(self, job: Job) -> None:
        super().__init__(name=type(self).__name__)
        self.job = job
        self.run = job.run


class Judge(ExpireTask):
    """Finds the points that go: first those that an earlier expiry has not finished with, which
    need no room in the vaults; then those that have expired or are to be deleted.
    """

    default_provides = "going"

    @guarded
    def execute(self) -> list[str]:
        work, wanted = self.job.expiry, self.job.request.delete
        hidden = expiry.withdrawn(work).certain
        with work.timeline.step(Steps.JUDGE_POINTS, work.vnf.vnf) as step:
            if wanted:
                going = [*hidden, *self._deletable(wanted)]
            else:
                found = expiry.judged(work, datetime.now(UTC))
                going = [*hidden, *found.ready]
                step.result(kept=len(found.kept), expired=len(found.expired))
        return list(dict.fromkeys(going))

    def _deletable(self, wanted: Sequence[str]) -> Sequence[str]:
        """The points that an operator wants removed, once it is known that nothing needs them.

        Raises:
            Busy: a run uses one.
            VaultError: another point cannot be read, so its needs are unknown.
        """
        work = self.job.expiry
        for point, user in work.users().items():
            if point in wanted:
                raise Busy(f"recovery point {point} of {work.vnf.vnf} is used by {user}")
        expiry.standing(work, apart_from=wanted)
        return wanted


class Withdraw(ExpireTask):
    default_provides = "withdrawn"

    @guarded
    def execute(self, going: list[str]) -> list[str]:
        return expiry.withdraw(self.job.expiry, going, f"It was withdrawn by {self.run.id}.")


class Remove(ExpireTask):
    default_provides = "outcome"

    @guarded
    def execute(self) -> dict[str, Any]:
        done = expiry.finish(self.job.expiry, self.job.state)
        reserve.keep(self.job.expiry.vault)
        return {
            "backups_removed": len(done.backups),
            "freed_gib": done.freed_gib,
            "images_removed": len(done.images),
            "snapshots_removed": len(done.states),
            "left": done.left,
        }


def no_recovery_in_the_way(deployment: Deployment, vnf: str) -> None:
    """See that no run is open beside which nothing may expire.

    Raises:
        Busy: one is.
    """
    for row in deployment.runs.open(vnf):
        other = find_kind(row.kind)
        if other is not None and not KIND.may_begin_beside(other):
            raise Busy(f"{row.id} of {vnf} is {row.state}, and nothing of it expires meanwhile")


def users(deployment: Deployment, vnf: str) -> Mapping[str, str]:
    """The recovery points that runs of a VNF, and of plans with it, use which have not ended, or
    can be resumed, and the run.
    """
    found: dict[str, str] = {}
    for row in (*deployment.runs.unfinished(vnf), *deployment.runs.unfinished_of(f"{PREFIX}%")):
        kind = find_kind(row.kind)
        if kind is None or (point := kind.points_in_use(row).get(vnf)) is None:
            continue
        resumable = row.state == "failed" and not kind.rolls_back_failures
        if row.state in (*OPEN, AWAITING) or (resumable and successor(deployment, row) is None):
            found[point] = row.id
    return found


def expiry_of(run: Run, vnf: Vnf) -> Expiry:
    """An expiry as a part of a run, with every vault.

    Args:
        vnf: as the run was asked for; the definition of this host counts now, as its retention may
            have been replaced since.
    """
    vnf = run.deployment.vnfs.find(vnf.vnf) or vnf
    return Expiry(
        vnf=vnf,
        vault=remembering(
            run.deployment, run.deployment.vaults(vnf.vaults, all_needed=True, go_on=run.go_on)
        ),
        every_vault=lambda: run.deployment.vaults(all_needed=True, go_on=run.go_on),
        site=run.site,
        store=lambda site: run.deployment.store_of(site, vnf.store),
        users=lambda: users(run.deployment, run.vnf),
        maker_of_points=lambda: _maker_of_points(run),
        timeline=run.timeline,
        go_on=run.go_on,
        longest_ago=partial(run.deployment.memory.read_longest_ago, vnf.vnf),
    )


def _maker_of_points(run: Run) -> str | None:
    """Another open run that has begun to make a point of the VNF of this one."""
    for row in run.deployment.runs.open(run.vnf):
        kind, has_begun = find_kind(row.kind), row.claim > 0
        if has_begun and row.id != run.id and kind is not None and kind.adds_points:
            return row.id
    return None


def remembering(deployment: Deployment, vaults: Vaults) -> Vaults:
    """Vaults of which documents that this host remembers are not read."""
    return vaults.viewed(deployment.memory.over)


def make_room(work: Expiry, run: str, state: ProtectedVnf) -> None:
    """Remove what has expired by now, for the backups of another run.

    Raises:
        AntipodeError: as `expiry.judged` and `expiry.finish`.
    """
    ready = expiry.judged(work, datetime.now(UTC)).ready
    expiry.withdraw(work, ready, f"It was withdrawn by {run}.")
    expiry.finish(work, state)
    reserve.keep(work.vault)


def looking(deployment: Deployment, vnf: Vnf, asked: Sequence[str] = ()) -> Expiry:
    """An expiry that only looks.

    Args:
        asked: points that an operator wants removed.
    """
    return Expiry(
        vnf=vnf,
        vault=remembering(deployment, deployment.vaults(vnf.vaults, all_needed=True)),
        every_vault=lambda: deployment.vaults(all_needed=True),
        site=partial(deployment.site, of=vnf),
        users=lambda: users(deployment, vnf.vnf),
        timeline=Unrecorded(),
        go_on=lambda: None,
        asked=asked,
        longest_ago=partial(deployment.memory.read_longest_ago, vnf.vnf),
    )


def due(deployment: Deployment, context: Expiry, *, again: bool) -> RunRow | None:
    """The expiry that a VNF needs now; None when nothing is to be removed.

    Args:
        context: that looks at the VNF.
        again: whether it is worth a run to try once more what the last one has left, a short while
            ago.

    Raises:
        AntipodeError: this cannot be known now.
    """
    return _due(
        deployment, context, again, lambda: bool(expiry.judged(context, datetime.now(UTC)).expired)
    )


def may_be_due(deployment: Deployment, vnf: Vnf, lately: RunRow | None) -> RunRow | None:
    """As `due`, by what this process remembers of the points that it has read: whether they can be
    recovered from, and what they need, is left to the run.

    Args:
        lately: the expiry of the VNF that ended a short while ago, if one did.
    """
    context = looking(deployment, vnf)

    def may_have_expired() -> bool:
        if lately is not None and not lately.result.get("expired"):
            return False  # it would be in vain again
        seen = expiry.seen_points(context, deployment.points_seen.get(vnf.vnf, {}))
        # a key that is imported later makes others trusted
        deployment.points_seen[vnf.vnf] = {i: point for i, point in seen.items() if point.trusted}
        return expiry.may_have_expired(context, seen.values(), datetime.now(UTC))

    return _due(deployment, context, False, may_have_expired)


def _due(
    deployment: Deployment, context: Expiry, again: bool, has_expired: Callable[[], bool]
) -> RunRow | None:
    vnf = context.vnf
    no_recovery_in_the_way(deployment, vnf.vnf)
    hidden = points.list_all(context.vault, vnf.vnf).hidden
    is_due = bool(hidden) and (again or not _tried_lately(deployment, vnf.vnf))
    if not is_due and any(protection.keeps != ALL for protection in vnf.protections):
        is_due = has_expired()  # else without a look at any point
    return requested(vnf, activity.read(deployment, vnf)) if is_due else None


def submit_due(
    deployment: Deployment, vnfs: Sequence[Vnf], enqueue: Callable[[RunRow], None]
) -> None:
    """Have an expiry queued for each VNF that needs one.

    A VNF whose last expiry failed a short while ago is left alone. The obstacle to an expiry is
    logged, a bug too, as nothing depends on it; the others are queued all the same.
    """
    for vnf in vnfs:
        try:
            lately = _tried_lately(deployment, vnf.vnf)
            if lately is not None and lately.state == "failed":
                continue
            if row := may_be_due(deployment, vnf, lately):
                enqueue(row)
        except Busy as error:
            LOG.debug("nothing of %s expires now: %s", vnf.vnf, error)
        except AntipodeError as error:
            LOG.warning("whether recovery points of %s have expired is unknown: %s", vnf.vnf, error)
        except Exception:
            LOG.exception("whether recovery points of %s have expired is unknown", vnf.vnf)


def _tried_lately(deployment: Deployment, vnf: str) -> RunRow | None:
    """The newest expiry of a VNF, if it ended a short while ago. One of the future was begun while
    the clock was wrong, and says nothing.
    """
    now = time.time()
    newest = deployment.runs.newest_begun(KIND.name, vnf, now)
    if newest is None or newest.ended_at is None or not now - AGAIN_S < newest.ended_at <= now:
        return None
    return newest
