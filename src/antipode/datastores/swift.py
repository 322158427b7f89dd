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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

from pydantic import Field, StringConstraints

from antipode.datastores import swift_marker
from antipode.datastores.application import Application, Data
from antipode.datastores.swift_marker import NAME, Found, Marker, Position, Seen
from antipode.errors import AntipodeError, NotFound, ResourceFailed
from antipode.model.base import Model, Seconds
from antipode.model.datastore import Health, Standing, Verb

if TYPE_CHECKING:
    from antipode.cloud.objects import Objects

TO, KEY = "x-container-sync-to", "x-container-sync-key"
ROLE = "x-container-meta-antipode-role"
FOLLOWS, DEMOTED = "follows ", "demoted"
"""What `ROLE` says of a copy, before the reference of its original; of one that is no original any
more. An original has no role."""
SECRET_BYTES = 16
CLOCKS_S = 30.0
"""How far the clock of a former site may be ahead, so that a promotion waits for it."""
LOOK_S = 0.5
MARKS = 5
"""How many markers an original that is looked at gets until one is stale."""
SHOWN = 3
"""How many objects a message names."""
Container = Annotated[str, StringConstraints(pattern=r"^[^/\s][^/]*$", max_length=256)]


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

    def __init__(self, name: str, site: str, settings: Model) -> None:
        super().__init__(name, site, settings)
        assert isinstance(settings, Settings)
        self._settings = settings

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

    def reference(self, data: Data) -> str:
        return self._account

    def status(self, data: Data, position: str | None = None) -> Standing:
        wanted = None if position is None else Position.of(position)
        each = self._looks()
        if all(one.is_to_be_marked for one in each):
            self._marked(data, lists=True)  # or its copies would seem to follow no more
            each = self._looks()
        # the one that is worst says how all are: they are used together
        worst = min(each, key=lambda one: _WORST.index(one.health))
        health = worst.health
        if health is Health.REPLICATING and len({one.health for one in each}) > 1:
            health = Health.STOPPED  # some were promoted, and some not yet
        markers = [one.found for one in each]
        known = [found for found in markers if found is not None]
        oldest = min(known, key=lambda found: found.at, default=None)
        return Standing(
            health=health,
            lag_s=max((one.lag_s for one in each if one.lag_s is not None), default=None),
            detail="; ".join(one.detail for one in each if one.detail)[:1000],
            position=None if oldest is None else str(oldest.position),
            reached=None
            if wanted is None
            else all(found is not None and found.has(wanted) for found in markers),
            origin=worst.origin,
        )

    def has_reached(self, data: Data, position: str) -> bool:
        """Also no object that the newest marker lists is missing: what container sync passes over,
        or what was written here, is seen.
        """
        return super().has_reached(data, position) and not any(one.lacks for one in self._looks())

    def point(self, data: Data, within_s: float) -> str:
        return str(self._marked(data, lists=False))

    def vouched(self, data: Data, position: str) -> str:
        return str(self._marked(data, lists=True))

    def promote(self, data: Data, position: str | None = None) -> None:
        former = [swift_marker.read(self._objects, c) for c in self._settings.containers]
        done = {
            found.marker.history
            for found in former
            if found is not None and found.marker.origin == self._account
        }
        history = done.pop() if len(done) == 1 else _new_history()
        for container in self._settings.containers:
            data.go_on()
            # Its key first: nothing of the former site arrives from now on.
            feeds = self._objects.properties(container).get(TO)
            self._objects.describe(container, {ROLE: ""} if feeds else {ROLE: "", KEY: ""})
            found = swift_marker.read(self._objects, container)
            if found is not None and found.marker.origin == self._account:
                continue
            past = dict(found.past) if found else {}
            marker = Marker(history=history, origin=self._account, past=past)
            self._write_over(data, container, marker)

    def demote(self, data: Data) -> str | None:
        each = dict(zip(self._settings.containers, self._looks(), strict=True))
        promoted = [c for c, one in each.items() if one.origin is None]
        are_whole = all(one.health is Health.WRITABLE or one.is_demoted for one in each.values())
        position = str(self._marked(data, lists=True)) if are_whole else None
        for container in promoted:
            data.go_on()
            self._objects.describe(container, {ROLE: DEMOTED})
        return position

    def resync(self, data: Data, origin: str) -> None:
        key = self._key(origin, self._account)
        for container in self._settings.containers:
            data.go_on()
            self._objects.ensure_container(container)
            self._objects.describe(container, {TO: "", KEY: key, ROLE: f"{FOLLOWS}{origin}"})

    def create(self, data: Data) -> None:
        for container in self._settings.containers:
            self._objects.ensure_container(container)

    def feed(self, data: Data, copy: str) -> None:
        key = self._key(self._account, copy)
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
        self._marked(data, lists=True)

    def remove(self, data: Data) -> None:
        for container in self._settings.containers:
            data.go_on()
            with suppress(NotFound):
                self._objects.describe(container, {TO: "", KEY: "", ROLE: ""})
                self._objects.delete(container, NAME)

    # ---- one container ----

    def _looks(self) -> list[_One]:
        return [self._look(container) for container in self._settings.containers]

    def _look(self, container: str) -> _One:
        """How a container is here."""
        try:
            known = self._objects.properties(container)
        except NotFound:
            return _One(Health.ABSENT, f"there is no container {container}")
        found = swift_marker.read(self._objects, container)
        role = known.get(ROLE, "")
        if role == DEMOTED:
            return _One(Health.STOPPED, f"{container} was demoted", found, is_demoted=True)
        if role:
            return self._copy(container, role.removeprefix(FOLLOWS), known, found)
        if found is not None and found.marker.origin != self._account:
            return _One(Health.STOPPED, f"{container} is half promoted", found)
        if not known.get(TO):
            return _One(Health.WRITABLE, f"{container} is sent nowhere", found)
        age_s = time.time() - found.at if found else None
        return _One(
            Health.WRITABLE,
            f"{container} is sent to {known[TO]}",
            found,
            is_to_be_marked=age_s is None or age_s > self._settings.stale_after / MARKS,
        )

    def _copy(
        self, container: str, origin: str, known: Mapping[str, str], found: Found | None
    ) -> _One:
        def one(health: Health, detail: str, **more: Any) -> _One:
            return _One(health, f"{container} {detail}", found, origin, **more)

        if known.get(TO):
            return one(Health.BROKEN, f"follows {origin}, and is sent to {known[TO]}")
        if known.get(KEY) != self._key(origin, self._account):
            return one(Health.BROKEN, "has not the key of its original, so nothing arrives")
        if found is None or found.marker.origin != origin:
            return one(Health.FIRST_SYNC, f"has no marker of {origin} yet")
        lag_s = round(max(0.0, time.time() - found.at), 1)
        listed = found.marker.seen
        lacks = (
            ()
            if listed is None
            else tuple(islice(listed.missed_by(self._objects.listing(container)), SHOWN))
        )
        detail = f"has a marker that is {lag_s:g} s old"
        if lacks:
            detail += f", and differs from what that lists: {'; '.join(lacks)}"
        health = Health.REPLICATING if lag_s <= self._settings.stale_after else Health.STOPPED
        return one(health, detail, lag_s=lag_s, lacks=lacks)

    # ---- markers ----

    def _marked(self, data: Data, *, lists: bool) -> Position:
        """Write a marker into each container that is, or was last, the original.

        Args:
            lists: whether it has the objects that are there.

        Raises:
            ResourceFailed: one is a copy, or they have no common history.
        """
        former = {c: swift_marker.read(self._objects, c) for c in self._settings.containers}
        for container, found in former.items():
            role = self._objects.properties(container).get(ROLE, "")
            if role.startswith(FOLLOWS) or (
                found is not None and found.marker.origin != self._account
            ):
                raise ResourceFailed(
                    f"{self.label}: container {container} is no original, so it gets no marker"
                )
        histories = {found.marker.history for found in former.values() if found is not None}
        if len(histories) > 1:
            raise ResourceFailed(
                f"{self.label}: the containers have no common history, as some were replaced:"
                f" prepare the datastore again with the containers of one side"
            )
        history = histories.pop() if histories else _new_history()
        times: list[float] = []
        for container, found in former.items():
            data.go_on()
            past = dict(found.marker.past) if found else {}
            marker = Marker(history=history, origin=self._account, past=past)
            times.append(self._write_over(data, container, marker))
            if lists and (seen := self._seen(container, times[-1])) is not None:
                times[-1] = self._write_over(
                    data, container, marker.model_copy(update={"seen": seen})
                )
        return Position(history, min(times))

    def _seen(self, container: str, since: float) -> Seen | None:
        count = self._objects.properties(container).get("x-container-object-count", "")
        if not count.isdigit() or int(count) > self._settings.compares:
            return None
        listing = self._objects.listing(container)
        objects = {o.name: (o.last_modified, o.etag) for o in listing if o.name != NAME}
        return Seen(since=since, objects=objects)

    def _write_over(self, data: Data, container: str, marker: Marker) -> float:
        """Write a marker; its time.

        Raises:
            ResourceFailed: an earlier one stays, as the clock of its site is far ahead.
        """
        deadline = time.monotonic() + CLOCKS_S
        while (at := swift_marker.write(self._objects, container, marker)) is None:
            if time.monotonic() > deadline:
                raise ResourceFailed(
                    f"{self.label}: {NAME} in container {container} cannot be replaced: the clock"
                    " of the site that wrote it is ahead. Objects that were written there then"
                    " cannot be replaced either; set the clocks right"
                )
            data.go_on()
            time.sleep(LOOK_S)  # until the clock here is past its time
        return at

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
    lacks: Sequence[str] = ()
    is_demoted: bool = False
    is_to_be_marked: bool = False
    """whether it is an original that is sent to a copy, and its marker is old"""


_WORST: Sequence[Health] = (
    Health.ABSENT,
    Health.BROKEN,
    Health.FIRST_SYNC,
    Health.STOPPED,
    Health.REPLICATING,
    Health.WRITABLE,
)


def _new_history() -> str:
    return uuid.uuid4().hex[:12]
