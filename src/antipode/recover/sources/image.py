# SPDX-License-Identifier: Apache-2.0
"""Root disks on hypervisors, from images that were brought to the site beforehand (step 2.7)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar

from antipode.cloud.api import ApiError
from antipode.cloud.images import why_not_whole, why_not_within
from antipode.cloud.site import Site
from antipode.errors import NotFound, ResourceFailed, SiteUnreachable
from antipode.model.plan import VolumePlan
from antipode.model.point import RecoveryPoint
from antipode.model.source import Image, VolumeSource
from antipode.model.steps import StepName
from antipode.model.topology import Server
from antipode.recover.findings import by_name
from antipode.recover.recovery import Recovery
from antipode.recover.sources import VolumeProvider
from antipode.vault.verify import Finding

if TYPE_CHECKING:
    from antipode.cloud.objects import Objects


class ImageSteps(StepName):
    FIND = "2.7", "find image of root disk"


class FromGlance(VolumeProvider):
    """Nothing is made: a server boots from an image that its site has."""

    makes_volumes = False
    proves_by_store = False
    proven: ClassVar[str] = "all bytes are as they were"
    """of an image whose bytes were read"""

    @abstractmethod
    def image_at(self, site: Site, source: VolumeSource) -> str:
        """The id of the image that a root disk comes from at a site.

        Raises:
            ResourceFailed: there is none; the reason.
        """

    @abstractmethod
    def sha512_of(self, source: VolumeSource) -> str:
        """The digest of the bytes of its image."""

    def booted(self, point: RecoveryPoint) -> Iterator[tuple[Server, VolumeSource]]:
        """The servers whose root disk has a source of this kind, and that."""
        for server in point.topology.servers:
            if server.root_disk is not None:
                source = point.source_of(server.root_disk.id)
                if source.kind == self.kind:
                    yield server, source

    def check(self, point: RecoveryPoint, site: Site) -> Iterator[str]:
        flavors = by_name(site.compute.flavors())
        names = point.vnf.map_between(point.site, site.name).flavors
        for server, source in self.booted(point):
            try:
                image_id = self.image_at(site, source)
            except ResourceFailed as error:
                yield f"server {server.name} cannot be booted: {error}"
                continue
            name = names.get(server.flavor.name, server.flavor.name)
            image, found = site.images.image(image_id), flavors.get(name)
            if image and found and (why := why_not_within(image, found[0])):
                yield (
                    f"server {server.name} cannot be booted from image {image_id} at {site.name}"
                    f" with flavor {name}: {why}"
                )

    def provide(
        self, recovery: Recovery, server: str, volumes: Sequence[VolumePlan]
    ) -> dict[str, str]:
        found: dict[str, str] = {}
        for disk in volumes:
            with recovery.timeline.step(ImageSteps.FIND, server) as step:
                try:
                    source = recovery.point.source_of(disk.source_id)
                    found[disk.source_id] = self.image_at(recovery.site, source)
                except ResourceFailed as error:
                    raise ResourceFailed(f"server {server} cannot be booted: {error}") from error
                step.result(image_id=found[disk.source_id])
        return found

    def unprovable(self, source: VolumeSource) -> str | None:
        return None

    def prove(
        self, recovery: Recovery, volume: VolumePlan, source: VolumeSource, store: Objects | None
    ) -> Finding:
        """All bytes that Glance gives of the image at the site are digested; nothing is made."""
        site = recovery.site
        try:
            image = self.image_at(site, source)
        except ResourceFailed as error:
            return Finding(volume=volume.label, backup="", ok=False, detail=str(error))
        try:
            digest, size = site.images.sha512_of(image, recovery.go_on)
        except ApiError as error:
            raise ResourceFailed(f"{site.name}: image {image} cannot be read: {error}") from error
        ok = digest == self.sha512_of(source)
        detail = self.proven if ok else "it has other bytes"
        return Finding(volume=volume.label, backup=image, ok=ok, bytes=size, detail=detail)


class FromImages(FromGlance):
    """From the copy that a site has had since the recovery point was committed."""

    kind = "image"

    def image_at(self, site: Site, source: VolumeSource) -> str:
        image = _image(source)
        if problem := _problem(site, image):
            raise ResourceFailed(problem)
        return image.copies[site.name]

    def sha512_of(self, source: VolumeSource) -> str:
        return _image(source).sha512

    def verify(
        self,
        volume: str,
        source: VolumeSource,
        store: Objects | None,
        site: Callable[[str], Site],
    ) -> list[Finding]:
        image = _image(source)
        return [_look(volume, image, name, copy, site) for name, copy in image.copies.items()]


PROVIDER = FromImages()


def _image(source: VolumeSource) -> Image:
    assert isinstance(source, Image)  # by its kind
    return source


def _problem(site: Site, source: Image) -> str | None:
    """Why a root disk cannot be had at a site; None if it can."""
    copy = source.copies.get(site.name)
    if copy is None:
        places = ", ".join(sorted(source.copies))
        return f"the image of its root disk was not brought to {site.name}; it is at {places}"
    why = why_not_whole(site.images.image(copy), source)
    return why and f"image {copy} at {site.name} of its root disk: {why}"


def _look(
    volume: str, source: Image, name: str, copy: str, connect: Callable[[str], Site]
) -> Finding:
    """A copy as Glance of one site describes it; one of a site that does not answer is not whole as
    far as anybody knows, and the others are looked at all the same.
    """
    try:
        why = why_not_whole(connect(name).images.image(copy), source)
    except (NotFound, SiteUnreachable) as error:
        why = f"it cannot be looked at: {error}"
    detail = why or "as it was when it was made, by size and sha512"
    size = 0 if why else source.image_bytes
    return Finding(volume=volume, backup=copy, ok=not why, bytes=size, detail=f"{name}: {detail}")
