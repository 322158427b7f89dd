# SPDX-License-Identifier: Apache-2.0
"""Which recovery points of a VNF are kept: the policy, and its judgement."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, model_validator

from antipode.model.base import Model, Whole

MOST = 100_000
Count = Annotated[Whole, Field(ge=0, le=MOST)]


class Retention(Model):
    """How many recovery points of one protection are kept: the newest, and the newest of each of
    the last hours, days, weeks and months that have one. All of UTC.
    """

    last: Annotated[Whole, Field(ge=1, le=MOST)] = 1
    hourly: Count = 0
    daily: Count = 0
    weekly: Count = 0
    monthly: Count = 0

    @model_validator(mode="before")
    @classmethod
    def says_something(cls, value: object) -> object:
        if value == {}:
            raise ValueError("name a rule, such as last: 24; without retention there is a default")
        return value

    @property
    def most(self) -> int:
        """How many points it keeps at most, of one clock."""
        return self.last + self.hourly + self.daily + self.weekly + self.monthly


DEFAULT_RETENTION = Retention(last=24, hourly=24, daily=7, weekly=4)
ALL: Literal["all"] = "all"
"""Nothing expires."""


class Dated(NamedTuple):
    """What the retention of a recovery point goes by."""

    id: str
    option: str
    generation: int
    consistent_at: datetime
    """by the clock of the host that made it"""
    stored_at: datetime
    """by the clock of the Cinder that made its backups"""
    serial: int = 0
    """in the order in which they were made, as far as that was known then; see `RecoveryPoint`"""


@dataclass(frozen=True)
class Judgement:
    """Which recovery points stay, and why; the others have expired, the oldest first."""

    kept: Mapping[str, str]
    expired: list[str] = field(default_factory=list)


class Heirs:
    """In whose favour points expire: the kept points that an operator would take instead."""

    def __init__(
        self, kept: Collection[Dated], policies: Mapping[str, Retention | Literal["all"]]
    ) -> None:
        """
        Args:
            kept: all points that stay.
            policies: the retention of each option.
        """
        newest = max(kept, key=_by_consistency, default=None)
        self._newest = set() if newest is None else {newest.id}
        self._orders = {
            option: [
                _Order([p for p in kept if p.option == option], policy, *order) for order in _ORDERS
            ]
            for option, policy in policies.items()
            if policy != ALL
        }

    def of(self, going: Dated) -> set[str]:
        """The newest point of all; and in each order of the points of its option the one before it,
        the one after it, and the newest of its hour, day, week and month, as its policy has them.
        """
        return self._newest.union(*(o.heirs(going) for o in self._orders.get(going.option, ())))


class _Order:
    """Points of one option in one of the orders in which they may have been made."""

    def __init__(
        self,
        points: Collection[Dated],
        policy: Retention,
        order: Callable[[Dated], tuple[Any, ...]],
        moment: Callable[[Dated], datetime],
    ) -> None:
        self._order, self._moment = order, moment
        self._rules = [(rule, label) for rule, many, label in _PERIODS if many(policy)]
        self._sorted = sorted(points, key=order)
        self._newest_of: dict[tuple[str, str], str] = {}
        for point in self._sorted:
            self._newest_of |= dict.fromkeys(self._periods(point), point.id)

    def heirs(self, going: Dated) -> set[str]:
        after = bisect.bisect(self._sorted, self._order(going), key=self._order)
        beside = {p.id for p in self._sorted[max(after - 1, 0) : after + 1]}
        same = {self._newest_of[p] for p in self._periods(going) if p in self._newest_of}
        return beside | same

    def _periods(self, point: Dated) -> list[tuple[str, str]]:
        moment = self._moment(point).astimezone(UTC)
        return [(rule, label(moment)) for rule, label in self._rules]


def judge(
    points: Collection[Dated],
    policies: Mapping[str, Retention | Literal["all"]],
    latest: datetime,
    in_use: Mapping[str, str],
) -> Judgement:
    """Judge all recovery points of a VNF.

    The newest of the highest generation is kept by any policy. A clock may have been wrong when a
    point was made, or both of them, and where their orders and that of the serial numbers differ,
    each may be right: a point that one of the orders would keep is kept. While a point claims to be
    of the future, all are kept.

    Args:
        points: all that can be read.
        policies: the retention of each option; points of others are kept.
        latest: a point that is consistent after this moment is of the future; aware.
        in_use: the points that runs use now, and the run.
    """
    in_order = sorted(points, key=_by_consistency)
    if future := [p.id for p in in_order if p.consistent_at > latest]:
        why = f"a clock was wrong: {future[-1]} is of the future"
        return Judgement({p.id: why for p in in_order})
    kept: dict[str, str] = {}
    for option in {p.option for p in points}:
        of_option = [p for p in points if p.option == option]
        policy = policies.get(option, ALL)
        if policy == ALL:
            why = "retention: all" if option in policies else f"no protection {option} any more"
            kept |= {p.id: why for p in of_option}
            continue
        for order, moment in _ORDERS:
            kept |= _kept(sorted(of_option, key=order, reverse=True), policy, moment)
    if in_order:
        kept.setdefault(in_order[-1].id, "the newest")
    kept |= {p.id: f"used by {in_use[p.id]}" for p in in_order if p.id in in_use}
    return Judgement(kept, [p.id for p in in_order if p.id not in kept])


def _kept(
    newest_first: list[Dated], policy: Retention, moment: Callable[[Dated], datetime]
) -> dict[str, str]:
    """The points that a policy keeps, and the first rule that keeps each."""
    kept = {p.id: f"last {policy.last}" for p in newest_first[: policy.last]}
    for rule, many, label in _PERIODS:
        seen: dict[str, str] = {}
        for point in newest_first:
            if len(seen) < many(policy):
                seen.setdefault(label(moment(point).astimezone(UTC)), point.id)
        for period, point_id in seen.items():
            kept.setdefault(point_id, f"{rule} {period}")
    return kept


def _week(moment: datetime) -> str:
    year, week, _ = moment.isocalendar()
    return f"{year}-W{week:02}"


_PERIODS: Iterable[tuple[str, Callable[[Retention], int], Callable[[datetime], str]]] = (
    ("hourly", lambda r: r.hourly, lambda m: f"{m:%Y-%m-%dT%H}"),
    ("daily", lambda r: r.daily, lambda m: f"{m:%Y-%m-%d}"),
    ("weekly", lambda r: r.weekly, _week),
    ("monthly", lambda r: r.monthly, lambda m: f"{m:%Y-%m}"),
)


def _consistent_at(point: Dated) -> datetime:
    return point.consistent_at


def _stored_at(point: Dated) -> datetime:
    return point.stored_at


def _by_consistency(point: Dated) -> tuple[int, datetime, str]:
    return point.generation, point.consistent_at, point.id


def _by_storage(point: Dated) -> tuple[int, datetime, str]:
    return point.generation, point.stored_at, point.id


def _by_serial(point: Dated) -> tuple[int, int, datetime, str]:
    return point.generation, point.serial, point.consistent_at, point.id


_ORDERS: Sequence[tuple[Callable[[Dated], tuple[Any, ...]], Callable[[Dated], datetime]]] = (
    (_by_storage, _stored_at),
    (_by_serial, _consistent_at),
    (_by_consistency, _consistent_at),
)
"""The orders in which points may have been made, and the moment that they go by."""
