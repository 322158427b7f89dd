# SPDX-License-Identifier: Apache-2.0
"""A storage that replicates between two clouds of `fakecloud`: an image is a volume of the cloud,
a state a snapshot. What changes something is an event of the cloud at which it is done.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from antipode.datastores import STORAGES, Storage
from antipode.datastores.promotable import PromotableStorage
from antipode.errors import ResourceFailed, SiteUnreachable
from antipode.model.base import Model
from antipode.model.datastore import Health, Replica
from antipode.model.topology import Volume
from tests.unit.fakecloud import FakeCloud

DRIVER = "fake-mirror"
HOST = "host@rbd#pool"
CONFIGURATION = (
    f"storages:\n  mirror:\n    driver: {DRIVER}\n    sites:\n"
    "      site-a: {}\n      site-b: {}\n"
)
"""For an antipode.yaml; as a datastore: `{"storage": "mirror"}`."""


class Pools:
    """What the storage holds at all sites. All of site-a is replicated to the others, unless it is
    said otherwise.
    """

    def __init__(self, clouds: Mapping[str, FakeCloud], origin: str = "site-a") -> None:
        self.clouds = clouds
        self.origin = origin
        self.health = Health.REPLICATING
        """of each replica"""
        self.arrives: Callable[[str], bool] = lambda state: True
        self.dead: set[str] = set()
        """sites whose storage does not answer"""
        self.replicated: set[str] = set()
        """images that were to be replicated"""
        self.half: set[str] = set()
        """replicas that are no whole copy"""
        self.promoted: set[str] = set()
        self.split: set[str] = set()
        """replicas that were promoted and demoted again, and follow no longer"""
        self.demoted: set[str] = set()
        """originals that are none any more"""
        self.heads: dict[str, set[str]] = {}
        """promoted replica -> the states that were kept of it"""

    def ask(self, site: str, what: str, *about: Any) -> Any:
        """What one site's storage is asked for, as the methods of `Storage` are called."""
        if site in self.dead:
            raise SiteUnreachable(f"storage mirror at {site} does not answer")
        return getattr(self, f"_{what}")(self.clouds[site], *about)

    def _replicate(self, cloud: FakeCloud, images: Sequence[str]) -> list[str]:
        new = [i for i in images if i not in self.replicated]
        if new:
            cloud._happens(f"replicate {len(new)}")
        self.replicated |= set(new)
        return new

    def _replicas(self, cloud: FakeCloud, images: Collection[str]) -> dict[str, Health]:
        there = {f"volume-{v}" for v in self.clouds[self.origin].volumes}
        is_origin = cloud is self.clouds[self.origin]
        return {
            i: self._health_of(i, is_origin=is_origin) if i in there else Health.ABSENT
            for i in images
        }

    def _health_of(self, image: str, *, is_origin: bool) -> Health:
        if is_origin and image in self.demoted:
            return Health.STOPPED
        if is_origin or image in self.promoted:
            return Health.WRITABLE
        return Health.BROKEN if image in self.split else self.health

    def _unfit(self, cloud: FakeCloud, images: Collection[str]) -> dict[str, str]:
        return {i: "it is half of an image" for i in images if i in self.half}

    def _promote(self, cloud: FakeCloud, image: str) -> None:
        if image not in self.promoted:
            cloud._happens(f"promote {image}")
            self.promoted.add(image)

    def _keep_head(self, cloud: FakeCloud, image: str, state: str) -> None:
        assert image in self.promoted, "a replica is read-only"
        if state not in self.heads.get(image, set()):
            cloud._happens(f"keep head {image}")
            self.heads.setdefault(image, set()).add(state)

    def _drop_head(self, cloud: FakeCloud, image: str, state: str) -> None:
        if self._clones_of(cloud, image, [state]):
            raise ResourceFailed(f"a clone rests on {state}")
        if state in self.heads.get(image, set()):
            cloud._happens(f"drop head {image}")
            self.heads[image].discard(state)

    def _demote(self, cloud: FakeCloud, image: str) -> None:
        if image in self.promoted:
            cloud._happens(f"demote {image}")
            self.promoted.discard(image)
            self.split.add(image)

    def _follow(self, cloud: FakeCloud, image: str) -> None:
        cloud._happens(f"follow {image}")
        self.promoted.discard(image)
        self.split.discard(image)

    def _states(self, cloud: FakeCloud, images: Collection[str]) -> dict[str, set[str]]:
        made = [s for s in self.clouds[self.origin].snapshots.values() if self.arrives(s["id"])]
        return {
            i: {f"snapshot-{s['id']}" for s in made if i == f"volume-{s['volume_id']}"}
            | self.heads.get(i, set())
            for i in images
        }

    def _clone(self, cloud: FakeCloud, image: str, state: str, clone: str) -> None:
        parent = {"image": image, "state": state}
        if (known := cloud.clones.get(clone)) is not None:
            if known != parent:
                raise ResourceFailed(f"{clone} rests on something else")
            return
        if state not in self._states(cloud, [image])[image]:
            raise ResourceFailed(f"there is no state {state} of {image}")
        cloud._happens(f"clone {image}")
        cloud.clones[clone] = parent

    def _separate(self, cloud: FakeCloud, image: str) -> None:
        if image in cloud.clones:
            # not its id: that depends on which of several threads came first
            volume = cloud.volumes[image.removeprefix("volume-")]
            cloud._happens(f"separate {volume['name']}")
            cloud.clones.pop(image, None)

    def _clones_of(
        self, cloud: FakeCloud, image: str, states: Collection[str]
    ) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name, parent in cloud.clones.items():
            if parent["image"] == image and parent["state"] in states:
                found.setdefault(parent["state"], []).append(name)
        return found

    def _named(self, cloud: FakeCloud, prefix: str) -> list[str]:
        return [name for name in cloud.clones if name.startswith(prefix)]

    def _remove_clone(self, cloud: FakeCloud, clone: str) -> bool:
        if clone not in cloud.clones:
            return False
        cloud._happens("remove clone")
        cloud.clones.pop(clone, None)
        return True


class Nothing(Model):
    """No settings."""


def driver(ask: Callable[..., Any]) -> type[Storage]:
    """A driver that asks for all by a function: site, method, arguments."""

    class FakeMirror(PromotableStorage):
        settings = Nothing
        host = HOST

        def image_of(self, volume: Volume) -> str:
            return f"volume-{volume.id}"

        def image_of_managed(self, volume_id: str) -> str:
            return f"volume-{volume_id}"

        def state_of(self, snapshot_id: str) -> str:
            return f"snapshot-{snapshot_id}"

        def problems(self) -> Iterator[str]:
            return iter(())

        def replicate(self, images: Sequence[str]) -> list[str]:
            return list(ask(self.site, "replicate", list(images)))

        def replicas(self, images: Collection[str]) -> dict[str, Replica]:
            found = ask(self.site, "replicas", list(images))
            return {
                i: Replica(image=i, health=h, is_split=h == Health.BROKEN) for i, h in found.items()
            }

        def unfit(self, images: Collection[str]) -> dict[str, str]:
            return dict(ask(self.site, "unfit", list(images)))

        def promote(self, image: str) -> None:
            ask(self.site, "promote", image)

        def keep_head(self, image: str, state: str) -> None:
            ask(self.site, "keep_head", image, state)

        def drop_head(self, image: str, state: str) -> None:
            ask(self.site, "drop_head", image, state)

        def demote(self, image: str) -> None:
            ask(self.site, "demote", image)

        def follow(self, image: str) -> None:
            ask(self.site, "follow", image)

        def states(self, images: Collection[str]) -> dict[str, set[str]]:
            return dict(ask(self.site, "states", list(images)))

        def clone(self, image: str, state: str, clone: str) -> None:
            ask(self.site, "clone", image, state, clone)

        def separate(self, image: str) -> None:
            ask(self.site, "separate", image)

        def clones_of(self, image: str, states: Collection[str]) -> dict[str, list[str]]:
            return dict(ask(self.site, "clones_of", image, list(states)))

        def named(self, prefix: str) -> list[str]:
            return list(ask(self.site, "named", prefix))

        def remove_clone(self, clone: str) -> bool:
            return bool(ask(self.site, "remove_clone", clone))

    return FakeMirror


def install(ask: Callable[..., Any]) -> None:
    """Have the driver known to this process, for good."""
    STORAGES.register(DRIVER, driver(ask))
