# SPDX-License-Identifier: Apache-2.0
"""The images and snapshots that runs have made of servers: their names, and their removal.

An image carries the run in its name and in its properties. Nova names the snapshots after the
image and gives them no metadata, so the name is all that tells whose they are.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection
from typing import NamedTuple

from antipode.cloud.api import ApiError, Json
from antipode.cloud.site import Site
from antipode.errors import AntipodeError
from antipode.freezes.unquiesce import thaw
from antipode.model.marks import RUN
from antipode.model.steps import Timeline
from antipode.protect import snapshots
from antipode.protect.server_snapshot.steps import ServerSnapshotSteps as Steps

LOG = logging.getLogger(__name__)
_IMAGE = re.compile(r"antipode (\S+) (\S+)")
_SNAPSHOT = re.compile(r".* antipode (\S+) (\S+)")
"""`snapshot for NAME` in the language of nova-api."""


class Maker(NamedTuple):
    """The run that made an image, and the server of which it is."""

    run: str
    server_id: str

    @property
    def image_name(self) -> str:
        return f"antipode {self.run} {self.server_id}"


def maker_of_image(image: Json) -> Maker | None:
    """None for an image that no run made.

    A server that somebody boots from an image of ours hands its properties on to its own images,
    but not its name.
    """
    found = _IMAGE.fullmatch(image.get("name") or "")
    return Maker(*found.groups()) if found and image.get(RUN) == found[1] else None


def maker_of_snapshot(snapshot: Json) -> Maker | None:
    """None for a snapshot that was not made for an image of a run."""
    found = _SNAPSHOT.fullmatch(snapshot.get("name") or "")
    return Maker(*found.groups()) if found else None


def remove_of_server(site: Site, maker: Maker, timeline: Timeline) -> bool:
    """Remove what a run has made of one server; whether there were snapshots. Errors as for
    `remove_of_runs`.
    """
    return _remove(site, lambda found: found == maker, timeline)


def remove_of_runs(site: Site, runs: Collection[str], timeline: Timeline) -> None:
    """Remove images and snapshots that any of these runs made, and wait until the snapshots are
    gone.

    Raises:
        ResourceFailed: a snapshot cannot be deleted, or is not made yet after a while.
        ApiError, SiteUnreachable: Glance or Cinder does not remove them.
    """
    _remove(site, lambda found: found is not None and found.run in runs, timeline)


def _remove(site: Site, unwanted: Callable[[Maker | None], bool], timeline: Timeline) -> bool:
    _unquiesce_what_is_being_snapshot(site, unwanted)
    try:
        _remove_images(site, unwanted, timeline)
    finally:  # a Glance that is down keeps no snapshot
        found = snapshots.remove_all(site, lambda s: unwanted(maker_of_snapshot(s)), timeline)
    return found > 0


def _unquiesce_what_is_being_snapshot(site: Site, unwanted: Callable[[Maker | None], bool]) -> None:
    """Nova keeps a server frozen while its snapshots are being created. A request of a process that
    is dead may have taken effect when no process watched it any more.
    """
    servers = {
        maker.server_id
        for snapshot in site.volumes.snapshots()
        if snapshot["status"] == "creating"
        and (maker := maker_of_snapshot(snapshot)) is not None
        and unwanted(maker)
    }
    if not servers or not site.compute.quiesce_available():
        return
    for server in sorted(servers):
        try:
            thaw(site, server)
        except AntipodeError as error:
            LOG.error("server %s at %s may still be frozen: %s", server, site.name, error)
        else:
            LOG.warning("server %s at %s is unquiesced: an image was being made", server, site.name)


def _remove_images(
    site: Site, unwanted: Callable[[Maker | None], bool], timeline: Timeline
) -> None:
    images = [i for i in site.images.images() if unwanted(maker_of_image(i))]
    if not images:
        return
    refused: list[ApiError] = []
    with timeline.step(Steps.REMOVE_IMAGES, site.name) as step:
        for image in images:
            try:
                site.images.delete_image(image["id"])
            except ApiError as error:  # such as 403, somebody protects it: the others go
                refused.append(error)
        step.result(images=len(images) - len(refused))
    if refused:
        raise refused[0]
