# SPDX-License-Identifier: Apache-2.0
"""Transfers: how captured bytes reach the other site."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar

from antipode.model.capture import Capture, Transferred
from antipode.model.point import RecoveryPoint
from antipode.model.quota import QuotaNeed
from antipode.model.steps import Timeline
from antipode.model.topology import Topology
from antipode.protect.option import Protecting
from antipode.registry import Registry

if TYPE_CHECKING:
    from antipode.cloud.objects import Objects
    from antipode.cloud.site import Site

Earlier = Callable[[Collection[str]], Mapping[str, RecoveryPoint]]
"""Of disks, by id: the newest recovery point that has a backup or an image of each, if any has."""


class Transfer(ABC):
    """One way to the other site. An instance has no state: all of it is in `Protecting`."""

    name: ClassVar[str]

    @abstractmethod
    def check(self, protecting: Protecting, topology: Topology) -> Iterator[str]:
        """Look for everything that would fail later; one sentence for each problem."""

    def needs(self, protecting: Protecting, topology: Topology) -> list[QuotaNeed]:
        """What one more recovery point needs of quotas that the expiry of others gives back."""
        return []

    @abstractmethod
    def transfer(
        self,
        protecting: Protecting,
        topology: Topology,
        capture: Capture,
        earlier: Earlier,
    ) -> Transferred:
        """Bring a capture to the other site.

        What an earlier try of the same run has begun is found by the run's id and resumed.

        Args:
            earlier: the recovery points before this one, on which it may rest.
        """

    @abstractmethod
    def roll_back(self, protecting: Protecting) -> Collection[str]:
        """Remove what this run transferred for a recovery point that will not exist; the ids of the
        backups that are gone.
        """

    @abstractmethod
    def remove_orphans(
        self,
        site: Site,
        runs: Collection[str],
        needed: Callable[[], Collection[str]],
        timeline: Timeline,
    ) -> Collection[str]:
        """Remove what runs that have ended transferred, except what recovery points need; the ids
        of the backups that are gone.

        Args:
            needed: the ids of backups that recovery points name; called only when the site has
                backups of these runs.
        """

    def remove_elsewhere(
        self,
        sites: Iterable[Site],
        runs: Collection[str],
        needed: Callable[[], Collection[str]],
        timeline: Timeline,
    ) -> int:
        """Remove what runs that have ended brought to other sites than the active one, except what
        recovery points need; how much that was. Nothing by default.

        Args:
            sites: those that do not answer do not keep anything at the others. What the iteration
                raises comes at its end.
            needed: as for `remove_orphans`, of whatever these sites have of these runs.

        Raises:
            AntipodeError: not all could be removed.
        """
        return 0

    def remove_stored(
        self,
        store: Objects,
        vnf: str,
        runs: Collection[str],
        needed: Callable[[], Collection[str]],
        timeline: Timeline,
    ) -> int:
        """Remove what runs that have ended have put into the backup store by themselves, except
        what recovery points need; how many objects that was. Nothing by default.

        Args:
            needed: as for `remove_orphans`.

        Raises:
            AntipodeError: not all could be removed.
        """
        return 0


class NoTransfer(Transfer):
    """For storage that replicates itself: a capture names sources at the other site already."""

    name = "none"

    def check(self, protecting: Protecting, topology: Topology) -> Iterator[str]:
        return iter(())

    def transfer(
        self,
        protecting: Protecting,
        topology: Topology,
        capture: Capture,
        earlier: Earlier,
    ) -> Transferred:
        return Transferred(sources=capture.sources)

    def roll_back(self, protecting: Protecting) -> Collection[str]:
        """Nothing was made."""
        return ()

    def remove_orphans(
        self,
        site: Site,
        runs: Collection[str],
        needed: Callable[[], Collection[str]],
        timeline: Timeline,
    ) -> Collection[str]:
        """Nothing was made."""
        return ()


TRANSFERS: Registry[Transfer] = Registry(
    "transfer",
    {
        "cinder-backup": "antipode.transfer.cinder_backup:TRANSFER",
        "images-and-backups": "antipode.transfer.images:TRANSFER",
        "streams-and-backups": "antipode.transfer.change_streams:TRANSFER",
        "replication": "antipode.transfer.replication:TRANSFER",
    },
)
TRANSFERS.register(NoTransfer.name, NoTransfer())
