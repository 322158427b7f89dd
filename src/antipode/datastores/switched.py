# SPDX-License-Identifier: Apache-2.0
"""Volumes that Cinder has copied to a replication target of their back end, and switches to it
while Cinder lives: what antipode asks of such a storage. No other site can use the copies.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection
from dataclasses import dataclass

from antipode.datastores import Driver
from antipode.errors import InvalidInput
from antipode.model.datastore import Replica


@dataclass(frozen=True)
class Switch:
    """What a switch of a storage concerns, beside the volumes that it is asked for."""

    goes_to: str
    """the target, in words"""
    is_done: bool
    """whether that target serves already"""
    others: Collection[str]
    """volumes that are switched with them, in words"""
    lost: Collection[str]
    """volumes that have no copy there, and are in error then, in words"""


class SwitchedStorage(Driver):
    """A storage whose Cinder switches it to a copy of its volumes, and back."""

    of_no_states = (
        "is replicated by Cinder, which does not say what has arrived, so no recovery point is made"
        " of it: protect the VNF by another option, such as quiesced-snapshot"
    )

    @abstractmethod
    def replicas(self, volumes: Collection[str]) -> dict[str, Replica]:
        """How volumes are replicated, by their ids; each of them is in the answer.

        Raises:
            SiteUnreachable: Cinder does not answer.
        """

    @abstractmethod
    def replicate(self, volumes: Collection[str]) -> list[str]:
        """Have volumes replicated from now on; those that were not before.

        Raises:
            ResourceFailed: one cannot be; the message names it and the reason.
        """

    @abstractmethod
    def look(self, volumes: Collection[str], *, back: bool) -> Switch:
        """What a switch would do now.

        Args:
            volumes: those that it is asked for; `others` has none of them.
            back: to the storage itself, and not to its target.

        Raises:
            ResourceFailed: it cannot be switched; the message has the reason.
        """

    @abstractmethod
    def switch(self, *, back: bool, go_on: Callable[[], None]) -> None:
        """Have the target serve the volumes, or the storage itself again. Safe to repeat.

        Args:
            go_on: called while it is waited; raises when that must end.

        Raises:
            ResourceFailed: Cinder has refused it, or it has failed.
        """


def of_switched(driver: Driver) -> SwitchedStorage:
    """A storage that Cinder switches.

    Raises:
        InvalidInput: it is of another kind.
    """
    if not isinstance(driver, SwitchedStorage):
        raise InvalidInput(
            f"{driver.label} is not switched by Cinder: that is for storages with the driver"
            " `cinder`. A failover of the VNF uses the copies of others"
        )
    return driver
