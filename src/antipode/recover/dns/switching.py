# SPDX-License-Identifier: Apache-2.0
"""The DNS records of a VNF: how a move changes them, and the change, record by record.

A record is changed only if it is as it was planned for. A repeated change finds it done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from antipode.errors import (
    AntipodeError,
    DnsFailed,
    DnsRecordChanged,
    DnsUnreachable,
    InvalidInput,
    Stopped,
)
from antipode.model.base import Model
from antipode.model.dns import DnsChange, DnsRecord, RecordSet
from antipode.model.point import RecoveryPoint
from antipode.model.steps import Step, Steps, Timeline
from antipode.recover.dns import records

if TYPE_CHECKING:
    from antipode.recover.dns import DnsProvider

Connect = Callable[[str | None], "DnsProvider"]
"""A provider by its name; the only one without. Raises what `dns.connect` and the configuration
raise.
"""
POLL_S = 1.0
OUTCOME = "dns"
"""In the result of a step that has switched a record: what became of it (`Switched`)."""


class Planned(NamedTuple):
    """The changes of a move, and what stands in the way of others."""

    changes: list[DnsChange]
    problems: list[str]


class Switched(Model):
    """What became of one change."""

    record: str
    """name and type"""
    provider: str
    old: RecordSet | None
    """as it was just before; None where there was none, or it is not known"""
    new: RecordSet
    done: bool
    changed: bool = False
    """whether it was changed now; False where it had been already"""
    problem: str = ""
    """why it is not done, or not seen everywhere"""


def plan(
    point: RecoveryPoint, site: str, former: str, provider: Connect, *, asks: bool = True
) -> Planned:
    """How the records of a VNF change when it becomes active at a site. Nothing is changed.

    Args:
        point: with the definition of the VNF.
        former: the site at which it is active until then.
        asks: whether servers are asked for the records as they are.
    """
    changes: list[DnsChange] = []
    problems: list[str] = []
    silent: set[str] = set()
    for record in point.vnf.dns:
        try:
            there = provider(record.provider)
            change = DnsChange(
                provider=there.name,
                new=records.wanted(point, record, site),
                former=_former(point, record, former),
            )
            if not there.has(record.name):
                raise InvalidInput(
                    f"DNS record {record.key} is not in zone {there.zone} of DNS provider"
                    f" {there.name}"
                )
            changes.append(change)
            if asks and there.name not in silent:
                old = there.read(record.name, record.type)
                changes[-1] = change.model_copy(update={"old": old, "is_known": True})
        except DnsUnreachable as error:
            silent.add(there.name)
            problems.append(f"DNS record {record.key}: {error}")
        except Stopped:
            raise
        except AntipodeError as error:
            problems.append(str(error) if record.key in str(error) else f"{record.key}: {error}")
    return Planned(changes, problems)


def _former(point: RecoveryPoint, record: DnsRecord, site: str) -> tuple[str, ...]:
    try:
        return records.wanted(point, record, site).values
    except InvalidInput:
        return ()


def switch(
    changes: Sequence[DnsChange],
    provider: Connect,
    timeline: Timeline,
    go_on: Callable[[], None],
    may: Callable[[], object] = lambda: None,
) -> list[Switched]:
    """Make changes, one after another. One that cannot be made holds up no other.

    Args:
        may: asked before each change, as a server may have been waited for meanwhile; raises when
            the VNF has moved on, or that is not known.

    Raises:
        Stopped: the run must stop.
    """
    silent: set[str] = set()
    return [_one(change, provider, timeline, go_on, may, silent) for change in changes]


def _one(
    change: DnsChange,
    provider: Connect,
    timeline: Timeline,
    go_on: Callable[[], None],
    may: Callable[[], object],
    silent: set[str],
) -> Switched:
    """One change. `silent`: the providers that have not answered; they are not waited for again."""
    outcome = Switched(
        record=change.key, provider=change.provider, old=change.old, new=change.new, done=False
    )
    try:
        with timeline.step(Steps.SWITCH_DNS, change.key) as step:
            there = provider(change.provider).under(partial(_both, go_on, may))
            patience_s = 0.0 if there.name in silent else there.within_s
            outcome = _changed(there, change, outcome, _Waiting(step, go_on, patience_s))
            step.result(**{OUTCOME: outcome.model_dump(mode="json")})
            if not outcome.problem:
                return outcome
            raise DnsFailed(outcome.problem)
    except Stopped:
        raise
    except AntipodeError as error:
        if isinstance(error, DnsUnreachable):
            silent.add(change.provider)
        return outcome.model_copy(update={"problem": str(error)})


def _both(go_on: Callable[[], None], may: Callable[[], object]) -> None:
    go_on()
    may()


class _Waiting:
    """The wait for servers of one change."""

    def __init__(self, step: Step, go_on: Callable[[], None], patience_s: float) -> None:
        self._step = step
        self._go_on = go_on
        self._until = time.monotonic() + patience_s

    def more(self, what: str) -> bool:
        """Wait a moment; False when that has been long enough.

        Raises:
            Stopped: the run must stop.
        """
        self._go_on()
        if time.monotonic() >= self._until:
            return False
        self._step.waits_for(what)
        time.sleep(POLL_S)
        return True


def _changed(
    there: DnsProvider, change: DnsChange, outcome: Switched, waiting: _Waiting
) -> Switched:
    """The change made, and seen at every server.

    Raises:
        DnsFailed: it is not made.
    """
    name, kind = change.new.name, change.new.type
    is_asked = False
    while True:
        try:
            present = there.read(name, kind)
            if present == change.new:
                # the answer to a change may have been lost
                outcome = outcome.model_copy(update={"changed": is_asked})
                break
            if not change.may_replace(present):
                raise DnsRecordChanged(
                    f"DNS record {change.key} is {present or 'not there'}, and not"
                    f" {change.old or ', '.join(change.former) or 'absent'} as it was: somebody has"
                    f" changed it, and it is left alone. It is to be {change.new}"
                )
            outcome = outcome.model_copy(update={"old": present})
            is_asked = True
            there.replace(present, change.new)
            outcome = outcome.model_copy(update={"changed": True})
            present = there.read(name, kind)
            if present is not None and present.values == change.new.values:
                break
            raise DnsFailed(
                f"{there.place} has accepted a change of {change.key} and has"
                f" {present or 'none'} all the same; other records of that name may forbid it"
            )
        except DnsUnreachable as error:
            if not waiting.more(str(error)):
                raise
    outcome = outcome.model_copy(update={"done": True})
    while late := there.behind(change.new):
        if not waiting.more(f"servers of the zone: {'; '.join(late)}"):
            words = f"DNS record {change.key} is switched, but not seen everywhere: "
            return outcome.model_copy(update={"problem": words + "; ".join(late)})
    return outcome


def kept_by_resolvers(switched: Sequence[Switched]) -> int:
    """For how many seconds after a change resolvers may still give the old records. One that an
    earlier process has made counts, too.
    """
    return max((s.old.ttl for s in switched if s.done and s.old and s.old != s.new), default=0)


def problems(switched: Sequence[Switched]) -> list[str]:
    """What is left to be done, and why."""
    return [s.problem for s in switched if s.problem]


def put_back(
    changes: Sequence[DnsChange],
    provider: Connect,
    timeline: Timeline,
    go_on: Callable[[], None],
) -> list[str]:
    """Undo changes of which it is known what they have replaced, as far as the records are still
    ours; what stays, and why. Safe to repeat.

    Raises:
        DnsUnreachable, DnsRefused: a server does not do it now.
    """
    left: list[str] = []
    for change in changes:
        with timeline.step(Steps.PUT_DNS_BACK, change.key) as step:
            there = provider(change.provider).under(go_on)
            present = there.read(change.new.name, change.new.type)
            if present is not None and present.values == change.new.values:
                there.replace(present, change.old)
                step.result(put_back=True)
            elif present != change.old:
                left.append(
                    f"DNS record {change.key} is {present or 'gone'}, and not ours any more"
                )
    return left
