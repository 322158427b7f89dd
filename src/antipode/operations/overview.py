# SPDX-License-Identifier: Apache-2.0
"""All VNFs and sites at a glance, as this installation knows them. Only the database is asked: a
dead site holds nothing up, and thousands of VNFs are one look.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from antipode.engine import activity
from antipode.engine.deployment import Deployment
from antipode.engine.run import AWAITING_APPROVAL, WAITING, state_of
from antipode.errors import InvalidInput
from antipode.model.readiness import Level
from antipode.model.rpo import Rpo, RpoState, rpo
from antipode.model.state import ProtectedVnf
from antipode.model.vnf import Vnf
from antipode.operations import readiness
from antipode.operations.readiness import Ready
from antipode.runs import drill, protect, transitions
from antipode.runs.transitions import Transition
from antipode.service.daemon import status_of
from antipode.store.tables import QuestionRow, RunRow

RECENT_S = 86400.0
"""How far back failed runs are counted."""
MOST_FAILED = 500
"""Failed runs that are counted."""
DRILL_EVERY_S = 90 * 86400.0
"""After which a drill is due where the VNF file does not say how often one is wanted."""


@dataclass(frozen=True)
class Made:
    """The newest recovery point that this installation has made of a VNF."""

    id: str
    generation: int
    consistent_at: str
    consistency: str


@dataclass(frozen=True)
class Known:
    """A VNF as the database has it."""

    vnf: Vnf
    state: ProtectedVnf
    name: str
    """of its state"""
    transition: Transition | None
    newest: Made | None
    rpo: Rpo
    drilled_at: float | None
    """when a drill was last passed, in seconds since the epoch"""
    drill_is_due: bool
    ready: Sequence[Ready]
    """at each site where it could be recovered"""
    old_copies: Mapping[str, float]
    """the sites at which an old copy of it was seen to run"""

    @property
    def level(self) -> Level | None:
        """The best verdict of all sites where it could be recovered; None: it is not known. A red
        one from before the newest point says nothing of that point.
        """
        made_at = 0.0 if self.newest is None else consistent_at(self.newest)
        seen = [
            r.level
            for r in self.ready
            if r.level is not None
            and not r.is_stale
            and (r.level is not Level.RED or (r.looked_at or 0.0) > made_at)
        ]
        order = list(Level)
        return min(seen, key=order.index, default=None)

    @property
    def issues(self) -> list[str]:
        """What calls for a person."""
        found = []
        if self.old_copies:
            found.append(f"two active copies: an old one runs at {', '.join(self.old_copies)}")
        if self.transition is not None and self.transition.name.startswith(transitions.ERROR):
            found.append(f"{self.transition.name}, run {self.transition.run}")
        if self.rpo.state is RpoState.EXCEEDED:
            found.append("its newest recovery point is older than its RPO allows")
        if self.rpo.state is RpoState.NO_POINT:
            found.append("it has no recovery point of its active copy")
        if self.level is Level.RED:
            found.append("it could not be recovered now")
        return found


@dataclass(frozen=True)
class Waiting:
    """A run that waits for a person."""

    run: RunRow
    state: str
    since: float
    words: str


@dataclass(frozen=True)
class AtSite:
    """A site, as it was last seen."""

    name: str
    active: int
    """VNFs that are active there"""
    recoverable: int
    """VNFs that could be recovered there, as they were last seen"""
    blocked: int
    looked_at: float | None
    """when the service has last looked there, in seconds since the epoch"""


@dataclass(frozen=True)
class Overview:
    """Everything of an installation that calls for attention, and how much there is."""

    vnfs: Sequence[Known]
    damaged: Mapping[str, str]
    """definitions that cannot be read, and why"""
    sites: Sequence[AtSite]
    states: Mapping[str, int]
    rpo: Mapping[RpoState, int]
    open: Sequence[RunRow]
    waiting: Sequence[Waiting]
    failed: Sequence[RunRow]
    """runs that failed in the last 24 h, the newest first"""
    is_served: bool
    """whether a service runs on this host"""
    trouble: Mapping[str, str]
    """what does not work, as that service says"""
    at: float = field(default_factory=time.time)

    @property
    def drills_due(self) -> list[Known]:
        """The VNFs whose drill is due."""
        return [known for known in self.vnfs if known.drill_is_due]

    @property
    def with_issues(self) -> list[Known]:
        """The VNFs that call for a person, the ones with most issues first."""
        return sorted((k for k in self.vnfs if k.issues), key=lambda k: (-len(k.issues), k.vnf.vnf))


class Definitions:
    """The definitions of VNFs, each read once for as long as it stays the same."""

    def __init__(self) -> None:
        self._read: dict[str, tuple[float, Vnf | InvalidInput]] = {}
        self._lock = threading.Lock()

    def all(self, deployment: Deployment) -> dict[str, Vnf | InvalidInput]:
        """The definition of each VNF by its name, or the reason why it cannot be read."""
        versions = deployment.vnfs.versions()
        with self._lock:
            known = dict(self._read)
        for name, added_at in versions.items():
            if known.get(name, (None, None))[0] != added_at:
                found = deployment.vnfs.stored([name]).get(name)
                if found is not None:
                    known[name] = added_at, found
        kept = {name: read for name, read in known.items() if name in versions}
        with self._lock:
            self._read = kept
        return {name: found for name, (_, found) in kept.items()}


def known(
    deployment: Deployment, definitions: Mapping[str, Vnf | InvalidInput]
) -> tuple[list[Known], dict[str, str]]:
    """Every VNF that was added here, in the order of their names; and why others cannot be read."""
    now, states = time.time(), deployment.states.all()
    vnfs = {name: vnf for name, vnf in sorted(definitions.items()) if isinstance(vnf, Vnf)}
    at = {
        name: states.get(name) or ProtectedVnf(vnf=name, active_site=vnf.primary, generation=1)
        for name, vnf in vnfs.items()
    }
    made, drilled = _newest(deployment)
    moving = transitions.being_moved(deployment.runs.open())
    named, copies = transitions.all_of(deployment, at), activity.two_copies(deployment)
    ready: dict[str, list[Ready]] = {}
    for one in readiness.ready(deployment):
        ready.setdefault(one.vnf, []).append(one)
    added = deployment.vnfs.versions()
    found = []
    for name, vnf in vnfs.items():
        state, transition = at[name], named.get(name)
        since = drilled.get(name) or added.get(name, now)
        every_s = vnf.drill_every or DRILL_EVERY_S
        found.append(
            Known(
                vnf,
                state,
                transitions.state_name(state, transition),
                transition,
                made.get(name),
                rpo(vnf.rpo, state, made.get(name), now, is_moving=name in moving),
                drilled.get(name),
                now - since > every_s,
                ready.get(name, []),
                copies.get(name, {}),
            )
        )
    return found, {n: str(why) for n, why in definitions.items() if isinstance(why, InvalidInput)}


def _newest(deployment: Deployment) -> tuple[dict[str, Made], dict[str, float]]:
    """By VNF, its newest recovery point and the end of its newest drill that was passed."""
    kinds = (protect.KIND.name, drill.KIND.name)
    made: dict[str, Made] = {}
    drilled: dict[str, float] = {}
    for row in deployment.runs.newest_success_of_each(kinds):
        if row.kind == drill.KIND.name:
            drilled[row.vnf] = row.ended_at or row.started_at
        elif (point := _made(row)) is not None:
            made[row.vnf] = point
    return made, drilled


def _made(row: RunRow) -> Made | None:
    result = row.result
    point, at = result.get("recovery_point"), result.get("consistent_at")
    if not isinstance(point, str) or not isinstance(at, str):
        return None
    generation = int(result.get("generation", 1))
    return Made(point, generation, at, str(result.get("consistency", "")))


def of(deployment: Deployment, definitions: Mapping[str, Vnf | InvalidInput]) -> Overview:
    """Look at everything."""
    vnfs, damaged = known(deployment, definitions)
    service = status_of(deployment.config)
    is_served = service is not None and service.is_alive
    now = time.time()
    opened = deployment.runs.open()
    newest = deployment.runs.newest(MOST_FAILED, states=["failed"])
    failed = [row for row in newest if (row.ended_at or 0.0) > now - RECENT_S]
    return Overview(
        vnfs,
        damaged,
        _sites(deployment, vnfs),
        Counter(k.name for k in vnfs),
        Counter(k.rpo.state for k in vnfs),
        opened,
        waiting(deployment),
        failed,
        is_served,
        service.trouble if service is not None and is_served else {},
        now,
    )


def waiting(deployment: Deployment) -> list[Waiting]:
    """The runs that wait for an answer, for approval, or to be taken up again."""
    asked: dict[str, QuestionRow] = {}
    for question in deployment.questions.open():
        asked.setdefault(question.whole, question)
    found = [
        Waiting(deployment.runs.get(run), WAITING, question.asked_at, question.message)
        for run, question in asked.items()
    ]
    for row in deployment.approvals.awaiting():
        given = len(deployment.approvals.of(row.id))
        words = f"{row.approvals_needed - given} more approvals are needed"
        found.append(Waiting(row, AWAITING_APPROVAL, row.started_at, words))
    for row in deployment.runs.open():
        if row.state == "running" and row.id not in asked and state_of(row, deployment) == "lost":
            words = "no process executes it: a service takes it up, or it is resumed by hand"
            found.append(Waiting(row, "lost", row.started_at, words))
    return sorted(found, key=lambda one: one.since)


def _sites(deployment: Deployment, vnfs: Sequence[Known]) -> list[AtSite]:
    found = []
    for name in deployment.config.sites:
        seen = [r for k in vnfs for r in k.ready if r.site == name and r.looked_at is not None]
        good = [r for r in seen if r.level in (Level.GREEN, Level.YELLOW) and not r.is_stale]
        found.append(
            AtSite(
                name,
                sum(k.state.active_site == name for k in vnfs),
                len(good),
                len(seen) - len(good),
                max((r.looked_at for r in seen if r.looked_at is not None), default=None),
            )
        )
    return found


def consistent_at(made: Made) -> float:
    """The moment of a recovery point, in seconds since the epoch."""
    return datetime.fromisoformat(made.consistent_at).timestamp()
