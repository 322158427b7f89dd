# SPDX-License-Identifier: Apache-2.0
"""Storages whose replicas can be promoted: what antipode asks of one where a recovery takes the
newest data that has arrived, and not a state of a recovery point.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection

from antipode.datastores import Storage
from antipode.errors import InvalidInput


class PromotableStorage(Storage):
    """A storage whose replicas are promoted one by one. What changes an image is safe to repeat."""

    @abstractmethod
    def unfit(self, images: Collection[str]) -> dict[str, str]:
        """The images that must not be promoted, and why: those that are no whole copy, and those of
        which that is not known.

        Raises:
            SiteUnreachable: the storage does not answer.
        """

    @abstractmethod
    def promote(self, image: str) -> None:
        """Have a replica writable, by force where its original cannot be asked. It follows no
        longer.

        Raises:
            ResourceFailed: it cannot be.
        """

    @abstractmethod
    def keep_head(self, image: str, state: str) -> None:
        """Have a state of a promoted image as it is now, from which it can be cloned.

        Raises:
            ResourceFailed: it cannot be made.
        """

    @abstractmethod
    def drop_head(self, image: str, state: str) -> None:
        """Remove a state of `keep_head` on which nothing rests, if it is there.

        Raises:
            ResourceFailed: it cannot be removed.
        """

    @abstractmethod
    def demote(self, image: str) -> None:
        """Have a promoted image not writable. It does not follow by that.

        Raises:
            ResourceFailed: it cannot be.
        """

    @abstractmethod
    def follow(self, image: str) -> None:
        """Have an image filled again from its original at the other site. What it had is lost.

        Raises:
            ResourceFailed: it cannot be.
        """


def of_promotable(storage: Storage) -> PromotableStorage:
    """A storage whose replicas can be promoted.

    Raises:
        InvalidInput: they cannot.
    """
    if not isinstance(storage, PromotableStorage):
        raise InvalidInput(
            f"{storage.label} cannot promote its replicas: recover from a recovery point,"
            " without --newest-heads"
        )
    return storage
