# SPDX-License-Identifier: Apache-2.0
"""How VNFs were protected in a time, made of the runs that the database keeps. No site and no vault
is asked.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from statistics import median
from typing import Any

from antipode import __version__, identity
from antipode.engine.deployment import Deployment
from antipode.errors import InvalidInput, NotFound
from antipode.model.history import History, Made, Moved, VnfHistory, rpo_kept
from antipode.model.vnf import Vnf
from antipode.operations.reports import moment
from antipode.runs import KINDS, drill, failover, find_kind, protect, verify
from antipode.store.runs import NEVER_BEGUN
from antipode.store.tables import RunRow

LONGEST_S = 10 * 366 * 86400.0


def of_vnf(
    deployment: Deployment, name: str, since_s: float, until: float | None = None
) -> History:
    """The history of one VNF.

    Args:
        since_s: for how many seconds back.
        until: seconds since the epoch; now by default.

    Raises:
        NotFound: it was never added here.
        InvalidInput: the time is no time.
    """
    if (vnf := deployment.vnfs.find(name)) is None:
        raise NotFound(f"VNF {name} is not known here; see: antipode vnf list")
    return _history(deployment, f"vnf/{name}", [vnf], since_s, until)


def of_site(
    deployment: Deployment, site: str, since_s: float, until: float | None = None
) -> History:
    """The history of all VNFs that are active at a site now.

    Raises:
        NotFound: there is no such site.
        InvalidInput: the time is no time.
    """
    deployment.config.site(site)
    stored = sorted(deployment.vnfs.stored().items())
    readable = [vnf for _, vnf in stored if isinstance(vnf, Vnf)]
    there = [vnf for vnf in readable if _active_site(deployment, vnf) == site]
    found = _history(deployment, f"site/{site}", there, since_s, until)
    if lacking := [name for name, kept in stored if not isinstance(kept, Vnf)]:
        note = f"VNFs whose definition cannot be read are missing: {', '.join(lacking)}"
        return found.model_copy(update={"notes": [*found.notes, note]})
    return found


def _active_site(deployment: Deployment, vnf: Vnf) -> str:
    state = deployment.states.find(vnf.vnf)
    return state.active_site if state is not None else vnf.primary


def _history(
    deployment: Deployment, of: str, vnfs: Sequence[Vnf], since_s: float, until: float | None
) -> History:
    if not 0 < since_s <= LONGEST_S:
        raise InvalidInput(f"{since_s:g} s is not a time of up to ten years")
    until = time.time() if until is None else until
    since, days = until - since_s, deployment.config.history.days
    notes = []
    if since < time.time() - days * 86400:
        notes.append(
            f"runs are kept for {days:g} days (`history` in antipode.yaml): what is older is in"
            " these figures only as far as it is there"
        )
    return History(
        of=of,
        since=moment(since),
        until=moment(until),
        vnfs=[_of(deployment, vnf, since, until) for vnf in vnfs],
        notes=notes,
        made_at=moment(time.time()),
        made_by=identity.current(),
        antipode=__version__,
    )


def _of(deployment: Deployment, vnf: Vnf, since: float, until: float) -> VnfHistory:
    counts = [name for name in KINDS.names if name == protect.KIND.name or _moves_vnf(name)]
    rows = [
        row
        for row in deployment.runs.ended_of(vnf.vnf, since, counts)
        if row.state not in NEVER_BEGUN and row.started_at <= until
    ]
    inside = [row for row in rows if row.ended_at is not None and since <= row.ended_at <= until]
    points = [point for row in rows if (point := _made(row)) is not None]
    begins = min((row.started_at for row in rows), default=None)
    counted_from = None if begins is None else max(begins, since)
    moves = [*_moves(rows), *_under_way(deployment, vnf.vnf, until)]
    kept = rpo_kept(points, moves, vnf.rpo, counted_from or since, until)
    has_rpo = vnf.rpo is not None and counted_from is not None and kept.counted_s > 0
    protections, drills = _ended(inside, protect.KIND.name), _ended(inside, drill.KIND.name)
    failovers, proofs = _ended(inside, failover.KIND.name), _ended(inside, verify.KIND.name)
    made = [row for row in protections if row.state == "succeeded"]
    # a point for which no member was quiesced has none; earlier releases noted one of 0 s
    windows = [w for row in made if (w := _number(row.result.get("quiesce_window_s")))]
    return VnfHistory(
        vnf=vnf.vnf,
        active_site=_active_site(deployment, vnf),
        since=moment(since),
        until=moment(until),
        counted_from=None if counted_from is None else moment(counted_from),
        points_made=len([row for row in made if _made(row) is not None]),
        protections_failed=_failed(protections),
        missed_intervals=deployment.schedules.missed_between(vnf.vnf, since, until),
        stored_bytes=sum(int(_number(row.result.get("stored_bytes")) or 0) for row in made),
        windows=len(windows),
        window_median_s=round(median(windows), 3) if windows else None,
        window_longest_s=max(windows, default=None),
        windows_over_budget=sum(_is_over_budget(row) for row in made),
        drills_passed=len(drills) - _failed(drills),
        drills_failed=_failed(drills),
        drill_rto_s=_newest(drills, "recovered_s"),
        verifications=len(proofs) - _failed(proofs),
        verifications_failed=_failed(proofs),
        failovers=len(failovers) - _failed(failovers),
        failovers_failed=_failed(failovers),
        failover_rto_s=_newest(failovers, "rto_s"),
        rpo_target_s=vnf.rpo,
        rpo_kept_percent=_percent(kept.kept_s / kept.counted_s) if has_rpo else None,
        rpo_longest_s=None if kept.longest_s is None else round(kept.longest_s, 3),
    )


def _percent(part: float) -> float:
    """A part in percent. Only all of it is 100: what was missed is not rounded away."""
    return 100.0 if part >= 1 else min(round(100 * part, 3), 99.999)


def _ended(rows: Sequence[RunRow], kind: str) -> list[RunRow]:
    """The runs of a kind, the newest first."""
    return [row for row in rows if row.kind == kind]


def _failed(rows: Sequence[RunRow]) -> int:
    return sum(row.state != "succeeded" for row in rows)


def _newest(rows: Sequence[RunRow], figure: str) -> float | None:
    return next((_number(row.result.get(figure)) for row in rows if row.state == "succeeded"), None)


def _made(row: RunRow) -> Made | None:
    """The recovery point of a run that has made one."""
    at, generation = row.result.get("consistent_at"), row.result.get("generation", 1)
    made = row.kind == protect.KIND.name and row.state == "succeeded"
    if not made or not isinstance(at, str) or row.ended_at is None:
        return None
    return Made(row.ended_at, datetime.fromisoformat(at).timestamp(), int(generation))


def _moves(rows: Sequence[RunRow]) -> list[Moved]:
    """The recoveries, in and after which points of the former copy say nothing."""
    found = []
    for row in rows:
        if not _moves_vnf(row.kind) or row.ended_at is None:
            continue
        generation = row.result.get("generation") if row.state == "succeeded" else None
        whole = generation if isinstance(generation, int) else None
        found.append(Moved(row.started_at, row.ended_at, whole))
    return found


def _under_way(deployment: Deployment, vnf: str, until: float) -> list[Moved]:
    """The recoveries that have not ended."""
    rows = deployment.runs.open(vnf)
    return [Moved(row.started_at, until, None) for row in rows if _moves_vnf(row.kind)]


def _moves_vnf(name: str) -> bool:
    kind = find_kind(name)
    return kind is not None and kind.displaces(protect.KIND)


def _is_over_budget(row: RunRow) -> bool:
    window, budget = (_number(row.result.get(n)) for n in ("quiesce_window_s", "quiesce_budget_s"))
    return window is not None and budget is not None and window > budget


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number else None
