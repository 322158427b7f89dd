# SPDX-License-Identifier: Apache-2.0
"""Root disks that are made again, from images that each site has of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from antipode.cloud.site import Site
from antipode.errors import AntipodeError, ResourceFailed, Stopped
from antipode.model.point import RecoveryPoint
from antipode.model.source import BaseImage, MadeAgain, VolumeSource
from antipode.protect.base_images import differences, image_at
from antipode.recover.sources.image import FromGlance
from antipode.vault.verify import Finding

if TYPE_CHECKING:
    from antipode.cloud.objects import Objects


class FromBaseImages(FromGlance):
    """From an image of somebody else's, which is never removed."""

    kind = "base-image"
    proven = "all bytes are those of the image that it was created from; none were captured"

    def image_at(self, site: Site, source: VolumeSource) -> str:
        return str(image_at(site, _made_again(source))["id"])

    def sha512_of(self, source: VolumeSource) -> str:
        assert isinstance(source, BaseImage)  # by its kind
        return source.sha512

    def remarks(self, point: RecoveryPoint, site: Site) -> Iterator[str]:
        for server, source in self.booted(point):
            base = _made_again(source)
            yield (
                f"server {server.name}: its root disk is made again from image {base.reference},"
                " and what was written to it since is lost"
            )
            try:
                image = image_at(site, base)
            except ResourceFailed:
                continue  # a problem
            if differs := ", ".join(differences(base, image)):
                yield (
                    f"server {server.name}: image {image['id']} at {site.name} has other"
                    f" properties than the one that it was created from: {differs}"
                )

    def verify(
        self,
        volume: str,
        source: VolumeSource,
        store: Objects | None,
        site: Callable[[str], Site],
    ) -> list[Finding]:
        """Whether each site at which it is needed has such an image now."""
        base = _made_again(source)
        return [_look(volume, base, name, site) for name in base.sites]


class FromNamedImages(FromBaseImages):
    """The same, where the name of the image is all that it is known by."""

    kind = "named-image"

    def remarks(self, point: RecoveryPoint, site: Site) -> Iterator[str]:
        for server, source in self.booted(point):
            yield f"server {server.name}: {self.unprovable(source)}"
        yield from super().remarks(point, site)

    def unprovable(self, source: VolumeSource) -> str | None:
        return (
            f"the bytes of image {_made_again(source).name} are not compared, as Glance at the"
            " captured site has no digest of them"
        )


PROVIDER = FromBaseImages()
BY_NAME = FromNamedImages()


def _made_again(source: VolumeSource) -> MadeAgain:
    assert isinstance(source, MadeAgain)  # by its kind
    return source


def _look(volume: str, base: MadeAgain, name: str, connect: Callable[[str], Site]) -> Finding:
    """A site that does not answer has none as far as anybody knows, and the others are looked at
    all the same.
    """
    try:
        image = str(image_at(connect(name), base)["id"])
    except Stopped:
        raise
    except AntipodeError as error:
        return Finding(volume=volume, backup="", ok=False, detail=f"{name}: {error}")
    detail = f"{name}: made again from image {base.reference}: nothing of it was captured"
    return Finding(volume=volume, backup=image, ok=True, detail=detail)
