# SPDX-License-Identifier: Apache-2.0
"""The names of what VNFs are in the middle of, and of what has failed and may be tried again:
`reprotecting`, `error-failing-over`. They follow from the runs and are kept nowhere else.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import NamedTuple

from antipode.engine.deployment import Deployment
from antipode.engine.execution import NOT_ROLLED_BACK
from antipode.engine.run import asked_again, state_of
from antipode.errors import NotFound
from antipode.model.state import ProtectedVnf, VnfState
from antipode.runs import KINDS, find_kind
from antipode.store.runs import OPEN
from antipode.store.tables import RunRow

ERROR = "error-"
"""Before the name of a transition that has failed."""


class Transition(NamedTuple):
    """What a VNF is in the middle of, or what of that has failed."""

    name: str
    run: str
    next: Sequence[str]
    """the commands that continue, undo or repeat it"""


def all_of(
    deployment: Deployment, states: Mapping[str, ProtectedVnf], vnf: str | None = None
) -> dict[str, Transition]:
    """The transitions of VNFs, by VNF; of each that neither is in one nor has failed in the newest,
    there is none.

    Args:
        states: of the VNFs, as they are known; without one, an error of it is as old as it is.
        vnf: the only one that is asked for.
    """
    if not deployment.runs.has_unfinished(vnf):
        return {}
    kinds = [name for name in KINDS.names if KINDS.get(name).transition]
    found: dict[str, list[RunRow]] = {}
    for row in deployment.runs.newest_of_each(kinds, vnf):
        found.setdefault(row.vnf, []).append(row)
    named = ((name, _of(deployment, rows, states.get(name))) for name, rows in found.items())
    return {name: transition for name, transition in named if transition is not None}


def state_name(state: ProtectedVnf, transition: Transition | None) -> str:
    """The name of the state of a VNF."""
    return state.state.value if transition is None else transition.name


def of_run(row: RunRow) -> str | None:
    """The state of its VNF that a run tells of: while it is open, or as it has failed."""
    kind = find_kind(row.kind)
    if kind is None or not kind.transition or row.state not in (*OPEN, "failed"):
        return None
    return kind.transition if row.state in OPEN else f"{ERROR}{kind.transition}"


def being_moved(rows: Collection[RunRow]) -> set[str]:
    """The VNFs of which an open run is a recovery: from its begin on, the points of the copy that
    was active say nothing.
    """
    from antipode.runs import protect  # TaskFlow with it, which a look at the database needs not

    kinds = ((row.vnf, find_kind(row.kind)) for row in rows if row.state in OPEN)
    return {vnf for vnf, kind in kinds if kind is not None and kind.displaces(protect.KIND)}


def _of(
    deployment: Deployment, rows: Sequence[RunRow], state: ProtectedVnf | None
) -> Transition | None:
    """The transition that the newest runs of each kind tell of.

    Args:
        rows: of one VNF, the newest first.
    """
    if opened := [row for row in rows if row.state in OPEN]:
        return _named(deployment, opened[0])
    if state is not None and state.state is VnfState.FAILING_OVER:
        # a failed one still has the claim, whatever was tried since
        recoveries = [row for row in rows if _is_recovery(row)]
        return _named(deployment, recoveries[0]) if recoveries else None
    return _named(deployment, rows[0]) if not _is_outdated(rows[0], state) else None


def _is_recovery(row: RunRow) -> bool:
    kind = find_kind(row.kind)
    return kind is not None and kind.is_recovery


def _is_outdated(row: RunRow, state: ProtectedVnf | None) -> bool:
    """Whether the VNF has moved since a run has ended."""
    if state is None or state.since is None or row.ended_at is None:
        return False
    return datetime.fromisoformat(state.since).timestamp() > row.ended_at


def _named(deployment: Deployment, row: RunRow) -> Transition | None:
    name = of_run(row)
    return None if name is None else Transition(name, row.id, _next(deployment, row))


def _next(deployment: Deployment, row: RunRow) -> list[str]:
    kind = find_kind(row.kind)
    assert kind is not None  # of others there is no name
    resume, abort = f"antipode run resume {row.id}", f"antipode run abort {row.id}"
    if row.state in OPEN:
        lost = state_of(row, deployment) == "lost"
        return [resume, abort] if lost else [f"antipode run watch {row.id}"]
    kept = NOT_ROLLED_BACK in row.result
    if row.ending is None and (kept or not kind.rolls_back_failures):
        return [resume, abort]
    with suppress(NotFound):  # it is pruned
        # these rows are without what was asked for
        return [asked_again(kind, deployment.runs.get(row.id)), abort]
    return []
