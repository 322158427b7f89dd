# SPDX-License-Identifier: Apache-2.0
"""How far a run is, from what the database keeps of it: what it is doing, what it waits for since
when, how long it may still take.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from antipode.model.steps import Steps
from antipode.runs import find_kind
from antipode.store.runs import ENDED, Runs
from antipode.store.tables import RunRow, StepRow


@dataclass(frozen=True)
class Estimate:
    """How long a run may still take: judged by an earlier run of its kind and VNF that succeeded,
    else by what it has done itself.
    """

    left_s: float
    """seconds; less than 0: it should be over by now, and takes that much longer than the earlier
    run did
    """
    judged_by: str
    """the earlier run; or what this run has done, in words"""


@dataclass(frozen=True)
class Outlook:
    """A run as it is at a moment. `under_way` has the oldest first."""

    run: RunRow
    steps: Sequence[StepRow]
    under_way: Sequence[StepRow]
    estimate: Estimate | None

    @property
    def ended(self) -> bool:
        return self.run.state in ENDED


def outlook(runs: Runs, run_id: str, now: float, *, all_steps: bool = True) -> Outlook:
    """Look at a run at the moment `now` (seconds since the epoch).

    Args:
        all_steps: whether all its steps are wanted, also of a run that has ended.

    Raises:
        NotFound: there is no such run.
    """
    run = runs.get(run_id)
    is_brief = run.state in ENDED and not all_steps
    steps = runs.steps_under_way(run_id) if is_brief else runs.steps(run_id)
    under_way = [s for s in steps if s.ended_at is None and s.state == "running"]
    try:
        estimate = _estimate(runs, run, steps, now)
    except (KeyError, TypeError, AttributeError):
        estimate = None  # another version of antipode wrote the plan, in a form of its own
    return Outlook(run, steps, under_way, estimate)


def _estimate(runs: Runs, run: RunRow, steps: Collection[StepRow], now: float) -> Estimate | None:
    if run.state in ENDED or run.ending is not None:
        return None
    if (earlier := runs.newest_success(run.kind, run.vnf)) is not None:
        return Estimate(_left(run, steps, earlier, runs.steps(earlier.id), now), earlier.id)
    volumes, servers = _volumes(run, steps), _servers(run)
    kind = find_kind(run.kind)
    step, participle = (kind and kind.volume_step) or (None, "moved")
    moves = [s for s in steps if step is not None and s.name == step.words]
    moved = {s.resource for s in moves if s.state == "succeeded"} & volumes.keys()
    there = {name for name, server in servers.items() if _is_there(server, steps)}
    words = f"this run: {len(moved)} of {len(volumes)} volumes {participle}"
    if servers:
        words += f", {len(there)} of {len(servers)} servers there"
    if (left_s := _seconds_to_move(volumes, moves, now)) is None:
        return None
    if servers.keys() - there:
        if (boots_s := _seconds_to_boot(servers, there, steps, now)) is None:
            words += ", their boots not counted in yet"
        left_s += boots_s or 0
    return Estimate(left_s, words)


def _servers(run: RunRow) -> dict[str, dict[str, Any]]:
    """The servers that a failover is to boot, as its plan has them."""
    plan = (run.request or {}).get("plan") or {}
    return {s["name"]: s for s in plan.get("servers", [])}


def _volumes(run: RunRow, steps: Collection[StepRow]) -> dict[str, int]:
    """The bytes of the volumes that a run is to move, by the name that its steps have for them."""
    if servers := _servers(run):
        return {
            v["name"] or v["source_id"]: v["size_gib"] << 30
            for server in servers.values()
            for v in server["volumes"]
        }
    return next(
        (dict(s.result["bytes_of_volumes"]) for s in steps if "bytes_of_volumes" in s.result), {}
    )


def _seconds_to_move(
    volumes: Mapping[str, int], moves: Collection[StepRow], now: float
) -> float | None:
    """Seconds until the volumes are moved, by the pace of those that are; None as long as none is.

    The pace is that of one volume beside as many others as are moved at once: what slows them all
    is in it.
    """
    over = [m for m in moves if m.state == "succeeded"]
    measured = [m for m in over if not m.result.get("found") and volumes.get(m.resource)]
    if not measured:
        return None
    pace = sum(_took(m, now) for m in measured) / sum(volumes[m.resource] for m in measured)
    left = {v: pace * size for v, size in volumes.items() if v not in {m.resource for m in over}}
    left |= {
        m.resource: max(left[m.resource] - _took(m, now), 0)
        for m in moves
        if m.state == "running" and m.resource in left
    }
    at_once = max(
        sum(1 for m in moves if m.started_at <= begins.started_at < (m.ended_at or math.inf))
        for begins in moves
    )
    return max(max(left.values(), default=0), sum(left.values()) / at_once)


def _is_there(server: dict[str, Any], steps: Collection[StepRow]) -> bool:
    last = (Steps.PROBE if server["answers"] else Steps.BOOT_SERVER).words
    return any(
        s.name == last and s.resource == server["name"] and s.state == "succeeded" for s in steps
    )


def _seconds_to_boot(
    servers: Mapping[str, dict[str, Any]], there: set[str], steps: Collection[StepRow], now: float
) -> float | None:
    """Seconds that the boots of the servers still take that wait for each other, by those that are
    there; None as long as none is.
    """
    if not there:
        return None
    boots = [s for s in steps if s.name in (Steps.BOOT_SERVER.words, Steps.PROBE.words)]
    pace = sum(_took(s, now) for s in boots if s.resource in there) / len(there)
    spent = max(
        (
            sum(_took(s, now) for s in boots if s.resource == server)
            for server in servers.keys() - there
        ),
        default=0,
    )
    return max(_longest_chain(servers, there) * pace - spent, 0)


def _longest_chain(servers: Mapping[str, dict[str, Any]], there: set[str]) -> int:
    """How many servers that are not there must be booted one after the other."""
    chain = 0
    while ready := {s for s in servers.keys() - there if there.issuperset(servers[s]["after"])}:
        there, chain = there | ready, chain + 1
    return chain


def _took(step: StepRow, now: float) -> float:
    return (step.ended_at or now) - step.started_at


def _left(
    run: RunRow,
    steps: Collection[StepRow],
    earlier: RunRow,
    earlier_steps: Collection[StepRow],
    now: float,
) -> float:
    """Seconds that the earlier run still took after it had done what this one has done, less those
    that passed since then.
    """
    assert earlier.ended_at is not None  # it succeeded
    ends = {_what(s): s.ended_at for s in earlier_steps if s.ended_at is not None}
    done = [
        (ends[_what(s)], s.ended_at)
        for s in steps
        if s.state == "succeeded" and s.ended_at is not None and _what(s) in ends
    ]
    there, here = max(done, default=(earlier.started_at, run.started_at))
    return earlier.ended_at - there - (now - here)


def _what(step: StepRow) -> tuple[str, str, str]:
    return step.number, step.name, step.resource
