# SPDX-License-Identifier: Apache-2.0
"""The test of an application's replication against the contract: for the author of a driver or of
commands, on data that may be changed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from antipode.datastores.application import IN_USE, USABLE, Application, Data
from antipode.errors import AntipodeError, ResourceFailed, Stopped
from antipode.model.datastore import Health, Standing, Verb

ARRIVES_WITHIN_S = 60.0
"""How long a position may take to be reached, and a copy to follow again."""
LOOK_S = 0.2
NO_POSITION = "antipode-conformance/no-such-position"
"""A position that no application has."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    site: str
    check: str
    problem: str | None
    """None: it is as the contract wants it"""


def look(
    original: Application, copy: Application, data: Data, *, promotes: bool
) -> Iterator[Finding]:
    """Compare both sites of an application's data with the contract; each finding as it is made.

    Args:
        promotes: whether the copy is promoted, demoted and made to follow again as well: what is
            written there meanwhile is lost.
    """
    for here in (original, copy):
        looks = _Looks(here, data)
        yield from looks.alone()
    pair = _Pair(original, copy, data)
    follows = True
    for found in pair.replication():
        follows = follows and found.problem is None
        yield found
    if not promotes or Verb.PROMOTE not in copy.verbs:
        return
    if not follows:  # it may be the only original that there is
        why = f"not tried, as it is no copy of {original.site} that follows"
        yield Finding(copy.site, "can be promoted, demoted and made to follow again", why)
        return
    yield from _peculiarities(copy, data, may_be_lost=True)
    yield from pair.promotion()


def _peculiarities(here: Application, data: Data, *, may_be_lost: bool) -> Iterator[Finding]:
    for check, problem in here.peculiarities(data, may_be_lost=may_be_lost):
        yield Finding(here.site, check, problem)


def _found(site: str, check: str, ask: Callable[[], str | None]) -> Finding:
    """A finding; an error of the question is its problem."""
    try:
        return Finding(site, check, ask())
    except Stopped:
        raise
    except AntipodeError as error:
        return Finding(site, check, str(error))


class _Looks:
    """What is looked at of one site alone."""

    def __init__(self, here: Application, data: Data) -> None:
        self._here = here
        self._data = data

    def alone(self) -> Iterator[Finding]:
        for check, ask in (
            ("can be asked", lambda: "; ".join(self._here.problems()) or None),
            ("says how the data is", self._status),
            ("says the same reference each time", self._reference),
            ("has reached its own position", self._own_position),
            ("has not reached a position that there is not", self._no_position),
        ):
            yield _found(self._here.site, check, ask)
        yield from _peculiarities(self._here, self._data, may_be_lost=False)

    def _status(self) -> str | None:
        found = self._here.status(self._data)
        if found.health not in USABLE:
            return f"it is {found.health} ({found.detail})"
        return None if found.position else "it has no position"

    def _reference(self) -> str | None:
        first, second = (self._here.reference(self._data) for _ in range(2))
        return None if first == second else f"{first} and then {second}"

    def _own_position(self) -> str | None:
        position = self._here.status(self._data).position
        if position is None:
            return "it has no position"
        if not self._here.has_reached(self._data, position):
            return f"it has not reached {position}, which it said it has"
        return None

    def _no_position(self) -> str | None:
        try:
            found = self._here.status(self._data, NO_POSITION)
        except ResourceFailed:
            return None  # to refuse such a position is right
        return f"it says that it has reached {NO_POSITION}" if found.reached else None


class _Pair:
    """What is looked at of both sites together."""

    def __init__(self, original: Application, copy: Application, data: Data) -> None:
        self._original = original
        self._copy = copy
        self._data = data
        self._position = ""

    def replication(self) -> Iterator[Finding]:
        there, here = self._copy.site, self._original.site
        yield _found(here, "the original is in use", self._original_in_use)
        yield _found(there, "the copy follows", self._follows)
        yield _found(there, "a position arrives", self._arrives)
        yield _found(there, "an earlier position stays reached", self._stays_reached)

    def promotion(self) -> Iterator[Finding]:
        there, verbs = self._copy.site, self._copy.verbs
        yield _found(there, "is writable when it is promoted", self._promote)
        yield _found(there, "may be promoted twice", self._promote)
        yield _found(there, "has what it had when it was promoted", self._has_it_still)
        if Verb.DEMOTE in verbs:
            yield _found(there, "is not writable when it is demoted", self._demote)
            yield _found(there, "may be demoted twice", self._demote)
        if Verb.RESYNC in verbs:
            yield _found(there, "follows again after a resync", self._resync)
            yield _found(there, "may be resynchronised twice", self._resync)
            yield _found(there, "a position arrives after a resync", self._arrives)

    def _original_in_use(self) -> str | None:
        found = self._original.status(self._data)
        return None if self._original.is_in_use(found.health) else _is(found)

    def _follows(self) -> str | None:
        found = self._copy.status(self._data)
        wanted = (Health.REPLICATING,) if Verb.PROMOTE in self._copy.verbs else IN_USE
        return None if found.health in wanted else _is(found)

    def _arrives(self) -> str | None:
        if Verb.POINT in self._original.verbs:
            position = self._original.point(self._data, ARRIVES_WITHIN_S)
        elif (now := self._original.status(self._data).position) is None:
            return f"{self._original.site} has no position"
        else:
            position = now
        self._position = position
        wanted = self._original.vouched(self._data, position)
        if not self._within(lambda: self._copy.has_reached(self._data, wanted)):
            return f"it has not reached {position} after {ARRIVES_WITHIN_S:g} s"
        return None

    def _stays_reached(self) -> str | None:
        earlier = self._position
        return self._arrives() or self._lacks(earlier)

    def _promote(self) -> str | None:
        self._copy.promote(self._data, self._position)
        found = self._copy.status(self._data)
        return None if found.health is Health.WRITABLE else _is(found)

    def _has_it_still(self) -> str | None:
        return self._lacks(self._position)

    def _demote(self) -> str | None:
        self._copy.demote(self._data)
        found = self._copy.status(self._data)
        return _is(found) if found.health is Health.WRITABLE else None

    def _resync(self) -> str | None:
        self._copy.resync(self._data, self._original.reference(self._data))
        if not self._within(lambda: self._follows() is None):
            return f"after {ARRIVES_WITHIN_S:g} s, {self._follows()}"
        return None

    def _lacks(self, position: str) -> str | None:
        if self._copy.has_reached(self._data, position):
            return None
        return f"it has reached {position} no longer"

    def _within(self, is_so: Callable[[], bool]) -> bool:
        deadline = time.monotonic() + ARRIVES_WITHIN_S
        while not is_so():
            if time.monotonic() > deadline:
                return False
            self._data.go_on()
            time.sleep(LOOK_S)  # a command does not notify
        return True


def _is(found: Standing) -> str:
    return f"it is {found.health} ({found.detail})"
