# SPDX-License-Identifier: Apache-2.0
"""One poller for each kind of resource of a site: one list call serves all waits for something of
that kind.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

from antipode.cloud.api import ApiError, Json
from antipode.errors import ResourceFailed, SiteUnreachable, Stalled, UnexpectedAnswer
from antipode.pace import Pace

PATIENCE_S = 120.0
"""How long a site may give no usable listing before the waits end."""

LOOK_TIMEOUT_S = 30.0
"""How long one listing may take: a call that hangs must not take all the time that the wait has,
which may be a day.
"""

PAGE = 50
"""How many resources a look asks for at least."""
NAMED = 3
"""How many of those waited for are named."""


def _nothing(_: str = "") -> None:
    """What is done between two looks when the caller wants nothing done."""


class Pages(Protocol):
    """The pages of a listing, newest first: how many items the first is asked for, and how many
    seconds each may take.
    """

    def __call__(self, *, first: int, timeout_s: float) -> Iterator[list[Json]]: ...


class _Patience(NamedTuple):
    """How a wait waits, and for how long; see `Watch.wait_for`."""

    until: str
    """what is waited for, in words"""
    timeout_s: float
    interval_s: float
    stalled_after_s: float
    between: Callable[[], None]
    tell: Callable[[str], None]


class _Progress:
    """When anything that is listed of the resources of one wait has changed last."""

    def __init__(self) -> None:
        self._listed: dict[str, Json | None] = {}
        self.begin()

    def begin(self) -> None:
        """Count from now on: nothing is known of the time before."""
        self._since, self.since = time.monotonic(), datetime.now(UTC)

    def listed(self, resources: dict[str, Json | None]) -> None:
        """What is listed now of the resources that are waited for."""
        if resources != self._listed:
            self._listed = resources
            self.begin()

    @property
    def still_for_s(self) -> float:
        return time.monotonic() - self._since


class Watch:
    """Waits for resources of one kind.

    A wait that finds the last listing too old makes the next one, for all.
    """

    def __init__(
        self, site: str, kind: str, pages: Pages, *, deleted_in: Collection[str] = ()
    ) -> None:
        """
        Args:
            pages: lists the resources; it is read until all waited for are seen.
            deleted_in: the statuses that a resource has from when its deletion is accepted until
                it is gone: with any other the deletion has failed. Empty where only
                `error_deleting` tells so.
        """
        self._site = site
        self._kind = kind
        self._pages = pages
        self._deleted_in = deleted_in
        self._changed = threading.Condition()
        self._waited_for: Counter[str] = Counter()
        self._seen: dict[str, Json] = {}
        self._asked_at = float("-inf")
        self._tried_at = float("-inf")
        self._look_s = 0.0
        self._asking = False
        self._failing_since: float | None = None

    def wait_for(
        self,
        ids: Collection[str],
        *,
        wanted: Collection[str] = ("available",),
        timeout_s: float,
        interval_s: float = 0.5,
        stalled_after_s: float = math.inf,
        between: Callable[[], None] = _nothing,
        tell: Callable[[str], None] = _nothing,
    ) -> dict[str, Json]:
        """Wait until every resource has one of the wanted statuses.

        Args:
            ids: the resources.
            wanted: statuses, in lower case.
            timeout_s: seconds to wait at most.
            interval_s: seconds between an answer and the next list call, at most: a wait that
                has just begun looks more often.
            stalled_after_s: seconds after which the wait ends if nothing that the site lists of the
                resources has changed, although it lists them. Cinder shows no progress of a restore
                and hardly any of a backup: it is then the longest time that one may take.
            between: called after each look; what it raises ends the wait.
            tell: called after each look with what is still waited for, in words: "backup b1 (1f3c…)
                is creating, to be available".

        Returns:
            the resources as last listed, by id.

        Raises:
            ResourceFailed: one went into an error status, is gone, or did not get there in time.
            Stalled: nothing changed for `stalled_after_s`; the message names the resources, their
                states and since when.
            SiteUnreachable, UnexpectedAnswer: the site gave no usable listing for PATIENCE_S.
        """

        def not_there(seen: dict[str, Json]) -> list[str]:
            waiting = [r for r in ids if r not in seen or seen[r]["status"].lower() not in wanted]
            for resource in waiting:
                self._refuse_failed(resource, seen.get(resource))
            return waiting

        until = f"to be {' or '.join(wanted)}"
        patience = _Patience(until, timeout_s, interval_s, stalled_after_s, between, tell)
        return self._until(not_there, ids, patience)

    def wait_gone(
        self,
        ids: Collection[str],
        *,
        timeout_s: float,
        interval_s: float = 0.5,
        between: Callable[[], None] = _nothing,
        tell: Callable[[str], None] = _nothing,
    ) -> None:
        """Wait until none of the resources, whose deletion was accepted, is listed any more;
        `between` and `tell` as in `wait_for`.

        Raises:
            ResourceFailed: one could not be deleted, or not in time.
        """

        def left(seen: dict[str, Json]) -> list[str]:
            there = [r for r in ids if r in seen]
            for resource in there:
                status = seen[resource]["status"].lower()
                if status == "error_deleting":
                    self._refuse_failed(resource, seen[resource])
                if self._deleted_in and status not in self._deleted_in:
                    self._refuse_failed(resource, seen[resource])
                    raise ResourceFailed(
                        f"{self._site}: {self._kind} {resource} was to be deleted, but is {status}"
                    )
            return there

        patience = _Patience("to be gone", timeout_s, interval_s, math.inf, between, tell)
        self._until(left, ids, patience)

    def under(self, go_on: Callable[[], None]) -> WatchUnder:
        """This poller for one run: `go_on` is called between two looks, and what it raises ends
        the wait.
        """
        return WatchUnder(self, go_on)

    def _refuse_failed(self, resource: str, item: Json | None) -> None:
        if item is None:
            raise ResourceFailed(
                f"{self._site}: {self._kind} {resource} is gone; it was deleted by someone else "
                "during the wait"
            )
        if item["status"].lower().startswith("error"):
            reason = (
                item.get("fail_reason")
                or (item.get("fault") or {}).get("message")
                or "see the service's log for the reason"
            )
            label = f"{self._kind} {item.get('name') or ''} ({resource})"
            raise ResourceFailed(f"{self._site}: {label} is in status {item['status']}: {reason}")

    def _until(
        self,
        unsettled: Callable[[dict[str, Json]], list[str]],
        ids: Collection[str],
        patience: _Patience,
    ) -> dict[str, Json]:
        with self._changed:
            began = time.monotonic()
            self._waited_for.update(ids)
        deadline = began + patience.timeout_s
        last: dict[str, Json] = {}
        waiting: Collection[str] = ids
        progress, pace = _Progress(), Pace(patience.interval_s)
        try:
            while True:
                seen = self._look(began, deadline, pace)
                if seen is not None:
                    waiting = unsettled(seen)
                    if not waiting:
                        return {r: seen[r] for r in ids if r in seen}
                    last, began = seen, time.monotonic()
                    progress.listed({r: seen.get(r) for r in ids})
                else:
                    progress.begin()
                states = self._states(waiting, last)
                patience.tell(f"{states}, {patience.until}{self._silence()}")
                patience.between()
                if progress.still_for_s >= patience.stalled_after_s:
                    raise Stalled(
                        f"{self._site}: {states} without any change since "
                        f"{progress.since:%Y-%m-%d %H:%M:%S} UTC ({progress.still_for_s:.0f} s). "
                        "Look at the log of the service that works on it, or allow more time under "
                        "limits in antipode.yaml"
                    )
                if time.monotonic() >= deadline:
                    raise ResourceFailed(
                        f"{self._site}: {states} after {patience.timeout_s:.0f} s of waiting for "
                        f"it {patience.until}"
                    )
        finally:
            with self._changed:
                self._waited_for.subtract(ids)
                self._waited_for += Counter()  # drops resources with no waiter left

    def _states(self, ids: Collection[str], seen: dict[str, Json]) -> str:
        shown = [f"{self._kind} {_named(r, seen.get(r))}" for r in list(ids)[:NAMED]]
        return ", ".join(shown) + (f" and {len(ids) - NAMED} more" if len(ids) > NAMED else "")

    def _silence(self) -> str:
        return "" if self._failing_since is None else f"; {self._site} gives no usable answer"

    def _look(self, since: float, deadline: float, pace: Pace) -> dict[str, Json] | None:
        """The listing, asked for after `since` and a pause after the one before had come; None
        when time is over or it failed.
        """
        with self._changed:
            while True:
                if self._asked_at >= since:
                    return self._seen
                now = time.monotonic()
                if now >= deadline:
                    return None
                due = self._tried_at + pace.pause_s(self._look_s, self._tried_at)
                if not self._asking and now >= due:
                    # Under the lock: a listing asked for after somebody began to wait must not end
                    # before it has seen theirs.
                    self._asking, ids = True, set(self._waited_for)
                    break
                until = deadline if self._asking else min(deadline, due)
                self._changed.wait(min(until - now, LOOK_TIMEOUT_S))
        return self._ask(ids, now, min(deadline - now, LOOK_TIMEOUT_S))

    def _ask(self, ids: set[str], asked_at: float, timeout_s: float) -> dict[str, Json] | None:
        listed: dict[str, Json] | None = None
        try:
            listed = self._read(ids, timeout_s)
            self._failing_since = None
        except (SiteUnreachable, ApiError, UnexpectedAnswer) as error:
            self._failing_since = self._failing_since or asked_at
            busy = not isinstance(error, ApiError) or error.status >= 500
            if not busy or asked_at - self._failing_since > PATIENCE_S:
                raise
        finally:
            with self._changed:
                # a slow service gets its pause after the answer
                self._asking, self._tried_at = False, time.monotonic()
                self._look_s = self._tried_at - asked_at
                if listed is not None:
                    self._seen, self._asked_at = listed, asked_at
                self._changed.notify_all()
        return listed

    def _read(self, ids: set[str], timeout_s: float) -> dict[str, Json]:
        listed: dict[str, Json] = {}
        # Mostly the resources that were made last are waited for: a first page with room spares the
        # rest of a large project.
        for page in self._pages(first=max(PAGE, 2 * len(ids)), timeout_s=timeout_s):
            listed.update((item["id"], item) for item in page)
            if ids <= listed.keys():
                break
        return listed


def _named(resource: str, item: Json | None) -> str:
    if item is None:
        return f"{resource} is not listed"
    name = item.get("name")
    return f"{name} ({resource}) is {item['status']}" if name else f"{resource} is {item['status']}"


class WatchUnder:
    """A watch as one run uses it."""

    def __init__(self, watch: Watch, go_on: Callable[[], None]) -> None:
        self._watch = watch
        self._go_on = go_on

    def wait_for(
        self, ids: Collection[str], *, between: Callable[[], None] = _nothing, **how: Any
    ) -> dict[str, Json]:
        """As `Watch.wait_for`."""
        return self._watch.wait_for(ids, between=self._both(between), **how)

    def wait_gone(
        self, ids: Collection[str], *, between: Callable[[], None] = _nothing, **how: Any
    ) -> None:
        """As `Watch.wait_gone`."""
        self._watch.wait_gone(ids, between=self._both(between), **how)

    def under(self, go_on: Callable[[], None]) -> WatchUnder:
        """As `Watch.under`."""
        return WatchUnder(self._watch, go_on)

    def _both(self, between: Callable[[], None]) -> Callable[[], None]:
        def both() -> None:
            self._go_on()
            between()

        return both
