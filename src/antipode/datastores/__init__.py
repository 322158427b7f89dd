# SPDX-License-Identifier: Apache-2.0
"""Storages that replicate by themselves, a module for each driver. Here is what antipode asks of
one that replicates volumes; `application` has that for the data of an application.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import ValidationError

from antipode.errors import AntipodeError, InvalidInput
from antipode.model.base import Model
from antipode.model.datastore import Health, Replica, StorageAt
from antipode.registry import Registry

if TYPE_CHECKING:
    from antipode.cloud.site import Site
    from antipode.model.topology import Volume
    from antipode.model.vnf import Datastore, Vnf


LOG = logging.getLogger(__name__)


class Driver(ABC):
    """A storage as it is seen from one site. Everything is asked of the storage of this one site:
    the other may be gone. All that changes something is safe to repeat.
    """

    settings: ClassVar[type[Model]]
    """of a storage of this kind at one site"""
    of_no_states: ClassVar[str] = (
        "replicates the data of an application and no volumes: give the datastore in the VNF file"
        " `kind: application`"
    )
    """why it has no states of volumes; one that is no `Storage`"""

    def __init__(self, name: str, site: str, settings: Model) -> None:
        """
        Args:
            name: of the storage, in antipode.yaml.
            site: the site that it is seen from.
            settings: as the class attribute of this name says.
        """
        self.name = name
        self.site = site

    @property
    def label(self) -> str:
        """As messages name it."""
        return f"storage {self.name} at {self.site}"

    @abstractmethod
    def problems(self) -> Iterator[str]:
        """Look for everything that keeps it from replicating, or cannot be asked; one sentence for
        each problem.
        """


class Storage(Driver):
    """A storage that replicates volumes.

    An image is a volume under the name that the storage has for it, which is the same at both
    sites. A state of an image is a snapshot of Cinder's, which is replicated with it.
    """

    def receives_not(self) -> Iterator[str]:
        """Look for what keeps it from receiving what another site has; one sentence for each
        problem. It is no problem of a site that only sends. Nothing by default: `problems` has it.
        """
        yield from ()

    @property
    @abstractmethod
    def host(self) -> str:
        """The back end of Cinder here, `HOST@BACKEND#POOL`, whose volumes are its images."""

    @abstractmethod
    def image_of(self, volume: Volume) -> str:
        """The image that a volume of this site is."""

    @abstractmethod
    def image_of_managed(self, volume_id: str) -> str:
        """The image that a volume is after Cinder of this site was made to manage it."""

    @abstractmethod
    def state_of(self, snapshot_id: str) -> str:
        """The state that a snapshot of Cinder's is, by the snapshot's id."""

    @abstractmethod
    def replicate(self, images: Sequence[str]) -> list[str]:
        """Have originals replicated from now on; those that were not before.

        Raises:
            ResourceFailed: one cannot be; the message names it and the reason.
        """

    @abstractmethod
    def replicas(self, images: Collection[str]) -> dict[str, Replica]:
        """How these images are, as this site knows; each of them is in the answer.

        Raises:
            SiteUnreachable: the storage does not answer.
        """

    @abstractmethod
    def states(self, images: Collection[str]) -> dict[str, set[str]]:
        """The states that this site lists of each image: none of one that is absent. While an image
        is in its first synchronisation, a state that is listed may not be whole.

        Raises:
            SiteUnreachable: the storage does not answer.
        """

    @abstractmethod
    def clone(self, image: str, state: str, clone: str) -> None:
        """Have a writable image with the content of a state, whatever becomes of the image later.
        The replication goes on.

        Raises:
            ResourceFailed: it cannot be made, or another image has its name.
        """

    @abstractmethod
    def separate(self, image: str) -> None:
        """Have an image of `clone` rest on no other any more. Its bytes may be copied for that.

        Raises:
            ResourceFailed: it cannot be done.
        """

    @abstractmethod
    def clones_of(self, image: str, states: Collection[str]) -> dict[str, list[str]]:
        """The images that rest on states of an image: state -> their names."""

    @abstractmethod
    def named(self, prefix: str) -> list[str]:
        """The images whose names begin so."""

    @abstractmethod
    def remove_clone(self, clone: str) -> bool:
        """Remove an image that `clone` has made and nothing uses; whether it was there.

        Raises:
            ResourceFailed: it cannot be removed.
        """

    def incoming(self, images: Collection[str]) -> tuple[list[str], dict[str, Replica]]:
        """The answers of `receives_not` and `replicas`, for a storage that has both in one.

        Raises:
            SiteUnreachable: the storage does not answer.
        """
        return list(self.receives_not()), self.replicas(images)

    def whole(self, wanted: Mapping[str, str]) -> tuple[set[str], dict[str, Replica]]:
        """The images of which a state is here and whole, and how each of the others is.

        Args:
            wanted: image -> its state.
        """
        listed = self.states(wanted)
        # Asked after the listing: an image that replicates now has no first synchronisation before
        # it, so whatever was listed is whole.
        replicas = self.replicas(wanted)
        there = {
            image
            for image, state in wanted.items()
            if state in listed[image] and replicas[image].health is Health.REPLICATING
        }
        return there, {image: found for image, found in replicas.items() if image not in there}

    def listed_whole(self, images: Collection[str]) -> dict[str, set[str]]:
        """The states that this site lists of each image, and none of one that is being filled: for
        states that were whole once. An image is filled again after a replication that was broken.

        Raises:
            SiteUnreachable: the storage does not answer.
        """
        listed = self.states(images)
        try:
            replicas = self.replicas(images)
        except AntipodeError as error:
            # Replication may have been given up since; what has arrived is there all the same.
            LOG.warning("%s: how its replicas are is unknown: %s", self.label, error)
            return listed
        filling = {i for i, found in replicas.items() if found.health is Health.FIRST_SYNC}
        return {i: set() if i in filling else states for i, states in listed.items()}


STORAGES: Registry[type[Driver]] = Registry(
    "driver of storages",
    {
        "cinder": "antipode.datastores.cinder:ByCinder",
        "command": "antipode.datastores.command:ByCommands",
        "rbd-mirror": "antipode.datastores.rbd_mirror:RbdMirror",
        "swift": "antipode.datastores.swift:BySwift",
    },
    group="antipode.datastores",
)


def storage_at(site: Site, name: str) -> Storage:
    """A storage that replicates volumes, as it is seen from a site.

    Raises:
        InvalidInput: the configuration has no such storage at the site, its driver is unknown, a
            setting is wrong, or it replicates no volumes.
    """
    return of_volumes(opened(found_at(site.storages, site.name, name), site.name))


def of_volumes(driver: Driver) -> Storage:
    """A storage, which replicates volumes.

    Raises:
        InvalidInput: it does not.
    """
    if not isinstance(driver, Storage):
        raise InvalidInput(f"{driver.label} {driver.of_no_states}")
    return driver


def found_at(storages: Mapping[str, StorageAt], site: str, name: str) -> StorageAt:
    """A storage of the configuration at a site.

    Args:
        storages: those at the site, by name.

    Raises:
        InvalidInput: there is none of this name.
    """
    if (there := storages.get(name)) is None:
        known = ", ".join(sorted(storages)) or "none"
        raise InvalidInput(
            f"antipode.yaml has no storage {name} at {site}; storages there: {known}"
        )
    return there


def opened(there: StorageAt, site: str) -> Driver:
    """A storage of the configuration, of whichever kind.

    Raises:
        InvalidInput: its driver is unknown, or a setting is wrong.
    """
    kind = STORAGES.get(there.driver)
    try:
        settings = kind.settings.model_validate(dict(there.settings))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(["storages", there.name, "sites", site, *map(str, first["loc"])])
        raise InvalidInput(f"antipode.yaml: {field}: {first['msg']}") from error
    return kind(there.name, site, settings)


def storages_of(vnf: Vnf, volumes: Sequence[Volume]) -> dict[str, str]:
    """Volume id -> the storage that replicates it, of those volumes that are in a datastore.

    Raises:
        InvalidInput: a datastore names a volume that none of these is, or two have the same volume.
    """
    found: dict[str, str] = {}
    for name, datastore in vnf.datastores_of_volumes.items():
        chosen = [v for v in volumes if _has(datastore, v.id, v.name)]
        known = {n for v in chosen for n in (v.id, v.name)}
        if datastore.volumes != "all" and (missing := set(datastore.volumes) - known):
            raise InvalidInput(
                f"datastore {name} of {vnf.vnf} names {', '.join(sorted(missing))}, which is no"
                " volume of its members"
            )
        if twice := [v.name or v.id for v in chosen if v.id in found]:
            raise InvalidInput(f"volume {twice[0]} of {vnf.vnf} is in two datastores")
        found |= {v.id: datastore.storage for v in chosen}
    return found


def _has(datastore: Datastore, volume_id: str, name: str | None) -> bool:
    wanted = datastore.volumes
    return wanted == "all" or volume_id in wanted or (bool(name) and name in wanted)
