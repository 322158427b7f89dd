# SPDX-License-Identifier: Apache-2.0
"""The data that the application of a VNF replicates by itself, in a protection: whether it is
replicated, its position in the quiesce window, and the arrival of that at the backup sites.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping

from antipode.datastores.application import Application, Data, application_at
from antipode.errors import AntipodeError, ResourceFailed, SiteUnreachable
from antipode.model.datastore import Health, KeptPosition, Verb
from antipode.model.steps import Step, StepName
from antipode.model.vnf import Datastore
from antipode.protect.option import Protecting

LOG = logging.getLogger(__name__)
LOOK_S = 0.2
"""Between two looks whether a position is reached: a command does not notify."""
POINT_S = 600.0
"""How long a position may take where no member waits for it."""


class DataSteps(StepName):
    AWAIT_POSITION = "3.2", "await the position of data at a backup site"


def problems(protecting: Protecting) -> Iterator[str]:
    """Everything that keeps data from being in a recovery point; one sentence for each problem. A
    backup site whose data is silent is none, as long as another one answers.
    """
    p = protecting
    for name, datastore in p.vnf.datastores_of_applications.items():
        silent: list[str] = []
        for site in p.vnf.sites:
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
    found = there.status(_data(p, name))
    is_original = site == p.site.name
    is_well = there.is_in_use(found.health)
    if not is_original and Verb.PROMOTE in there.verbs:
        is_well = found.health is Health.REPLICATING
    what = f"is not in use at {site}" if is_original else f"is not replicated to {site}"
    command = "status" if is_original else "prepare"
    if not is_well:
        yield (
            f"datastore {name} {what}: it is {found.health} ({found.detail}); see: antipode"
            f" datastore {command} {p.vnf.vnf}"
        )


def in_window(protecting: Protecting) -> Callable[[float, Callable[[], None]], dict[str, str]]:
    """What a quiesce window does beside its snapshots: it has positions made of all data that has
    the verb for it; datastore -> position.

    The drivers are made ready before. The function takes the seconds that are left, and what is
    called while it works.

    Raises:
        InvalidInput: a storage is not configured at the active site.
    """
    p = protecting
    ready = {
        name: there
        for name, datastore in p.vnf.datastores_of_applications.items()
        if Verb.POINT in (there := _here(p, datastore)).verbs
    }

    def points(within_s: float, go_on: Callable[[], None]) -> dict[str, str]:
        return {
            name: there.point(Data(p.vnf.vnf, name, go_on), within_s)
            for name, there in ready.items()
        }

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
        for site in (s for s in self._p.vnf.sites if s != self._p.site.name):
            copy = application_at(self._p.storages_at(site), site, self._datastore.storage)
            subject = f"datastore {self._name} at {site}"
            with self._p.timeline.step(DataSteps.AWAIT_POSITION, subject) as step:
                try:
                    self._await_at(copy, deadline, step)
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

    def _await_at(self, copy: Application, deadline: float, step: Step) -> None:
        began = time.monotonic()
        while not copy.has_reached(self._data, self._position):
            if time.monotonic() > deadline:
                now = copy.status(self._data)
                raise ResourceFailed(
                    f"{copy.label}: datastore {self._name} has not reached {self._position} within"
                    f" {self._datastore.arrives_within:g} s: it is {now.health} at {now.position}"
                    f" ({now.detail}). Mend its replication (antipode datastore status), then"
                    " protect the VNF again",
                    resource=f"datastore {self._name}",
                )
            step.waits_for(f"position {self._position}")
            self._p.go_on()
            time.sleep(LOOK_S)
        step.result(position=self._position, seconds=round(time.monotonic() - began, 3))
