# SPDX-License-Identifier: Apache-2.0
"""Root disks that are not captured: which image each is made from again."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Iterator
from typing import Any

from antipode.cloud.api import Json
from antipode.cloud.images import ALGORITHM, has_no_digest, properties_of
from antipode.cloud.site import Site
from antipode.errors import AntipodeError, ResourceFailed, SiteUnreachable, Stopped
from antipode.model.marks import RUN
from antipode.model.source import BaseImage, MadeAgain, NamedImage
from antipode.model.topology import Server, Topology
from antipode.model.vnf import Vnf
from antipode.protect.option import Protecting

LOG = logging.getLogger(__name__)
_NOTHING = hashlib.sha512(b"").hexdigest()


def rebuilt(vnf: Vnf, topology: Topology) -> list[Server]:
    """The members that boot from an image, and whose root disk is to be made again.

    Args:
        topology: its servers in the order of the members.
    """
    return [
        server
        for member, server in zip(vnf.members, topology.servers, strict=True)
        if member.root == "rebuild" and server.root_disk is not None
    ]


def without_rebuilt(vnf: Vnf, topology: Topology) -> Topology:
    """The topology without the root disks of which nothing is captured."""
    bare = {server.id for server in rebuilt(vnf, topology)}
    servers = [
        s.model_copy(update={"root_disk": None}) if s.id in bare else s for s in topology.servers
    ]
    return topology.model_copy(update={"servers": servers})


def problems(p: Protecting, topology: Topology) -> Iterator[str]:
    """Why root disks could not be made again; one sentence for each reason. A site that does not
    answer keeps nothing from being protected: an image can be brought there later, data cannot.
    """
    servers = rebuilt(p.vnf, topology)
    sites = _answering(p) if servers else []
    for server in servers:
        try:
            source = _source(p, server)
        except ResourceFailed as error:
            yield f"server {server.name}: its root disk could not be made again: {error}"
            continue
        for site in sites:
            try:
                image_at(site, source)
            except SiteUnreachable as error:
                LOG.warning("whether server %s could be booted is unknown: %s", server.name, error)
            except Stopped:
                raise
            except AntipodeError as error:
                yield f"server {server.name} could not be booted: {error}"


def sources(p: Protecting, topology: Topology) -> dict[str, MadeAgain]:
    """The image of each root disk that is to be made again, by the id of the disk. Nova is asked
    once more, after the capture.

    Raises:
        ResourceFailed: an image cannot be found again, or a server has another one by now.
    """
    found: dict[str, MadeAgain] = {}
    for server in rebuilt(p.vnf, topology):
        if server.root_disk is None:
            continue
        found[server.root_disk.id] = _source(p, server)
        now = p.site.compute.server(server.id)
        if (
            now is None
            or (now.get("image") or {}).get("id") != server.root_disk.image_metadata["id"]
        ):
            raise ResourceFailed(
                f"{p.site.name}: server {server.name} was given another image while it was"
                " protected; protect the VNF again"
            )
    return found


def image_at(site: Site, source: MadeAgain) -> Json:
    """The image that a root disk can be made again from at a site: of several with its bytes the
    one whose properties differ least from those that it had.

    Raises:
        ResourceFailed: there is none, or there are several of its name and no bytes to compare.
    """
    if isinstance(source, NamedImage):
        return _image_of_name(site, source)
    assert isinstance(source, BaseImage)  # there is no third kind
    found = [i for i in site.images.of_bytes(source.sha512) if not _expires(i)]
    if same := [i for i in found if i.get("disk_format") == source.disk_format]:
        return min(same, key=lambda image: len(list(differences(source, image))))
    formats = ", ".join(f"{i['id']} is {i.get('disk_format')}" for i in found)
    raise ResourceFailed(
        f"{site.name} has no active image with the bytes of {source.name} (sha512"
        f" {source.sha512}) as {source.disk_format}{f' ({formats})' if found else ''}; bring it"
        " there, or have the root disk protected: option server-snapshot, without `root: rebuild`"
    )


def _image_of_name(site: Site, source: NamedImage) -> Json:
    """
    Raises:
        ResourceFailed: there is not exactly one.
    """
    found = [
        i
        for i in site.images.of_name(source.name)
        if not _expires(i) and not i.get("block_device_mapping")
    ]
    fitting = [i for i in found if not list(_contradictions(source, i))]
    if len(fitting) == 1:
        return fitting[0]
    others = "; ".join(f"{i['id']} has {', '.join(_contradictions(source, i))}" for i in found)
    what = ", ".join(i["id"] for i in fitting) or f"none{f' ({others})' if found else ''}"
    raise ResourceFailed(
        f"{site.name} must have exactly one active image {source.name} like the one at the former"
        f" site, of whose bytes Glance has no digest, and has {what}; see to that, or have the root"
        " disk protected: option server-snapshot, without `root: rebuild`"
    )


def _contradictions(source: NamedImage, image: Json) -> Iterator[str]:
    """In what an image differs that is known of both."""
    for what, was in (("disk_format", source.disk_format), ("size", source.size)):
        if was and image.get(what) and image[what] != was:
            yield f"{what} {image[what]} instead of {was}"


def _expires(image: Json) -> bool:
    """Whether antipode has made an image for a recovery point, and removes it with that."""
    return bool(image.get(RUN)) and str(image.get("name") or "").startswith("antipode ")


def differences(source: MadeAgain, image: Json) -> Iterator[str]:
    """In which properties an image differs from the one that a server was created from."""
    here = properties_of(image)
    for name in sorted({*here, *source.properties}):
        if here.get(name) != source.properties.get(name):
            was, now = (of.get(name, "not set") for of in (source.properties, here))
            yield f"{name} {now} instead of {was}"


def missing_at(site: Site, sources: Collection[MadeAgain]) -> list[MadeAgain]:
    """Those that a site has no image for.

    Raises:
        ApiError, SiteUnreachable: Glance does not answer.
    """
    lacking: list[MadeAgain] = []
    for source in sources:
        try:
            image_at(site, source)
        except ResourceFailed:
            lacking.append(source)
    return lacking


def _answering(p: Protecting) -> list[Site]:
    try:
        return list(p.elsewhere())
    except SiteUnreachable as error:
        LOG.warning("whether root disks could be made again is unknown: %s", error)
        return []


def _source(p: Protecting, server: Server) -> MadeAgain:
    """As the discovery has found the image of a server."""
    image = server.root_disk.image_metadata if server.root_disk else {}
    label = f"{p.site.name}: the image of server {server.name}"
    if "id" not in image:
        raise ResourceFailed(f"{label} is gone; its bytes are unknown")
    label = f"{p.site.name}: image {image['id']} of server {server.name}"
    if image.get("os_hash_value") == _NOTHING or image.get("block_device_mapping"):
        raise ResourceFailed(f"{label} has no bytes: it is that of a server on volumes")
    fields: dict[str, Any] = {
        "name": image.get("name") or image["id"],
        "disk_format": image.get("disk_format", ""),
        "properties": properties_of(image),
        "sites": [name for name in p.vnf.sites if name != p.site.name],
    }
    if has_no_digest(image):
        if not image.get("name"):
            raise ResourceFailed(f"{label} has neither a digest nor a name in Glance")
        return NamedImage(**fields, size=(p.site.images.image(image["id"]) or {}).get("size"))
    if image.get("os_hash_algo") != ALGORITHM or not image.get("os_hash_value"):
        raise ResourceFailed(f"{label} has no {ALGORITHM} in Glance; its bytes are unknown")
    return BaseImage(**fields, sha512=image["os_hash_value"])
