# SPDX-License-Identifier: Apache-2.0
"""Containers that Swift's container sync keeps in step with those of the same names at another
site.

Container sync promises no order, and says nothing when all that it sends is refused. So a copy is
believed by a marker only, with a list of the objects that were there (`swift_marker`).
"""

from __future__ import annotations

import hashlib
import hmac
import stat
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

from pydantic import Field, StringConstraints

from antipode.datastores import swift_marker
from antipode.datastores.application import USABLE, Application, Data
from antipode.datastores.swift_marker import LARGEST, NAME, TICK_S, Found, Marker, Position, Seen
from antipode.errors import AntipodeError, NotFound, ResourceFailed, SiteUnreachable
from antipode.model.base import Model, Seconds
from antipode.model.datastore import Health, Standing, Verb

if TYPE_CHECKING:
    from antipode.cloud.objects import Objects

TO, KEY = "x-container-sync-to", "x-container-sync-key"
COUNT = "x-container-object-count"
ROLE = "x-container-meta-antipode-role"
FOLLOWS, DEMOTED = "follows ", "demoted"
"""What `ROLE` says of a copy, before the reference of its original; of one that is no original any
more. An original has no role."""
REACHED = "x-container-meta-antipode-reached"
"""The last position that a copy was seen to have: the application can delete the marker."""
SECRET_BYTES = 16
CLOCKS_S = 30.0
"""How far the clock of a former site may be ahead, so that a promotion waits for it."""
LOOK_S = 0.5
MARKS = 5
"""How many markers an original that is looked at gets until one is stale."""
SHOWN = 3
"""How many objects a message names."""
SPARE = 1 << 10
"""Bytes of a marker beside what is counted before it is written."""
POINT_S = 10.0
"""How long members may be quiesced for the markers, at most."""
AT_ONCE = 8
"""Containers that get a marker at once while members are quiesced."""
Container = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._~-]+$", max_length=256)]
"""Others would have to be quoted in `TO`, and what is signed is not the same everywhere then:
nothing arrives."""


class Settings(Model):
    """Containers at one site."""

    cloud: Annotated[str, Field(min_length=1)]
    """the entry of clouds.yaml by which the containers are reached"""
    containers: Annotated[list[Container], Field(min_length=1, max_length=100)]
    """the same names at each site"""
    secret: Path
    """a file with a secret of the operator, the same at each site: the keys of the containers are
    derived from it
    """
    realm: str | None = None
    """of container sync; needed where Swift knows several"""
    compares: Annotated[int, Field(ge=0, le=50_000)] = 10_000
    """of a container with more objects, only the marker is compared"""
    stale_after: Annotated[Seconds, Field(gt=0)] = 300.0
    """a copy whose marker is older counts as stopped"""


class BySwift(Application):
    settings = Settings
    is_marked = True
    is_one_set = True
    most_copies = 1

    def __init__(self, name: str, site: str, settings: Model) -> None:
        super().__init__(name, site, settings)
        assert isinstance(settings, Settings)
        self._settings = settings
        self._ready: Mapping[str, Found | None] | None = None
        """the markers of the originals, read before members are quiesced"""

    @property
    def verbs(self) -> frozenset[Verb]:
        return frozenset(Verb)

    @cached_property
    def _objects(self) -> Objects:
        from antipode.cloud.site import connect_objects

        return connect_objects(self.site, self._settings.cloud)

    @cached_property
    def _account(self) -> str:
        """How container sync names the account here: `//REALM/CLUSTER/ACCOUNT`.

        Raises:
            ResourceFailed: Swift has no container sync here, or it does not say which cluster it
                is.
        """
        wanted = self._settings.realm
        here = [
            c
            for c, is_this in self._objects.clusters().items()
            if is_this and wanted in (None, c.realm, c.realm.lower())
        ]
        if len(here) != 1:
            known = ", ".join(f"//{c.realm}/{c.name}" for c in here) or "none"
            raise ResourceFailed(
                f"{self.label}: which cluster of container sync this Swift is, is not clear (GET"
                f" /info: {known}). Have its operator set `current` of container_sync, or set"
                " `realm` of the storage"
            )
        account = urlsplit(self._objects.account).path.rstrip("/").rpartition("/")[2]
        return f"//{here[0].realm.lower()}/{here[0].name.lower()}/{account}"

    def problems(self) -> Iterator[str]:
        try:
            self._secret()
            _ = self._account
        except AntipodeError as error:
            yield str(error)

    def be_ready(self) -> None:
        _ = self._account
        self._ready = self._originals()  # their lists are long, and not to be read in the window

    def reference(self, data: Data) -> str:
        return self._account

    def status(self, data: Data, position: str | None = None) -> Standing:
        wanted = None if position is None else Position.of(position)
        each = self._looks(data)
        if all(one.is_to_be_marked for one in each):
            self._listed(data)  # or its copies would seem to follow no more
            each = self._looks(data)
        return self._together(each, wanted)

    def _together(self, each: Sequence[_One], wanted: Position | None) -> _Standing:
        # the one that is worst says how all are: they are used together
        worst = min(each, key=lambda one: _WORST.index(one.health))
        health = worst.health
        if health is Health.REPLICATING and len({one.health for one in each}) > 1:
            health = Health.STOPPED  # some were promoted, and some not yet
        markers = [one.found for one in each]
        known = [found for found in markers if found is not None]
        oldest = min(known, key=lambda found: found.at, default=None)
        return _Standing(
            health=health,
            is_writable=any(one.is_writable for one in each),
            lag_s=max((one.lag_s for one in each if one.lag_s is not None), default=None),
            detail="; ".join(one.detail for one in each if one.detail)[:1000],
            position=None if oldest is None else str(oldest.position),
            reached=None
            if wanted is None
            else all(found is not None and found.has(wanted) for found in markers),
            origin=worst.origin,
        )

    def has_reached(self, data: Data, position: str) -> bool:
        """Also each copy is as a list of its original says that was made after the position: what
        container sync passes over, or what was written here, is seen.
        """
        wanted = Position.of(position)
        each = self._looks(data, wanted)
        found = self._together(each, wanted)
        if not (
            found.reached
            and found.health in USABLE
            and all(one.is_as_listed or one.is_ours(self._account) for one in each)
        ):
            return False
        for container, one in zip(self._settings.containers, each, strict=True):
            if one.is_as_listed and one.found is not None and (seen := one.found.marker.seen):
                shown = Position(one.found.marker.history, seen.since)
                self._objects.describe(container, {REACHED: str(shown)})
        return True

    def is_writable(self, found: Standing) -> bool:
        return found.is_writable if isinstance(found, _Standing) else super().is_writable(found)

    def point(self, data: Data, within_s: float) -> str:
        known, self._ready = self._ready or self._originals(data), None
        history = _history(known)

        def marked(container: str) -> tuple[float, float | None]:
            """When the former marker was written, or one that stays, and when this one."""
            data.go_on()
            former = known[container]
            before = 0.0 if former is None else float(self._objects.changed_at(container, NAME))
            marker = self._marker(data, history, former)
            found, is_ours = swift_marker.write(self._objects, container, marker)
            if is_ours and found is not None:
                return before, found.at
            if found is None or found.marker.history != history:
                raise self._is_ahead(container)
            return found.at, None  # no wait for a clock: a later marker shows the position as well

        times = self._at_once(data, marked, min(within_s, POINT_S))
        return str(_position(history, [b for b, _ in times], [at for _, at in times if at]))

    def _at_once(
        self, data: Data, do: Callable[[str], tuple[float, float | None]], within_s: float
    ) -> list[tuple[float, float | None]]:
        """Do something with all containers. A request that hangs is not waited for.

        Raises:
            SiteUnreachable: it is not done in time.
        """
        deadline = time.monotonic() + within_s
        pool = ThreadPoolExecutor(min(len(self._settings.containers), AT_ONCE), "marker")
        try:
            done = [pool.submit(do, container) for container in self._settings.containers]
            while left := wait(done, timeout=LOOK_S).not_done:
                data.go_on()
                if time.monotonic() > deadline:
                    raise SiteUnreachable(
                        f"{self.label}: {len(left)} of {len(done)} containers took no marker"
                        f" within {within_s:g} s, in which members are quiesced"
                    )
            return [one.result() for one in done]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def vouched(self, data: Data, position: str) -> str:
        self._listed(data)
        return position

    def promote(self, data: Data, position: str | None = None) -> None:
        former = {c: swift_marker.read(self._objects, c) for c in self._settings.containers}
        for container, found in former.items():
            self._must_be_of(data, container, found)
        done = {
            found.marker.history
            for found in former.values()
            if found is not None and found.marker.origin == self._account
        }
        history = done.pop() if len(done) == 1 else _new_history()
        for container in self._settings.containers:
            data.go_on()
            # Its key first: nothing of the former site arrives from now on.
            known = self._objects.properties(container)
            self._objects.describe(container, {ROLE: ""} if known.get(TO) else {ROLE: "", KEY: ""})
            found = self._found(container, known)
            if found is None or found.marker.origin != self._account:
                self._write_over(data, container, self._marker(data, history, found))
            if known.get(REACHED):
                self._objects.describe(container, {REACHED: ""})

    def demote(self, data: Data) -> str | None:
        each = dict(zip(self._settings.containers, self._looks(data), strict=True))
        there = {c: one for c, one in each.items() if one.health is not Health.ABSENT}
        promoted = [c for c, one in there.items() if one.origin is None]
        are_whole = all(one.health is Health.WRITABLE or one.is_demoted for one in each.values())
        position = str(self._listed(data)) if are_whole else None
        for container in promoted:
            data.go_on()
            self._objects.describe(container, {ROLE: DEMOTED})
        return position

    def resync(self, data: Data, origin: str) -> None:
        key = self._key(origin, self._account)
        for container in self._settings.containers:
            self._must_be_of(data, container, swift_marker.read(self._objects, container))
        for container in self._settings.containers:
            data.go_on()
            self._objects.ensure_container(container)
            follows = {TO: "", KEY: key, ROLE: f"{FOLLOWS}{origin}"}
            is_same = self._objects.properties(container).get(ROLE) == follows[ROLE]
            self._objects.describe(container, follows if is_same else follows | {REACHED: ""})

    def create(self, data: Data) -> None:
        for container in self._settings.containers:
            self._objects.ensure_container(container)

    def feed(self, data: Data, copy: str) -> None:
        key = self._key(self._account, copy)
        self._originals(data)
        for container in self._settings.containers:
            data.go_on()
            to = f"{copy}/{container}"
            known = self._objects.properties(container)
            if known.get(ROLE):
                raise ResourceFailed(f"{self.label}: container {container} is no original")
            if known.get(TO) not in (None, "", to):
                raise ResourceFailed(
                    f"{self.label}: container {container} is sent to {known[TO]}, and container"
                    " sync sends it to one place only"
                )
            if (known.get(TO), known.get(KEY)) != (to, key):
                self._objects.describe(container, {TO: to, KEY: key})
        self._listed(data)

    def remove(self, data: Data) -> None:
        for container in self._settings.containers:
            data.go_on()
            with suppress(NotFound):
                if self._is_prepared(data, container):
                    self._objects.describe(container, {TO: "", KEY: "", ROLE: "", REACHED: ""})
                    self._objects.delete(container, NAME)

    def _is_prepared(self, data: Data, container: str) -> bool:
        """Whether a container is an original or a copy by us, and not by its operator.

        Raises:
            NotFound: there is no such container.
            ResourceFailed: it has an object of the name of markers that is none, or is other data.
        """
        known = self._objects.properties(container)
        found = swift_marker.read(self._objects, container)
        self._must_be_of(data, container, found)
        if found is not None or known.get(ROLE):
            return True
        copy = known.get(TO, "").rpartition("/")[0]
        return bool(copy) and known.get(KEY) == self._key(self._account, copy)

    # ---- one container ----

    def _looks(self, data: Data, wanted: Position | None = None) -> list[_One]:
        """How each container is here.

        Raises:
            ResourceFailed: one is other data.
        """
        each = [self._look(container, wanted) for container in self._settings.containers]
        for container, one in zip(self._settings.containers, each, strict=True):
            self._must_be_of(data, container, one.found)
        return each

    def _look(self, container: str, wanted: Position | None) -> _One:
        """How a container is here.

        Args:
            wanted: a copy is compared with a list only if that was made after this position; None:
                with each.
        """
        try:
            known = self._objects.properties(container)
        except NotFound:
            return _One(Health.ABSENT, f"there is no container {container}")
        found = self._found(container, known)
        role = known.get(ROLE, "")
        if role == DEMOTED:
            return _One(Health.STOPPED, f"{container} was demoted", found, is_demoted=True)
        if role:
            return self._copy(container, role.removeprefix(FOLLOWS), known, found, wanted)
        if found is not None and found.marker.origin != self._account:
            return _One(Health.STOPPED, f"{container} is half promoted", found, is_writable=True)
        if not known.get(TO):
            # one that was only just made has nothing that could be lost
            is_in_use = found is not None or known.get(COUNT) != "0"
            said = f"{container} is sent nowhere"
            return _One(Health.WRITABLE, said, found, is_writable=is_in_use)
        age_s = _now(known) - found.at if found else None
        return _One(
            Health.WRITABLE,
            f"{container} is sent to {known[TO]}",
            found,
            is_writable=True,
            is_to_be_marked=age_s is None or age_s > self._settings.stale_after / MARKS,
        )

    def _found(self, container: str, known: Mapping[str, str]) -> Found | None:
        """The marker of a container. One that the application has deleted, or that was made again
        since, tells no longer what the container has reached: that was noted.

        Args:
            known: the headers of the container.
        """
        found = swift_marker.read(self._objects, container)
        if not (noted := known.get(REACHED)):
            return found
        reached = Position.of(noted)
        if found is None:
            origin = known.get(ROLE, "").removeprefix(FOLLOWS)
            return Found(Marker(history=reached.history, origin=origin), reached.at, is_noted=True)
        past = {reached.history: reached.at, **found.marker.past}
        return Found(found.marker.model_copy(update={"past": past}), found.at)

    def _copy(
        self,
        container: str,
        origin: str,
        known: Mapping[str, str],
        found: Found | None,
        wanted: Position | None,
    ) -> _One:
        def one(health: Health, detail: str, **more: Any) -> _One:
            return _One(health, f"{container} {detail}", found, origin, **more)

        if known.get(TO):
            return one(Health.BROKEN, f"follows {origin}, and is sent to {known[TO]}")
        if known.get(KEY) != self._key(origin, self._account):
            return one(Health.BROKEN, "has not the key of its original, so nothing arrives")
        if found is None or found.marker.origin != origin:
            return one(Health.FIRST_SYNC, f"has no marker of {origin} yet")
        lag_s = round(max(0.0, _now(known) - found.at), 1)
        if found.is_noted:
            return one(Health.STOPPED, "has its marker no more", lag_s=lag_s)
        shows = wanted is None or found.shows(wanted)
        listed = found.marker.seen if shows else None
        lacks = (
            ()
            if listed is None
            else tuple(islice(listed.missed_by(self._objects.listing(container)), SHOWN))
        )
        detail = f"has a marker that is {lag_s:g} s old"
        if lacks:
            detail += f", and differs from what that lists: {'; '.join(lacks)}"
        health = Health.REPLICATING if lag_s <= self._settings.stale_after else Health.STOPPED
        return one(health, detail, lag_s=lag_s, is_as_listed=shows and not lacks)

    # ---- markers ----

    def _originals(self, data: Data | None = None) -> dict[str, Found | None]:
        """The marker of each container; each is, or was last, an original.

        Args:
            data: which they have to be.

        Raises:
            ResourceFailed: one is a copy or other data, or they have no common history.
        """
        former = {c: swift_marker.read(self._objects, c) for c in self._settings.containers}
        for container, found in former.items():
            if data is not None:
                self._must_be_of(data, container, found)
            role = self._objects.properties(container).get(ROLE, "")
            if role.startswith(FOLLOWS) or (
                found is not None and found.marker.origin != self._account
            ):
                raise ResourceFailed(
                    f"{self.label}: container {container} is no original, so it gets no marker"
                )
        if len({found.marker.history for found in former.values() if found is not None}) > 1:
            raise ResourceFailed(
                f"{self.label}: the containers have no common history, as some were replaced:"
                f" prepare the datastore again with the containers of one side"
            )
        return former

    def _listed(self, data: Data) -> Position:
        """Write a marker with the objects that are there into each container that is, or was last,
        the original. Their own position is shown by those that are written after them.

        Raises:
            ResourceFailed: as `_originals`.
        """
        former = self._originals(data)
        history = _history(former)
        written: list[float] = []
        for container, found in former.items():
            data.go_on()
            marker = self._marker(data, history, found)
            # no marker without a list is put in the place of one: it would hide it from a daemon
            since = found.at if found else self._write_over(data, container, marker)
            listed = marker.model_copy(update={"seen": self._seen(container, since)})
            if len(swift_marker.bytes_of(listed)) > LARGEST - SPARE:
                listed = marker.model_copy(update={"seen": Seen(since=since, objects=None)})
            written.append(self._write_over(data, container, listed))
        return _position(history, [found.at for found in former.values() if found], written)

    def _marker(self, data: Data, history: str, former: Found | None) -> Marker:
        """A marker for a container, without a list."""
        past: dict[str, float] = {}
        if former is not None:
            is_same = former.marker.history == history
            past = dict(former.marker.past if is_same else former.past)
        return Marker(vnf=data.vnf, history=history, origin=self._account, past=past)

    def _must_be_of(self, data: Data, container: str, found: Found | None) -> None:
        """See that a container is of no other VNF, which would be promoted and demoted with this.

        Raises:
            ResourceFailed: it is.
        """
        if found is not None and found.marker.vnf not in ("", data.vnf):
            raise ResourceFailed(
                f"{self.label}: container {container} is data of VNF {found.marker.vnf}:"
                f" {data.vnf} needs a storage with containers of its own"
            )

    def _seen(self, container: str, since: float) -> Seen:
        count = self._objects.properties(container).get(COUNT, "")
        if not count.isdigit() or int(count) > self._settings.compares:
            return Seen(since=since, objects=None)
        listing = self._objects.listing(container)
        objects = {o.name: (o.last_modified, o.etag) for o in listing if o.name != NAME}
        return Seen(since=since, objects=objects)

    def _write_over(self, data: Data, container: str, marker: Marker) -> float:
        """Write a marker; its time.

        Raises:
            ResourceFailed: an earlier one stays, as the clock of its site is far ahead.
        """
        deadline = time.monotonic() + CLOCKS_S
        while True:
            found, is_ours = swift_marker.write(self._objects, container, marker)
            if is_ours and found is not None:
                return found.at
            if time.monotonic() > deadline:
                raise self._is_ahead(container)
            data.go_on()
            time.sleep(LOOK_S)  # until the clock here is past its time

    def _is_ahead(self, container: str) -> ResourceFailed:
        return ResourceFailed(
            f"{self.label}: {NAME} in container {container} cannot be replaced: the clock"
            " of the site that wrote it is ahead. Objects that were written there then"
            " cannot be replaced either; set the clocks right"
        )

    # ---- keys ----

    def _secret(self) -> bytes:
        """
        Raises:
            ResourceFailed: the file cannot be read, others may read it, or it is too short.
        """
        path = self._settings.secret
        try:
            mode, found = stat.S_IMODE(path.stat().st_mode), path.read_bytes().strip()
        except OSError as error:
            raise ResourceFailed(
                f"{self.label}: secret {path} cannot be read: {error.strerror}"
            ) from error
        if mode & 0o077:
            raise ResourceFailed(
                f"{self.label}: secret {path} has mode {mode:04o}, and others may use it: chmod"
                f" 600 {path}"
            )
        if len(found) < SECRET_BYTES:
            raise ResourceFailed(
                f"{self.label}: secret {path} is shorter than {SECRET_BYTES} bytes: openssl rand"
                f" -hex 32 > {path}"
            )
        return found

    def _key(self, origin: str, copy: str) -> str:
        """The key of the containers of an original and its copy. Each direction has its own: what a
        daemon sends that still believes in the former direction is refused.
        """
        return hmac.new(self._secret(), f"{origin} {copy}".encode(), hashlib.sha256).hexdigest()


@dataclass(frozen=True)
class _One:
    """How one container is."""

    health: Health
    detail: str
    found: Found | None = None
    origin: str | None = None
    """the original that it follows"""
    lag_s: float | None = None
    is_as_listed: bool = False
    """whether it is a copy that has all of the list in its marker"""
    is_demoted: bool = False
    is_writable: bool = False
    """whether it has been an original here, or is made one, and was not demoted"""
    is_to_be_marked: bool = False
    """whether it is an original that is sent to a copy, and its marker is old"""

    def is_ours(self, account: str) -> bool:
        """Whether its marker was written here."""
        return self.found is not None and self.found.marker.origin == account


class _Standing(Standing):
    is_writable: Annotated[bool, Field(exclude=True)] = False
    """whether any of the containers is"""


_WORST: Sequence[Health] = (
    Health.ABSENT,
    Health.BROKEN,
    Health.FIRST_SYNC,
    Health.STOPPED,
    Health.REPLICATING,
    Health.WRITABLE,
)


def _history(former: Mapping[str, Found | None]) -> str:
    """That of the containers; a new one where they have none."""
    return next((f.marker.history for f in former.values() if f is not None), _new_history())


def _position(history: str, before: Sequence[float], written: Sequence[float]) -> Position:
    """The position of markers: none that was there before has reached it, also where the clocks of
    several proxies differ.
    """
    return Position(history, max(min(written, default=0.0), max(before, default=0.0) + TICK_S))


def _now(answer: Mapping[str, str]) -> float:
    """What time it is where a container is: the clock of antipode's host decides nothing."""
    with suppress(ValueError):
        return parsedate_to_datetime(answer.get("date", "")).timestamp()
    return time.time()


def _new_history() -> str:
    return uuid.uuid4().hex[:12]
