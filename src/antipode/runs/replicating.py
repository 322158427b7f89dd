# SPDX-License-Identifier: Apache-2.0
"""The data of a VNF is replicated from its active site: begun, and awaited until each copy follows.

Safe to repeat; what is replicated already is not touched.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from antipode.datastores import Driver, Storage, of_volumes, opened, storages_of
from antipode.datastores.application import (
    Application,
    Data,
    of_application,
    taken_twice,
)
from antipode.datastores.promotable import of_promotable
from antipode.datastores.switched import SwitchedStorage
from antipode.engine.deployment import Deployment
from antipode.errors import (
    AntipodeError,
    InvalidInput,
    NotSynchronised,
    ResourceFailed,
    Stopped,
)
from antipode.model.datastore import Following, Health, Verb
from antipode.model.topology import Topology, Volume
from antipode.model.vnf import Datastore, Vnf

BEGINS_S = 120.0
"""How long a copy may be stopped, absent or broken once it is to be synchronised: rbd-mirror needs
half a minute to see an image that is new."""


@dataclass(frozen=True)
class Replicating:
    """A VNF whose data is to be replicated, and what may be done for that."""

    deployment: Deployment
    vnf: Vnf
    active: str
    topology: Topology
    tell: Callable[[str], None]
    """called with what is done, in words"""
    overwrite: Collection[str] = ()
    """sites where data may be lost that is writable there"""
    go_on: Callable[[], None] = lambda: None

    def begin(self) -> None:
        """Have all data replicated.

        Raises:
            InvalidInput: a storage is not configured, or a volume is not there.
            ResourceFailed: something cannot be replicated, or must not be overwritten.
            SiteUnreachable: a storage does not answer.
        """
        for twice in taken_twice(self.vnf, self.deployment.storages_at(self.active), self.active):
            raise InvalidInput(twice)
        for store in self.vnf.datastores:
            self.begin_with(store)

    def begin_with(self, name: str) -> None:
        """Have the data of one datastore replicated; errors as for `begin`."""
        if name in self.vnf.datastores_of_volumes:
            self._replicate(self.vnf.datastores[name])
            return
        defined = self.vnf.datastores_of_applications[name]
        origin = of_application(driver(self.deployment, defined.storage, self.active))
        copies = list(self._copies(defined))
        if origin.most_copies is not None and len(copies) > origin.most_copies:
            sites = ", ".join(copy.site for copy in copies)
            raise InvalidInput(
                f"{origin.label} is replicated to {origin.most_copies} other site, and"
                f" antipode.yaml has it at {sites}: leave the others out"
            )
        failed: list[AntipodeError] = []
        for copy in copies:  # one that is silent keeps no other from following
            try:
                self._follow(self._data(name), origin, of_application(copy))
            except Stopped:
                raise
            except AntipodeError as error:
                failed.append(error)
        if len(failed) > 1:
            raise ResourceFailed("; ".join(map(str, failed)))
        for first in failed:
            raise first

    def waited_for(self, apart_from: Collection[str]) -> Iterator[tuple[str, Following]]:
        """What does not follow yet, in words, and how it is. What cannot be asked is left out.

        Args:
            apart_from: datastores that are not looked at.
        """
        looked_at = {n: d for n, d in self.vnf.datastores.items() if n not in apart_from}
        for name, defined in looked_at.items():
            here = driver(self.deployment, defined.storage, self.active)
            if isinstance(here, SwitchedStorage):
                yield from self._not_replicated(name, here)
                continue
            for copy in self._copies(defined):
                try:
                    yield from self._behind(name, copy)
                except Stopped:
                    raise
                except AntipodeError as error:
                    self.tell(f"{copy.label}: {error}")

    def _not_replicated(self, name: str, here: SwitchedStorage) -> Iterator[tuple[str, Following]]:
        volumes = {v.id: v for v in self._volumes(name)}
        for volume, found in here.replicas(list(volumes)).items():
            if found.health is not Health.REPLICATING:
                yield f"volume {volumes[volume].name or volume} at {here.site}", found

    def _behind(self, name: str, copy: Driver) -> Iterator[tuple[str, Following]]:
        if isinstance(copy, Application):
            found = copy.status(self._data(name))
            if Verb.PROMOTE in copy.verbs and found.health is not Health.REPLICATING:
                yield f"datastore {name} at {copy.site}", found
            return
        storage = of_volumes(copy)
        images = {storage.image_of(v): v for v in self._volumes(name)}
        for image, replica in storage.replicas(list(images)).items():
            if replica.health is not Health.REPLICATING:
                volume = images[image]
                yield f"volume {volume.name or volume.id} at {copy.site}", replica

    def _copies(self, defined: Datastore) -> Iterator[Driver]:
        there = places(self.deployment, defined.storage)
        for site in self.vnf.sites:
            if site != self.active and site in there:
                yield driver(self.deployment, defined.storage, site)

    def _volumes(self, name: str) -> list[Volume]:
        return volumes_of(self.vnf, self.topology)[name]

    def _data(self, name: str) -> Data:
        return Data(self.vnf.vnf, name, self.go_on)

    def _replicate(self, defined: Datastore) -> None:
        name = next(n for n, d in self.vnf.datastores.items() if d is defined)
        storage = driver(self.deployment, defined.storage, self.active)
        if isinstance(storage, SwitchedStorage):
            new = storage.replicate([v.id for v in self._volumes(name)])
            self.tell(f"{storage.label}: {len(new)} volumes are replicated newly")
            return
        here, volumes = of_volumes(storage), []
        for volume in self._volumes(name):
            self.go_on()
            self.tell(f"{here.label}: volume {volume.name or volume.id} is made to stand by itself")
            here.separate(here.image_of(volume))
            volumes.append(here.image_of(volume))
        self._give_up_others(defined, here, volumes)
        enabled = here.replicate(volumes)
        self.tell(f"{here.label}: {len(enabled)} of {len(volumes)} volumes are replicated newly")

    def _give_up_others(self, defined: Datastore, here: Storage, images: Sequence[str]) -> None:
        """Have images filled again from here that are originals at another site as well.

        Raises:
            ResourceFailed: there are such, and it was not said that they may be lost; or what is
                here is no original.
        """
        for copy in map(of_volumes, self._copies(defined)):
            split = [i for i, r in copy.replicas(images).items() if r.is_original]
            if not split:
                continue
            if copy.site not in self.overwrite:
                raise ResourceFailed(
                    f"{copy.label}: {', '.join(split)} is an original there, too: what was written"
                    f" there would be lost. If it may be: antipode datastore prepare {self.vnf.vnf}"
                    f" --overwrite {copy.site}"
                )
            ours = here.replicas(split)
            if follows := [i for i in split if ours[i].health is not Health.WRITABLE]:
                raise ResourceFailed(
                    f"{here.label}: {', '.join(follows)} is no original at {self.active}, where the"
                    f" VNF is active ({ours[follows[0]].detail}): nothing is made to follow it"
                )
            for image in split:
                self.go_on()
                self.tell(f"{copy.label}: {image} is filled again from {self.active}")
                of_promotable(copy).follow(image)

    def _follow(self, data: Data, origin: Application, copy: Application) -> None:
        """Have the data at one site follow that of another, unless it does.

        Raises:
            ResourceFailed: the origin is no original, or the copy is one and must not be lost, or
                it cannot be made to follow.
        """
        if Verb.PROMOTE not in copy.verbs:
            return
        self.go_on()
        origin.create(data)
        original = origin.reference(data)
        there = copy.status(data)
        follows = copy.follows(there, original) and (
            there.health in (Health.REPLICATING, Health.FIRST_SYNC)
        )
        if not follows:
            if copy.is_writable(there) and copy.site not in self.overwrite:
                raise ResourceFailed(
                    f"datastore {data.datastore} is writable at {copy.site}, and what was written"
                    f" there would be lost. If it may be: antipode datastore prepare {data.vnf}"
                    f" --overwrite {copy.site}"
                )
            here = origin.status(data)
            if not origin.is_in_use(here.health):
                raise ResourceFailed(
                    f"datastore {data.datastore} at {origin.site}, the active site, is"
                    f" {here.health} ({here.detail}): nothing is made to follow it"
                )
            self.tell(
                f"{copy.label}: datastore {data.datastore} is made to follow that of {origin.site}"
            )
            copy.resync(data, original)
        origin.feed(data, copy.reference(data))


class Still:
    """What has not changed while it is waited for, and how long that has been."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._since: dict[str, tuple[Health, float]] = {}

    def must_end(self, what: str, within_s: float) -> None:
        """See that a first synchronisation may still be waited for.

        Args:
            what: is waited for, in words.
            within_s: seconds that it may take, from the making of this on.

        Raises:
            NotSynchronised: it may not.
        """
        if time.monotonic() - self._began > within_s:
            raise NotSynchronised(
                f"{what}: its first synchronisation has not ended within {within_s:g} s. It"
                " continues; to await it again, repeat the command, or resume the run"
            )

    def does_not_begin(self, what: str, health: Health) -> bool:
        """Whether a copy is stopped, absent or broken for so long that it does not begin to
        follow.
        """
        now = time.monotonic()
        before, since = self._since.get(what, (health, now))
        self._since[what] = (health, since if before is health else now)
        idle = (Health.STOPPED, Health.ABSENT, Health.BROKEN)
        return health in idle and now - self._since[what][1] > BEGINS_S


def places(deployment: Deployment, storage: str) -> Mapping[str, object]:
    """The sites where the configuration has a storage.

    Raises:
        InvalidInput: it has none of this name.
    """
    if storage not in deployment.config.storages:
        known = ", ".join(deployment.config.storages) or "none"
        raise InvalidInput(f"antipode.yaml has no storage {storage}; storages there: {known}")
    return deployment.config.storages[storage].sites


def driver(deployment: Deployment, name: str, site: str) -> Driver:
    """A storage of the configuration, as it is seen from a site.

    Raises:
        InvalidInput: there is none of this name, or not at this site.
    """
    if site not in places(deployment, name):
        raise InvalidInput(f"antipode.yaml: storage {name} has no settings for {site}")
    return opened(deployment.storages_at(site)[name], site)


def volumes_of(vnf: Vnf, topology: Topology) -> dict[str, list[Volume]]:
    """The volumes of each datastore.

    Raises:
        InvalidInput: one is missing, or in two datastores.
    """
    storages_of(vnf, topology.volumes)
    found: dict[str, list[Volume]] = {}
    for name, datastore in vnf.datastores_of_volumes.items():
        alone = vnf.model_copy(update={"datastores": {name: datastore}})
        known = storages_of(alone, topology.volumes)
        found[name] = [v for v in topology.volumes if v.id in known]
    return found
