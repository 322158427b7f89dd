# SPDX-License-Identifier: Apache-2.0
"""The data that the application of a VNF replicates by itself, in a protection: whether it is
replicated, its position in the quiesce window, and the arrival of that at the backup sites.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

from antipode.datastores.application import Application, Data, application_at, taken_twice
from antipode.datastores.arrival import Arrival
from antipode.errors import AntipodeError, ResourceFailed, SiteUnreachable
from antipode.model.datastore import Health, KeptPosition, Standing, Verb
from antipode.model.steps import Step, StepName
from antipode.model.vnf import Datastore
from antipode.protect.option import Protecting

LOG = logging.getLogger(__name__)
LOOK_S = 0.2
"""Between two looks whether a copy follows again."""
SETTLES_S = 10.0
"""How long a copy may seem to be stopped once its original was looked at."""
POINT_S = 600.0
"""How long a position may take where no member waits for it."""


class DataSteps(StepName):
    AWAIT_POSITION = "3.2", "await the position of data at a backup site"


def problems(protecting: Protecting) -> Iterator[str]:
    """Everything that keeps data from being in a recovery point; one sentence for each problem. A
    backup site whose data is silent is none, as long as another one answers.
    """
    p = protecting
    try:
        yield from taken_twice(p.vnf, p.storages_at(p.site.name), p.site.name)
    except AntipodeError:
        LOG.debug("a storage cannot be opened, which is said below")
    # the original first: some drivers show by it whether a copy follows
    sites = sorted(p.vnf.sites, key=lambda site: site != p.site.name)
    for name, datastore in p.vnf.datastores_of_applications.items():
        silent: list[str] = []
        for site in sites:
            try:
                yield from _problems_at(p, name, datastore, site)
            except SiteUnreachable as error:
                silent.append(f"datastore {name}: {error}")
                if site == p.site.name:
                    yield silent.pop()
            except AntipodeError as error:
                yield f"datastore {name}: {error}"
        if len(silent) == len(p.vnf.sites) - 1:
            yield from silent


def _problems_at(p: Protecting, name: str, datastore: Datastore, site: str) -> Iterator[str]:
    """What is wrong with data at one site.

    Raises:
        AntipodeError: that is not known.
    """
    there = application_at(p.storages_at(site), site, datastore.storage)
    yield from there.problems()
    if site == p.site.name:
        found = there.status(_data(p, name))
        if not there.is_in_use(found.health):
            yield (
                f"datastore {name} is not in use at {site}: it is {found.health} ({found.detail});"
                f" see: antipode datastore status {p.vnf.vnf}"
            )
        return
    found = _settled(p, there, name)
    prepare = f"see: antipode datastore prepare {p.vnf.vnf}"
    is_well = found.health is Health.REPLICATING or (
        Verb.PROMOTE not in there.verbs and there.is_in_use(found.health)
    )
    if not is_well:
        yield (
            f"datastore {name} is not replicated to {site}: it is {found.health}"
            f" ({found.detail}); {prepare}"
        )
    elif Verb.PROMOTE in there.verbs and found.origin is not None:
        original = _here(p, datastore).reference(_data(p, name))
        if not there.follows(found, original):
            yield (
                f"datastore {name} at {site} follows {found.origin}, and not {original} at"
                f" {p.site.name}, the active site; {prepare}"
            )


def _settled(p: Protecting, there: Application, name: str) -> Standing:
    """How a copy is; one that is stopped gets a moment, as its original may not have been looked at
    for long.
    """
    deadline = time.monotonic() + SETTLES_S
    while (found := there.status(_data(p, name))).health is Health.STOPPED:
        if not there.is_marked or time.monotonic() > deadline:
            break
        p.go_on()
        time.sleep(LOOK_S)
    return found


def in_window(protecting: Protecting) -> Callable[[float, Callable[[], None]], dict[str, str]]:
    """What a quiesce window does beside its snapshots: it has positions made of all data that has
    the verb for it; datastore -> position.

    The drivers are made ready before. The function takes the seconds that are left, and what is
    called while it works.

    Raises:
        InvalidInput: a storage is not configured at the active site.
        SiteUnreachable, ResourceFailed: one cannot be made ready.
    """
    p = protecting
    ready = {
        name: there
        for name, datastore in p.vnf.datastores_of_applications.items()
        if Verb.POINT in (there := _here(p, datastore)).verbs
    }

    for there in ready.values():
        there.be_ready()

    def points(within_s: float, go_on: Callable[[], None]) -> dict[str, str]:
        if not ready:
            return {}

        def made(name: str) -> str:
            return ready[name].point(Data(p.vnf.vnf, name, go_on), within_s)

        with ThreadPoolExecutor(len(ready), "point") as pool:  # the members wait for all of them
            return dict(zip(ready, pool.map(made, ready), strict=True))

    return points


def arrived(protecting: Protecting, made: Mapping[str, str]) -> dict[str, KeptPosition]:
    """Wait until the positions of all data are reached at each backup site that answers, at one at
    least; datastore -> what the recovery point has of it.

    Args:
        made: datastore -> the position that was made in the quiesce window. Of other data it is
            asked for now, so that all is in it that was written before.

    Raises:
        ResourceFailed: a position was not reached in time, or a site cannot say.
        SiteUnreachable: no backup site answers.
    """
    return {
        name: _Arrival(protecting, name, datastore, made.get(name)).awaited()
        for name, datastore in protecting.vnf.datastores_of_applications.items()
    }


def _data(p: Protecting, name: str) -> Data:
    return Data(p.vnf.vnf, name, p.go_on)


def _here(p: Protecting, datastore: Datastore) -> Application:
    return application_at(p.storages_at(p.site.name), p.site.name, datastore.storage)


class _Arrival:
    """The position of the data of one datastore on its way to the backup sites."""

    def __init__(self, p: Protecting, name: str, datastore: Datastore, made: str | None) -> None:
        self._p = p
        self._name = name
        self._datastore = datastore
        self._data = _data(p, name)
        self._here = _here(p, datastore)
        self._position = made or self._now()

    def awaited(self) -> KeptPosition:
        deadline = time.monotonic() + self._datastore.arrives_within
        there: list[Application] = []
        silent: list[SiteUnreachable] = []
        sites = [s for s in self._p.vnf.sites if s != self._p.site.name]
        for site in sites:
            copy = application_at(self._p.storages_at(site), site, self._datastore.storage)
            subject = f"datastore {self._name} at {site}"
            with self._p.timeline.step(DataSteps.AWAIT_POSITION, subject) as step:
                try:
                    is_needed = not there and site == sites[-1]
                    self._await_at(copy, deadline, step, is_needed=is_needed)
                    there.append(copy)
                except SiteUnreachable as error:
                    silent.append(error)
                    step.result(silent=str(error))
        if not there:
            raise silent[0]
        for why in silent:
            LOG.warning("%s cannot be recovered there from the point: %s", self._p.vnf.vnf, why)
        return KeptPosition(
            storage=self._datastore.storage,
            position=self._position,
            sites=[copy.site for copy in there],
            references={a.site: a.reference(self._data) for a in (self._here, *there)},
        )

    def _now(self) -> str:
        """A position with all that was written before this call."""
        if Verb.POINT in self._here.verbs:
            return self._here.point(self._data, POINT_S)
        found = self._here.status(self._data)
        if found.position is None:
            raise ResourceFailed(
                f"{self._here.label} gives no position of datastore {self._name}"
                f" ({found.health}: {found.detail}), so no recovery point can have it"
            )
        return found.position

    def _await_at(self, copy: Application, deadline: float, step: Step, *, is_needed: bool) -> None:
        began = time.monotonic()
        Arrival(
            self._here,
            copy,
            self._data,
            self._position,
            self._datastore.arrives_within,
            deadline,
            is_needed,
            lambda: step.waits_for(f"position {self._position}"),
        ).awaited()
        step.result(position=self._position, seconds=round(time.monotonic() - began, 3))
