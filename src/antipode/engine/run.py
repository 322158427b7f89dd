# SPDX-License-Identifier: Apache-2.0
"""A run under way: what it was asked for, whether it may go on, and what becomes of it."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from antipode import clock, identity
from antipode.claims.claim import Claim
from antipode.engine.deployment import Deployment
from antipode.engine.kind import RunKind
from antipode.engine.limits import Party
from antipode.engine.timeline import RecordedTimeline
from antipode.errors import Aborted, AntipodeError, ClaimLost, Halted, Interrupted
from antipode.freezes.reaper import thaw_left_by
from antipode.model.plan_file import KIND_PREFIX, PREFIX
from antipode.store.runs import AWAITING, ListedRun, slot_of
from antipode.store.tables import RunRow

if TYPE_CHECKING:
    from antipode.cloud.site import Site

LOG = logging.getLogger(__name__)
PART_OF = "part_of"
_ID = re.compile(r"[a-z][a-z-]*-\d{8}T\d{6}Z-[0-9a-f]{6}")
"""In the request of a run that is a part of another: that one; see `parts`."""
WAITING = "waiting for input"
"""The state of a run whose runbook has asked something; in the database it is running."""
AWAITING_APPROVAL = "awaiting approval"
"""The state of a run that others must approve, for people."""


def new_run(kind: RunKind, vnf: str, request: dict[str, Any]) -> RunRow:
    """A run that is not kept yet; see `Claims.begin`."""
    return RunRow(
        id=f"{kind.name}-{_new_name()}",
        kind=kind.name,
        vnf=vnf,
        state="running",
        started_at=clock.now(),
        result={},
        request=request,
        flow_version=kind.flow_version,
        priority=kind.priority,
        slot=slot_of(kind.name, vnf),
        author=identity.current(),
        approvals_needed=0,
    )


def is_id(text: str) -> bool:
    """Whether a text is the id of a run, as `new_run` gives them."""
    return _ID.fullmatch(text) is not None


def _new_name() -> str:
    """The second, its fraction in 4096ths, and as many at random: in the order of the alphabet the
    newest name is the last.
    """
    now = datetime.now(UTC)
    fraction = now.microsecond * 4096 // 1_000_000
    return f"{now:%Y%m%dT%H%M%SZ}-{fraction:03x}{secrets.randbelow(4096):03x}"


def name_of(row: RunRow | ListedRun) -> str:
    """The name of what a run is about, as a command takes it: a VNF, or a plan over many."""
    return row.vnf.removeprefix(PREFIX)


def subject_of(row: RunRow) -> str:
    """What a run is about, for people."""
    return f"plan {name_of(row)}" if row.vnf.startswith(PREFIX) else f"VNF {row.vnf}"


def part_of(row: RunRow) -> str | None:
    """The run that a run is a part of."""
    found = (row.request or {}).get(PART_OF)
    return None if found is None else str(found)


def asked_again(kind: RunKind, row: RunRow) -> str:
    """The command that does once more what a run has not done: that which takes up the run that it
    is a part of, or asks for another like it.
    """
    whole = part_of(row)
    words = f"run resume {whole}" if whole else kind.asked_for(row, name_of(row))
    return f"antipode {words}"


def is_part_of_its_vnf(row: RunRow) -> bool:
    """Whether a run is a part of another run of its VNF, and not of a plan over many."""
    return is_of_its_vnf(part_of(row))


def is_of_its_vnf(whole: str | None) -> bool:
    """Whether a run that another is a part of is a run of the same VNF, and no plan over many."""
    return whole is not None and not whole.startswith(KIND_PREFIX)


def state_of(run: RunRow, deployment: Deployment) -> str:
    """The state of a run as it is: `lost` when it is kept as running and no process has it,
    `waiting for input` while it, or a part below it, waits for an operator's answer.
    """
    return states_of([run], deployment)[run.id]


def states_of(runs: Sequence[RunRow], deployment: Deployment) -> dict[str, str]:
    """As `state_of`, by run, with one look at the questions."""
    is_any_running = any(run.state == "running" for run in runs)
    asking = deployment.questions.waiting() if is_any_running else set()
    return {run.id: _state_of(run, deployment, asking) for run in runs}


def _state_of(run: RunRow, deployment: Deployment, asking: set[str]) -> str:
    if run.state != "running":
        return AWAITING_APPROVAL if run.state == AWAITING else run.state
    if deployment.claims.is_held(run) is False:
        return "lost"
    if run.id in asking:
        return WAITING
    # the parts of a plan may have parts that ask
    is_plan = bool(asking) and run.vnf.startswith(PREFIX)
    below = deployment.runs.parts([run]) if is_plan else []
    return WAITING if any(row.id in asking for row in below) else run.state


def successor(deployment: Deployment, run: RunRow) -> str | None:
    """A run of the same kind that was begun for the VNF later, and has replaced one that failed."""
    return deployment.runs.successor(run)


class Run:
    """A run under way; `result` is filled by its kind and kept with the run, also when it fails."""

    def __init__(
        self, deployment: Deployment, row: RunRow, claim: Claim, timeline: RecordedTimeline
    ) -> None:
        self.deployment = deployment
        self.id = row.id
        self.kind = row.kind
        self.vnf = row.vnf
        self.row = row
        self.request: dict[str, Any] = row.request or {}
        self.started_at = row.started_at
        self.result: dict[str, Any] = dict(row.result)
        self.claim = claim
        self.timeline = timeline
        self.party = Party(row.vnf, row.priority, self.go_on, run=row.id, claim=claim.number)
        self.failures: list[AntipodeError] = []
        """of its tasks, the first of them first"""
        self.touched = claim.number > 1
        """whether there may be something to roll back"""
        self._stop: tuple[type[AntipodeError], str] | None = None
        self._ignored: tuple[type[AntipodeError], ...] = ()

    def go_on(self) -> None:
        """Called before every change, and repeatedly in waits.

        Raises:
            ClaimLost: another process has the run.
            Aborted, Halted, AntipodeError: it must stop, for that reason.
        """
        self.claim.check()
        if (stop := self._stop) is not None and stop[0] not in self._ignored:
            raise stop[0](stop[1])

    def stop(self, kind: type[AntipodeError], why: str) -> None:
        """Make it stop at its next safe point. The first reason stands, unless the run was lost."""
        if kind not in self._ignored and (self._stop is None or kind is ClaimLost):
            self._stop = (kind, why)
            self.timeline.note(f"stops: {why}")

    @property
    def stopped_by(self) -> type[AntipodeError] | None:
        return self._stop[0] if self._stop else None

    def touches_clouds(self) -> None:
        """From now on there may be something to roll back."""
        self.touched = True

    def cannot_be_aborted(self) -> None:
        """From now on a request to abort comes too late."""
        self._ignored = (Aborted,)
        if self.stopped_by is Aborted:
            self._stop = None

    def rolls_back(self) -> None:
        """From now on what the run made is removed: only the loss of its claim stops it."""
        self._ignored = (Aborted, Halted, Interrupted, AntipodeError)

    @cached_property
    def project(self) -> str | None:
        """The project of its VNF; see `Deployment.project_of`."""
        return self.deployment.project_of(self.row)

    def site(self, name: str) -> Site:
        """A site as this run may use it.

        Raises:
            NotFound, SiteUnreachable: as `Deployment.site`.
        """
        return self.deployment.site_in(name, self.project).under(
            self.go_on, self.deployment.limits.calls(name, self.party)
        )

    def thaw(self) -> None:
        """Unquiesce what this run may have frozen before its process died, before the deadline.

        A server that cannot be unquiesced stays in the ledger, where a reaper finds it.
        """
        left = self.deployment.freezes.left_by(self.id)
        for site, project in {(row.site, row.project) for row in left}:
            there = self.deployment.site_in(site, project)
            thaw_left_by(self.deployment.freezes, there, self.id)
