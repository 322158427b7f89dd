# SPDX-License-Identifier: Apache-2.0
"""Root disks that are not captured: which image each is made from again."""

from __future__ import annotations

from collections.abc import Iterator

from antipode.cloud.images import ALGORITHM
from antipode.cloud.site import Site
from antipode.errors import AntipodeError, ResourceFailed, Stopped
from antipode.model.source import BaseImage
from antipode.model.topology import Server, Topology
from antipode.model.vnf import Vnf
from antipode.protect.option import Protecting


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
    """Why root disks could not be made again; one sentence for each reason."""
    for server in rebuilt(p.vnf, topology):
        try:
            source = _source(p.site, server)
        except Stopped:
            raise
        except AntipodeError as error:
            yield f"server {server.name}: its root disk could not be made again: {error}"
            continue
        for site in p.elsewhere():
            try:
                image_at(site, source)
            except Stopped:
                raise
            except AntipodeError as error:
                yield f"server {server.name} could not be booted: {error}"


def sources(p: Protecting, topology: Topology) -> dict[str, BaseImage]:
    """The image of each root disk that is to be made again, by the id of the disk.

    Raises:
        ResourceFailed: an image cannot be known by its bytes.
    """
    return {
        server.root_disk.id: _source(p.site, server)
        for server in rebuilt(p.vnf, topology)
        if server.root_disk is not None
    }


def image_at(site: Site, source: BaseImage) -> str:
    """The id of the image that a root disk can be made again from at a site.

    Raises:
        ResourceFailed: there is none.
    """
    if found := site.images.of_bytes(source.sha512):
        return str(found[0]["id"])
    raise ResourceFailed(
        f"{site.name} has no active image with the bytes of {source.name} (sha512"
        f" {source.sha512}); bring it there, or have the root disk protected: option"
        " server-snapshot, without `root: rebuild`"
    )


def _source(site: Site, server: Server) -> BaseImage:
    found = site.compute.server(server.id)
    if found is None or not found.get("image"):
        raise ResourceFailed(f"{site.name}: server {server.name} does not boot from an image")
    image_id = str(found["image"]["id"])
    label = f"{site.name}: image {image_id} of server {server.name}"
    if (image := site.images.image(image_id)) is None:
        raise ResourceFailed(f"{label} is gone; its bytes are unknown")
    if image.get("os_hash_algo") != ALGORITHM or not image.get("os_hash_value"):
        raise ResourceFailed(f"{label} has no {ALGORITHM} in Glance; its bytes are unknown")
    return BaseImage(name=str(image.get("name") or image_id), sha512=image["os_hash_value"])
