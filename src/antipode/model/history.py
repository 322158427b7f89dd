# SPDX-License-Identifier: Apache-2.0
"""How a VNF was protected in a time that is over: figures for those that want to see it proven."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

from antipode.model.base import Model
from antipode.model.report import Moment


class VnfHistory(Model):
    """One VNF, from `since` to `until`."""

    vnf: str
    active_site: str
    since: Moment
    until: Moment
    counted_from: Moment | None
    """from when on there is a run of it in that time, or it was protected; None: there is none"""
    points_made: int
    protections_failed: int
    """or aborted"""
    missed_intervals: int
    stored_bytes: int
    """that protections added to the store"""
    windows: int
    """quiesce windows"""
    window_median_s: float | None
    window_longest_s: float | None
    windows_over_budget: int
    drills_passed: int
    drills_failed: int
    drill_rto_s: float | None
    """of the newest drill that was passed"""
    verifications: int
    verifications_failed: int
    failovers: int
    failovers_failed: int
    failover_rto_s: float | None
    """of the newest failover that succeeded"""
    rpo_target_s: float | None
    rpo_kept_percent: float | None
    """of the time; None: no target, or nothing to count"""
    rpo_longest_s: float | None
    """how old the newest point of the active copy became"""


class History(Model):
    """The VNFs of a site, or one VNF."""

    format: Literal[1] = 1
    of: str
    """as `vnf/hlr` or `site/site-a`"""
    since: Moment
    until: Moment
    vnfs: list[VnfHistory]
    notes: list[str]
    """what restricts the figures, a sentence each"""
    made_at: Moment
    made_by: str
    antipode: str
    """the version that has made it"""


class Made(NamedTuple):
    """A recovery point: when it began to count, the moment that it holds, both in seconds since the
    epoch, and its generation.
    """

    at: float
    moment: float
    generation: int


class Moved(NamedTuple):
    """A recovery, from its begin to its end; `generation` is None where it did not succeed."""

    began: float
    ended: float
    generation: int | None


class Kept(NamedTuple):
    """For how long the RPO was kept, of the seconds that count, and the oldest that a point
    became.
    """

    kept_s: float
    counted_s: float
    longest_s: float | None


def rpo_kept(
    points: Iterable[Made],
    moves: Iterable[Moved],
    target_s: float | None,
    since: float,
    until: float,
) -> Kept:
    """How the RPO was kept from one moment to another. Time in which the VNF was being recovered
    does not count; time without a point of the active copy does, and is not kept.

    Args:
        points, moves: with those from before `since`.
        target_s: None: nothing is kept, and the oldest age is found all the same.
    """
    moves = list(moves)
    events: list[tuple[float, int, Made | Moved | None]] = [(p.at, 1, p) for p in points]
    events += [(m.ended, 0, m) for m in moves]
    events += [(m.began, 2, None) for m in moves]
    events += [(since, 3, None), (until, 3, None)]
    events.sort(key=lambda e: e[:2])
    generation, newest = 0, None
    kept_s = counted_s = 0.0
    longest_s: float | None = None
    for (at, _, what), following in zip(events, [*events[1:], None], strict=True):
        if isinstance(what, Made) and what.generation >= generation:
            if what.generation > generation or newest is None or what.moment > newest:
                newest = what.moment
            generation = what.generation
        elif isinstance(what, Moved) and what.generation is not None:
            generation, newest = what.generation, None
        begins, ends = max(at, since), min(following[0] if following else at, until)
        if ends <= begins or any(m.began <= begins < m.ended for m in moves):
            continue
        counted_s += ends - begins
        if newest is not None:
            longest_s = max(longest_s or 0.0, ends - newest)
            if target_s is not None:
                kept_s += max(min(ends, newest + target_s) - begins, 0.0)
    return Kept(kept_s, counted_s, longest_s)
