# SPDX-License-Identifier: Apache-2.0
"""Data that an application keeps at several sites by itself, as a database does: what antipode asks
of it, a driver for each way to ask.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from antipode.datastores import Driver, found_at, opened
from antipode.errors import InvalidInput, ResourceFailed
from antipode.model.datastore import Health, Standing, StorageAt, Verb

if TYPE_CHECKING:
    from antipode.model.vnf import Vnf

USABLE = (Health.REPLICATING, Health.STOPPED, Health.WRITABLE)
"""Data in one of these states is whole: it may be of an earlier moment."""
IN_USE = (Health.REPLICATING, Health.WRITABLE)
"""What data is that its application can write, at a site that need not be promoted."""


@dataclass(frozen=True)
class Data:
    """Which data is meant: a datastore of a VNF."""

    vnf: str
    datastore: str
    go_on: Callable[[], None] = lambda: None
    """called while the storage works; raises when the run must stop"""


class Application(Driver):
    """Data that an application replicates, at one site.

    A position is what the application calls a state of its data: all that was written before is in
    it. Only the application can compare two of them.
    """

    is_marked: ClassVar[bool] = False
    """whether a copy is seen to follow only when its original has been looked at (`status`)"""

    is_one_set: ClassVar[bool] = False
    """whether a storage is one set of data, and not one for each datastore that is asked for"""
    most_copies: ClassVar[int | None] = None
    """how many other sites can follow an original; None: any number"""

    @property
    @abstractmethod
    def verbs(self) -> frozenset[Verb]:
        """What it can be asked for here. `STATUS` and `REFERENCE` are always among them; data that
        is writable at each site has no `PROMOTE`.
        """

    @abstractmethod
    def status(self, data: Data, position: str | None = None) -> Standing:
        """How the data is here.

        Args:
            position: the answer says whether that is durable here.

        Raises:
            SiteUnreachable: it does not answer.
            ResourceFailed, UnexpectedAnswer: it cannot say.
        """

    @abstractmethod
    def reference(self, data: Data) -> str:
        """By what the application finds the data here.

        Raises: as `status`.
        """

    @abstractmethod
    def point(self, data: Data, within_s: float) -> str:
        """A position with all that was written here before.

        Args:
            within_s: seconds that it may take, as members are quiesced meanwhile.

        Raises: as `status`.
        """

    @abstractmethod
    def promote(self, data: Data, position: str | None = None) -> None:
        """Have the data writable here, without a question to any other site.

        Args:
            position: that which a recovery point has; the data here has reached it.

        Raises: as `status`.
        """

    @abstractmethod
    def demote(self, data: Data) -> str | None:
        """Have the data not writable here; the last position that it had, if it says so. Other
        sites reach it, if they replicate.

        Raises: as `status`.
        """

    @abstractmethod
    def resync(self, data: Data, origin: str) -> None:
        """Have the data follow that of another site. What it was before is lost.

        Args:
            origin: the reference of that site.

        Raises: as `status`.
        """

    def be_ready(self) -> None:
        """Log in, or whatever takes time before the first question: members are quiesced next.

        Raises: as `status`.
        """

    def create(self, data: Data) -> None:
        """Have the data, empty, where there is none here yet. A driver that cannot does nothing.

        Raises: as `status`.
        """

    def feed(self, data: Data, copy: str) -> None:
        """Have what is written here given to a copy, which was made to follow: by a driver whose
        originals have to know of it. Safe to repeat.

        Args:
            copy: the reference of the data there.

        Raises: as `status`.
        """

    def vouched(self, data: Data, position: str) -> str:
        """Have a copy able to see that it has reached a position, where it cannot by itself.
        What to wait for there: this position, or a later one. Called at the original while that
        is waited for, again and again.

        Raises: as `status`.
        """
        return position

    def remove(self, data: Data) -> None:
        """Have the data replicated no longer, and remove what the driver has made. The data stays.

        Raises: as `status`; ResourceFailed where the driver has made nothing.
        """
        raise ResourceFailed(
            f"{self.label} has its replication from its operator, who ends it: antipode has made"
            " nothing there"
        )

    def follows(self, found: Standing, original: str) -> bool:
        """Whether data follows an original, as far as is known.

        Args:
            found: how it is.
            original: the reference of the original.
        """
        return found.origin is None or found.origin == original

    def is_in_use(self, health: Health) -> bool:
        """Whether data that is so can be written here by its application. What has to be promoted
        for that only follows another site while it replicates.
        """
        return health is Health.WRITABLE or (Verb.PROMOTE not in self.verbs and health in IN_USE)

    def is_writable(self, found: Standing) -> bool:
        """Whether data that is so can be written here as an original, or some of it: what is lost
        then if it is made to follow.
        """
        return found.health is Health.WRITABLE

    def has_reached(self, data: Data, position: str) -> bool:
        """Whether a position is durable here, in data that is whole.

        Raises: as `status`; ResourceFailed also where it does not say.
        """
        found = self.status(data, position)
        if found.reached is None:
            raise ResourceFailed(
                f"{self.label} does not say whether datastore {data.datastore} has reached"
                f" {position}; see: antipode datastore conformance {self.name}"
            )
        return found.reached and found.health in USABLE

    def peculiarities(self, data: Data, *, may_be_lost: bool) -> Iterator[tuple[str, str | None]]:
        """What a conformance test looks at beyond these methods, as its driver needs it: what was
        looked at, and the problem, if there is one. Nothing by default.

        Args:
            may_be_lost: whether the data here may be changed by what does not keep the contract;
                what is looked at without that is not looked at again.
        """
        return iter(())


def taken_twice(vnf: Vnf, storages: Mapping[str, StorageAt], site: str) -> Iterator[str]:
    """The datastores of a VNF that are the same data, as their storage is one set: what is done
    with the one is done with the other. A sentence for each storage.

    Raises:
        InvalidInput: as `application_at`.
    """
    named: dict[str, list[str]] = {}
    for name, datastore in vnf.datastores_of_applications.items():
        named.setdefault(datastore.storage, []).append(name)
    for storage, names in named.items():
        if len(names) > 1 and application_at(storages, site, storage).is_one_set:
            yield (
                f"datastores {' and '.join(names)} of {vnf.vnf} are the same data, as storage"
                f" {storage} is one set of it: keep one of them, or give each a storage of its own"
            )


def application_at(storages: Mapping[str, StorageAt], site: str, name: str) -> Application:
    """A storage with the data of applications, as it is seen from a site.

    Args:
        storages: those of the configuration at the site, by name.

    Raises:
        InvalidInput: there is none of this name, its driver is unknown, a setting is wrong, or it
            has the volumes of a storage.
    """
    return of_application(opened(found_at(storages, site, name), site))


def of_application(driver: Driver) -> Application:
    """A storage, which has the data of applications.

    Raises:
        InvalidInput: it has not.
    """
    if not isinstance(driver, Application):
        raise InvalidInput(
            f"{driver.label} replicates volumes: a datastore of kind application needs another"
            " driver, such as `command`"
        )
    return driver
