# SPDX-License-Identifier: Apache-2.0
"""Root disks that are made again, from images that each site has of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from antipode.cloud.api import ApiError
from antipode.cloud.site import Site
from antipode.errors import ResourceFailed
from antipode.model.plan import VolumePlan
from antipode.model.point import RecoveryPoint
from antipode.model.source import BaseImage, VolumeSource
from antipode.model.steps import StepName
from antipode.protect.base_images import why_not_at
from antipode.recover.recovery import Recovery
from antipode.recover.sources import VolumeProvider
from antipode.vault.verify import Finding

if TYPE_CHECKING:
    from antipode.cloud.objects import Objects


class BaseImageSteps(StepName):
    FIND = "2.7", "find image to make root disk from"


class FromBaseImages(VolumeProvider):
    """Nothing is made, and nothing removed: a server boots from an image of somebody else's."""

    kind = "base-image"
    makes_volumes = False
    proves_by_store = False

    def check(self, point: RecoveryPoint, site: Site) -> Iterator[str]:
        for server in point.topology.servers:
            if server.root_disk is None:
                continue
            source = point.sources[server.root_disk.id]
            if isinstance(source, BaseImage) and (problem := why_not_at(site, source)):
                yield f"server {server.name} cannot be booted: {problem}"

    def provide(
        self, recovery: Recovery, server: str, volumes: Sequence[VolumePlan]
    ) -> dict[str, str]:
        found: dict[str, str] = {}
        for disk in volumes:
            source = _base_image(recovery.point.sources[disk.source_id])
            with recovery.timeline.step(BaseImageSteps.FIND, server) as step:
                images = recovery.site.images.of_bytes(source.sha512)
                if not images:
                    why = why_not_at(recovery.site, source)
                    raise ResourceFailed(f"server {server} cannot be booted: {why}")
                found[disk.source_id] = images[0]["id"]
                step.result(image_id=found[disk.source_id])
        return found

    def verify(
        self,
        volume: str,
        source: VolumeSource,
        store: Objects | None,
        site: Callable[[str], Site],
    ) -> list[Finding]:
        """Where it is needed is seen by `check`: a source names no site."""
        image = _base_image(source)
        detail = f"made again from image {image.reference}: nothing of it was captured"
        return [Finding(volume=volume, backup="", ok=True, detail=detail)]

    def unprovable(self, source: VolumeSource) -> str | None:
        return None

    def prove(
        self, recovery: Recovery, volume: VolumePlan, source: VolumeSource, store: Objects | None
    ) -> Finding:
        """All bytes that Glance gives of the image at the site are digested; nothing is made."""
        site, image = recovery.site, _base_image(source)
        found = site.images.of_bytes(image.sha512)
        if not found:
            detail = why_not_at(site, image) or "it is gone"
            return Finding(volume=volume.label, backup="", ok=False, detail=detail)
        there = found[0]["id"]
        try:
            digest, size = site.images.sha512_of(there, recovery.go_on)
        except ApiError as error:
            raise ResourceFailed(f"{site.name}: image {there} cannot be read: {error}") from error
        ok = digest == image.sha512
        detail = "all bytes of its image are as they were" if ok else "its image has other bytes"
        return Finding(volume=volume.label, backup=there, ok=ok, bytes=size, detail=detail)


PROVIDER = FromBaseImages()


def _base_image(source: VolumeSource) -> BaseImage:
    assert isinstance(source, BaseImage)  # by its kind
    return source
